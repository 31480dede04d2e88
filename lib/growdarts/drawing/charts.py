"""Mixtures of a search -> SVG: a row an operation, a column a node or an edge, above them the cell as it is joined.

A chart is laid out once for all that a search ever held, so a node and an operation stay where they are from stage to
stage. Lengths are CSS pixels; a chart is no wider than a phone's column, so its letters are not shrunk there.
"""

import re
from collections.abc import Collection, Sequence

from growdarts.drawing.text import LETTER, PALE, SMALL, text, width
from growdarts.mixture import operation_name

Weights = dict[str, dict[str, float]]  # of every mixture, by its name, as in the events and the history of a record
WIDTH = 348
ROW = 17
BLUE, NEW = "#0072B2", "#D55E00"
LEGEND = "Numbers: mixture weight in %. Orange: new. \u00d7: pruned."


def key_label(key: str) -> str:
    """Of a mixture key, for readers: `"gate#2"` -> `"gate (2)"`."""
    return re.sub(r"#(\d+)$", r" (\1)", key)


def place(name: str) -> tuple[str, int, int | None]:
    """Part of the cell, node and predecessor of a mixture: `"layer 1, node 2"` has none, `"normal 3 <- 0"` has state 0."""
    chain = re.fullmatch(r"(.+), node (\d+)", name)
    if chain:
        return chain[1], int(chain[2]), None
    part, i, j = re.fullmatch(r"(\w+) (\d+) <- (\d+)", name).groups()
    return part, int(i), int(j)


