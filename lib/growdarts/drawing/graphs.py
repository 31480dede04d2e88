"""Cells of edges between numbered states -> SVG: derived ones as graphs, searched ones as charts of all edges.

Lengths are points; the book's column is about 525 wide, so letters of 11 stay above 9 in drawings up to WIDEST.
"""

import re
from collections.abc import Sequence
from typing import Any

import pygraphviz

from growdarts.mixture import operation_name

FONT = "Helvetica,Arial,sans-serif"
INK = "#444444"
STATE, GROWN, END = "#cfe2f0", "#f8d9a0", "#eeeeee"  # fills of boxes
WIDEST = 640
LETTER = 11  # height of letters
ROW, BOX = 40, 30  # of a chart: from state to state, and height of an edge's box


def derived_cells(data: dict[str, Any]) -> list[str]:
    """Graphs of the cells of a derived genotype in its `to_dict` form, to the right, or downwards if that is too wide.

    Nodes have the numbers of their states, edges the names of their operations; dashed lines make up the output.
    """
    if data["space"] == "darts_recurrent":
        edges = [(j, i, operation) for i, (operation, j) in enumerate(data["recurrent"], start=1)]
        return [_graph("", False, edges, data["concat"])]
    return [_graph(f"{kind} cell", True,
                   [(j, 2 + k // 2, operation) for k, (operation, j) in enumerate(data[field])],
                   data[f"{field}_concat"]) for kind, field in (("normal", "normal"), ("reduction", "reduce"))]


def _graph(title: str, convolutional: bool, edges: Sequence[tuple[int, int, str]], outputs: Sequence[int]) -> str:
    """A cell of `edges` (predecessor, node, operation)."""
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", nodesep="0.15", ranksep="0.2",
                              bgcolor="white", fontname=FONT, fontsize="12", labelloc="t", labeljust="l", label=title)
    graph.node_attr.update(fontname=FONT, fontsize=LETTER, shape="box", style="filled", fillcolor=STATE, color=INK,
                           width="0.3", height="0.3", margin="0.07,0.04")
    graph.edge_attr.update(fontname=FONT, fontsize=LETTER, color=INK, arrowsize="0.6")
    ends = dict(fillcolor=END, style="filled,rounded")
    if convolutional:
        for state, name in enumerate(("k-2", "k-1")):
            graph.add_node(state, label=f"<c<SUB>{name}</SUB>>", **ends)
        graph.add_node("output", label="<c<SUB>k</SUB> = concat>", **ends)
    else:
        for name in ("x<SUB>t</SUB>", "h<SUB>t-1</SUB>"):
            graph.add_node(name, label=f"<{name}>", **ends)
            graph.add_edge(name, 0)
        graph.add_node("output", label="<h<SUB>t</SUB> = mean>", **ends)
    for number, (j, i, operation) in enumerate(edges):  # dot keeps lines off nodes, but not off labels of edges
        name = f"edge {number}"
        graph.add_node(name, label=operation, shape="plain", fillcolor="white", width="0", height="0")
        graph.add_edge(j, name, arrowhead="none")
        graph.add_edge(name, i)
    for i in outputs:
        graph.add_edge(i, "output", style="dashed")
    drawn = graph.draw(format="svg", prog="dot").decode()
    if _size(drawn)[0] > WIDEST:
        graph.graph_attr["rankdir"] = "TB"
        drawn = graph.draw(format="svg", prog="dot").decode()
    return drawn[drawn.index("<svg"):]


def searched_cells(weights: dict[str, dict[str, float]], space: str, grown_from: int | None) -> list[str]:
    """Charts of the searched cells, one a kind. Arguments as for `growdarts.drawing.searched`."""
    convolutional = space == "darts_conv"
    kinds: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for name, mixture in weights.items():
        kind, i, j = re.fullmatch(r"(\w+) (\d+) <- (\d+)", name).groups()
        kinds.setdefault(kind, {})[int(j), int(i)] = mixture
    return [_chart(f"{kind} cell" if convolutional else "", convolutional, edges, grown_from)
            for kind, edges in kinds.items()]


def strongest(mixture: dict[str, float]) -> tuple[str, float, float]:
    """Label and weight of an edge's strongest operation but `none`, and the weight of all operations but `none`.

    Copies count together, as in deriving, and are told in the label: `2×tanh`.
    """
    total: dict[str, float] = {}
    copies: dict[str, int] = {}
    for key, weight in mixture.items():
        name = operation_name(key)
        total[name], copies[name] = total.get(name, 0.0) + weight, copies.get(name, 0) + 1
    total.pop("none", None)
    if not total:
        return "none", 1.0, 0.0
    best = max(total, key=total.__getitem__)
    return f"{copies[best]}×{best}" if copies[best] > 1 else best, total[best], sum(total.values())


def _chart(title: str, convolutional: bool, edges: dict[tuple[int, int], dict[str, float]],
           grown_from: int | None) -> str:
    """States down a diagonal, edges where the row of the predecessor meets the column of the node."""
    first = 2 if convolutional else 1
    nodes = sorted({i for _, i in edges})
    found = {edge: strongest(mixture) for edge, mixture in edges.items()}
    step = max(44.0, *(_width(label) for label, *_ in found.values())) + 16
    left, top = (30 if convolutional else 62), (24 if title else 4)

    def x(state: int) -> float:
        return left + max(0, state - first + 1) * step

    def y(state: int) -> float:
        return top + (state + 0.5) * ROW

    right, bottom = x(nodes[-1]) + step / 2 + 14, y(nodes[-1] + 1)
    parts = [_text(8, 15, title, anchor="start", size=12)] if title else []
    for i in nodes:  # lines first: the boxes cover them
        parts.append(_line([(x(i), y(0)), (x(i), y(i) - 15)], arrow=True))
        parts.append(_line([(x(i), y(i)), (right, y(i)), (right, bottom - 11)], arrow=i == nodes[-1], dash=True))
    for j in range(nodes[-1]):
        parts.append(_line([(x(j), y(j)), (x(nodes[-1]), y(j))]))
    for (j, i), (label, weight, through) in found.items():
        parts.append(_edge_box(x(i), y(j), step - 7, label, weight, through))
    if convolutional:
        parts += [_state(x(0), y(state), 44, [f"c{_sub(name)}"], END) for state, name in enumerate(("k-2", "k-1"))]
    else:
        for name, shift in ((f"x{_sub('t')}", -12), (f"h{_sub('t-1')}", 12)):
            parts.append(_line([(20, y(0) + shift), (x(0) - 13, y(0) + shift / 3)], arrow=True))
            parts.append(_state(20, y(0) + shift, 34, [name], END, height=20))
        parts.append(_state(x(0), y(0), 24, ["0"], STATE))
    for number, i in enumerate(nodes):
        grown = grown_from is not None and number >= grown_from
        parts.append(_state(x(i), y(i), 50 if grown else 24, [f"{i} grown" if grown else str(i)],
                            GROWN if grown else STATE, double=grown))
    output = f"c{_sub('k')} = concat" if convolutional else f"h{_sub('t')} = mean"
    parts.append(_state(right - 26, bottom, 74, [output], END, height=22))
    width, height = round(right + 20), round(bottom + 20)
    return (f'<svg width="{width}pt" height="{height}pt" viewBox="0 0 {width} {height}" '
            f'xmlns="http://www.w3.org/2000/svg" font-family="{FONT}">\n' + "\n".join(parts) + "\n</svg>\n")


def _edge_box(x: float, y: float, width: float, label: str, weight: float, through: float) -> str:
    """Box of an edge at (x, y); its frame as wide as the weight `through` of all operations but none."""
    words = [label, f"{weight:.2f}"] if through else [label]
    dash = "" if through else ' stroke-dasharray="2,2"'
    return (f'<rect x="{x - width / 2:.1f}" y="{y - BOX / 2:.1f}" width="{width:.1f}" height="{BOX}" rx="3" '
            f'fill="white" stroke="#0072B2" stroke-width="{0.5 + 3 * through:.2f}"{dash}/>' + _words(x, y, words))


def _state(x: float, y: float, width: float, words: list[str], fill: str, *, height: float = 28,
           double: bool = False) -> str:
    """Box of a state, an input or the output, around (x, y)."""
    frames = [(0, fill), (2.5, "none")] if double else [(0, fill)]
    return "".join(f'<rect x="{x - width / 2 + inset:.1f}" y="{y - height / 2 + inset:.1f}" '
                   f'width="{width - 2 * inset:.1f}" height="{height - 2 * inset:.1f}" '
                   f'rx="{6 if fill == END else 0}" fill="{colour}" stroke="{INK}"/>'
                   for inset, colour in frames) + _words(x, y, words)


def _words(x: float, y: float, lines: list[str]) -> str:
    """Lines of text around (x, y)."""
    return "".join(_text(x, y + 4 + 12 * (number - (len(lines) - 1) / 2), line) for number, line in enumerate(lines))


def _text(x: float, y: float, text: str, anchor: str = "middle", size: int = LETTER) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{text}</text>'


def _sub(text: str) -> str:
    return f'<tspan dy="3" font-size="9">{text}</tspan><tspan dy="-3">&#8203;</tspan>'


def _width(text: str) -> float:
    """About the width of a text in Helvetica."""
    narrow = sum(letter in "fijlt " for letter in text)
    return (len(text) - narrow / 2) * LETTER * 0.55


def _line(points: list[tuple[float, float]], arrow: bool = False, dash: bool = False) -> str:
    """A line through `points`; its arrow points the way of the last part."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="4,3"' if dash else ""
    drawn = f'<polyline points="{path}" fill="none" stroke="#888888"{dashes}/>'
    if arrow:
        (x0, y0), (x, y) = points[-2:]
        length = ((x - x0)**2 + (y - y0)**2)**0.5
        u, v = (x - x0) / length, (y - y0) / length
        corners = [(x, y), (x - 6 * u - 3 * v, y - 6 * v + 3 * u), (x - 6 * u + 3 * v, y - 6 * v - 3 * u)]
        drawn += f'<polygon points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in corners)}" fill="#888888"/>'
    return drawn


def _size(svg: str) -> tuple[int, int]:
    """Width and height."""
    return tuple(int(length) for length in re.search(r'<svg width="(\d+)pt" height="(\d+)pt"', svg).groups())


def arranged(rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Rows of a title and SVGs as one SVG; those of a row side by side if they fit, else below each other."""
    parts, width, y = [], 0.0, 0
    for title, drawings in rows:
        if title:
            parts.append(_text(8, y + 18, title, anchor="start", size=12))
            width, y = max(width, 16 + 1.1 * _width(title)), y + 24
        fit = sum(_size(drawing)[0] for drawing in drawings) <= WIDEST
        for row in [drawings] if fit else [[drawing] for drawing in drawings]:
            x = 0
            for drawing in row:
                w, h = _size(drawing)
                placed = drawing.replace(f'<svg width="{w}pt" height="{h}pt"',
                                         f'<svg x="{x}" y="{y}" width="{w}" height="{h}"', 1)
                parts.append(re.sub(r' id="\w+"', "", placed))  # each drawing numbers its own
                x += w
            width, y = max(width, x), y + max(_size(drawing)[1] for drawing in row)
    width = round(width)
    return (f'<svg width="{width}pt" height="{y}pt" viewBox="0 0 {width} {y}" xmlns="http://www.w3.org/2000/svg" '
            f'xmlns:xlink="http://www.w3.org/1999/xlink" font-family="{FONT}">\n'
            f'<rect width="{width}" height="{y}" fill="white"/>\n' + "".join(parts) + "</svg>\n")
