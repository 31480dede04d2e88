"""Gradient of the validation loss by the architecture, first and second order."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.cells import SearchSpace

Loss = Callable[[SearchSpace, Any], Tensor]


def alpha_gradient(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any, *,
                   order: int, xi: float, weight_decay: float) -> list[Tensor]:
    """Gradient for the alpha step, one tensor per alpha.

    Parameters
    ----------
    loss : scalar loss of (network, batch).
    order : 1 takes theta as it is [DARTS xi = 0]; 2 differentiates through one virtual SGD step.
    xi, weight_decay : step and L2 factor of the virtual step (order 2 only).
    """
    if order == 1:
        return _gradient(loss(network, validation_batch), network.alpha_parameters())
    return second_order(network, loss, train_batch, validation_batch, xi, weight_decay)


def second_order(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any,
                  xi: float, weight_decay: float) -> list[Tensor]:
    r"""$\nabla_\alpha L_{val}(\theta', \alpha) - \xi\, \nabla^2_{\alpha,\theta} L_{train}\, \nabla_{\theta'} L_{val}$
    with $\theta' = \theta - \xi (\nabla_\theta L_{train} + \lambda \theta)$ [DARTS Eq. 7]."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    saved = [p.detach().clone() for p in theta]
    gradient = _gradient(loss(network, train_batch), theta)
    with torch.no_grad():
        for p, g in zip(theta, gradient, strict=True):
            p.sub_(xi * (g + weight_decay * p))
    try:
        grads = _gradient(loss(network, validation_batch), alpha + theta)
    finally:
        _assign(theta, saved)
    alpha_grad, theta_grad = grads[:len(alpha)], grads[len(alpha):]
    implicit = hessian_vector_product(network, loss, train_batch, theta_grad)
    return [a - xi * h for a, h in zip(alpha_grad, implicit, strict=True)]


def hessian_vector_product(network: SearchSpace, loss: Loss, batch: Any, vector: Sequence[Tensor],
                           radius: float = 1e-2) -> list[Tensor]:
    r"""$\nabla^2_{\alpha,\theta} L \, v \approx (\nabla_\alpha L(\theta^+) - \nabla_\alpha L(\theta^-)) / 2\epsilon$,
    $\theta^\pm = \theta \pm \epsilon v$, $\epsilon$ = `radius` / |v| [DARTS Eq. 8]."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    norm = torch.cat([v.flatten() for v in vector]).norm()
    if norm == 0:
        return [torch.zeros_like(a) for a in alpha]
    epsilon = radius / norm
    saved = [p.detach().clone() for p in theta]
    sides = []
    try:
        for sign in (1, -1):
            _assign(theta, [p + sign * epsilon * v for p, v in zip(saved, vector, strict=True)])
            sides.append(_gradient(loss(network, batch), alpha))
    finally:
        _assign(theta, saved)  # bit for bit: adding and subtracting would leave rounding behind
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides, strict=True)]


def _gradient(loss: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Gradient by `parameters`; zero where the loss does not depend on one, as on a decided node's alpha."""
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


@torch.no_grad()
def _assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