class Chart:
    """Places of everything that any of `frames` holds.

    parts : for every layer or kind of cell its nodes, and for every node the names of its mixtures.
    slots : (mixture, key) of every weight, in the order in which they are drawn.
    """

    def __init__(self, frames: Sequence[Weights], space: str) -> None:
        self.space = space
        names = sorted({name for frame in frames for name in frame},
                       key=lambda name: (place(name)[0], *map(int, re.findall(r"\d+", name))))
        keys = list(dict.fromkeys(key for frame in frames for mixture in frame.values() for key in mixture))
        first = [operation_name(key) for key in keys]
        self.rows = sorted(keys, key=lambda key: (first.index(operation_name(key)), len(key), key))
        self.parts: dict[str, dict[int, list[str]]] = {}
        for name in names:
            part, node, _ = place(name)
            self.parts.setdefault(part, {}).setdefault(node, []).append(name)
        self.slots = [(name, key) for name in names for key in self.rows
                      if any(key in frame.get(name, ()) for frame in frames)]
        self.most = max(weight for frame in frames for mixture in frame.values() for weight in mixture.values())
        self.chain = bool(names) and place(names[0])[2] is None
        self._lay_out()

    def _lay_out(self) -> None:
        """Left and top of every column, strip and list of row labels."""
        self.left = max(width(key_label(key), SMALL) for key in [*self.rows, *([] if self.chain else ["from state"])]) + 14
        room = WIDTH - self.left
        self.columns: dict[str, tuple[float, float]] = {}
        self.strips: dict[str, tuple[float, float, float]] = {}
        self.lists: list[float] = []
        self.column = min(64.0, (room - 34) / max(map(len, self.parts.values()))) if self.chain else 23.0
        self.titled, rows = len(self.parts) > 1, len(self.rows) * ROW
        x = y = bottom = 0.0
        for part, nodes in self.parts.items():
            lines: list[list[int]] = [[]]
            for node in nodes:
                if sum(self._group(part, n) for n in lines[-1]) + self._group(part, node) > room + 4 and not self.chain:
                    lines.append([])
                lines[-1].append(node)
            wide = max(sum(self._group(part, node) for node in line) for line in lines)
            if bottom and (self.chain or len(lines) > 1 or x + wide > room + 4):  # below the part before, else beside it
                x, y = 0.0, bottom + 10
            self.strips[part] = (self.left + x, y, max(wide, 24.0 * (len(nodes) + 2)))
            top = y + (16 if self.titled else 0) + (46 if self.space == "two_input" else 24 if self.chain else 56)
            for line in lines:
                top += 0 if self.chain else 32
                if not x:
                    self.lists.append(top)
                at = self.left + x
                for node in line:
                    for position, name in enumerate(nodes[node]):
                        self.columns[name] = (at + position * self.column, top)
                    at += self._group(part, node)
                top += rows + (8 if line is not lines[-1] else 0)
            x, bottom = x + wide + 4, max(bottom, top)
        self.height = bottom + 2

    def _group(self, part: str, node: int) -> float:
        """Width of the columns of one node, with the gap behind them."""
        return len(self.parts[part][node]) * self.column + (0 if self.chain else 6)

    def draw(self, weights: Weights, before: Weights | None = None, chosen: Collection[tuple[str, str]] = (), *,
             whole: bool = False) -> str:
        """The chart with these weights.

        before : weights of an earlier time. What is new since then is orange, what is gone is crossed out.
        chosen : weights that get a frame.
        whole : what is not there is drawn as well, invisibly.
        """
        before = weights if before is None else before
        parts = [text(4, top + (row + 0.75) * ROW, key_label(key), size=SMALL) for top in self.lists
                 for row, key in enumerate(self.rows)]
        for part, (x, y, wide) in self.strips.items():
            if self.titled:
                parts.append(text(x, y + 11, part if self.chain else f"{part} cell", size=LETTER, bold=True))
            parts.append(self._ends(part, x, y, wide))
        if not self.chain:
            parts += [self._arc(name, weights.get(name)) for name in self.columns if whole or name in weights]
        for part, nodes in self.parts.items():
            for node, names in nodes.items():
                there = any(name in weights for name in names)
                if there or whole:
                    parts.append(self._node(part, node, there, there and not any(name in before for name in names)))
        for name, key in self.slots:
            mixture = weights.get(name)
            gone = mixture is not None and key not in mixture
            if mixture is not None or whole:
                new = mixture is not None and name in before and key in mixture and key not in before[name]
                state = " gd-gone" if gone else " gd-off" if mixture is None else ""
                state += " gd-new" * new + " gd-chosen" * ((name, key) in chosen)
                parts.append(self._slot(name, key, (mixture or {}).get(key, 0.0), state, framed=whole or new or "chosen" in state))
        return "\n".join(parts)

    def _slot(self, name: str, key: str, weight: float, state: str, framed: bool) -> str:
        """A weight: a bar, its number over it; the largest of all frames fills its column."""
        (x, top), bar = self.columns[name], (self.column - 3) * weight / self.most
        size = f'width="{self.column - 3:.1f}" height="{ROW - 3}"'
        frame = (f'<rect class="gd-frame" {size} fill="none" stroke="{NEW if "new" in state else "#222222"}" stroke-width="1.5"'
                 + ("/>" if "new" in state or "chosen" in state else ' opacity="0"/>')) if framed else ""
        return (f'<g class="gd-w{state}" transform="translate({x + 1:.1f},{top + self.rows.index(key) * ROW + 1:.1f})"'
                + (' opacity="0">' if "off" in state else ">")
                + f'<rect class="gd-track" {size} fill="#8a8a8a" fill-opacity="0.1"/>'
                f'<rect class="gd-bar" width="{bar:.1f}" height="{ROW - 3}" fill="{BLUE}" fill-opacity="0.45"/>'
                + frame + text(self.column - 6, ROW - 6, "\u00d7" if "gone" in state else f"{100 * weight:.0f}", "end") + "</g>")

    def _node(self, part: str, node: int, there: bool, new: bool) -> str:
        """Box of a node with what leads into it; of a node with edges the head of its columns as well."""
        names = self.parts[part][node]
        x, top = self.columns[names[0]]
        colours = f'fill="{"#fbe3cf" if new else "#dcebf5"}" stroke="{NEW if new else BLUE}"'
        drawn = '<g class="gd-node' + (' gd-new">' if new else '">' if there else ' gd-off" opacity="0">')
        if self.chain:
            middle, y = x + self.column / 2 - 0.5, top - 15
            wide = min(self.column - 10, 30)
            if self.space == "two_input":
                drawn += text(middle, y - 20, "x_{t}", "middle") + _arrow(middle, y - 15, middle, y - 9)
            drawn += _arrow(x - self.column / 2 + 15, y, middle - wide / 2, y, shaft=False)
            return drawn + _box(middle, y, wide, colours, f"s_{{{node}}}") + "</g>"
        wide = len(names) * self.column - 3
        drawn += f'<rect class="gd-box" x="{x + 1:.1f}" y="{top - 31:.1f}" width="{wide:.1f}" height="14" {colours}/>'
        label = f"node {node}" + (", new" if new else "")
        label = label if width(label, SMALL) < wide - 4 else str(node)
        drawn += text(x + 1 + wide / 2, top - 20, label, "middle")
        for position, name in enumerate(names):
            drawn += text(x + (position + 0.5) * self.column, top - 5, self.state(place(name)[2]), "middle", fill=PALE)
        return drawn + _box(*self._state_at(part, node), 22, colours, self.state(node)) + "</g>"

    def state(self, number: int) -> str:
        """Name of a state: a convolutional cell reads the outputs of two cells before it."""
        return {0: "k\u22122", 1: "k\u22121"}.get(number, str(number)) if self.space == "darts_conv" else str(number)

    def _state_at(self, part: str, state: int) -> tuple[float, float]:
        """Centre of a state's box above the columns."""
        x, y, wide = self.strips[part]
        nodes = self.parts[part]
        step = min(44.0, (wide - 28) / max(nodes))
        return x + 13 + state * step, y + (16 if self.titled else 0) + 44

    def _ends(self, part: str, x: float, y: float, wide: float) -> str:
        """Inputs and output of a chain with the line between them; inputs of a cell of edges."""
        grey = 'fill="#eeeeee" stroke="#777777"'
        if not self.chain:
            top = next(self.columns[name][1] for names in self.parts[part].values() for name in names)
            drawn = "" if x > self.left else text(self.left - 8, top - 5, "from state", "end", fill=PALE)
            for state in range(min(self.parts[part])):
                drawn += _box(*self._state_at(part, state), 26 if self.space == "darts_conv" else 22, grey, self.state(state))
            return drawn
        y = self.columns[next(iter(self.parts[part].values()))[0]][1] - 15
        first, last = ("h_{t\u22121}", "h_{t}") if self.space == "two_input" else ("x", "y")
        end = x + self.column * len(self.parts[part]) + 20
        return _arrow(x - 8, y, end - 12, y) + _box(x - 24, y, 36, grey, first) + _box(end, y, 24, grey, last)

    def _arc(self, name: str, mixture: dict[str, float] | None) -> str:
        """An edge, drawn the wider the less weight `none` has."""
        part, i, j = place(name)
        (x0, y), (x1, _) = self._state_at(part, j), self._state_at(part, i)
        high = 32 * ((i - j) / max(self.parts[part])) ** 0.7
        return (f'<path class="gd-arc" d="M{x0:.1f} {y - 9:.1f}C{x0:.1f} {y - 9 - high:.1f} {x1:.1f} {y - 9 - high:.1f} '
                f'{x1:.1f} {y - 9:.1f}" fill="none" stroke="#777777" stroke-opacity="0.6" stroke-width="{2.4 * through(mixture):.2f}"/>')


