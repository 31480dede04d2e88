"""Gradient of the validation loss by the architecture, first and second order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from growdarts.devices.captured import active
from growdarts.space import SearchSpace
from growdarts.tracing import statistics_kept

Loss = Callable[[Any, Any], Tensor]  # (network, batch) -> scalar loss


def gradient(network: nn.Module, loss: Loss, batch: Any, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """Value () of loss(network, batch) and its gradient by `parameters`; zero where it does not depend on one of them.

    All others do not require gradients meanwhile: a backward pass written by hand can only tell by that what it need
    not compute. Gradients switched off (RuntimeError) or no dependence at all (ValueError) would train nothing.
    """
    if not torch.is_grad_enabled():
        raise RuntimeError("gradients are switched off, so nothing would be learned: search and train outside of "
                           "torch.no_grad() and torch.inference_mode()")
    graphs = active()
    if graphs is None:
        return _gradient(network, loss, batch, parameters)
    return graphs.run(lambda batch: _gradient(network, loss, batch, parameters), batch, network.training,
                      *map(id, parameters))


def _gradient(network: nn.Module, loss: Loss, batch: Any, parameters: Sequence[nn.Parameter]) -> tuple[Tensor, list[Tensor]]:
    """`gradient`, computed."""
    chosen = set(map(id, parameters))
    frozen = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        value = loss(network, batch)
        if not value.requires_grad:
            if any(p.numel() > 1 for p in parameters):  # else every mixture is down to one operation
                raise ValueError(f"the loss depends on none of the {len(parameters)} parameters that are to be trained: "
                                 "they belong to another network, or nothing uses them")
            return value, [torch.zeros_like(p) for p in parameters]
        return value.detach(), list(torch.autograd.grad(value, parameters, materialize_grads=True))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class VirtualStep:
    r"""The step of the weights that the second order differentiates through [DARTS Eq. 7]: the one the optimiser is about to
    make.

    $$ \theta' = \theta - \xi\, s \odot (\mu m + \kappa\, h), \qquad h = c\, g + \lambda \theta, \qquad
       c = \min(1, \text{clip} / \lVert g \rVert) $$

    with g the gradient of the training loss. SGD has $s = \kappa = 1$ and its momentum m. Adam has the mean m of gradients,
    $\mu = \beta_1 / (1 - \beta_1^t)$, $\kappa = (1 - \beta_1) / (1 - \beta_1^t)$ and, with the mean v of their squares,
    $1 / s = \sqrt{(\beta_2 v + (1 - \beta_2) h^2) / (1 - \beta_2^t)} + \epsilon$.

    Parameters
    ----------
    xi, weight_decay, momentum : step, L2 factor and $\mu$, of Adam $\beta_1$.
    clip : largest norm of g; None for no clipping.
    buffers : m of every weight; None for zeros.
    """

    xi: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    clip: float | None = None
    buffers: Sequence[Tensor] | None = None
    adam: "AdamState | None" = None

    @classmethod
    def of(cls, optimizer: Optimizer, theta: Sequence[nn.Parameter], clip: float | None) -> Self:
        """The next step of an optimiser of one group."""
        (group,) = optimizer.param_groups

        def kept(name: str) -> list[Tensor]:
            found = [optimizer.state[p].get(name) if p in optimizer.state else None for p in theta]
            return [torch.zeros_like(p) if value is None else value for p, value in zip(theta, found, strict=True)]

        if isinstance(optimizer, torch.optim.Adam):
            beta1, beta2 = group["betas"]
            steps = [1 + int(optimizer.state[p]["step"]) if p in optimizer.state else 1 for p in theta]
            return cls(group["lr"], group["weight_decay"], beta1, clip, kept("exp_avg"),
                       AdamState(beta2, group["eps"], steps, kept("exp_avg_sq")))
        if not (momentum := group.get("momentum", 0.0)):
            return cls(group["lr"], group["weight_decay"], clip=clip)
        return cls(group["lr"], group["weight_decay"], momentum, clip, kept("momentum_buffer"))

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
            if self.adam is not None:
                mu, kappa, scale = self.adam.factors(i, self.momentum, change)
                change = change.mul_(kappa).add_(self.buffers[i], alpha=mu).mul_(scale)
            elif self.buffers is not None:
                change += self.momentum * self.buffers[i]
            moved.append(torch.sub(p, change.mul_(self.xi), out=change))
        return moved

    @torch.no_grad()
    def response(self, theta: Sequence[Tensor], gradient: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        """`vector` times the derivative of -theta' by g, over xi c: the vector itself for SGD.

        m, s and c count as constants. s is computed again: kept since `after`, it would be as large as theta.
        """
        if self.adam is None:
            return list(vector)
        c, found = self.coefficient(gradient), []
        for i, (p, g, v) in enumerate(zip(theta, gradient, vector, strict=True)):
            _, kappa, scale = self.adam.factors(i, self.momentum, c * g + self.weight_decay * p)
            found.append(v * scale * kappa)
        return found


class AdamState(NamedTuple):
    r"""$\beta_2$, $\epsilon$, the number t of the step to come and the mean v of the squared gradients of every weight."""

    beta2: float
    eps: float
    steps: Sequence[int]
    squares: Sequence[Tensor]

    def factors(self, i: int, beta1: float, h: Tensor) -> tuple[float, float, Tensor]:
        r"""$\mu$, $\kappa$ and s of weight i."""
        t = self.steps[i]
        square = self.beta2 * self.squares[i] + (1 - self.beta2) * h.square()
        scale = 1 / ((square / (1 - self.beta2**t)).sqrt() + self.eps)
        return beta1 / (1 - beta1**t), (1 - beta1) / (1 - beta1**t), scale


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
    r"""$\nabla_\alpha L_{val}(\theta', \alpha)
    - \xi c\, \nabla^2_{\alpha,\theta} L_{train}\, (s \kappa \odot \nabla_{\theta'} L_{val})$ with $\theta'$, c, s and $\kappa$ of `VirtualStep` [DARTS Eq. 7].

    m, s and c count as constants, as in the original: the factor of the clipping is applied, but not differentiated. No pass
    leaves a trace in weights or in batch norms' running statistics.
    """
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    with _restored(network) as saved:
        _, inner = gradient(network, loss, train_batch, theta)
        factor = step.xi * step.coefficient(inner)
        _assign(theta, step.after(saved, inner))
        _, grads = gradient(network, loss, validation_batch, alpha + theta)
        vector = step.response(saved, inner, grads[len(alpha):])
        del inner  # each is as large as theta
    del saved
    product = hessian_vector_product(network, loss, train_batch, vector, radius)
    return [direct - factor * implicit for direct, implicit in zip(grads[:len(alpha)], product, strict=True)]


def hessian_vector_product(network: SearchSpace, loss: Loss, batch: Any, vector: Sequence[Tensor],
                           radius: float) -> list[Tensor]:
    r"""$\nabla^2_{\alpha,\theta} L \, v \approx (\nabla_\alpha L(\theta^+) - \nabla_\alpha L(\theta^-)) / 2\epsilon$,
    $\theta^\pm = \theta \pm \epsilon v$, $\epsilon$ = `radius` / |v| [DARTS Eq. 8]."""
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    norm = _norm(vector)
    epsilon = radius / torch.where(norm == 0, 1, norm)  # of zeros the two passes are the same
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
    """Copies of theta; at the end theta and the running statistics are what they were, bit for bit."""
    theta = network.theta_parameters()
    saved = [p.detach().clone() for p in theta]
    with statistics_kept(network):
        try:
            yield saved
        finally:
            _assign(theta, saved)


@torch.no_grad()
def _assign(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_(tensors, values)
