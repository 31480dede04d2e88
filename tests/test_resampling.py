"""Refilling pruned slots: which operations may come, at which weight, and that all else stays as it was."""

import copy

import pytest
import torch

from growdarts.spaces.two_input.network import two_input_layers
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.language import LanguageModel
from growdarts.mixture import Mixture
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts.pruning import held_operations, prune, resample
from stepping import step

IMAGES = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")
SPACES = {
    "two_input": (lambda: two_input_forecaster(3, 4, 2, 2, DEFAULT_TWO_INPUT), lambda: torch.randn(5, 6, 3)),
    "darts_recurrent": (lambda: RecurrentSearchCell(4, 4, 3), lambda: torch.randn(5, 6, 4)),
    "darts_language": (lambda: LanguageModel(9, RecurrentSearchCell(4, 4, 2)), lambda: torch.randint(9, (5, 6))),
    "two_input_language": (lambda: LanguageModel(9, two_input_layers(4, 1, 2, DEFAULT_TWO_INPUT)),
                           lambda: torch.randint(9, (5, 6))),
    "darts_convolutional": (lambda: SearchImageNetwork(2, 3, 3, 2, IMAGES, image_size=8),
                            lambda: torch.randn(6, 3, 8, 8))}  # fmt: skip


def output(network, x):
    y = network(x)
    return y if isinstance(y, torch.Tensor) else y.logits


def trained(space, steps=3):
    """A float64 network and its optimisers in the middle of a training, and an input."""
    build, draw = SPACES[space]
    network, x = build().double(), draw()
    x = x.double() if x.is_floating_point() else x
    theta = torch.optim.Adam(network.theta_parameters(), lr=0.05)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.3)
    for _ in range(steps):
        update(network, theta, alpha, x)
    return network, theta, alpha, x


def update(network, theta, alpha, x):
    step(output(network, x).square().mean(), theta, alpha)


@pytest.mark.parametrize("weight", [0.3, 1e-3])
def test_a_mixture_hands_a_newcomer_exactly_its_weight(weight):
    mixture = Mixture("abc").double()
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([-1.0, 2.0, 0.5]))
    before = mixture.weights()
    old, new = mixture.add("d", weight)
    assert new is mixture.alpha and torch.equal(new[:3], old)
    assert mixture.weights()[3].item() == pytest.approx(weight, rel=1e-12)
    assert torch.allclose(mixture.weights()[:3], (1 - weight) * before, rtol=1e-12)


def test_bad_newcomers_are_one_clear_error_each():
    mixture = Mixture(["gate", "carry#2"])
    with pytest.raises(ValueError, match="holds 'carry' already"):
        mixture.add("carry", 0.1)
    for space in SPACES:
        network = SPACES[space][0]()
        before = network.structure()
        for name, message in (("nonsense", "unknown operation 'nonsense': allowed are"),
                              (network.operations[1], "already")):
            with pytest.raises(ValueError, match=message):
                network.add_operation(next(iter(network.mixtures())), name, 0.1)
        assert network.structure() == before


@pytest.mark.parametrize("space", SPACES)
def test_a_refilled_slot_changes_the_function_by_its_weight_and_nothing_else(space):
    network, theta, alpha, x = trained(space)
    for position in (0, -1):  # the first of every mixture at an earlier stage, now the last
        held = held_operations(network)
        with torch.no_grad():
            for mixture in network.mixtures():
                mixture.alpha[position] = -9.0
        dropped = prune(network, theta, alpha, prune_below=0.02, keep_all_above=1.0)
    assert len(dropped) >= len(held)
    network.eval()  # train mode moves the running statistics
    values = {name: tensor.clone() for name, tensor in network.state_dict().items() if "alpha" not in name}
    weights = {name: m.named_weights() for name, m in zip(network.mixture_names(), network.mixtures(), strict=True)}
    moments = [copy.deepcopy(alpha.state[p]) for p in network.alpha_parameters()]
    thetas, before = list(network.theta_parameters()), output(network, x)
    added = resample(network, theta, alpha, before=held, weight=1e-4)
    assert sorted(added) == sorted(f"{name.split(': ')[0]}: {network.operations[0]}" for name in dropped)
    assert (output(network, x) - before).norm() < 1e-2 * before.norm()
    for tensor_name, tensor in values.items():
        assert torch.equal(network.state_dict()[tensor_name], tensor)
    for name, mixture, old in zip(network.mixture_names(), network.mixtures(), moments, strict=True):
        now, n = mixture.named_weights(), len(weights[name])
        assert list(now)[:n] == list(weights[name]) and len(now) == len(held[name])
        assert sum(now.values()) == pytest.approx(1)
        for key in list(now)[n:]:
            assert now[key] == pytest.approx(1e-4, rel=1e-3)
        first, *others = weights[name]
        for key in others:
            assert now[key] / now[first] == pytest.approx(weights[name][key] / weights[name][first], rel=1e-9)
        state = alpha.state[mixture.alpha]
        for part in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(state[part][:n], old[part]) and not state[part][n:].any()
        assert torch.equal(state["step"], old["step"])
    new = set(network.theta_parameters()) - set(thetas)
    assert not new & set(theta.state) and set(thetas) == set(theta.state)
    assert theta.param_groups[0]["params"] == network.theta_parameters()
    network.train()
    start = [p.detach().clone() for p in new]
    update(network, theta, alpha, x)
    assert all(not torch.equal(p, q) for p, q in zip(new, start, strict=True)), "the newcomers train on"
    structure, state = network.structure(), copy.deepcopy(network.state_dict())
    again = SPACES[space][0]().double()
    again.restructure(structure)
    again.load_state_dict(state)
    assert torch.equal(output(again.eval(), x), output(network.eval(), x))


def test_the_dropped_operation_does_not_come_back_at_once():
    chosen = set()
    for _ in range(40):
        network = two_input_forecaster(3, 4, 1, 1, DEFAULT_TWO_INPUT)
        (mixture,) = network.mixtures()
        theta, alpha = (torch.optim.Adam(p) for p in (network.theta_parameters(), network.alpha_parameters()))
        network.keep_operations(mixture, [0, 1, 2, 3, 4])  # dropped at an earlier stage: 5, 6, 7
        held = held_operations(network)
        network.keep_operations(mixture, [0, 1, 2])  # now: 3, 4
        added = resample(network, theta, alpha, before=held, weight=1e-3)
        assert len(added) == len(set(added)) == 2
        chosen |= {key.split(": ")[1] for key in added}
    assert chosen == set(DEFAULT_TWO_INPUT[5:])


def test_where_no_other_candidate_is_left_nothing_comes_in():
    network = two_input_forecaster(3, 4, 1, 1, DEFAULT_TWO_INPUT)
    (mixture,) = network.mixtures()
    theta, alpha = (torch.optim.Adam(p) for p in (network.theta_parameters(), network.alpha_parameters()))
    network.duplicate_operation(mixture, "gate")
    held, n = held_operations(network), len(DEFAULT_TWO_INPUT)
    network.keep_operations(mixture, list(range(n)))
    assert resample(network, theta, alpha, before=held, weight=1e-3) == []
    network.keep_operations(mixture, [i for i, key in enumerate(mixture.keys) if key != "carry"])
    assert resample(network, theta, alpha, before=held, weight=1e-3) == []
    assert sorted(mixture.keys) == sorted(set(DEFAULT_TWO_INPUT) - {"carry"})
