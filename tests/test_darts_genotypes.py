"""Genotypes of the DARTS spaces: forms, published constants, errors that list what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from growdarts_study import published
from growdarts.spaces.two_input.network import derived_layers
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype, RecurrentGenotype
from growdarts.spaces.genotype import genotype_from_dict
from growdarts.spaces.genotype import GenotypeError
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.two_input.network import derived_forecaster

GOLDEN = Path(__file__).parent / "golden"


def edges(array):
    """`operation:predecessor` of the golden arrays."""
    return tuple((name, int(j)) for name, j in (edge.split(":") for edge in array.tolist()))


def test_published_recurrent_cell_is_that_of_the_golden_values():
    golden = np.load(GOLDEN / "darts_rnn_eval.npz")
    assert published.PTB_DARTS_V2 == RecurrentGenotype(edges(golden["DARTS_V2/genotype"]), tuple(golden["DARTS_V2/concat"]))


def test_published_convolutional_cell_is_that_of_the_golden_values():
    golden = np.load(GOLDEN / "darts_cnn_eval.npz")
    assert published.CIFAR10_DARTS_V2.normal == edges(golden["normal"])
    assert published.CIFAR10_DARTS_V2.reduce == edges(golden["reduce"])


@pytest.mark.parametrize("genotype", [published.PTB_DARTS_V2, published.CIFAR10_DARTS_V2])
def test_every_form_reads_back(genotype):
    kind = type(genotype)
    assert kind.from_dict(genotype.to_dict()) == kind.from_json(genotype.to_json()) == genotype
    assert genotype_from_dict(genotype.to_dict()) == genotype


def test_what_the_original_prints_builds_a_genotype():
    genotype = RecurrentGenotype(recurrent=[('relu', 0), ('tanh', 1)], concat=range(1, 3))
    assert genotype == RecurrentGenotype([["relu", 0], ["tanh", 1]], [1, 2])
    assert genotype.recurrent == (("relu", 0), ("tanh", 1)) and genotype.concat == (1, 2)
    assert genotype.to_json() == (
        '{"space": "darts_recurrent", "recurrent": [["relu", 0], ["tanh", 1]], "concat": [1, 2]}')


def test_errors_list_everything_that_is_wrong():
    with pytest.raises(GenotypeError) as error:
        RecurrentGenotype((("tan", 0), ("relu", 2), ("none", -1)), (4, 4))
    for part in ("recurrent, edge 0 of node 1: unknown operation 'tan', allowed are tanh, relu, sigmoid, identity",
                 "node 2: predecessor 2, allowed is 0 to 1", "node 3: unknown operation 'none'",
                 "node 3: predecessor -1, allowed is 0 to 2", "concat = [4, 4]"):
        assert part in str(error.value)
    with pytest.raises(GenotypeError) as error:
        ConvolutionalGenotype((("skip_connect", 0),) * 3, (2, 3), (), ())
    for part in ("normal: 3 edges, allowed is 2 for every node", "normal_concat = [2, 3]",
                 "reduce: 0 edges", "reduce_concat = []"):
        assert part in str(error.value)


@pytest.mark.parametrize("edges, concat, message", [
    ([("relu", "0")], [1], "recurrent = .*pairs"), (["relu"], [1], "recurrent = .*pairs"), (3, [1], "recurrent = 3"),
    ([("relu", 0)], 1, "concat = 1: allowed is a list of node numbers"), ([("relu", 0)], [1.0], "concat = "),
    ([], [0], "recurrent: 0 edges, allowed is 1 for every node, at least one node")])
def test_malformed_fields(edges, concat, message):
    with pytest.raises(GenotypeError, match=message):
        RecurrentGenotype(edges, concat)


def test_a_genotype_of_another_space_is_refused():
    recurrent, convolutional = published.PTB_DARTS_V2, published.CIFAR10_DARTS_V2
    two_input = Genotype(((("gate",),),))
    for genotype in (recurrent, convolutional, two_input):
        for kind in {RecurrentGenotype, ConvolutionalGenotype, Genotype} - {type(genotype)}:
            with pytest.raises(GenotypeError, match=f"of space '{genotype.space}': expected '{kind.space}'"):
                kind.from_json(genotype.to_json())
    with pytest.raises(GenotypeError, match="space 'nasbench': allowed are darts_conv, darts_recurrent, two_input"):
        genotype_from_dict({"space": "nasbench"})


@pytest.mark.parametrize("data, message", [
    ({"space": "darts_recurrent", "concat": [1], "colour": 1}, r"missing \['recurrent'\], left over \['colour'\]"),
    ({"recurrent": []}, "names no space"), ([], "names no space")])
def test_wrong_dictionaries(data, message):
    with pytest.raises(GenotypeError, match=message):
        RecurrentGenotype.from_dict(data)
    with pytest.raises(GenotypeError, match="not a genotype"):
        RecurrentGenotype.from_json("{")


BUILDERS = {
    "two_input": [lambda g: derived_forecaster(g, 2, 3), lambda g: derived_layers(g, 3)],
    "darts_recurrent": [lambda g: RecurrentCell(3, 3, g)],
    "darts_conv": [lambda g: FixedImageNetwork(g, 4, 2, 3, image_size=8)]}
GENOTYPES = {"two_input": Genotype(((("gate",),),)), "darts_recurrent": published.PTB_DARTS_V2,
             "darts_conv": published.CIFAR10_DARTS_V2}


@pytest.mark.parametrize("space", BUILDERS)
@pytest.mark.parametrize("other", GENOTYPES)
def test_a_network_of_a_genotype_of_another_space_is_one_clear_error(space, other):
    for build in BUILDERS[space]:
        if space == other:
            build(GENOTYPES[other])
        else:
            with pytest.raises(GenotypeError, match=f"a genotype of space '{other}': expected '{space}'"):
                build(GENOTYPES[other])
