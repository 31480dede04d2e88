"""Cells -> SVG: derived ones of every search space, and what a search made of them, stage by stage."""

from collections.abc import Sequence
from typing import Any

from growdarts.drawing.charts import BLUE, LEGEND, WIDTH, Chart, Weights, _arrow, key_label
from growdarts.drawing.graphs import arranged, derived_cells, derived_edges
from growdarts.drawing.text import LETTER, error_text, text, width
from growdarts.mixture import operation_keys, operation_name
from growdarts.spaces.genotype import genotype_from_dict


def genotype(data: dict[str, Any]) -> str:
    """A derived cell in its `to_dict` form as SVG: a chain of boxes, or graphs with operations on their edges."""
    genotype_from_dict(data)  # for its checks
    if "layers" not in data:
        return arranged([("", derived_cells(data), 0)])
    rows = []
    for layer, nodes in enumerate(data["layers"], start=1):
        drawn, height = _derived_chain(nodes, data["space"])
        rows.append((f"layer {layer}" if len(data["layers"]) > 1 else "", [drawn], height))
    return arranged(rows)


def growth(record: dict[str, Any]) -> str:
    """The cell at the end of every stage of a search, one below the other, as SVG; what was derived is framed.

    Nodes and operations keep their places. What a stage added to the one before it is orange, what it dropped is crossed
    out. A cell of edges follows as derived.
    """
    stages = [event for event in record["search"]["events"] if event["kind"] == "stage"]
    data = record["result"]["genotype"]
    chart = Chart([event["weights"] for event in stages], data["space"])
    best = max(number for number, event in enumerate(stages) if event["what"] == ["gain"] or number == 0)
    rows = []
    for number, event in enumerate(stages):
        title = f"stage {number + 1}, epoch {event['epoch']}: validation error {error_text(event['validation_after'])}"
        before = stages[max(0, number - 1)]["weights"]
        drawn = chart.draw(event["weights"], before, derived_keys(data, event["weights"]) if number == best else ())
        rows.append((title, [drawn], chart.height))
    legend = text(4, 12, LEGEND) + text(4, 27, f"Framed: derived from stage {best + 1}, the best.")
    rows.append(("", [legend], 34))
    if "layers" not in data:
        rows.append(("derived cell" if "recurrent" in data else "", derived_cells(data), 0))
    return arranged(rows)


def derived_keys(data: dict[str, Any], weights: Weights) -> set[tuple[str, str]]:
    """(mixture, key) of what a derived cell in its `to_dict` form took of these mixtures; copies are all of them."""
    if "layers" in data:
        taken = {(f"layer {layer}, node {node}", name) for layer, nodes in enumerate(data["layers"], start=1)
                 for node, names in enumerate(nodes, start=1) for name in names}
    else:
        taken = {(f"{part} {i} <- {j}", name) for part, edges in derived_edges(data).items() for j, i, name in edges}
    return {(mixture, key) for mixture, keys in weights.items() for key in keys if (mixture, operation_name(key)) in taken}


def _derived_chain(nodes: Sequence[Sequence[str]], space: str) -> tuple[str, float]:
    """Boxes of operations with arrows between them, as many on a line as fit, and the height."""
    ends = ("h_{t\u22121}", "h_{t}") if space == "two_input" else ("x", "y")
    boxes = [([ends[0]], "#eeeeee"), *((list(map(key_label, operation_keys(names))), "#dcebf5") for names in nodes), ([ends[1]], "#eeeeee")]
    drawn, x, y = [], 4.0, 4.0
    line = 12 + 15 * max(len(words) for words, _ in boxes)
    for position, (words, fill) in enumerate(boxes):
        wide = max(map(width, words)) + 14
        if x + 20 + wide > WIDTH:
            x, y = 4.0, y + line + 8
        if position:
            drawn.append(_arrow(x, y + line / 2, x + 20, y + line / 2))
            x += 20
        drawn.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{line}" rx="4" fill="{fill}" stroke="{BLUE}"/>')
        drawn += [text(x + wide / 2, y + line / 2 + 4 + 15 * (row - (len(words) - 1) / 2), word, "middle", LETTER)
                  for row, word in enumerate(words)]
        x += wide
    return "".join(drawn), y + line + 4
