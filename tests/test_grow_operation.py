"""Duplicating an operation keeps the function; what is inherited and remembered stays as it was."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import ASGD, SGD, Adam

from growdarts.criteria import operation_to_duplicate
from growdarts.mixture import Mixture
from growdarts.growth import _random_direction, growable_operations, grow_operation
from growdarts.spaces.two_input.network import derived_forecaster, two_input_forecaster
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT, TWO_INPUT, two_input
from growdarts.pruning import prune
from stepping import step

F, H = 5, 8
WITH_WEIGHTS = [name for name in DEFAULT_TWO_INPUT if name != "carry"]


def trained(operations=DEFAULT_TWO_INPUT, n_layers=1, n_nodes=2, optimizer=Adam, steps=20):
    """A float64 network and its optimisers in the middle of a training."""
    network = two_input_forecaster(F, H, n_layers, n_nodes, operations).double()
    theta = optimizer(network.theta_parameters(), lr=0.01)
    alpha = Adam(network.alpha_parameters(), lr=0.05)
    x, y = torch.randn(6, 64, F, dtype=torch.float64), torch.randn(64, F, dtype=torch.float64)
    for _ in range(steps):
        update(network, theta, alpha, x, y)
    return network, theta, alpha, x, y


def update(network, theta, alpha, x, y):
    step(nn.functional.mse_loss(network(x), y), theta, alpha)


@pytest.mark.parametrize("key", WITH_WEIGHTS)
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 1e-6])
def test_output_unchanged(key, epsilon):
    network, theta, alpha, x, _ = trained(n_layers=2, steps=5)
    before = network(x)
    for n in (2, 3, 4):  # duplicating again and again stays within epsilon each time
        assert grow_operation(network, theta, alpha, mixture=1, key=key,
                              step=0.5 * epsilon**0.5) == f"{key}#{n}"
        after = network(x)
        assert (after - before).norm() <= epsilon * before.norm()
        before = after


@pytest.mark.parametrize("key", WITH_WEIGHTS)
def test_kept_to_first_order_in_delta(key):
    """A tenth of delta, a hundredth of the change; none where the operation is affine in its weights."""
    network, theta, alpha, x, _ = trained()
    before = network(x)

    def change(step):
        grown, *optimizers = copy.deepcopy((network, theta, alpha))
        torch.manual_seed(5)
        grow_operation(grown, *optimizers, mixture=0, key=key, step=step)
        return (grown(x) - before).norm().item()

    assert change(0.0) < 1e-13
    if key == "add_identity":
        assert change(0.1) < 1e-13
    elif key == "add_relu":  # at a change of sign of the preactivation |delta z| for a share |delta z| of samples
        assert 10**1.2 < change(1e-2) / change(1e-3)
    else:
        assert change(1e-2) / change(1e-3) == pytest.approx(100, rel=0.02)


@pytest.mark.parametrize("key", WITH_WEIGHTS)
def test_copy_is_theta_plus_delta_and_original_theta_minus_delta(key):
    network, theta, alpha, *_ = trained()
    weights = partial(network.operation_weights, network.cells[0].nodes[1].mixture)
    old = {name: p.detach().clone() for name, p in weights(key).items()}
    direction = {name: torch.randn_like(p) for name, p in old.items()}
    grow_operation(network, theta, alpha, mixture=1, key=key, step=0.1, direction=direction)
    for name, p in old.items():
        assert torch.equal(weights(f"{key}#2")[name], p + 0.1 * direction[name])
        assert torch.equal(weights(key)[name], p - 0.1 * direction[name])


def test_random_direction_has_length_one_a_unit():
    network, theta, alpha, *_ = trained()
    weights = partial(network.operation_weights, network.cells[0].nodes[0].mixture)
    old = {name: p.detach().clone() for name, p in weights("gated_update").items()}
    grow_operation(network, theta, alpha, mixture=0, key="gated_update", step=0.1)
    delta = [weights("gated_update#2")[name] - p for name, p in old.items()]
    lengths = sum(d.reshape(2 * H, -1).square().sum(dim=1) for d in delta).sqrt()  # two blocks a unit
    assert lengths.mean().item() == pytest.approx(0.1, rel=0.15)


def test_random_direction_takes_every_layer_of_an_operation_by_itself():
    layers = nn.Sequential(nn.Conv2d(64, 64, 5, groups=64), nn.Conv2d(64, 64, 1, bias=False))
    direction = _random_direction(dict(layers.named_parameters()))
    depthwise = torch.cat([direction["0.weight"].flatten(1), direction["0.bias"][:, None]], dim=1)
    for rows in (depthwise, direction["1.weight"].flatten(1)):
        assert rows.norm(dim=1).mean().item() == pytest.approx(1, rel=0.1)


def test_other_mixture_weights_are_untouched():
    network, theta, alpha, *_ = trained()
    first, second = network.mixtures()
    before, other, logits = first.named_weights(), second.named_weights(), first.alpha.detach().clone()
    grow_operation(network, theta, alpha, mixture=0, key="gate", step=0.1)
    i = DEFAULT_TWO_INPUT.index("gate")
    same = [j for j in range(len(logits)) if j != i]
    assert torch.equal(first.alpha[same], logits[same])
    assert torch.equal(first.alpha[[i, -1]], logits[[i, i]] - torch.tensor(2.0, dtype=torch.float64).log())
    after = first.named_weights()
    assert after["gate"] == after["gate#2"] == pytest.approx(before["gate"] / 2, rel=1e-14)
    assert {key: after[key] for key in DEFAULT_TWO_INPUT if key != "gate"} == pytest.approx(
        {key: before[key] for key in DEFAULT_TWO_INPUT if key != "gate"}, rel=1e-14)
    assert first.operation_weights() == pytest.approx(before, rel=1e-14)
    assert second.named_weights() == other


@pytest.mark.parametrize("key", WITH_WEIGHTS)
def test_gradient_reaches_all_copies_and_differs(key):
    network, theta, alpha, x, y = trained()
    grow_operation(network, theta, alpha, mixture=0, key=key, step=0.05)
    mixture = network.cells[0].nodes[0].mixture
    copies = [weight for name in (key, f"{key}#2") for weight in network.operation_weights(mixture, name).values()]
    copies.append(mixture.alpha)
    *gradients, by_alpha = torch.autograd.grad(nn.functional.mse_loss(network(x), y), copies)
    assert all(g.abs().max() > 0 for g in gradients)
    assert (by_alpha != 0).all()
    if key != "add_identity":  # a sum of affine maps is one affine map: its copies go the same way
        assert all((one - two).abs().max() > 0 for one, two in zip(gradients[:3], gradients[3:], strict=True))


def test_inherited_parameters_and_moments_are_bit_identical():
    network, theta, alpha, x, y = trained()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    moments = {name: copy.deepcopy(optimizer.state[p]) for optimizer in (theta, alpha)
               for name, p in network.named_parameters() if p in optimizer.state}
    grow_operation(network, theta, alpha, mixture=1, key="add_tanh", step=0.1)
    now = dict(network.named_parameters())
    touched = {f"cells.0.nodes.1.{part}.add_tanh" for part in "WUb"} | {"cells.0.nodes.1.mixture.alpha"}
    assert set(now) - set(before) == {f"cells.0.nodes.1.{part}.add_tanh#2" for part in "WUb"}
    for name in set(before) - touched:
        assert torch.equal(now[name], before[name])
        state = (theta if now[name] in theta.state else alpha).state[now[name]]
        assert all(torch.equal(state[key], moments[name][key]) for key in moments[name])
    for name in touched - {"cells.0.nodes.1.mixture.alpha"}:
        for p in (now[name], now[name + "#2"]):
            assert torch.equal(theta.state[p]["exp_avg"], moments[name]["exp_avg"] / 2)
            assert torch.equal(theta.state[p]["exp_avg_sq"], moments[name]["exp_avg_sq"] / 4)
            assert torch.equal(theta.state[p]["step"], moments[name]["step"])
    old, new = moments["cells.0.nodes.1.mixture.alpha"], alpha.state[now["cells.0.nodes.1.mixture.alpha"]]
    assert torch.equal(new["exp_avg"], torch.cat([old["exp_avg"][:1] / 2, old["exp_avg"][1:], old["exp_avg"][:1] / 2]))
    assert torch.equal(new["exp_avg_sq"][[0, -1]], old["exp_avg_sq"][[0, 0]] / 4)
    for optimizer, parameters in ((theta, network.theta_parameters()), (alpha, network.alpha_parameters())):
        assert optimizer.param_groups[0]["params"] == parameters and set(optimizer.state) == set(parameters)
    update(network, theta, alpha, x, y)  # and no tensor of the states is shared
    assert {state["step"].item() for state in theta.state.values()} == {21}


def test_with_adam_the_function_moves_on_as_if_nothing_had_happened():
    network, theta, alpha, x, y = trained()
    plain, *optimizers = copy.deepcopy((network, theta, alpha))
    grow_operation(network, theta, alpha, mixture=0, key="gated_update", step=0.0)
    grow_operation(network, theta, alpha, mixture=0, key="gated_update", step=0.0)
    for _ in range(5):
        update(network, theta, alpha, x, y)
        update(plain, *optimizers, x, y)
    torch.testing.assert_close(network(x), plain(x), rtol=0, atol=1e-5)
    assert (network(x) - trained()[0](x)).norm() > 0.01


@pytest.mark.parametrize("optimizer", [lambda p, lr: SGD(p, lr=lr, momentum=0.9), lambda p, lr: SGD(p, lr=lr),
                                       lambda p, lr: Adam(p, lr=lr, amsgrad=True), ASGD])
def test_any_optimiser_goes_on(optimizer):
    network, theta, alpha, x, y = trained(optimizer=optimizer)
    grow_operation(network, theta, alpha, mixture=0, key="add_tanh", step=0.01)
    before = {p: p.detach().clone() for p in network.theta_parameters()}
    update(network, theta, alpha, x, y)
    assert all(not torch.equal(p, before[p]) for p in network.theta_parameters())


def test_an_optimiser_that_has_not_stepped_yet():
    network, theta, alpha, *_ = trained(steps=0)
    grow_operation(network, theta, alpha, mixture=0, key="add_tanh", step=0.01)
    assert not theta.state and not alpha.state


def test_grown_network_is_stored_pruned_and_derived():
    network, theta, alpha, x, y = trained()
    for key in ("gate", "gate", "add_tanh"):
        grow_operation(network, theta, alpha, mixture=1, key=key, step=0.1)
    update(network, theta, alpha, x, y)
    assert network.structure()[0][1] == [*DEFAULT_TWO_INPUT, "gate#2", "gate#3", "add_tanh#2"]
    stored = copy.deepcopy((network.structure(), network.state_dict(), theta.state_dict()))
    again = two_input_forecaster(F, H, 1, 2, DEFAULT_TWO_INPUT).double()
    again.restructure(stored[0])
    again.load_state_dict(stored[1])
    optimizer = Adam(again.theta_parameters())
    optimizer.load_state_dict(stored[2])
    torch.testing.assert_close(again(x), network(x), rtol=0, atol=1e-14)
    for p, q in zip(network.theta_parameters(), again.theta_parameters(), strict=True):
        assert torch.equal(theta.state[p]["exp_avg"], optimizer.state[q]["exp_avg"])
    with torch.no_grad():
        network.cells[0].nodes[1].mixture.alpha[[5, 8, 9]] = torch.tensor([3.0, -9.0, 2.0], dtype=torch.float64)
    (dropped,) = prune(network, theta, alpha, prune_below=0.001, keep_all_above=0.9)
    assert dropped.endswith("gate#2")
    genotype = network.genotype()
    assert genotype.layers[0][1] == ("gate", "gate")
    assert derived_forecaster(genotype, F, H).structure()[0][1] == ["gate", "gate#2"]
    assert grow_operation(network, theta, alpha, mixture=1, key="gate#3", step=0.1) == "gate#2"  # free again
    update(network, theta, alpha, x, y)


def test_a_users_operation_grows_as_well():
    @two_input(blocks=3)
    def sine(wx, us, s):
        a, b, c = (wx + us).chunk(3, dim=-1)
        return torch.sin(a) * s + b * torch.cos(c)

    try:
        network, theta, alpha, x, _ = trained(("sine", "carry"), steps=5)
        before = network(x)
        grow_operation(network, theta, alpha, mixture=1, key="sine", step=0.5 * 1e-4**0.5)
        assert 0 < (network(x) - before).norm() <= 1e-4 * before.norm()
    finally:
        del TWO_INPUT["sine"]


@pytest.mark.parametrize("arguments, message", [
    ({"key": "carry"}, "'carry' of mixture 1 owns no weights"),
    ({"key": "tanh"}, "no operation 'tanh' of mixture 1: allowed are.*add_tanh"),
    ({"mixture": 2}, "no operation 'gate' of mixture 2: allowed are 0 to 1"),
    ({"mixture": -1}, "of mixture -1"),
    ({"direction": {"V": torch.zeros(1)}}, r"V do not fit.*'W': \(8, 5\)"),
    ({"direction": {"W": torch.zeros(H, F + 1)}}, r"W do not fit.*'W': \(8, 5\)")])
def test_bad_requests_are_named_and_change_nothing(arguments, message):
    network, theta, alpha, x, _ = trained(steps=3)
    before, structure, moments = network(x), network.structure(), copy.deepcopy(theta.state_dict())
    with pytest.raises(ValueError, match=message):
        grow_operation(network, theta, alpha, **{"mixture": 1, "key": "gate", "step": 0.1, **arguments})
    assert torch.equal(network(x), before) and network.structure() == structure
    assert str(theta.state_dict()) == str(moments)


def test_a_network_that_cannot_duplicate_says_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.mixture = Mixture(["skip"])

        def mixtures(self):
            yield self.mixture

    with pytest.raises(ValueError, match=r"Fixed has no part that can duplicate.*skip"):
        grow_operation(Fixed(), None, None, mixture=0, key="skip", step=0.1)


def test_growable_operations_and_the_threshold():
    network, theta, alpha, *_ = trained(("add_tanh", "carry"))
    with torch.no_grad():
        for mixture, logits in zip(network.mixtures(), ([0.0, 3.0], [1.0, 0.0]), strict=True):
            mixture.alpha.copy_(torch.tensor(logits))
    weights = growable_operations(network)
    assert list(weights) == [(0, "add_tanh"), (1, "add_tanh")]  # carry weighs most but owns nothing
    assert operation_to_duplicate(weights, 0.7) == (1, "add_tanh")
    assert operation_to_duplicate(weights, 0.8) is None
    grow_operation(network, theta, alpha, mixture=1, key="add_tanh", step=0.1)
    assert operation_to_duplicate(growable_operations(network), 0.7) is None  # half of it each
    assert operation_to_duplicate({}, 0.0) is None


def test_copies_are_limited():
    """All copies of an operation count, whichever is duplicated; other operations and mixtures do not."""
    network, theta, alpha, x, _ = trained(("add_tanh", "gate", "carry"))
    grow_operation(network, theta, alpha, mixture=1, key="add_tanh", step=0.1)
    assert list(growable_operations(network, max_copies=2)) == [(0, "add_tanh"), (0, "gate"), (1, "gate")]
    assert list(growable_operations(network, max_copies=3)) == list(growable_operations(network))
    assert grow_operation(network, theta, alpha, mixture=1, key="add_tanh#2", step=0.1) == "add_tanh#3"
    assert list(growable_operations(network, max_copies=3)) == [(0, "add_tanh"), (0, "gate"), (1, "gate")]


def test_append_keeps_the_others_ratios():
    mixture = Mixture(["a", "b"])
    before = mixture.named_weights()
    old, new = mixture.append("c", -1.0)
    after = mixture.named_weights()
    assert new is mixture.alpha and torch.equal(new[:2], old) and new[2] == -1
    assert after["a"] / after["b"] == pytest.approx(before["a"] / before["b"], rel=1e-6)
    with pytest.raises(ValueError, match="holds 'a' already"):
        mixture.append("a", 0.0)
