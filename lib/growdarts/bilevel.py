"""Gradient of the validation loss by the architecture, first and second order."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    chosen = set(map(id, parameters))

    def compute(batch: Any) -> tuple[Tensor, list[Tensor]]:
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

    graphs = active()
    return compute(batch) if graphs is None else graphs.run(compute, batch, network.training, *map(id, parameters))


class VirtualStep:
    r"""The step of the weights that the second order differentiates through [DARTS Eq. 7]: the one that an optimiser is about
    to make.

    $$ \theta' = \theta - \xi\, s \odot (\mu m + \kappa\, h), \qquad h = c\, g + \lambda \theta, \qquad
       c = \min(1, \text{clip} / \lVert g \rVert) $$

    with g the gradient of the training loss and m, v and t as the optimiser keeps them. SGD has $s = \kappa = 1$ and its
    momentum m. Adam has the mean m of gradients, $\mu = \beta_1 / (1 - \beta_1^t)$, $\kappa = (1 - \beta_1) / (1 - \beta_1^t)$
    and, with the mean v of their squares, $1 / s = \sqrt{(\beta_2 v + (1 - \beta_2) h^2) / (1 - \beta_2^t)} + \epsilon$.

    Parameters
    ----------
    optimizer : SGD or Adam, of one group; what it keeps of a weight counts as zero where it has made no step yet.
    theta : the weights, in the order of all lists below.
    clip : largest norm of g; None for no clipping.
    """

    def __init__(self, optimizer: Optimizer, theta: Sequence[nn.Parameter], clip: float | None) -> None:
        (self.group,) = optimizer.param_groups
        self.states = [optimizer.state.get(p, {}) for p in theta]
        self.is_adam, self.xi, self.clip = isinstance(optimizer, torch.optim.Adam), self.group["lr"], clip

    def coefficient(self, gradient: Sequence[Tensor]) -> float | Tensor:
        """c, of the norm over all tensors, as `torch.nn.utils.clip_grad_norm_` has it."""
        return 1.0 if self.clip is None else (self.clip / (_norm(gradient) + 1e-6)).clamp(max=1.0)

    @torch.no_grad()
    def after(self, theta: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
        """theta' for the unclipped gradient."""
        c, moved = self.coefficient(gradient), []
        for p, g, state in zip(theta, gradient, self.states, strict=True):
            change = self._decayed(c * g, p)  # in place from here on: an embedding is large
            if self.is_adam:
                mu, kappa, scale = self._adam_factors(change, state)
                change.mul_(kappa).add_(state.get("exp_avg", 0), alpha=mu).mul_(scale)
            elif (buffer := state.get("momentum_buffer")) is not None:
                change += self.group["momentum"] * buffer
            moved.append(torch.sub(p, change.mul_(self.xi), out=change))
        return moved

    @torch.no_grad()
    def response(self, theta: Sequence[Tensor], gradient: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
        """`vector` times the derivative of -theta' by g, over xi c: the vector itself for SGD.

        m, s and c count as constants. s is computed again: kept since `after`, it would be as large as theta.
        """
        if not self.is_adam:
            return list(vector)
        c, found = self.coefficient(gradient), []
        for p, g, v, state in zip(theta, gradient, vector, self.states, strict=True):
            _, kappa, scale = self._adam_factors(self._decayed(c * g, p), state)
            found.append(v * scale * kappa)
        return found

    def _decayed(self, clipped: Tensor, p: Tensor) -> Tensor:
        """h, in the place of c g."""
        if self.group["weight_decay"]:
            clipped += self.group["weight_decay"] * p
        return clipped

    def _adam_factors(self, h: Tensor, state: dict[str, Any]) -> tuple[float, float, Tensor]:
        r"""$\mu$, $\kappa$ and s of one weight."""
        (beta1, beta2), t = self.group["betas"], 1 + int(state.get("step", 0))
        square = beta2 * state.get("exp_avg_sq", 0) + (1 - beta2) * h.square()
        scale = 1 / ((square / (1 - beta2**t)).sqrt() + self.group["eps"])
        return beta1 / (1 - beta1**t), (1 - beta1) / (1 - beta1**t), scale


def alpha_gradient(network: SearchSpace, loss: Loss, train_batch: Any, validation_batch: Any, *,
                   order: int, step: VirtualStep, radius: float) -> list[Tensor]:
    r"""Gradient for the alpha step, one tensor per alpha: in first order that of the validation loss, in second order

    $$ \nabla_\alpha L_{val}(\theta', \alpha)
       - \xi c\, \nabla^2_{\alpha,\theta} L_{train}\, (s \kappa \odot \nabla_{\theta'} L_{val}) $$

    with $\theta'$, c, s and $\kappa$ of `VirtualStep` [DARTS Eq. 7]. m, s and c count as constants, as in the original: the factor
    of the clipping is applied, but not differentiated. No pass leaves a trace in weights or in batch norms' running statistics.

    Parameters
    ----------
    loss : scalar loss of (network, batch). Passes over the same batch must share what is random, e.g. dropout masks.
    order : 1 takes theta as it is [DARTS xi = 0]; 2 differentiates through one virtual step.
    step, radius : the virtual step, and the length of the finite difference's step (order 2 only).
    """
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    if order == 1:
        return gradient(network, loss, validation_batch, alpha)[1]
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
