"""Cells -> SVG: derived ones of every search space, and what a search made of them, stage by stage."""

import re
from collections.abc import Sequence
from typing import Any

import pygraphviz

from growdarts.spaces.genotype import SPACES, genotype_from_dict
from growdarts.drawing.graphs import FONT, INK, arranged, derived_cells, searched_cells
from growdarts.spaces.genotype import GenotypeError


def genotype(data: dict[str, Any]) -> str:
    """A derived cell as an SVG graph: operations in boxes for two-input cells, else on edges between boxes.

    data : `to_dict` form of a genotype of any space. Of a convolutional one both cells are drawn.

    Raises
    ------
    GenotypeError
        an unknown space, or no genotype of the space it names.
    """
    genotype_from_dict(data)  # for its checks
    if not _is_chain(data["space"]):
        return arranged([("", [cell]) for cell in derived_cells(data)])
    return _svg([(f"layer {layer}" if len(data["layers"]) > 1 else "",
                  [_label(node, [(key, None) for key in _numbered(names)]) for node, names in enumerate(nodes)])
                 for layer, nodes in reversed(list(enumerate(data["layers"], start=1)))], data["space"])


def searched(weights: dict[str, dict[str, float]], space: str, grown_from: int | None = None) -> str:
    """A searched cell as SVG.

    Two-input cells: per node every operation with its mixture weight, darker is more. Cells of edges: a chart in
    which an edge is a box in the row of its predecessor and the column of its node, framed the wider the less weight
    `none` has, with its strongest other operation (copies added up) and that one's weight.

    Parameters
    ----------
    weights : by name of the mixture, as in the events and the history of a record.
    grown_from : nodes the search began with; those added since are marked in cells of edges.

    Raises
    ------
    GenotypeError
        an unknown space.
    """
    if space not in SPACES:
        raise GenotypeError(f"space {space!r}: allowed are {', '.join(sorted(SPACES))}")
    if _is_chain(space):
        return _svg(_titled("", weights), space)
    return arranged([("", searched_cells(weights, space, grown_from))])


def growth(record: dict[str, Any]) -> str:
    """The cell at the end of every stage of a search, one below the other, as SVG; a cell of edges also as derived."""
    stages = [event for event in record["search"]["events"] if event["kind"] == "stage"]
    titles = [f"stage {number}, epoch {event['epoch']}: validation error {event['validation_after']:.4f}"
              for number, event in enumerate(stages, start=1)]
    data = record["result"]["genotype"]
    if _is_chain(data["space"]):
        return _svg([cell for title, event in reversed(list(zip(titles, stages, strict=True)))
                     for cell in _titled(title, event["weights"])], data["space"])
    grown_from = record["search"]["history"][0]["nodes"]
    return arranged([(title, searched_cells(event["weights"], data["space"], grown_from))
                     for title, event in zip(titles, stages, strict=True)]
                    + [("derived from the best stage", derived_cells(data))])


def _is_chain(space: str) -> bool:
    """Whether the cells of `space` are chains of nodes, whose genotype has `layers`, else they are graphs with edges."""
    return "layers" in SPACES[space].__dataclass_fields__


def by_layer(weights: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"layer 1, node 2": w}` -> `{"layer 1": {"node 2": w}}`, in the order of layers and nodes."""
    layers: dict[str, dict[str, Any]] = {}
    for name, mixture in weights.items():
        layer, node = name.split(", ")
        layers.setdefault(layer, {})[node] = mixture
    return layers


def key_label(key: str) -> str:
    """Of a mixture key, for readers: `"gate#2"` -> `"gate (2)"`."""
    return re.sub(r"#(\d+)$", r" (\1)", key)


def _titled(title: str, weights: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """A titled cell for every layer, the last first: dot stacks upwards."""
    layers = by_layer(weights)
    titles = {layer: title if len(layers) == 1 else ", ".join(filter(None, [title, layer])) for layer in layers}
    return [(titles[layer], _mixture_labels(list(nodes.values()))) for layer, nodes in reversed(layers.items())]


def _mixture_labels(weights: list[dict[str, float]]) -> list[str]:
    return [_label(node, sorted(mixture.items(), key=lambda item: -item[1])) for node, mixture in enumerate(weights)]


def _numbered(names: Sequence[str]) -> list[str]:
    """Keys of a derived node's operations: its second `gate` is `gate#2`."""
    copies = [names[:position].count(name) + 1 for position, name in enumerate(names)]
    return [f"{name}#{copy}" if copy > 1 else name for name, copy in zip(names, copies, strict=True)]


def _label(node: int, rows: list[tuple[str, float | None]]) -> str:
    """Graphviz HTML table: a header and a row per operation, shaded by weight."""
    cells = []
    for key, weight in rows:
        shade = 0.15 if weight is None else min(1.0, weight)
        red, green, blue = (round(255 * (1 - shade * (1 - part))) for part in (0.0, 0.447, 0.698))
        ink = "white" if shade > 0.55 else "black"
        text = f'<TD ALIGN="LEFT"><FONT COLOR="{ink}">{key_label(key)}</FONT></TD>'
        if weight is not None:
            text += f'<TD ALIGN="RIGHT"><FONT COLOR="{ink}">{weight:.2f}</FONT></TD>'
        cells.append(f'<TR><TD BGCOLOR="#{red:02x}{green:02x}{blue:02x}" BORDER="0"><TABLE BORDER="0" '
                     f'CELLBORDER="0" CELLSPACING="0">{f"<TR>{text}</TR>"}</TABLE></TD></TR>')
    return (f'<<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="2" COLOR="{INK}" STYLE="ROUNDED">'
            f'<TR><TD><B>s<SUB>{node + 1}</SUB></B></TD></TR>{"".join(cells)}</TABLE>>')


def _svg(cells: list[tuple[str, list[str]]], space: str) -> str:
    """Chains, each a title and its nodes' labels, as one drawing; the nodes of two-input cells read x_t as well."""
    recurrent = space == "two_input"
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", nodesep="0.25", ranksep="0.45", bgcolor="white",
                              fontname=FONT, fontsize="12", labeljust="l")
    graph.node_attr.update(fontname=FONT, fontsize="11", shape="plain")
    graph.edge_attr.update(color=INK, arrowsize="0.7")
    ends = dict(shape="ellipse", style="filled", fillcolor="#eeeeee", color=INK, margin="0.08,0.04")
    for number, (title, labels) in enumerate(cells):
        part = graph.add_subgraph(name=f"cluster{number}", label=title, pencolor="white")
        for name, label in ((("first", "h<SUB>t-1</SUB> = s<SUB>0</SUB>"), ("x", "x<SUB>t</SUB>"), ("last", "h<SUB>t</SUB>"))
                            if recurrent else (("first", "x"), ("last", "y"))):
            part.add_node(f"{name} {number}", label=f"<{label}>", **ends)
        before = f"first {number}"
        for position, label in enumerate(labels):
            node = f"{position} {number}"
            part.add_node(node, label=label)
            part.add_edge(before, node, penwidth="1.6")
            if recurrent:
                part.add_edge(f"x {number}", node, style="dashed")
            before = node
        part.add_edge(before, f"last {number}", penwidth="1.6")
    return graph.draw(format="svg", prog="dot").decode()
