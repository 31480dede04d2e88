"""The convolutional cells of DARTS against the original's arrays, loops written by hand, and their own past."""

import copy
import functools
from pathlib import Path

import numpy as np
import pytest
import reference_darts_conv as reference
import torch
from torch import nn

from growdarts_study import published
from growdarts.spaces.darts_conv import operations as conv_operations
from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, FactorizedReduce, build_operation, convolutional, drop_path
from growdarts.spaces.darts_conv.cell import FixedCell, SearchCell, derive
from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, ConvolutionalGenotype
from growdarts.spaces.genotype import GenotypeError
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts_study.experiments.auxiliary import AuxiliaryNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.mixture import Mixture
from growdarts.growth import carry_moments, grow_node
from original_states import export_alphas, load_alphas, load_original
from stepping import step

GOLDEN = Path(__file__).parent / "golden"
SMALL = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")  # where all eight would only take time


@functools.cache
def golden(path):
    """The arrays of a file, and of them the original's state dict."""
    arrays = dict(np.load(GOLDEN / path))
    state = {name.removeprefix("state/"): torch.from_numpy(value) for name, value in arrays.items()
             if name.startswith("state/")}
    return {name: torch.from_numpy(value) if value.dtype.kind in "fi" else value.tolist()
            for name, value in arrays.items() if not name.startswith("state/")}, state


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def golden_search_network():
    arrays, state = golden("darts_cnn_search.npz")
    network = SearchImageNetwork(4, 10, 3, image_size=16).double()
    load_original(network, state)
    load_alphas(network, arrays["alpha_normal"], arrays["alpha_reduce"])
    return network, arrays


def small(n_nodes=1, n_cells=3, channels=2, operations=SMALL, **options):
    return SearchImageNetwork(channels, 4, n_cells, n_nodes, operations, **dict(image_size=8) | options).double()


def batch(n=16, channels=3, size=8, classes=4):
    """Noisy class patterns, so that a network can learn them."""
    y = torch.arange(n) % classes
    return torch.randn(classes, channels, size, size).double()[y] + 0.5 * torch.randn(n, channels, size, size), y


@functools.cache
def _trained(n_cells, operations):
    torch.manual_seed(7)
    network = small(n_cells=n_cells, operations=operations)
    theta = torch.optim.SGD(network.theta_parameters(), lr=0.05, momentum=0.9)
    alpha = torch.optim.Adam(network.alpha_parameters(), lr=0.1)
    x, y = batch()
    for _ in range(10):
        step(nn.functional.cross_entropy(network(x), y), theta, alpha)
    return network, theta, alpha, x, y


def trained(n_cells=3, operations=SMALL):
    """A network and its optimisers in the middle of a training, of one's own."""
    return copy.deepcopy(_trained(n_cells, operations))


# The original -------------------------------------------------------------------------------------------------

def test_search_network_is_the_original():
    network, arrays = golden_search_network()
    logits = network(arrays["x"])
    loss = nn.functional.cross_entropy(logits, arrays["target"])
    close(logits, arrays["logits_train"])
    close(loss, arrays["loss"])
    gradient = torch.autograd.grad(loss, network.alpha_parameters())
    close(torch.stack(gradient[:14]), arrays["grad_alpha_normal"])
    close(torch.stack(gradient[14:]), arrays["grad_alpha_reduce"])
    normal, reduce = export_alphas(network)
    assert torch.equal(normal, arrays["alpha_normal"]) and torch.equal(reduce, arrays["alpha_reduce"])


def test_derived_genotype_is_the_original():
    network, arrays = golden_search_network()
    genotype = network.genotype()
    assert [f"{name}:{j}" for name, j in genotype.normal] == arrays["normal"]
    assert [f"{name}:{j}" for name, j in genotype.reduce] == arrays["reduce"]
    assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)


def test_fixed_network_is_the_original():
    arrays, state = golden("darts_cnn_eval.npz")
    network = FixedImageNetwork(published.CIFAR10_DARTS_V2, 4, 10, 4).double().eval()
    load_original(network, state)
    close(network(arrays["x"]), arrays["logits_eval"])
    assert sum(p.numel() for p in network.parameters()) == arrays["params"]


def test_sizes_are_those_the_original_prints():
    network = AuxiliaryNetwork(published.CIFAR10_DARTS_V2, 36, 10, 20)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert sum(n for name, n in sizes.items() if not name.startswith("auxiliary")) == 3_349_342
    assert sum(p.numel() for p in SearchImageNetwork(16, 10, 8).theta_parameters()) == 1_930_618



