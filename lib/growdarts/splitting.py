r"""Steepest descent splitting (Wu, Wang & Liu 2019): which operation to duplicate, and in which direction [JG 3.2.2].

Two copies $\theta \pm \delta$ with half the weight each (`growdarts.growth.grow_operation`) change the loss L by

$$ \Delta L = \tfrac12 \sum_u \delta_u^\top S_u\, \delta_u + O(|\delta|^4), \qquad
   S_u = \mathrm{E}\Big[ \sum_t \frac{dL}{do_{tu}}\, \nabla^2_{\theta_u} o_{tu} \Big] , $$

as unit u of an operation o depends on its own weights $\theta_u$ only. The method page of the book derives this. So
$\delta_u$ is a step along the eigenvector of the lowest eigenvalue of $S_u$, for units where that is negative.

No $S_u$ is stored. It is the block of unit u of the Hessian of $\sum_t g_t \cdot o_t(\theta)$ with $g_t = dL/do_t$ and
all inputs held constant, so one Hessian-vector product by double backward gives $S_u v_u$ of all units at once.

The loss is that of the mode in which the network is: batch statistics and dropout masks are part of the function.

Shapes: U units (H of a recurrent cell, C of a convolution), D weights of a unit.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.bilevel import Loss
from growdarts.space import OperationOwner, SearchSpace
from growdarts.tracing import OperationTrace
from growdarts.criteria import Operation


class SplittingMatrices:
    """The matrices $S_u$ of all units of an operation, as a linear map, averaged over batches [JG 3.2.2].

    Parameters
    ----------
    operation : position of its mixture, and key.
    traces : the operation in every batch.
    """

    def __init__(self, operation: Operation, traces: list[OperationTrace]) -> None:
        self.operation, self.traces = operation, traces
        self.weights: dict[str, nn.Parameter] = traces[0].weights
        self.units, self.unit_dim = traces[0].units, traces[0].unit_dim

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of the weights' shapes -> one row a unit, (U, D)."""
        rows = [tensors[name].movedim(self.unit_dim, 0) for name in self.weights]
        return torch.cat([r.reshape(-1, self.units, r[0].numel()).transpose(0, 1).flatten(1) for r in rows], dim=1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Inverse of `pack`."""
        tensors = {}
        parts = rows.split([weight.numel() // self.units for weight in self.weights.values()], dim=1)
        for (name, weight), part in zip(self.weights.items(), parts, strict=True):
            shape = weight.movedim(self.unit_dim, 0).shape
            blocks = part.reshape(self.units, shape[0] // self.units, -1).transpose(0, 1)
            tensors[name] = blocks.reshape(shape).movedim(0, self.unit_dim)
        return tensors

    def product(self) -> Callable[[Tensor], Tensor]:
        """The map (U, D) -> (U, D), row u -> $S_u v_u$; holds its graph of gradients as long as it lives."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.weights.items()}
        with torch.enable_grad():
            G = sum(trace.weight * (trace.function(leaves) * trace.gradient).sum() for trace in self.traces) / len(self.traces)
            first = torch.autograd.grad(G, list(leaves.values()), create_graph=True, allow_unused=True,
                                        materialize_grads=True)
        curved = [i for i, g in enumerate(first) if g.requires_grad]  # the others do not depend on the weights

        def multiply(V: Tensor) -> Tensor:
            if not curved:
                return torch.zeros_like(V)
            v = list(self.unpack(V).values())
            second = torch.autograd.grad([first[i] for i in curved], list(leaves.values()), [v[i] for i in curved],
                                         retain_graph=True, allow_unused=True, materialize_grads=True)
            return self.pack(dict(zip(leaves, second, strict=True)))

        return multiply


def splitting_matrices(network: SearchSpace, loss: Loss, batches: Iterable[Any]) -> list[SplittingMatrices]:
    """Of every operation that owns weights, averaged over `batches` [JG 3.2.2].

    A space may hold an operation in several places at once (convolutional cells that share alpha): one entry a place.
    Weights, moments and running statistics stay as they are.

    Parameters
    ----------
    loss : scalar loss of (network, batch), the one that is trained.

    Raises
    ------
    ValueError
        no batches, or no operation owns weights.
    """
    positions = {mixture: i for i, mixture in enumerate(network.mixtures())}
    owners = [module for module in network.modules() if isinstance(module, OperationOwner)]
    found: dict[tuple, list[OperationTrace]] = {}
    n_batches = 0
    for batch in batches:
        n_batches += 1
        for owner in owners:
            for trace in owner.trace_operations(lambda: loss(network, batch)):
                found.setdefault((positions[trace.mixture], trace.key, *trace.weights), []).append(trace)
    if not n_batches:
        raise ValueError("splitting matrices need at least one batch")
    if not found:
        raise ValueError("no operation of the network owns weights, so none can be split: it holds "
                         f"{[mixture.keys for mixture in network.mixtures()]}")
    return [SplittingMatrices((position, key), traces) for (position, key, *_), traces in found.items()]


@dataclass(frozen=True)
class Eigenpairs:
    r"""Lowest eigenvalues (U,) and unit eigenvectors (U, D), and the norms (U,) of $S v - \lambda v$.

    A value that rounding cannot tell from zero is zero.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


@torch.no_grad()
def lowest_eigenpairs(matrices: SplittingMatrices, *, tolerance: float = 1e-2, max_steps: int = 60) -> Eigenpairs:
    r"""Of all units at once by the Lanczos method, without any matrix [JG 3.2.2].

    From a random start, the same in every call, step k gives an orthonormal basis $Q_k$ of
    $q, S q, \dots, S^{k-1} q$, fully reorthogonalised, and the tridiagonal $T_k = Q_k^\top S Q_k$, whose lowest
    eigenpair $(\lambda, y)$ gives $(\lambda, Q_k y)$. $\lambda$ is the Rayleigh quotient of that vector, so never
    below the true one: a negative value is a direction that lowers the loss, converged or not.

    Parameters
    ----------
    tolerance : stop when all residuals, which bound the errors of the values, are below this fraction of them.
    max_steps : most products; each costs about two passes through the operation.
    """
    multiply, like = matrices.product(), matrices.pack(matrices.weights)
    U, D = like.shape
    generator = torch.Generator().manual_seed(0)  # a generator of its own: torch's random state is unchanged
    q = torch.randn(U, D, generator=generator, dtype=torch.float64).to(like)
    q = q / q.norm(dim=1, keepdim=True)
    rounding = 4 * D**0.5 * torch.finfo(like.dtype).eps  # of products with S, as a fraction of its size
    basis, diagonal, off = like.new_zeros(U, 0, D), like.new_zeros(U, 0), like.new_zeros(U, 0)
    scale = like.new_zeros(U)
    for k in range(1, min(max_steps, D) + 1):
        basis = torch.cat([basis, q[:, None]], dim=1)
        r = multiply(q)
        ended = ~q.any(dim=1)  # the unit's Krylov space is exhausted: pad with a value that cannot become the lowest
        diagonal = torch.cat([diagonal, torch.where(ended, scale, (q * r).sum(dim=1))[:, None]], dim=1)
        for _ in range(2):  # reorthogonalise twice, which is enough
            r = r - torch.einsum("ukd,uk->ud", basis, torch.einsum("ukd,ud->uk", basis, r))
        norm = r.norm(dim=1)
        scale = torch.maximum(scale, diagonal[:, -1].abs() + norm)
        alive = norm > rounding * scale
        norm = norm * alive
        q = r / torch.where(alive, norm, torch.ones_like(norm))[:, None] * alive[:, None]
        if k % 5 == 0 or k == min(max_steps, D) or not alive.any():
            T = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
            ritz, y = torch.linalg.eigh(T)
            residuals = norm * y[:, -1, 0].abs()
            if (residuals <= torch.maximum(tolerance * ritz[:, 0].abs(), rounding * scale)).all():
                break
        off = torch.cat([off, norm[:, None]], dim=1)
    values = torch.where(ritz[:, 0].abs() > rounding * scale, ritz[:, 0], torch.zeros_like(scale))
    return Eigenpairs(values, torch.einsum("ukd,uk->ud", basis, y[:, :, 0]), residuals)


@dataclass(frozen=True)
class Split:
    """What splitting an operation would do.

    operation : position of its mixture, and key.
    eigenvalues : the lowest of every unit's splitting matrix.
    direction : by name of the weight: the eigenvectors of the negative ones, zero for the other units.
    """

    operation: Operation
    eigenvalues: list[float]
    direction: dict[str, Tensor]

    def units(self) -> int:
        """How many units have a negative eigenvalue."""
        return sum(value < 0 for value in self.eigenvalues)

    def predicted_change(self, step: float) -> float:
        r"""$\tfrac12 \epsilon^2 \sum_{\lambda_u < 0} \lambda_u$ for `step` $\epsilon$, up to $O(\epsilon^4)$."""
        return step**2 / 2 * sum(value for value in self.eigenvalues if value < 0)


def possible_splits(matrices: Iterable[SplittingMatrices], *, tolerance: float = 1e-2,
                    max_steps: int = 60) -> list[Split]:
    """The split along the lowest eigenvectors of every operation; its places are split together."""
    splits: dict[Operation, Split] = {}
    for place in matrices:
        pairs = lowest_eigenpairs(place, tolerance=tolerance, max_steps=max_steps)
        split = splits.setdefault(place.operation, Split(place.operation, [], {}))
        split.eigenvalues.extend(pairs.values.tolist())
        split.direction.update(place.unpack(pairs.vectors * (pairs.values < 0)[:, None]))
    return list(splits.values())


def select_operation(splits: Iterable[Split]) -> Split | None:
    """The split with the most negative eigenvalues, of equals that with their lowest sum; None if there are none [JG Alg. 4, criteria]."""
    best = min(splits, key=lambda split: (-split.units(), split.predicted_change(1.0)), default=None)
    return best if best is not None and best.units() else None


def all_operations(splits: Iterable[Split]) -> list[Split]:
    """Every split that lowers the loss, to be made at once, the one that lowers it most first [JG criteria].

    First-order terms cancel in every operation, so nothing of the second order stands between two of them: the predicted
    changes add up.
    """
    return sorted((split for split in splits if split.predicted_change(1.0) < 0), key=lambda split: split.predicted_change(1.0))
