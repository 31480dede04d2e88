"""Drawings of cells hold every operation and edge as often as the cell does."""

import re
from collections import Counter
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from growdarts import drawing
from growdarts.drawing.charts import Chart, through
from growdarts.drawing.graphs import arranged
from growdarts.drawing.text import width
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype
from growdarts.spaces.genotype import GenotypeError, genotype_from_dict
from growdarts.spaces.two_input.genotype import Genotype
from growdarts_study.published import CIFAR10_DARTS_V2, PTB_DARTS_V2

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


@pytest.mark.parametrize("genotype", [PTB_DARTS_V2, CIFAR10_DARTS_V2, ONE_NODE, GROWN])
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


def searched(weights, space, before=None):
    """A searched cell, as `drawing.growth` has one for every stage."""
    chart = Chart([weights] if before is None else [before, weights], space)
    return arranged([("", [chart.draw(weights, before)], chart.height)])


def test_searched_two_input_cells_have_all_weights():
    svg = searched({"layer 1, node 1": {"gate": 0.7, "gate#2": 0.3}, "layer 1, node 2": {"add_tanh": 1.0}}, "two_input")
    assert {"gate", "70", "gate (2)", "30", "add_tanh", "100"} <= set(texts(svg)) and "#2" not in texts(svg)
    two = searched({"layer 1, node 1": {"gate": 1.0}, "layer 2, node 1": {"carry": 1.0}}, "two_input")
    assert texts(two)["layer 1"] == texts(two)["layer 2"] == 1  # two chains, not one


RECURRENT = {"edge 1 <- 0": {"none": 0.5, "tanh": 0.2, "relu": 0.3},
             "edge 2 <- 0": {"none": 0.1, "tanh": 0.25, "relu": 0.4, "tanh#2": 0.25}, "edge 2 <- 1": {"none": 1.0}}


def slots(svg):
    """Place, number and classes of every weight, whose bar lies in the row of its operation."""
    found = re.findall(r'<g class="gd-w([^"]*)" transform="translate\(([\d.]+),([\d.]+)\)".*?>([^<>]+)</text></g>', svg)
    return [(float(x), float(y), words, classes.strip()) for classes, x, y, words in found]


def test_a_searched_cell_has_a_column_for_every_edge_and_a_row_for_every_operation():
    svg = searched(RECURRENT, "darts_recurrent")
    columns = {}
    for x, y, words, _ in slots(svg):
        columns.setdefault(x, []).append(words)
    assert sorted(columns.values()) == sorted([["50", "20", "30"], ["10", "25", "25", "40"], ["100"]])
    assert len({y for _, y, *_ in slots(svg)}) == 4 and svg.count('class="gd-arc"') == 3
    assert [texts(svg)[name] for name in ("none", "tanh", "tanh (2)", "relu", "node 2")] == [1] * 5
    assert [through(mixture) for mixture in RECURRENT.values()] == pytest.approx([0.5, 0.9, 0.0])


def test_what_changed_is_marked_and_the_rest_stays_in_its_place():
    before = {"edge 1 <- 0": {"none": 0.5, "tanh": 0.2, "relu": 0.2, "sigmoid": 0.1}}
    after = {"edge 1 <- 0": {"none": 0.5, "tanh": 0.2, "relu": 0.2, "relu#2": 0.1},
             "edge 2 <- 0": {"tanh": 1.0}, "edge 2 <- 1": {"tanh": 1.0}}
    svg = searched(after, "darts_recurrent", before)
    marks = {(words, classes) for _, _, words, classes in slots(svg)}
    assert ("\u00d7", "gd-gone") in marks and ("10", "gd-new") in marks and svg.count('class="gd-node gd-new"') == 1
    chart = Chart([before, after], "darts_recurrent")
    drawn = [{(x, y) for x, y, *_ in slots(chart.draw(weights))} for weights in (before, after)]
    assert drawn[0] - drawn[1] == set() and len(drawn[1]) > len(drawn[0])


def test_widths_are_those_of_the_font():
    """Adobe's metrics of Helvetica, as matplotlib has them."""
    metrics = (Path(matplotlib.get_data_path()) / "fonts" / "pdfcorefonts" / "Helvetica.afm").read_text()
    for code, wide in re.findall(r"^C (\d+) ; WX (\d+)", metrics, re.MULTILINE):
        if 32 <= int(code) < 127 and chr(int(code)) not in "{}'`":  # braces are subscripts here, quotes turned there
            assert width(chr(int(code)), 1000) == int(wide), chr(int(code))


def test_unknown_spaces_are_refused():
    with pytest.raises(GenotypeError, match="'darts_graph': allowed are darts_conv, darts_recurrent, two_input"):
        drawing.genotype({"space": "darts_graph"})
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
    assert len(re.findall(r"stage \d, epoch", svg)) == 3 and svg.count('class="gd-arc"') == 1 + 3 + 3
    assert svg.count('class="gd-node gd-new"') == 1 and routes(svg) == Counter([(0, "relu", 1), (0, "tanh", 2)])
    assert not re.search(r' id="', svg)  # nothing stands twice in a page with several drawings


def test_operations_are_counted_in_every_space():
    two_input = Genotype(((("gate", "gate"), ("carry",)),))
    assert two_input.operations == ["gate", "carry"]
    assert ONE_NODE.operations == ["tanh"]
    turned = ConvolutionalGenotype(GROWN.reduce, GROWN.reduce_concat, GROWN.normal, GROWN.normal_concat)
    assert genotype_from_dict(turned.to_dict()).n_nodes == 3  # of the deeper cell
    assert Counter(genotype_from_dict(GROWN.to_dict()).operations) == {
        "max_pool_3x3": 2, "avg_pool_3x3": 1, "skip_connect": 2, "sep_conv_3x3": 2, "dil_conv_5x5": 1}