# Loops by hand ------------------------------------------------------------------------------------------------

def state_of(cell):
    """A copy of its state dict, as the one cell of a network."""
    return {f"cell.{name}": value.detach().clone() for name, value in cell.state_dict().items()}


@pytest.mark.parametrize("reduction", [False, True])
@pytest.mark.parametrize("after_reduction", [False, True])
def test_search_cell_matches_hand_loop(reduction, after_reduction):
    keys = [CONVOLUTIONAL_OPERATIONS, ("skip_connect", "dil_conv_5x5"), ("sep_conv_3x3", "none", "sep_conv_3x3#2"),
            ("max_pool_3x3",), ("skip_connect", "avg_pool_3x3")]
    cell = SearchCell((3, 4), 2, keys, reduction=reduction, after_reduction=after_reduction).double()
    mixtures = [Mixture(k).double() for k in keys]
    for mixture in mixtures:
        nn.init.normal_(mixture.alpha)
    s0 = torch.randn(2, 3, *[8 if after_reduction else 4] * 2).double()
    s1 = torch.randn(2, 4, 4, 4).double()
    expected = reference.search_cell(s0, s1, [(m.keys, m.alpha) for m in mixtures], reduction, state_of(cell), "cell", True)
    close(cell(s0, s1, [(m.keys, m.weights()) for m in mixtures]), expected, atol=1e-11)


@pytest.mark.parametrize("reduction", [False, True])
def test_fixed_cell_matches_hand_loop(reduction):
    edges = (("sep_conv_5x5", 0), ("max_pool_3x3", 1), ("avg_pool_3x3", 0), ("skip_connect", 1),
             ("dil_conv_3x3", 2), ("skip_connect", 3))
    cell = FixedCell((3, 4), 2, edges, (2, 4), reduction=reduction, after_reduction=False).double()
    for parameter in cell.parameters():  # also the affine weights of the batch norms
        nn.init.normal_(parameter)
    s0, s1 = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 4, 4, 4).double()
    with torch.no_grad():
        expected = reference.fixed_cell(s0, s1, edges, (2, 4), reduction, state_of(cell), "cell", True)
        close(cell(s0, s1, 0.0), expected, atol=1e-11)


def test_a_published_cell_runs_and_learns():
    network = AuxiliaryNetwork(published.CIFAR10_DARTS_V2, 4, 10, 3)
    network.drop_path = 0.2
    logits, auxiliary = network.with_auxiliary(torch.randn(2, 3, 32, 32))
    assert logits.shape == auxiliary.shape == (2, 10)
    (logits.sum() + auxiliary.square().sum()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_flops_are_two_a_weight_and_pixel_of_every_convolution():
    for network in (FixedImageNetwork(published.CIFAR10_DARTS_V2, 2, 4, 5, image_size=8), small(2).float()):
        counted, state = [], {name: value.clone() for name, value in network.state_dict().items()}

        def count(part, _, out):
            counted.append(2 * part.weight.numel() * out[0, 0].numel())

        hooks = [part.register_forward_hook(count) for part in network.modules() if isinstance(part, nn.Conv2d)]
        with torch.no_grad():
            network(torch.randn(1, 3, 8, 8))
        for hook in hooks:
            hook.remove()
        network.load_state_dict(state)
        network.stem.eval()
        modes = [part.training for part in network.modules()]
        assert network.flops() == sum(counted) + 2 * network.classifier.weight.numel()
        assert [part.training for part in network.modules()] == modes
        assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_gradients_match_finite_differences():
    network = small(2, operations=CONVOLUTIONAL_OPERATIONS)
    x, y = batch(8)
    parameters = network.alpha_parameters() + network.theta_parameters()[::17]
    gradients = torch.autograd.grad(nn.functional.cross_entropy(network(x), y), parameters)
    with torch.no_grad():
        for parameter, gradient in list(zip(parameters, gradients, strict=True))[::3]:
            flat, place = parameter.view(-1), parameter.numel() // 2
            kept, sides = flat[place].item(), []
            for step in (1e-6, -1e-6):
                flat[place] = kept + step
                sides.append(nn.functional.cross_entropy(network(x), y).item())
            flat[place] = kept
            assert gradient.view(-1)[place].item() == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4, abs=1e-8)


def test_channels_last_gives_the_same_logits():
    network = small(2)
    x, _ = batch(4)
    expected = network(x)
    network.to(memory_format=torch.channels_last)
    actual = network(x.contiguous(memory_format=torch.channels_last))
    close(actual, expected, atol=1e-12)
    network.grow_node(morphism=True, epsilon=1e-3, noise=0.1)
    assert network(x.contiguous(memory_format=torch.channels_last)).isfinite().all()


