"""The convolutional search cell as one function against a plain torch network, edge after edge and operation after operation."""

import copy
import time
from functools import partial

import pytest
import reference_darts_conv as reference
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, convolutional
from growdarts_fast.conv.norm_kernels import linear, normalise
from growdarts_fast.conv.cell import _at_once, torch_alone
from growdarts.bilevel import gradient
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.forms import plain_forms


def built(operations=tuple(CONVOLUTIONAL)[:8], n_nodes=2, seed=1, **options):
    """A small network with unequal alphas and running statistics that have moved, images and labels."""
    torch.manual_seed(seed)
    network = SearchImageNetwork(4, 3, 3, n_nodes, operations, image_size=8, **options).double()
    for alpha in network.alpha_parameters():
        nn.init.normal_(alpha)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network, torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.arange(5) % 3


def by_reference(network, x, y):
    """Logits, gradients by name, and the state after the pass."""
    state, normal, reduce, parameters = reference.leaves(network)
    logits = reference.search_network(state, normal, reduce, x, network.training)
    gradients = torch.autograd.grad(cross_entropy(logits, y), list(parameters.values()), materialize_grads=True)
    return logits, dict(zip(parameters, gradients, strict=True)), state


def by_network(network, x, y):
    parameters = dict(network.named_parameters())
    logits = network(x)
    gradients = torch.autograd.grad(cross_entropy(logits, y), list(parameters.values()), materialize_grads=True)
    return logits, dict(zip(parameters, gradients, strict=True)), network.state_dict()


def close(actual, expected, atol=1e-9):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def agrees(network, x, y):
    expected = by_reference(network, x, y)
    for found, wanted in zip(by_network(network, x, y), expected, strict=True):
        close(found, wanted)
    return expected


def grown(network):
    network.grow_node(morphism=True, epsilon=1e-2, noise=0.5)


def pruned(network):
    network.keep_operations(network.normal[1], [0])  # none
    network.keep_operations(network.normal[2], [4])  # a separable convolution
    network.keep_operations(network.reduce[0], [1, 3, 7])


def duplicated(network):
    for mixture, key in ((network.normal[0], "sep_conv_5x5"), (network.reduce[1], "skip_connect")):
        twin = network.duplicate_operation(mixture, key).key
        for weight in network.operation_weights(mixture, twin).values():
            nn.init.normal_(weight, std=0.3)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("changes", [(), (grown,), (pruned,), (duplicated,), (grown, duplicated, pruned)])
def test_function_gradients_and_statistics(train, changes):
    network, x, y = built()
    network.train(train)
    for change in changes:
        change(network)
    _, gradients, _ = agrees(network, x, y)
    agrees(network, x, y)  # again, from the statistics that it left behind
    assert sum(g.any() for g in gradients.values()) > 0.9 * len(gradients)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_any_memory_format_and_images_of_other_sizes(order):
    for size, B in ((12, 2), (4, 3)):
        network = SearchImageNetwork(2, 3, 4, 1, image_size=size).double().to(memory_format=order)
        x = torch.randn(B, 3, size, size, dtype=torch.float64)
        agrees(network, x.contiguous(memory_format=order), torch.arange(B) % 3)


@pytest.fixture(params=[1, 3, 40])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_threads_share_the_operations(threads):
    """Also more threads than operations; torch has as many as before, and every time gives the same bits."""
    network, x, y = built()
    logits, gradients, _ = by_network(copy.deepcopy(network), x, y)
    again = by_network(copy.deepcopy(network), x, y)
    assert torch.equal(logits, again[0]) and all(torch.equal(g, again[1][name]) for name, g in gradients.items())
    assert torch.get_num_threads() == threads
    agrees(network, x, y)


@pytest.mark.parametrize("threads", [3], indirect=True)
def test_an_error_of_an_operation_is_raised(threads, monkeypatch):
    def fails(*arguments):
        raise ArithmeticError("here")

    network, x, _ = built()
    for operation in ("Pool", "Separable"):
        with monkeypatch.context() as patch, pytest.raises(ArithmeticError, match="here"):
            patch.setattr(f"growdarts_fast.conv.passes.{operation}.forward", fails)
            network(x)
        assert torch.get_num_threads() == threads


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_on_any_thread_is_raised_when_all_have_ended(failing):
    ended = []

    def call(k):
        if k == failing:
            raise ArithmeticError(f"call {k}")
        time.sleep(0.05)
        ended.append(k)

    before = torch.get_num_threads()
    with pytest.raises(ArithmeticError, match=f"call {failing}"), torch_alone():
        _at_once([partial(call, k) for k in range(3)])
    assert sorted(ended + [failing]) == [0, 1, 2]
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("train", [True, False])
def test_a_norm_of_pixels_far_from_zero(train):
    """In float32 a thousand and the deviations from it share seven digits; the normalised values need the last of them."""
    torch.manual_seed(0)
    d, W = 1000 + torch.randn(4, 3000), torch.randn(4, 4)
    norm = nn.BatchNorm2d(4, affine=False).train(train)
    norm.running_mean, norm.running_var = 1000 * W.sum(1), W.square().sum(1)
    expected = copy.deepcopy(norm).double()
    exact = expected((W.double() @ d.double())[None, :, :, None])[0, :, :, 0]
    known, result = torch.empty(3 + 4, 4, dtype=torch.float64), torch.empty_like(d)
    normalise(d.numpy(), W.numpy(), train, norm.eps, 0.1, norm.running_mean.numpy(), norm.running_var.numpy(),
              known.numpy(), torch.empty_like(d).numpy())
    linear(d.numpy(), W.numpy(), known.numpy(), result.numpy())
    close(result.double(), exact, atol=5e-3)
    if train:
        torch.testing.assert_close(norm.running_var.double(), expected.running_var, rtol=1e-5, atol=0)


