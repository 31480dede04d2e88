"""Drawings of cells hold every operation and edge as often as the cell does."""

import re
from collections import Counter
from html import unescape
from xml.etree import ElementTree

import pytest

from growdarts import drawing
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype
from growdarts.drawing.graphs import strongest
from growdarts.spaces.genotype import GenotypeError, genotype_from_dict
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.darts.published import PUBLISHED

ONE_NODE = RecurrentGenotype((("tanh", 0),), (1,))
GROWN = ConvolutionalGenotype(
    normal=(("skip_connect", 0), ("skip_connect", 0), ("sep_conv_3x3", 2), ("max_pool_3x3", 1), ("dil_conv_5x5", 3),
            ("sep_conv_3x3", 2)), normal_concat=(2, 3, 4),
    reduce=(("max_pool_3x3", 1), ("avg_pool_3x3", 0)), reduce_concat=(2,))


def texts(svg):
    """How often every text stands in a drawing, which must be one well-formed SVG."""
    ElementTree.fromstring(svg[svg.index("<svg"):])
    return Counter(unescape(text) for text in re.findall(r">([^<>]+)</text>", svg))


def routes(svg):
    """(predecessor, operation, node) of every labelled edge of graphs, found through the labels in between."""
    found = []
    for cell in re.split(r"<svg ", svg):
        names = dict(re.findall(r'class="node">\s*<title>(edge \d+)</title>.*?<text[^>]*>([^<]+)</text>', cell, re.S))
        arrows = [unescape(title).split("->") for title in re.findall(r'class="edge">\s*<title>(.*?)</title>', cell)]
        into = {target: source for source, target in arrows if target in names}
        found += [(int(into[source]), names[source], int(target)) for source, target in arrows if source in names]
    return Counter(found)