# Drop path ----------------------------------------------------------------------------------------------------

def test_drop_path_drops_samples_and_keeps_the_mean():
    x = torch.ones(4000, 2, 1, 1)
    out = drop_path(x, 0.3)
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert torch.equal(out[:, 0], out[:, 1])
    assert out.mean().item() == pytest.approx(1, abs=0.05)


def test_drop_path_spares_identities_and_the_eval_mode():
    cell = FixedCell((2, 2), 2, (("skip_connect", 0), ("sep_conv_3x3", 1)), (2,), reduction=False,
                     after_reduction=False).double()
    s0, s1 = torch.randn(64, 2, 4, 4).double(), torch.randn(64, 2, 4, 4).double()
    skipped = cell.preprocess0(s0)
    full = cell.operations[1](cell.preprocess1(s1))
    out = cell(s0, s1, 0.5)
    dropped = [torch.equal(o, s) for o, s in zip(out, skipped, strict=True)]
    assert 10 < sum(dropped) < 54
    for o, s, f, gone in zip(out, skipped, full, dropped, strict=True):
        close(o, s if gone else s + 2 * f, atol=1e-12)
    cell.eval()
    assert torch.equal(cell(s0, s1, 0.5), cell(s0, s1, 0.0))


# Growing ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("n_cells", [3, 6])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("epsilon", [1e-2, 1e-5])
@pytest.mark.parametrize("operations", [SMALL, CONVOLUTIONAL_OPERATIONS, ("skip_connect",)])
def test_output_unchanged(operations, epsilon, mode, n_cells):
    network, theta, alpha, x, _ = trained(n_cells, operations)
    getattr(network, mode)()
    with torch.no_grad():
        before = network(x)
        for n_nodes in (2, 3):  # growing again stays within epsilon each time
            grow_node(network, theta, alpha, morphism=True, epsilon=epsilon, noise=0.5)
            after = network(x)
            assert 0 < (after - before).norm() <= epsilon * before.norm()
            assert network.n_nodes() == n_nodes and all(m.training == network.training for m in network.modules())
            before = after


@pytest.mark.parametrize("alpha_scale", [0.0, 3.0])
def test_output_unchanged_for_any_alpha_from_the_first_step(alpha_scale):
    network = small(2, operations=CONVOLUTIONAL_OPERATIONS)
    for mixture in network.mixtures():
        nn.init.normal_(mixture.alpha, std=alpha_scale)
    x, _ = batch()
    with torch.no_grad():
        before = network(x)
        network.grow_node(morphism=True, epsilon=1e-3, noise=0.5)
        assert (network(x) - before).norm() <= 1e-3 * before.norm()


def test_fresh_weights_change_the_output():
    network, theta, alpha, x, _ = trained()
    before = network(x)
    grow_node(network, theta, alpha, morphism=False, epsilon=1e-3, noise=0.1)
    assert (network(x) - before).norm() > 0.1 * before.norm()


def test_every_reader_of_a_cell_grows_with_it():
    network = small(n_cells=6, n_nodes=2)  # reduction cells are 2 and 4
    network.grow_node(morphism=True, epsilon=1e-3, noise=0.1)
    channels = [2, 2, 4, 4, 8, 8]
    assert [cell.channels for cell in network.cells] == channels
    widths = [6, 6] + [3 * c for c in channels]
    for k, cell in enumerate(network.cells):
        assert cell.width == widths[k + 2] and len(cell.edges) == 9
        for reader, width in ((cell.preprocess0, widths[k]), (cell.preprocess1, widths[k + 1])):
            assert all(convolution.in_channels == convolution.weight.shape[1] == width
                       for convolution, _ in reader.input_maps())
    assert isinstance(network.cells[3].preprocess0, FactorizedReduce)
    assert network.classifier.weight.shape == (4, 24) and network.classifier.in_features == 24


@pytest.mark.parametrize("make", [functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9),
                                  functools.partial(torch.optim.Adam, lr=0.1)])
def test_the_returned_places_carry_the_moments(make):
    """Without noise the old columns have the gradient they had: with their moments they make the same step."""
    network, _, _, x, y = trained()
    theta = make(network.theta_parameters())

    def step(net, optimizer):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()

    step(network, theta)
    grown, optimizer = copy.deepcopy((network, theta))
    replaced = grown.grow_node(morphism=True, epsilon=1e-3, noise=0.0)
    for old, new, index in replaced:
        carry_moments(optimizer, old, new, place=index)
    optimizer.param_groups[0]["params"] = grown.theta_parameters()
    step(network, theta)
    step(grown, optimizer)
    now = dict(grown.named_parameters())
    for name, p in network.named_parameters():
        close(now[name][tuple(slice(n) for n in p.shape)], p, atol=1e-10)
    assert all((new != 0).any() for _, new, _ in replaced)


