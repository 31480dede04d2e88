"""Criteria on hand-made histories; pruning leaves what stays untouched."""

import copy

import pytest
import torch

from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.criteria import epochs_since_gain, improves, operations_to_prune, stage_is_over
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.mixture import Mixture
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts.pruning import prune
from growdarts_study.controls import keep_derived
from stepping import step


@pytest.mark.parametrize("errors, since", [
    ([], 0), ([1.0], 0), ([1.0, 0.9], 0), ([1.0, 1.1, 1.2], 2), ([1.0, 0.9, 0.95, 0.91], 2),
    ([1.0, 0.9995, 0.999], 2), ([1.0, 0.9995, 0.9989], 0)])  # small steps count once they add up
def test_epochs_since_gain(errors, since):
    assert epochs_since_gain(errors, 0.001) == since


def test_stage_is_over_after_patience():
    assert not stage_is_over([1.0, 1.1], 2, 0.0)
    assert stage_is_over([1.0, 1.1, 1.0], 2, 0.0)
    assert not stage_is_over([], 1, 0.0)


def test_improves_needs_the_whole_gain():
    assert improves(0.5, float("inf"), 0.1)
    assert improves(0.89, 1.0, 0.1) and not improves(0.9, 1.0, 0.1)


@pytest.mark.parametrize("weights, pruned", [
    ([0.4, 0.3, 0.26, 0.04], [3]), ([0.6, 0.3, 0.06, 0.04], []), ([0.02, 0.03, 0.04], [0, 1]), ([1.0], [])])
def test_operations_to_prune(weights, pruned):
    """Only while no weight surpasses keep_all_above = 0.5, and never the strongest."""
    assert operations_to_prune(dict(zip("abcd", weights, strict=False)), 0.05, 0.5) == ["abcd"[i] for i in pruned]


@pytest.mark.parametrize("weights, pruned", [
    ({"none": 0.9, "tanh": 0.02, "relu": 0.04, "identity": 0.04}, ["tanh", "identity"]),  # a dead edge otherwise
    ({"none": 0.03, "tanh": 0.5, "relu": 0.47}, ["none"]),  # none goes as any other
    ({"none": 0.01, "tanh": 0.02, "relu": 0.03}, ["none", "tanh"]),
    ({"none": 1.0}, []), ({"none": 0.02}, []),
    ({"none": 0.91, "relu": 0.04, "tanh": 0.03, "tanh#2": 0.02}, ["relu", "tanh#2"]),  # tanh weighs 0.05 in all
    ({"gate": 0.03, "gate#2": 0.49, "carry": 0.48}, ["gate"])])  # a copy may go
def test_the_operation_that_would_be_derived_is_never_pruned(weights, pruned):
    assert operations_to_prune(weights, 0.05, 0.95) == pruned


def test_a_pruned_edge_of_the_darts_cells_never_holds_none_only():
    cell = RecurrentSearchCell(3, 3, 2)
    images = SearchImageNetwork(2, 3, 3, 1, ("none", "skip_connect", "sep_conv_3x3"), image_size=8)
    for network in (cell, images):
        with torch.no_grad():
            for mixture in network.mixtures():
                mixture.alpha[0] += 5.0  # none has nearly all the weight, as it often has
        theta, alpha = torch.optim.SGD(network.theta_parameters()), torch.optim.Adam(network.alpha_parameters())
        before = network.genotype()
        assert prune(network, theta, alpha, prune_below=0.2, keep_all_above=1.0)
        assert all(len(mixture.keys) == 2 and mixture.keys[0] == "none" for mixture in network.mixtures())
        assert network.genotype() == before


def trained():
    network = two_input_forecaster(3, 4, 1, 2, DEFAULT_TWO_INPUT)
    theta = torch.optim.Adam(network.theta_parameters(), lr=0.01)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.3)
    for _ in range(3):
        step(network(torch.randn(4, 8, 3)).square().sum(), theta, alpha)
    return network, theta, alpha


def test_pruning_reallocates_and_keeps_the_rest():
    network, theta, alpha = trained()
    with torch.no_grad():
        node = network.cells[0].nodes[0]
        node.mixture.alpha.copy_(torch.tensor([0.0, -9.0, 0.1, 0.2, 0.0, -8.0, 0.0, 0.0]))
    before = node.mixture.named_weights()
    parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
    moments = copy.deepcopy(alpha.state[node.mixture.alpha])
    assert prune(network, theta, alpha, prune_below=0.01, keep_all_above=0.9) == ["layer 1, node 1: add_sigmoid", "layer 1, node 1: gate"]
    keep = [0, 2, 3, 4, 6, 7]
    after = node.mixture.named_weights()
    assert list(after) == [DEFAULT_TWO_INPUT[i] for i in keep]
    assert sum(after.values()) == pytest.approx(1)
    for name in after:  # the others keep their ratios
        assert after[name] / after["carry"] == pytest.approx(before[name] / before["carry"], rel=1e-5)
    new = alpha.state[node.mixture.alpha]
    assert torch.equal(new["exp_avg"], moments["exp_avg"][keep]) and torch.equal(new["step"], moments["step"])
    for name, p in network.named_parameters():
        if name != "cells.0.nodes.0.mixture.alpha":
            assert torch.equal(p, parameters[name])
    assert len(theta.state) == len(network.theta_parameters()) == len(theta.param_groups[0]["params"])


def test_only_the_derived_operations_are_kept_with_their_weights_and_moments():
    """`carry` and `gate` have the most weight; a cell of them alone would be zero for ever (D13). A copy stays."""
    torch.manual_seed(0)
    network = two_input_forecaster(3, 4, 1, 1, ["carry", "add_tanh", "gate"])
    cell = network.cells[0]
    cell.grow_node(morphism=False, epsilon=0.01, noise=0.1)
    network.duplicate_operation(cell.nodes[1].mixture, "gate")
    with torch.no_grad():
        cell.nodes[0].mixture.alpha.copy_(torch.tensor([3.0, 2.0, 0.0]))
        cell.nodes[1].mixture.alpha.copy_(torch.tensor([0.5, 0.0, 0.4, 0.4]))  # the copies of gate have more than carry
    theta, alpha = (torch.optim.Adam(p, lr=1e-3) for p in (network.theta_parameters(), network.alpha_parameters()))
    before, x = copy.deepcopy(network), torch.randn(5, 2, 3)
    with torch.no_grad():
        before.cells[0].nodes[0].mixture.alpha.copy_(torch.tensor([-90.0, 0.0, -90.0]))
        before.cells[0].nodes[1].mixture.alpha.copy_(torch.tensor([-90.0, -90.0, 0.0, 0.0]))
    keep_derived(network, theta, alpha)
    assert network.structure() == [[["add_tanh"], ["gate", "gate#2"]]]
    torch.testing.assert_close(network(x), before(x))
    assert sum(len(group["params"]) for group in theta.param_groups) == len(network.theta_parameters())


def test_pruning_nothing_changes_nothing():
    network, theta, alpha = trained()
    x = torch.randn(4, 8, 3)
    before = network(x)
    assert prune(network, theta, alpha, prune_below=0.0, keep_all_above=0.9) == []
    assert torch.equal(network(x), before)


def test_mixture_refuses_nothing_and_twins():
    with pytest.raises(ValueError, match="at least one operation and unique names"):
        Mixture([])
    with pytest.raises(ValueError, match="unique"):
        Mixture(["gate", "gate"])
    with pytest.raises(ValueError, match="must keep at least one"):
        Mixture(["gate"]).keep([])
