"""Derived cells of edges between numbered states -> SVG graphs. Lengths are points, which are drawn as CSS pixels."""

import re
from collections.abc import Sequence
from typing import Any

import pygraphviz

from growdarts.drawing.text import FONT, INK, LETTER, SMALL, document, text, width

STATE, END = "#dcebf5", "#eeeeee"  # fills of boxes
WIDEST = 360


def derived_edges(data: dict[str, Any]) -> dict[str, list[tuple[int, int, str]]]:
    """Edges (predecessor, node, operation) of every derived cell; its name begins the names of a search's mixtures."""
    if data["space"] == "darts_recurrent":
        return {"edge": [(j, i, operation) for i, (operation, j) in enumerate(data["recurrent"], start=1)]}
    return {kind: [(j, 2 + k // 2, operation) for k, (operation, j) in enumerate(data[field])]
            for kind, field in (("normal", "normal"), ("reduction", "reduce"))}


def derived_cells(data: dict[str, Any]) -> list[str]:
    """Graphs of the cells of a derived genotype in its `to_dict` form, to the right, or downwards if that is too wide.

    Nodes have the numbers of their states, edges the names of their operations; dashed lines make up the output.
    """
    edges = derived_edges(data)
    if data["space"] == "darts_recurrent":
        return [_graph("", False, edges["edge"], data["concat"])]
    return [_graph("normal cell", True, edges["normal"], data["normal_concat"]),
            _graph("reduction cell", True, edges["reduction"], data["reduce_concat"])]


def _graph(title: str, convolutional: bool, edges: Sequence[tuple[int, int, str]], outputs: Sequence[int]) -> str:
    """A cell of `edges` (predecessor, node, operation)."""
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", nodesep="0.2", ranksep="0.2",
                              bgcolor="white", fontname=FONT, fontsize="12", labelloc="t", labeljust="l", label=title)
    graph.node_attr.update(fontname=FONT, fontsize=SMALL, shape="box", style="filled", fillcolor=STATE, color=INK,
                           width="0.3", height="0.3", margin="0.07,0.04")
    graph.edge_attr.update(fontname=FONT, fontsize=SMALL, color=INK, arrowsize="0.6")
    ends = dict(fillcolor=END, style="filled,rounded")
    if convolutional:
        for state, name in enumerate(("k\u22122", "k\u22121")):
            graph.add_node(state, label=name, **ends)
        graph.add_node("output", label="k = concat", **ends)
    else:
        for name in ("x(t)", "h(t\u22121)"):
            graph.add_node(name, **ends)
            graph.add_edge(name, 0)
        graph.add_node("output", label="h(t) = mean", **ends)
    for number, (j, i, operation) in enumerate(edges):  # dot keeps lines off nodes, but not off labels of edges
        name = f"edge {number}"
        graph.add_node(name, label=operation, shape="none", fillcolor="white", width="0", height="0", margin="0.04,0.03")
        graph.add_edge(j, name, arrowhead="none")
        graph.add_edge(name, i)
    for i in outputs:
        graph.add_edge(i, "output", style="dashed")
    drawn = graph.draw(format="svg", prog="dot").decode()
    if _size(drawn)[0] > WIDEST:
        graph.graph_attr["rankdir"] = "TB"
        drawn = graph.draw(format="svg", prog="dot").decode()
    return drawn[drawn.index("<svg"):]


def _size(svg: str) -> tuple[int, int]:
    """Width and height."""
    return tuple(int(length) for length in re.search(r'<svg width="(\d+)pt" height="(\d+)pt"', svg).groups())


def arranged(rows: Sequence[tuple[str, Sequence[str], float]]) -> str:
    """Rows of a title and drawings below each other as one SVG; a drawing is a graph, or elements of a given height."""
    parts, wide, y = [], 348.0, 4.0
    for title, drawings, height in rows:
        if title:
            parts.append(text(4, y + 14, title, size=LETTER, bold=True))
            wide, y = max(wide, 8 + width(title) * 1.1), y + 22
        for drawing in drawings:
            if not drawing.startswith("<svg"):
                parts.append(f'<g transform="translate(0,{y:.0f})">{drawing}</g>')
                y += height
                continue
            w, h = _size(drawing)
            placed = drawing.replace(f'<svg width="{w}pt" height="{h}pt"', f'<svg y="{y:.0f}" width="{w}" height="{h}"', 1)
            parts.append(re.sub(r' id="\w+"', "", placed))  # each drawing numbers its own
            wide, y = max(wide, w), y + h
        y += 8
    return document(wide, y, parts)