def through(mixture: dict[str, float] | None) -> float:
    """Weight of all operations but `none`: how much of an edge passes. 0 where there is no edge."""
    return sum(weight for key, weight in (mixture or {}).items() if operation_name(key) != "none")


def _box(x: float, y: float, wide: float, colours: str, label: str) -> str:
    """A box and the text in it, both around (x, y)."""
    return (f'<rect class="gd-box" x="{x - wide / 2:.1f}" y="{y - 9:.1f}" width="{wide:.1f}" height="18" rx="4" {colours}/>'
            + text(x, y + 4, label, "middle"))


def _arrow(x0: float, y0: float, x1: float, y1: float, *, shaft: bool = True) -> str:
    """A line to the right or downwards, or its head alone."""
    head = f"{x1:.1f},{y1:.1f} " + (f"{x1 - 6:.1f},{y1 - 3:.1f} {x1 - 6:.1f},{y1 + 3:.1f}" if y0 == y1 else
                                    f"{x1 - 3:.1f},{y1 - 5:.1f} {x1 + 3:.1f},{y1 - 5:.1f}")
    line = f'<path class="gd-line" d="M{x0:.1f} {y0:.1f}L{x1:.1f} {y1:.1f}" stroke="#777777"/>' if shaft else ""
    return line + f'<polygon class="gd-head" points="{head}" fill="#777777"/>'
