"""Alpha gradients against automatic differentiation of the virtual step itself."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from growdarts.bilevel import alpha_gradient, hessian_vector_product
from growdarts.networks import two_input_forecaster

# Smooth operations only: at the kink of relu a finite difference has no order.
SMOOTH = ("add_tanh", "add_sigmoid", "add_identity", "hadamard", "gate", "gated_update", "carry")
XI, DECAY = 0.1, 0.01


@pytest.fixture
def problem():
    network = two_input_forecaster(3, 4, 1, 2, SMOOTH).double()
    batches = [(torch.randn(3, 8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)) for _ in range(2)]
    return network, batches


def loss(network, batch):
    return nn.functional.mse_loss(network(batch[0]), batch[1])


def double_backward(network, train_batch, validation_batch):
    """d/dalpha L_val(theta - xi (dL_train/dtheta + decay theta), alpha), differentiated through the step."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    gradient = torch.autograd.grad(loss(network, train_batch), theta, create_graph=True)
    virtual = {id(p): p - XI * (g + DECAY * p) for p, g in zip(theta, gradient, strict=True)}
    named = {name: virtual.get(id(p), p) for name, p in network.named_parameters()}
    error = nn.functional.mse_loss(functional_call(network, named, (validation_batch[0],)), validation_batch[1])
    return torch.autograd.grad(error, alpha)


def test_first_order_is_the_plain_gradient(problem):
    network, (train_batch, validation_batch) = problem
    expected = torch.autograd.grad(loss(network, validation_batch), network.alpha_parameters())
    found = alpha_gradient(network, loss, train_batch, validation_batch, order=1, xi=XI, weight_decay=DECAY)
    assert all(torch.equal(e, f) for e, f in zip(expected, found, strict=True))


def test_second_order_matches_double_backward(problem):
    network, (train_batch, validation_batch) = problem
    before = [p.detach().clone() for p in network.parameters()]
    found = torch.cat(alpha_gradient(network, loss, train_batch, validation_batch, order=2, xi=XI,
                                     weight_decay=DECAY))
    expected = torch.cat(double_backward(network, train_batch, validation_batch))
    first = torch.cat(alpha_gradient(network, loss, train_batch, validation_batch, order=1, xi=XI,
                                     weight_decay=DECAY))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.norm().item())
    assert (first - expected).norm() > 1e-3 * expected.norm()  # so the agreement is not that of a small term
    assert all(torch.equal(p, b) for p, b in zip(network.parameters(), before, strict=True))


def test_matches_double_backward(problem):
    """The error of the finite difference falls with the square of its radius."""
    network, (batch, _) = problem
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    vector = [torch.randn_like(p) for p in theta]
    gradient = torch.autograd.grad(loss(network, batch), theta, create_graph=True)
    inner = sum((g * v).sum() for g, v in zip(gradient, vector, strict=True))
    exact = torch.cat(torch.autograd.grad(inner, alpha))

    def error(radius):
        return (torch.cat(hessian_vector_product(network, loss, batch, vector, radius)) - exact).norm().item()

    assert error(0.1) / error(0.05) == pytest.approx(4, rel=0.1)
    assert error(1e-3) < 1e-6 * exact.norm().item()


def test_zero_vector_gives_zero(problem):
    network, (batch, _) = problem
    zeros = [torch.zeros_like(p) for p in network.theta_parameters()]
    assert all((g == 0).all() for g in hessian_vector_product(network, loss, batch, zeros))
