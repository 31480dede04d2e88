r"""Steepest descent splitting (Wu, Wang & Liu 2019): which operation to duplicate, and in which direction [JG 3.2.2].

Two copies $\theta \pm \delta$ with half the weight each (`growdarts.growth.grow_operation`) change the loss L by

$$ \Delta L = \tfrac12 \sum_u \delta_u^\top S_u\, \delta_u + O(|\delta|^4), \qquad
   S_u = \mathrm{E}\Big[ \sum_t \frac{dL}{do_{tu}}\, \nabla^2_{\theta_u} o_{tu} \Big] , $$

as unit u of an operation o depends on its own weights $\theta_u$ only. The method page of the book derives this. So
$\delta_u$ is a step along the eigenvector of the lowest eigenvalue of $S_u$, for units where that is negative.

No $S_u$ is stored. It is the block of unit u of the Hessian of $\sum_t g_t \cdot o_t(\theta)$ with $g_t = dL/do_t$ and
all inputs held constant, so one Hessian-vector product by double backward gives $S_u v_u$ of all units at once.

Shapes: U units (H of a recurrent cell, C of a convolution), D weights of a unit.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from growdarts.bilevel import Loss
from growdarts.space import OperationOwner, SearchSpace
from growdarts.tracing import OperationTrace
from growdarts.criteria import Operation


@dataclass
class SplittingMatrices:
    """The matrices $S_u$ of all units of an operation, in one place that holds it, as a linear map [JG 3.2.2].

    operation : position of its mixture, and key.
    """

    operation: Operation
    trace: OperationTrace

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Tensors of the weights' shapes -> one row a unit, (U, D)."""
        rows = [tensors[name].movedim(self.trace.unit_dim, 0) for name in self.trace.weights]
        return torch.cat([r.reshape(-1, self.trace.units, r[0].numel()).transpose(0, 1).flatten(1) for r in rows], dim=1)

    def unpack(self, rows: Tensor) -> dict[str, Tensor]:
        """Inverse of `pack`."""
        tensors, weights, U = {}, self.trace.weights, self.trace.units
        parts = rows.split([weight.numel() // U for weight in weights.values()], dim=1)
        for (name, weight), part in zip(weights.items(), parts, strict=True):
            shape = weight.movedim(self.trace.unit_dim, 0).shape
            blocks = part.reshape(U, shape[0] // U, -1).transpose(0, 1)
            tensors[name] = blocks.reshape(shape).movedim(0, self.trace.unit_dim)
        return tensors

    def product(self) -> Callable[[Tensor], Tensor]:
        """The map (U, D) -> (U, D), row u -> $S_u v_u$; holds its graph of gradients as long as it lives."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in self.trace.weights.items()}
        with torch.enable_grad():
            G = self.trace.weight * (self.trace.function(leaves) * self.trace.gradient).sum()
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


def splitting_matrices(network: SearchSpace, loss: Loss, batch: Any) -> list[SplittingMatrices]:
    """Of every operation that owns weights; a ValueError if there is none [JG 3.2.2].

    `loss` is the one that is trained, in the network's present mode: batch statistics and dropout masks are part of it. A space
    may hold an operation in several places at once (convolutional cells that share alpha): one entry a place. Weights, moments
    and running statistics stay as they are.
    """
    positions = {mixture: i for i, mixture in enumerate(network.mixtures())}
    found = [SplittingMatrices((positions[trace.mixture], trace.key), trace)
             for module in network.modules() if isinstance(module, OperationOwner)
             for trace in module.trace_operations(lambda: loss(network, batch))]
    if not found:
        raise ValueError("no operation of the network owns weights, so none can be split: it holds "
                         f"{[mixture.keys for mixture in network.mixtures()]}")
    return found


LANCZOS_STEPS = 60  # most products with the matrices; each costs about two passes through the operation


@torch.no_grad()
def lowest_eigenpairs(matrices: SplittingMatrices, *, tolerance: float = 1e-2) -> tuple[Tensor, Tensor]:
    r"""Lowest eigenvalues (U,) and unit eigenvectors (U, D), by the Lanczos method, without any matrix [JG 3.2.2].

    From a random start, the same in every call, step k gives an orthonormal basis $Q_k$ of
    $q, S q, \dots, S^{k-1} q$, fully reorthogonalised, and the tridiagonal $T_k = Q_k^\top S Q_k$, whose lowest
    eigenpair $(\lambda, y)$ gives $(\lambda, Q_k y)$. $\lambda$ is the Rayleigh quotient of that vector, so never
    below the true one: a negative value is a direction that lowers the loss, converged or not. A value that rounding
    cannot tell from zero is zero.

    Parameters
    ----------
    tolerance : stop when all residuals, which bound the errors of the values, are below this fraction of them.
    """
    multiply, like = matrices.product(), matrices.pack(matrices.trace.weights)
    (U, D), most = like.shape, min(LANCZOS_STEPS, like.shape[1])
    generator = torch.Generator().manual_seed(0)  # a generator of its own: torch's random state is unchanged
    q = torch.randn(U, D, generator=generator, dtype=torch.float64).to(like)
    q = q / q.norm(dim=1, keepdim=True)
    rounding = 4 * D**0.5 * torch.finfo(like.dtype).eps  # of products with S, as a fraction of its size
    basis, diagonal, off = like.new_zeros(U, 0, D), like.new_zeros(U, 0), like.new_zeros(U, 0)
    scale = like.new_zeros(U)
    for k in range(1, most + 1):
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
        if k % 5 == 0 or k == most or not alive.any():
            T = torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
            ritz, y = torch.linalg.eigh(T)
            if (norm * y[:, -1, 0].abs() <= torch.maximum(tolerance * ritz[:, 0].abs(), rounding * scale)).all():
                break
        off = torch.cat([off, norm[:, None]], dim=1)
    values = torch.where(ritz[:, 0].abs() > rounding * scale, ritz[:, 0], torch.zeros_like(scale))
    return values, torch.einsum("ukd,uk->ud", basis, y[:, :, 0])


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

    def predicted_change(self, step: float) -> float:
        r"""$\tfrac12 \epsilon^2 \sum_{\lambda_u < 0} \lambda_u$ for `step` $\epsilon$, up to $O(\epsilon^4)$."""
        return step**2 / 2 * sum(value for value in self.eigenvalues if value < 0)


def possible_splits(matrices: Iterable[SplittingMatrices], *, tolerance: float = 1e-2) -> list[Split]:
    """The split along the lowest eigenvectors of every operation; its places are split together."""
    splits: dict[Operation, Split] = {}
    for place in matrices:
        values, vectors = lowest_eigenpairs(place, tolerance=tolerance)
        split = splits.setdefault(place.operation, Split(place.operation, [], {}))
        split.eigenvalues.extend(values.tolist())
        split.direction.update(place.unpack(vectors * (values < 0)[:, None]))
    return list(splits.values())


def all_operations(splits: Iterable[Split]) -> list[Split]:
    """Every split that lowers the loss, to be made at once, the one that lowers it most first [JG criteria].

    First-order terms cancel in every operation, so nothing of the second order stands between two of them: the predicted
    changes add up.
    """
    return sorted((split for split in splits if split.predicted_change(1.0) < 0), key=lambda split: split.predicted_change(1.0))


def select_operation(splits: Iterable[Split]) -> Split | None:
    """The split with the most negative eigenvalues, of equals that with their lowest sum; None if there are none [JG Alg. 4, criteria]."""
    return max(all_operations(splits), key=lambda split: sum(value < 0 for value in split.eigenvalues), default=None)
