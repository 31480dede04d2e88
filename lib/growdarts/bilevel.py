"""Gradient of the validation loss by the architecture, first and second order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from growdarts.space import SearchSpace
from growdarts.tracing import statistics_kept

Loss = Callable[[SearchSpace, Any], Tensor]


def gradient(network: nn.Module, loss: Callable[[Any, Any], Tensor], batch: Any,
             parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
    """Value of loss(network, batch) and its gradient by `parameters`; zero where it does not depend on one.

    All other parameters are constants meanwhile. autograd would not return their gradients either, but a backward pass that
    is written by hand can only tell by `requires_grad` which ones it need not compute.
    """
    chosen = set(map(id, parameters))
    frozen = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        value = loss(network, batch)
        if not value.requires_grad:  # it depends on no parameter: every mixture is down to one operation
            return value.item(), [torch.zeros_like(p) for p in parameters]
        return value.item(), list(torch.autograd.grad(value, parameters, materialize_grads=True))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class VirtualStep:
    r"""The step of SGD that the second order looks ahead by [DARTS Eq. 7]:

    $$ \theta' = \theta - \xi\, (\mu m + c\, g + \lambda \theta), \qquad c = \min(1, \text{clip} / \lVert g \rVert) $$

    with g the gradient of the training loss and m the optimiser's momentum. It is the step that SGD is about to make.

    Parameters
    ----------
    xi, weight_decay, momentum : step, L2 factor and $\mu$.
    clip : largest norm of g; None for no clipping.
    buffers : m, one tensor for every weight, in the order of `theta_parameters`; None for zeros.
    """

    xi: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip: float | None = None
    buffers: Sequence[Tensor] | None = None

    @classmethod
    def of(cls, optimizer: Optimizer, theta: Sequence[nn.Parameter], clip: float | None) -> Self:
        """The next step of an optimiser of one group; Adam's moments are no momentum and are left out."""
        (group,) = optimizer.param_groups
        if not (momentum := group.get("momentum", 0.0)):
            return cls(group["lr"], group["weight_decay"], clip=clip)
        buffers = [optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None for p in theta]
        return cls(group["lr"], group["weight_decay"], momentum, clip,
                   [torch.zeros_like(p) if m is None else m for p, m in zip(theta, buffers, strict=True)])

    def coefficient(self, gradient: Sequence[Tensor]) -> float | Tensor:
        """c, of the norm over all tensors, as `torch.nn.utils.clip_grad_norm_` has it."""
        return 1.0 if self.clip is None else (self.clip / (_norm(gradient) + 1e-6)).clamp(max=1.0)

    @torch.no_grad()
    def after(self, theta: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
        """theta' for the unclipped gradient."""
        c, moved = self.coefficient(gradient), []
        for i, (p, g) in enumerate(zip(theta, gradient, strict=True)):
            change = c * g  # in place from here on: an embedding is large
            if self.weight_decay:
                change += self.weight_decay * p
            if self.buffers is not None:
                change += self.momentum * self.buffers[i]
            moved.append(torch.sub(p, change.mul_(self.xi), out=change))
        return moved


def alpha_gradient(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any, *,
                   order: int, step: VirtualStep, radius: float) -> list[Tensor]:
    """Gradient for the alpha step, one tensor per alpha.

    Parameters
    ----------
    loss : scalar loss of (network, batch). Passes over the same batch must share what is random, e.g. dropout masks.
    order : 1 takes theta as it is [DARTS xi = 0]; 2 differentiates through one virtual step.
    step, radius : the virtual step, and the length of the finite difference's step (order 2 only).
    """
    if order == 1:
        return gradient(network, loss, validation_batch, network.alpha_parameters())[1]
    return second_order(network, loss, train_batch, validation_batch, step, radius)


def second_order(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any,
                 step: VirtualStep, radius: float) -> list[Tensor]:
    r"""$\nabla_\alpha L_{val}(\theta', \alpha) - \xi c\, \nabla^2_{\alpha,\theta} L_{train}\, \nabla_{\theta'} L_{val}$
    with $\theta'$ and c of `VirtualStep` [DARTS Eq. 7].

    m and c count as constants: like the original's, the derivative knows that a clipped gradient moves theta less, not
    that the factor depends on alpha. No pass leaves a trace in weights or in batch norms' running statistics.
    """
    direct, implicit = direct_and_implicit(network, loss, train_batch, validation_batch, step, radius)
    return [d - i for d, i in zip(direct, implicit, strict=True)]


def direct_and_implicit(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any,
                        step: VirtualStep, radius: float) -> tuple[list[Tensor], list[Tensor]]:
    """The two terms of `second_order`, the second to be subtracted from the first."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    with _restored(network) as saved:
        _, inner = gradient(network, loss, train_batch, theta)
        factor = step.xi * step.coefficient(inner)
        _assign(theta, step.after(saved, inner))
        del inner  # each is as large as theta
        _, grads = gradient(network, loss, validation_batch, alpha + theta)
    del saved
    direct, theta_grad = grads[:len(alpha)], grads[len(alpha):]
    product = hessian_vector_product(network, loss, train_batch, theta_grad, radius)
    return direct, [factor * h for h in product]


def hessian_vector_product(network: SearchSpace, loss: Loss, batch: Any, vector: Sequence[Tensor],
                           radius: float) -> list[Tensor]:
    r"""$\nabla^2_{\alpha,\theta} L \, v \approx (\nabla_\alpha L(\theta^+) - \nabla_\alpha L(\theta^-)) / 2\epsilon$,
    $\theta^\pm = \theta \pm \epsilon v$, $\epsilon$ = `radius` / |v| [DARTS Eq. 8]."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    norm = _norm(vector)
    if norm == 0:
        return [torch.zeros_like(a) for a in alpha]
    epsilon = radius / norm
    sides = []
    with _restored(network) as saved:
        for sign in (1, -1):
            with torch.no_grad():
                for p, start, v in zip(theta, saved, vector, strict=True):
                    torch.mul(v, sign * epsilon, out=p).add_(start)
            sides.append(gradient(network, loss, batch, alpha)[1])
    return [(plus - minus) / (2 * epsilon) for plus, minus in zip(*sides, strict=True)]


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors]).norm()


@contextmanager
def _restored(network: SearchSpace) -> Iterator[list[Tensor]]:
    """Copies of theta, to start from; at the end theta and the running statistics are what they were, bit for bit
    (adding and subtracting a step would leave rounding behind)."""
    theta = network.theta_parameters()
    saved = [p.detach().clone() for p in theta]
    with statistics_kept(network):
        try:
            yield saved
        finally:
            _assign(theta, saved)


@torch.no_grad()
def _assign(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
