"""The loss over a large vocabulary, the gradient by some parameters, and the precision of products."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear

from growdarts.spaces.precision import product_type
from growdarts.bilevel import gradient
from growdarts.forms import plain_forms
from growdarts_fast.loss import ROWS
from growdarts.tasks.language import vocabulary_loss
from growdarts_study import precision

V, H = 37, 5


def problem(n, dtype=torch.float64, scale=1.0):
    torch.manual_seed(0)
    x, W, b = (scale * torch.randn(*shape, dtype=dtype) for shape in [(n, H), (V, H), (V,)])
    return [value.requires_grad_() for value in (x, W, b)], torch.randint(V, (n,))


@pytest.mark.parametrize("n", [1, ROWS - 1, ROWS, 2 * ROWS + 3])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # logits of hundreds: exp alone would overflow
def test_it_is_torchs_cross_entropy(n, scale):
    arguments, y = problem(n, scale=scale)
    found, expected = vocabulary_loss(*arguments, y), cross_entropy(linear(*arguments), y)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(3 * found, arguments), torch.autograd.grad(3 * expected, arguments), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    with plain_forms():
        assert torch.equal(vocabulary_loss(*arguments, y), expected)


def test_in_float32_it_is_as_good_as_torchs():
    exact = cross_entropy(linear(*problem(300)[0]), problem(300)[1])
    arguments, y = problem(300)
    arguments = [value.detach().float() for value in arguments]
    assert (vocabulary_loss(*arguments, y) - exact).abs() < 2 * (cross_entropy(linear(*arguments), y) - exact).abs() + 1e-6


def test_softmax_and_loss_stay_in_float32_where_products_are_in_bfloat16():
    arguments, y = problem(200, torch.float32)
    exact = vocabulary_loss(*arguments, y)
    with torch.autocast("cpu", torch.bfloat16):
        found = vocabulary_loss(*arguments, y)
    gradients = torch.autograd.grad(found, arguments)
    assert {value.dtype for value in (found, *gradients)} == {torch.float32}
    assert 0 < (found - exact).abs() < 0.01 * exact
    for a, b in zip(gradients, torch.autograd.grad(exact, arguments), strict=True):
        assert 0 < (a - b).norm() < 0.02 * b.norm()


def test_only_what_is_asked_for_is_computed():
    arguments, y = problem(150)
    by_x, by_W, by_b = torch.autograd.grad(vocabulary_loss(*arguments, y), arguments)
    for value, expected in zip(arguments, (by_x, by_W, by_b), strict=True):
        alone = [other.detach().requires_grad_(other is value) for other in arguments]
        loss = vocabulary_loss(*alone, y)
        (found,) = torch.autograd.grad(loss, [other for other in alone if other.requires_grad])
        assert torch.equal(found, expected)


def test_a_second_derivative_is_refused():
    arguments, y = problem(4)
    with pytest.raises(RuntimeError, match="plain_forms"):
        torch.autograd.grad(vocabulary_loss(*arguments, y), arguments, create_graph=True)


def test_gradient_by_some_parameters_leaves_the_others_alone():
    network = nn.Linear(3, 2)
    seen = []

    def loss(network, batch):
        seen.append([p.requires_grad for p in network.parameters()])
        return network(batch).square().sum()

    value, (found,) = gradient(network, loss, torch.ones(4, 3), [network.bias])
    assert seen == [[False, True]] and all(p.requires_grad and p.grad is None for p in network.parameters())
    expected, = torch.autograd.grad(network(torch.ones(4, 3)).square().sum(), network.bias)
    assert torch.equal(found, expected) and value > 0
    single = nn.Parameter(torch.ones(1))  # such as the logit of a mixture that is down to one operation
    assert gradient(network, lambda n, b: b.sum(), torch.ones(2), [single])[1][0].tolist() == [0]
    with pytest.raises(RuntimeError, match="broken"):
        gradient(network, lambda n, b: (_ for _ in ()).throw(RuntimeError("broken")), None, [network.bias])
    assert all(p.requires_grad for p in network.parameters())


def test_processors_without_bf16_units_fall_back_to_float32(monkeypatch):
    precision._has_bfloat16.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    assert precision.used_precision("bfloat16") == "float32" == precision.used_precision("float32")
    a = torch.randn(8, 8)
    with precision.products_in("bfloat16"):
        assert (a @ a).dtype == torch.float32
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: True)
    assert precision.used_precision("bfloat16") == "bfloat16" and precision.used_precision("float32") == "float32"
    with precision.products_in("bfloat16"):
        assert (a @ a).dtype == torch.bfloat16 == product_type(a)


def test_units_that_torch_cannot_use_for_an_lstm_are_none(monkeypatch):
    def unusable(*_):
        raise RuntimeError("could not create a primitive descriptor")

    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.setattr(torch.nn.LSTM, "forward", unusable)
    precision._has_bfloat16.cache_clear()
    assert precision.used_precision("bfloat16") == "float32"
    precision._has_bfloat16.cache_clear()