# Pruning, deriving, rebuilding ----------------------------------------------------------------------------------

def test_an_operation_is_pruned_from_its_edge_in_every_cell_of_the_kind():
    network = small(2, n_cells=5)
    network.keep_operations(network.normal[3], [1, 3])
    for cell in network.cells:
        for position, edge in enumerate(cell.edges):
            pruned = not cell.reduction and position == 3
            assert list(edge.operations) == (["max_pool_3x3", "sep_conv_3x3"] if pruned else list(SMALL))
    assert network.normal[3].keys == ["max_pool_3x3", "sep_conv_3x3"]
    trained_now = {id(p) for p in network.theta_parameters() + network.alpha_parameters()}
    assert trained_now == {id(p) for p in network.parameters()}


def test_single_operations_and_dead_edges_keep_gradients():
    network = small(1)
    for mixture in network.mixtures():
        network.keep_operations(mixture, [0])  # none, everywhere
    x, y = batch(4)
    gradients = torch.autograd.grad(nn.functional.cross_entropy(network(x), y),
                                    network.theta_parameters() + network.alpha_parameters())
    assert all(g.isfinite().all() for g in gradients)
    with pytest.raises(GenotypeError, match="node 2 of the normal cell: 0 edges hold an operation other than none"):
        network.genotype()


def test_derive_passes_over_none_and_adds_copies_up():
    mixtures = [Mixture(["none", "skip_connect", "sep_conv_3x3", "sep_conv_3x3#2"]) for _ in range(5)]
    with torch.no_grad():
        alphas = [9, 1, 0, 0], [0, 0, 0.2, 0.3], [0, 2, 0, 0], [5, 0, 0, 1], [0, 1.5, 0, 0]
        for mixture, alpha in zip(mixtures, alphas, strict=True):
            mixture.alpha.copy_(torch.tensor(alpha))
    assert derive(mixtures, "normal") == (("sep_conv_3x3", 1), ("skip_connect", 0),
                                          ("skip_connect", 0), ("skip_connect", 2))


def test_a_derived_network_of_the_grown_search_can_be_built():
    network = small(3)
    genotype = network.genotype()
    assert genotype.n_nodes == 3 and genotype.normal_concat == (2, 3, 4)
    fixed = FixedImageNetwork(ConvolutionalGenotype.from_json(genotype.to_json()), 4, 4, 3, image_size=8)
    assert fixed(torch.randn(2, 3, 8, 8)).shape == (2, 4)


# Errors -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make, message", [
    (lambda: small(n_cells=2), "n_cells = 2: allowed is at least 3"),
    (lambda: small(image_size=10), "image_size = 10: allowed are multiples of 4"),
    (lambda: small(operations=("skip_connect", "conv_9x9")), "unknown operation 'conv_9x9': allowed are none, max"),
    (lambda: small()(torch.zeros(2, 3, 16, 16).double()), r"images of shape \(2, 3, 16, 16\).*takes \(B, 3, 8, 8\)"),
    (lambda: small(image_channels=1)(torch.zeros(2, 3, 8, 8).double()), r"takes \(B, 1, 8, 8\)"),
    (lambda: FactorizedReduce(4, 5, affine=False), "channels = 5: .*even"),
    (lambda: AuxiliaryNetwork(published.CIFAR10_DARTS_V2, 4, 10, 3, image_size=28),
     "image_size = 28: an auxiliary head needs 32 to 40")])
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_operation_is_added_by_one_function_and_one_line():
    try:
        @convolutional
        def halved(channels, stride, affine):
            return nn.AvgPool2d(stride, stride)

        network = small(operations=("skip_connect", "halved"))
        assert network(torch.randn(2, 3, 8, 8).double()).shape == (2, 4)
        assert isinstance(build_operation("halved", 2, 1, search=True), nn.AvgPool2d)
        with pytest.raises(ValueError, match="'halved' is registered twice"):
            convolutional(halved)
    finally:
        del CONVOLUTIONAL["halved"]


def test_the_searched_operations_are_the_eight_of_the_original():
    assert tuple(CONVOLUTIONAL)[:8] == CONVOLUTIONAL_OPERATIONS
    assert all(vars(conv_operations)[name].__doc__ for name in CONVOLUTIONAL)
