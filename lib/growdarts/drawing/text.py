"""Text in SVG, with its width known beforehand."""

FONT = "Helvetica,Arial,sans-serif"
LETTER, SMALL = 12, 11  # heights of letters; nothing is smaller, but for subscripts
INK, PALE = "#333333", "#5a5a5a"

# Adobe's metrics of Helvetica, which Arial and Liberation Sans share: thousandths of the height, by letter.
_WIDTHS = {letter: width for width, letters in {
    222: "'`ijl", 260: "|", 278: " !,./:;I[\\]ft", 333: "()-r", 334: "{}", 355: '"', 389: "*", 469: "^", 500: "Jcksvxyz",
    556: "#$0123456789?L_abdeghnopqu", 584: "+<=>~\u2212\u00d7", 611: "FTZ", 667: "&ABEKPSVXY", 722: "CDHNRUw", 778: "GOQ",
    833: "Mm", 889: "%", 944: "W", 1015: "@"}.items() for letter in letters}


def width(text: str, size: float = LETTER) -> float:
    """Width of a text in Helvetica; what follows `_{` up to `}` is a subscript. A letter that is not in the table counts as wide."""
    total, scale = 0.0, size
    for letter in text.replace("_{", "\0"):
        if letter in "\0}":
            scale = size - 3 if letter == "\0" else size
        else:
            total += scale * _WIDTHS.get(letter, 1000) / 1000
    return total


def error_text(error: float | None, digits: int = 4) -> str:
    """An error of a record for reading; None is one that was not finite."""
    return "not finite" if error is None else f"{error:.{digits}f}"


def text(x: float, y: float, words: str, anchor: str = "start", size: int = SMALL, fill: str = INK, bold: bool = False) -> str:
    """SVG of a text whose baseline begins, lies around or ends at (x, y); `_{t}` is a subscript."""
    inner = words.replace("&", "&amp;").replace("<", "&lt;")
    inner = inner.replace("_{", f'<tspan dy="3" font-size="{size - 3}">').replace("}", "</tspan>")
    return (f'<text class="gd-ink" x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{fill}"'
            + (f' text-anchor="{anchor}"' if anchor != "start" else "") + (' font-weight="bold"' if bold else "")
            + f">{inner}</text>")


def document(width: float, height: float, parts: list[str], label: str = "") -> str:
    """A whole SVG on white paper; `label` is read aloud."""
    said = f' role="img" aria-label="{label}"' if label else ""
    return (f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width:.0f}" '
            f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}"{said}>\n'
            f'<rect class="gd-paper" width="{width:.0f}" height="{height:.0f}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n")