@pytest.mark.parametrize("genotype", [*PUBLISHED.values(), ONE_NODE, GROWN])
def test_a_derived_cell_has_every_edge_once(genotype):
    data = genotype.to_dict()
    svg = drawing.genotype(data)
    if "recurrent" in data:
        expected = Counter((j, name, i) for i, (name, j) in enumerate(genotype.recurrent, start=1))
        outputs = len(genotype.concat)
    else:
        expected = Counter((j, name, 2 + k // 2) for edges in (genotype.normal, genotype.reduce)
                           for k, (name, j) in enumerate(edges))
        outputs = len(genotype.normal_concat) + len(genotype.reduce_concat)
    assert routes(svg) == expected and svg.count("stroke-dasharray") == outputs
    written = texts(svg)
    assert {name: written[name] for name in genotype.operations} == Counter(genotype.operations)
    assert written[str(genotype.n_nodes)] >= 1 and str(genotype.n_nodes + 2) not in written
    assert genotype_from_dict(data) == genotype


def test_a_derived_two_input_cell_numbers_its_copies():
    written = texts(drawing.genotype(Genotype(((("gate", "gate"), ("carry",)), (("gate",),))).to_dict()))
    assert [written[name] for name in ("gate", "gate (2)", "carry", "layer 1", "layer 2")] == [2, 1, 1, 1, 1]
    assert not [text for text in texts(drawing.genotype(Genotype(((("carry",),),)).to_dict())) if "layer" in text]


def test_searched_two_input_cells_have_all_weights():
    svg = drawing.searched({"layer 1, node 1": {"gate": 0.7, "gate#2": 0.3}, "layer 1, node 2": {"add_tanh": 1.0}},
                            "two_input")
    assert {"gate", "0.70", "gate (2)", "0.30", "add_tanh", "1.00"} <= set(texts(svg)) and "#2" not in texts(svg)
    two = drawing.searched({"layer 1, node 1": {"gate": 1.0}, "layer 2, node 1": {"carry": 1.0}}, "two_input")
    assert two.count("h</text>") == 4 and "layer 1" in two and "layer 2" in two  # two chains, not one


RECURRENT = {"edge 1 <- 0": {"none": 0.5, "tanh": 0.2, "relu": 0.3},
             "edge 2 <- 0": {"none": 0.1, "tanh": 0.25, "relu": 0.4, "tanh#2": 0.25}, "edge 2 <- 1": {"none": 1.0}}


def boxes(svg):
    """Place, width of the frame, words of the boxes of edges."""
    frame = r'<rect x="([\d.]+)" y="([\d.]+)"[^>]*stroke="#0072B2" stroke-width="([\d.]+)"[^>]*/>'
    return [(float(x), float(y), float(width), re.findall(">([^<]+)</text>", words))
            for x, y, width, words in re.findall(frame + r"((?:<text.*?</text>)+)", svg)]


def test_a_searched_cell_has_a_box_for_every_edge():
    one, copied, dead = boxes(drawing.searched(RECURRENT, "darts_recurrent"))
    assert [one[3], copied[3], dead[3]] == [["relu", "0.30"], ["2×tanh", "0.50"], ["none"]]
    assert one[0] < copied[0] == dead[0] and one[1] == copied[1] < dead[1]  # columns are nodes, rows predecessors
    assert dead[2] < one[2] < copied[2]
    assert [strongest(mixture)[2] for mixture in RECURRENT.values()] == pytest.approx([0.5, 0.9, 0.0])


@pytest.mark.parametrize("grown_from, marked", [(None, []), (2, []), (1, ["2 grown"])])
def test_grown_nodes_are_marked(grown_from, marked):
    written = texts(drawing.searched(RECURRENT, "darts_recurrent", grown_from))
    assert [text for text in written if "grown" in text] == marked
    both = {f"{kind} {i} <- {j}": {"skip_connect": 1.0} for kind in ("normal", "reduction")
            for i in (2, 3, 4) for j in range(i)}
    svg = drawing.searched(both, "darts_conv", grown_from)
    assert len(boxes(svg)) == texts(svg)["skip_connect"] == 18 and texts(svg)["reduction cell"] == 1
    assert texts(svg)["4 grown"] == (0 if grown_from is None else 2) and texts(svg)["3 grown"] == 2 * (grown_from == 1)


def test_unknown_spaces_are_refused():
    for draw in (lambda: drawing.genotype({"space": "darts_graph"}), lambda: drawing.searched({}, "darts_graph")):
        with pytest.raises(GenotypeError, match="'darts_graph': allowed are darts_conv, darts_recurrent, two_input"):
            draw()
    with pytest.raises(GenotypeError, match="gelu"):
        drawing.genotype({"space": "darts_recurrent", "recurrent": [["gelu", 0]], "concat": [1]})


def record(weights, genotype, operations=("none", "tanh", "relu")):
    """A search of one stage with `weights`, another after a node was added, and one more that did not help."""
    first = {name: mixture for name, mixture in weights.items() if name == "edge 1 <- 0"}
    stages = [first, weights, weights | {"edge 1 <- 0": {"relu": 1.0}}]
    return {"config": {"operations": list(operations)}, "result": {"genotype": genotype.to_dict()}, "search": {
        "history": [{"nodes": 1}, {"nodes": 2}], "events": [
            {"kind": "stage", "what": ["no gain" if number == 2 else "gain"], "epoch": number, "weights": stage,
             "validation_after": 0.5} for number, stage in enumerate(stages)]}}


def test_growth_of_a_cell_of_edges_has_every_stage_and_what_was_derived():
    derived = RecurrentGenotype((("relu", 0), ("tanh", 0)), (1, 2))
    svg = drawing.growth(record(RECURRENT, derived))
    assert len(re.findall(r"stage \d, epoch", svg)) == 3 and len(boxes(svg)) == 1 + 3 + 3
    assert texts(svg)["2 grown"] == 2 and routes(svg) == Counter([(0, "relu", 1), (0, "tanh", 2)])
    assert not re.search(r' id="', svg)  # nothing stands twice in a page with several drawings


def test_operations_are_counted_in_every_space():
    two_input = Genotype(((("gate", "gate"), ("carry",)),))
    assert two_input.operations == ["gate", "carry"]
    assert ONE_NODE.operations == ["tanh"]
    turned = ConvolutionalGenotype(GROWN.reduce, GROWN.reduce_concat, GROWN.normal, GROWN.normal_concat)
    assert genotype_from_dict(turned.to_dict()).n_nodes == 3  # of the deeper cell
    assert Counter(genotype_from_dict(GROWN.to_dict()).operations) == {
        "max_pool_3x3": 2, "avg_pool_3x3": 1, "skip_connect": 2, "sep_conv_3x3": 2, "dil_conv_5x5": 1}