def test_the_mode_of_the_forward_pass_counts():
    network, x, y = built()
    loss = cross_entropy(network(x), y)
    network.eval()
    found = torch.autograd.grad(loss, network.alpha_parameters())
    network, x, y = built()
    _, expected, _ = by_reference(network, x, y)
    close(list(found), [expected[name] for name, p in network.named_parameters() if name.endswith("alpha")])


def test_statistics_as_the_plain_mean_of_all_batches():
    network, x, _ = built()
    other = copy.deepcopy(network)
    for module in (*network.modules(), *other.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    for part in (x[:2], x[2:], x):
        network(part)
        with plain_forms():
            other(part)
    close(network.state_dict(), other.state_dict())


@pytest.mark.parametrize("asked", ["alpha_parameters", "theta_parameters"])
def test_some_gradients_alone(asked):
    """Those of the alpha step, or of the weight step: the others are not computed, and these stay what they are."""
    network, x, y = built()
    parameters = getattr(network, asked)()
    _, found = gradient(network, lambda net, batch: cross_entropy(net(batch), y), x, parameters)
    _, expected, _ = by_reference(network, x, y)
    names = {id(p): name for name, p in network.named_parameters()}
    for p, g in zip(parameters, found, strict=True):
        close(g, expected[names[id(p)]])


def test_gradient_by_the_images():
    network, x, y = built()
    x.requires_grad_()
    found, = torch.autograd.grad(cross_entropy(network(x), y), x)
    state, normal, reduce, _ = reference.leaves(network)
    expected, = torch.autograd.grad(cross_entropy(reference.search_network(state, normal, reduce, x), y), x)
    close(found, expected)


def test_operations_that_have_no_such_form_are_called():
    try:
        @convolutional
        def blur(channels, stride, affine):
            convolution = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
            return nn.Sequential(convolution, nn.BatchNorm2d(channels, affine=affine))

        network, x, y = built(("skip_connect", "blur", "sep_conv_3x3", "avg_pool_3x3"))
        with plain_forms():
            expected = by_network(copy.deepcopy(network), x, y)
        for found, wanted in zip(by_network(network, x, y), expected, strict=True):
            close(found, wanted)
    finally:
        del CONVOLUTIONAL["blur"]


def test_float32_is_as_near_as_the_reference():
    """On average over networks: in a single one rounding decides which is the nearer."""
    ratios = []
    for seed in range(12):
        network, x, y = built(seed=seed)
        exact = by_reference(network, x, y)
        network.float()
        plain, fast = (way(copy.deepcopy(network), x.float(), y) for way in (by_reference, by_network))
        assert set(fast[2]) == set(exact[2]) and fast[0].dtype == torch.float32
        ratios.append([distance(fast, exact, part) / distance(plain, exact, part) for part in range(3)])
    logits, gradients, state = torch.tensor(ratios).log().mean(dim=0).exp()
    assert logits < 1.4 and gradients < 1.4 and state < 1.4


def distance(found, exact, part):
    """Of logits, gradients (0, 1) or the state (2), all together, from the exact ones."""
    if not part:
        return (found[0] - exact[0]).norm().item()
    names = [name for name in exact[part] if exact[part][name].is_floating_point()]
    return torch.cat([(found[part][name] - exact[part][name]).flatten() for name in names]).norm().item()


def test_a_channel_that_is_constant_and_one_that_is_not_a_number():
    network, x, y = built(n_nodes=1)
    with torch.no_grad():
        network.cells[0].edges[0].operations["sep_conv_3x3"].op[1].weight[0] = 0
    agrees(network, x, y)
    x[0, 0, 0, 0] = torch.nan
    assert network(x).isnan().all()


def kept_bytes(forward):
    """What a forward pass keeps for the backward pass, every storage once."""
    storages = {}

    def pack(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(storage.nbytes() for storage in storages.values())


def test_a_third_is_kept():
    network = SearchImageNetwork(4, 3, 3, 4, image_size=16)
    x = torch.randn(8, 3, 16, 16)
    state, normal, reduce, _ = reference.leaves(network)
    assert 3 * kept_bytes(lambda: network(x)) < kept_bytes(lambda: reference.search_network(state, normal, reduce, x))
    with torch.no_grad():
        assert kept_bytes(lambda: network(x)) == 0


def test_backward_twice_but_no_second_derivative():
    network, x, y = built(n_nodes=1)
    parameters = network.alpha_parameters()
    loss = cross_entropy(network(x), y)
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(loss, parameters, retain_graph=True)))
    with pytest.raises(RuntimeError, match="mixed_cell can be differentiated once: compute within .*plain_forms"):
        torch.autograd.grad(loss, parameters, create_graph=True)


def test_wide_cells_take_torchs_convolutions(monkeypatch):
    """The second kind of cell starts at 8 channels, the third has 16: both forms in one network."""
    monkeypatch.setattr("growdarts_fast.conv.cell.WIDE", 8)
    network, x, y = built()
    agrees(network, x, y)
