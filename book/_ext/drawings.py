"""Drawings of the ideas of the method, in the library's own style, for the directive `{picture} growing`.

They stand in the page as they are, so that the style sheet gives them the colours of the theme.
"""

import re

from growdarts.drawing.charts import BLUE, Chart, _arrow, _box
from growdarts.drawing.text import document, text

PREVIOUS, NOW = "h_{t\u22121}", "h_{t}"
BEFORE = {"layer 1, node 1": {"add_tanh": 0.2, "add_identity": 0.1, "gate": 0.6, "carry": 0.1}}
CALM = 'fill="#dcebf5" stroke="#0072B2"'
END = 'fill="#eeeeee" stroke="#777777"'


def cell():
    """The chain of nodes at two moments of time."""
    drawn, y, boxes = [], 52, []
    for column, (x, wide, name, colours) in enumerate((
            (21, 40, PREVIOUS, END), (72, 28, "s_{1}", CALM), (118, 28, "s_{2}", CALM), (164, 28, NOW, END),
            (210, 28, "s_{1}", CALM), (256, 28, "s_{2}", CALM), (308, 40, "h_{t+1}", END))):
        drawn.append(_node(x, y, wide, name, colours))
        if colours == CALM:
            drawn += [text(x, 14, "x_{t+1}" if column > 3 else "x_{t}", "middle"), _arrow(x, 20, x, y - 10)]
        boxes.append((x - wide / 2, x + wide / 2))
    drawn += [_arrow(right, y, left, y) for (_, right), (left, _) in zip(boxes, boxes[1:], strict=False)]
    return [("", document(330, 66, drawn, "A chain of two nodes on two days. Each node reads the input and what the node before it left."))]


def mixture():
    """All operations of one node, weighed and added up."""
    drawn, weights = [_node(22, 62, 40, "s_{j\u22121}", END), _node(22, 34, 40, "x_{t}", END)], BEFORE["layer 1, node 1"]
    for row, (name, weight) in enumerate(weights.items()):
        y = 15 + 22 * row
        drawn += [f'<path class="gd-line" d="M42 {start}L68 {y}" stroke="#777777"/>' for start in (34, 62)]
        drawn.append(f'<path class="gd-bar-line" d="M192 {y}L258 48" stroke="{BLUE}" stroke-width="{1 + 10 * weight:.1f}"/>')
        drawn += [_node(112, y, 88, name), text(161, y + 4, f"\u00d7 {weight:g}")]
    drawn += [_node(268, 48, 22, "+"), _arrow(279, 48, 297, 48), _node(312, 48, 30, "s_{j}", END)]
    return [("", document(330, 98, drawn, "Input and state enter four operations. Their outputs are weighed, 0.6 for the gate, and added."))]


def deriving():
    weights = BEFORE | {"layer 1, node 2": {"add_tanh": 0.5, "add_identity": 0.2, "gate": 0.2, "carry": 0.1}}
    derived = [_arrow(left, 30, left + 16, 30) for left in (46, 112, 194)]
    derived += [_node(25, 30, 42, PREVIOUS, END), _node(87, 30, 50, "gate"), _node(161, 30, 66, "add_tanh"), _node(225, 30, 30, NOW, END)]
    return _charts([("searched", weights)], {("layer 1, node 1", "gate"), ("layer 1, node 2", "add_tanh")}) + [
        ("derived", document(242, 42, derived, "gate, then add_tanh"))]


def growing():
    after = BEFORE | {"layer 1, node 2": dict.fromkeys(BEFORE["layer 1, node 1"], 0.25)}
    return _charts([("before", BEFORE), ("after", after)])


def duplicating():
    (name, mixture), = BEFORE.items()
    return _charts([("before", BEFORE), ("after", {name: mixture | {"gate": 0.3, "gate#2": 0.3}})])


def pruning():
    before = {"layer 1, node 1": {"add_tanh": 0.3, "add_identity": 0.24, "gate": 0.43, "carry": 0.03}}
    (name, mixture), = before.items()
    return _charts([("before", before), ("after", {name: {key: w / 0.97 for key, w in mixture.items() if key != "carry"}})])


def _charts(frames, chosen=()):
    """A chart of the mixtures a frame; what is new since the one before is marked."""
    chart, before = Chart([weights for _, weights in frames], "two_input"), frames[0][1]
    wide = chart.left + chart.column * len(chart.parts["layer 1"]) + 66
    drawn = [chart.draw(weights, before, chosen) for _, weights in frames]
    drawn[0] = re.sub(r'<g class="gd-w gd-gone".*?</g>', "", drawn[0])  # not there yet
    return [(title, document(wide, chart.height, [shown], f"A cell with its mixture weights, {title}"))
            for (title, _), shown in zip(frames, drawn, strict=True)]


def _node(x, y, wide, name, colours=CALM):
    cell = '<g class="gd-node">' if colours == CALM else "<g>"
    return f'{cell}{_box(x, y, wide, colours, name)}</g>'


PICTURES = {draw.__name__: draw for draw in (cell, mixture, deriving, growing, duplicating, pruning)}
