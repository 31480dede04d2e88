"""Growth leaves the function, the inherited parameters and the optimisers' memory alone."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.node import TwoInputNode
from growdarts.growth import carry_moments, grow_node
from growdarts.pruning import prune
from growdarts_study.studies.morphisms import net2deeper, net2wider
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT, TWO_INPUT, two_input
from stepping import step

F, H = 5, 8


def trained(operations=DEFAULT_TWO_INPUT, n_layers=1, steps=30, hidden=H):
    """A float64 network and its optimisers in the middle of a training."""
    network = two_input_forecaster(F, hidden, n_layers, 1, operations).double()
    theta = torch.optim.Adam(network.theta_parameters(), lr=0.01)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.05)
    x, y = torch.randn(6, 64, F, dtype=torch.float64), torch.randn(64, F, dtype=torch.float64)
    for _ in range(steps):
        step(nn.functional.mse_loss(network(x), y), theta, alpha)
    return network, theta, alpha, x, y


@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("operations", [
    DEFAULT_TWO_INPUT, ("carry", "add_tanh", "add_sigmoid", "add_identity"), ("add_identity", "hadamard"), ("add_identity",)])
def test_output_unchanged(operations, epsilon, mode, n_layers):
    network, theta, alpha, x, _ = trained(operations, n_layers)
    getattr(network, mode)()
    before = network(x)
    for _ in range(3):  # growing again and again stays within epsilon each time
        grow_node(network, theta, alpha, morphism=True, epsilon=epsilon, noise=0.5)
        after = network(x)
        assert (after - before).norm() <= epsilon * before.norm()
        before = after
    assert network.n_nodes() == 4


@pytest.mark.parametrize("operations, n_layers, n_steps", [
    (("add_identity",), 3, 6), (("add_identity", "hadamard"), 4, 6), (DEFAULT_TWO_INPUT, 8, 6), (("add_identity",), 1, 250)])
def test_layers_time_and_linear_nodes_do_not_add_up_beyond_epsilon(operations, n_layers, n_steps):
    network, theta, alpha, _, _ = trained(operations, n_layers, hidden=4)
    x = torch.randn(n_steps, 64, F, dtype=torch.float64)
    before = network(x)
    for seed in range(5):
        grown = copy.deepcopy(network)
        torch.manual_seed(seed)
        grown.grow_node(morphism=True, epsilon=1e-3, noise=0.5)
        assert (grown(x) - before).norm() <= 1e-3 * before.norm()


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_the_change_over_250_steps_in_cells_of_all_sets_of_operations(share):
    """The promise of `become_identity`, also where one operation, such as `carry`, has nearly all the weight."""
    others, ratios = [name for name in DEFAULT_TWO_INPUT if name != "add_identity"], []
    for r in range(1, len(others) + 1):
        for chosen in itertools.combinations(others, r):
            cell = TwoInputCell(F, H, [[*chosen, "add_identity"]] * 2).double()
            for mixture in cell.mixtures():
                with torch.no_grad():
                    mixture.alpha.zero_()[torch.randint(r + 1, ())] = math.log(share / (1 - share) * r)
            x = torch.randn(250, 8, F, dtype=torch.float64)
            with torch.no_grad():
                before = cell(x)
                cell.grow_node(morphism=True, epsilon=1e-3, noise=0.1)
                ratios.append((cell(x) - before).norm() / before.norm() / 1e-4)
    ratios = torch.stack(ratios)
    assert ratios.max() < 20 and ratios.median() < 0.2


def test_fresh_weights_change_the_output():
    network, theta, alpha, x, _ = trained()
    before = network(x)
    grow_node(network, theta, alpha, morphism=False, epsilon=1e-3, noise=0.1)
    assert (network(x) - before).norm() > 0.1 * before.norm()


def test_identity_for_any_alpha():
    node = TwoInputNode(F, H, DEFAULT_TWO_INPUT).double()
    nn.init.normal_(node.mixture.alpha, std=2.0)
    node.become_identity(epsilon=1e-3, noise=0.0)
    s = torch.randn(7, H, dtype=torch.float64)
    wx = nn.functional.linear(torch.randn(7, F, dtype=torch.float64), *node.input_weights())
    torch.testing.assert_close(node(wx, s @ node.state_weights().t(), s, node.mixture.weights()), s)


def test_an_operation_that_is_not_affine_at_zero_enters_with_little_weight():
    @two_input(blocks=1)
    def squared(wx, us, s):
        return (wx + us) + s * s

    try:
        network, theta, alpha, x, _ = trained()
        network.cells[0].operations.append("squared")
        before = network(x)
        grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
        assert (network(x) - before).norm() <= 1e-3 * before.norm()
        weights = list(network.mixtures())[-1].named_weights()
        assert weights["squared"] == pytest.approx(1e-4, rel=1e-6)
    finally:
        del TWO_INPUT["squared"]


def test_a_node_that_cannot_keep_the_state_is_refused():
    cell = TwoInputCell(F, H, [["add_tanh", "gate"]])
    with pytest.raises(ValueError, match="add_tanh.*needs add_identity"):
        cell.grow_node(morphism=True, epsilon=1e-3, noise=0.1)


def test_no_operation_of_a_grown_node_starts_at_a_saddle_or_beyond_a_kink():
    """At least one weight of every operation has a gradient of full strength."""
    network, theta, alpha, x, y = trained()
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
    node = network.cells[0].nodes[-1]
    assert len(node.theta_parameters()) == 3 * 7  # W, U, b of seven operations with weights
    gradients = torch.autograd.grad(nn.functional.mse_loss(network(x), y), node.theta_parameters())
    size = {id(p): g.abs().mean() for p, g in zip(node.theta_parameters(), gradients, strict=True)}
    scale = size[id(node.W["add_tanh"])]
    for key in node.W:
        assert max(size[id(part[key])] for part in (node.W, node.U, node.b)) > 0.1 * scale, key


# In every space -----------------------------------------------------------------------------------------------

SPACES = {"two_input": (lambda: two_input_forecaster(F, H, 1, 1, DEFAULT_TWO_INPUT), (6, 64, F)),
          "darts_recurrent": (lambda: RecurrentSearchCell(F, H, 2), (6, 32, F)),
          "darts_conv": (lambda: SearchImageNetwork(2, 4, 3, 1, ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"),
                                                    image_size=8), (16, 3, 8, 8))}


@pytest.fixture(params=SPACES)
def space(request):
    """A float64 network and its optimisers in the middle of a training, a batch, and another network of the space."""
    make, shape = SPACES[request.param]
    network, x = make().double(), torch.randn(shape, dtype=torch.float64)
    theta = torch.optim.Adam(network.theta_parameters(), lr=0.01)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.05)
    y = torch.randn_like(network(x))
    for _ in range(10):
        step(nn.functional.mse_loss(network(x), y), theta, alpha)
    return network, theta, alpha, x, y, make().double()


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_without_noise_the_function_is_kept(space, mode):
    network, theta, alpha, x, *_ = space
    getattr(network, mode)()
    with torch.no_grad():
        before = copy.deepcopy(network)(x)
        grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.0)
        torch.testing.assert_close(network(x), before, rtol=0, atol=1e-13)


def test_change_is_proportional_to_epsilon_and_to_noise(space):
    network, *_, x, _, _ = space
    before = copy.deepcopy(network)(x)

    @torch.no_grad()
    def change(epsilon, noise):
        grown = copy.deepcopy(network)
        torch.manual_seed(5)
        grown.grow_node(morphism=True, epsilon=epsilon, noise=noise)
        return (grown(x) - before).norm().item()

    assert change(1e-5, 0.1) == pytest.approx(change(1e-6, 0.1) * 10, rel=1e-2)
    assert change(1e-6, 0.4) == pytest.approx(change(1e-6, 0.1) * 4, rel=1e-2)


def test_gradient_reaches_every_new_parameter(space):
    network, theta, alpha, x, y, _ = space
    old = {id(p) for p in network.parameters()}
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
    new = [p for p in network.parameters() if id(p) not in old]
    gradients = torch.autograd.grad(nn.functional.mse_loss(network(x), y), new)
    assert new and all(g.abs().max() > 0 for g in gradients) and all((p != 0).all() for p in new)


def test_inherited_parameters_and_moments_are_bit_identical(space):
    """Also where a larger parameter has taken the place of one: they are its first entries."""
    network, theta, alpha, *_ = space
    before = copy.deepcopy(network.state_dict())
    moments = {name: copy.deepcopy(optimizer.state[p]) for optimizer in (theta, alpha)
               for name, p in network.named_parameters() if p in optimizer.state}
    assert set(moments) == {name for name, _ in network.named_parameters()}
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)

    def first(tensor, value):
        return torch.as_tensor(tensor)[tuple(slice(n) for n in torch.as_tensor(value).shape)]

    assert all(torch.equal(first(network.state_dict()[name], value), value) for name, value in before.items())
    now = dict(network.named_parameters())
    for name, kept in moments.items():
        state = (theta if now[name] in theta.state else alpha).state[now[name]]
        assert all(torch.equal(first(state[key], value), torch.as_tensor(value)) for key, value in kept.items())
    in_optimisers = [p for optimizer in (theta, alpha) for p in optimizer.param_groups[0]["params"]]
    assert len(in_optimisers) == len(now) and {id(p) for p in in_optimisers} == {id(p) for p in now.values()}


def test_structure_rebuilds_what_was_grown_and_pruned(space):
    network, theta, alpha, x, _, other = space
    grow_node(network, theta, alpha, morphism=True, epsilon=1e-3, noise=0.1)
    weakest = sorted(w for mixture in network.mixtures() for w in mixture.named_weights().values())[2]
    assert prune(network, theta, alpha, prune_below=weakest, keep_all_above=0.99)
    other.eval().restructure(network.structure())
    other.load_state_dict(network.state_dict())
    norms = [module for module in other.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert other.structure() == network.structure() and not any(norm.training for norm in norms)
    names = [{id(p): name for name, p in n.named_parameters()} for n in (network, other)]
    assert [names[0][id(p)] for p in network.theta_parameters()] == [names[1][id(p)] for p in other.theta_parameters()]
    assert torch.equal(other(x), network.eval()(x))


# Moments, Net2Net, limits -------------------------------------------------------------------------------------

def test_carried_moments_are_those_of_the_kept_entries():
    old = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))
    optimizer = torch.optim.Adam([old])
    old.grad = torch.tensor([1.0, 10.0, 100.0])
    optimizer.step()
    new = nn.Parameter(old.detach()[[0, 2]])
    carry_moments(optimizer, old, new, [0, 2])
    assert optimizer.state[new]["exp_avg"].tolist() == pytest.approx([0.1, 10.0])
    assert optimizer.state[new]["step"].item() == 1
    assert list(optimizer.state) == [new]


@pytest.mark.parametrize("activation", [torch.tanh, torch.relu, torch.sigmoid])
def test_net2wider_keeps_the_function(activation):
    first, second = nn.Linear(4, 6).double(), nn.Linear(6, 3).double()
    x = torch.randn(9, 4, dtype=torch.float64)
    wide_first, wide_second = net2wider(first, second, 15)
    assert wide_first.out_features == 15
    torch.testing.assert_close(wide_second(activation(wide_first(x))), second(activation(first(x))))
    with pytest.raises(ValueError, match="width = 5.*at least the present 6"):
        net2wider(first, second, 5)


def test_net2deeper_keeps_the_function_after_relu():
    x = torch.relu(torch.randn(9, 6))
    assert torch.equal(torch.relu(net2deeper(6, x)(x)), x)
