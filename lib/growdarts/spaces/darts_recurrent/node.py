"""One node of the recurrent search cell of DARTS: a mixture an edge, one W for all operations, copies with their own.

Shapes: T time, B batch, H hidden, L live edges, K operations.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_recurrent.highway import ACTIVATIONS, highway, masked, uniform
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS
from growdarts.mixture import Mixture, operation_name
from growdarts.spaces.precision import product


class PrivateOperation(NamedTuple):
    """An operation with weights of its own, in one evaluation."""

    source: int  # position of its predecessor among the live ones
    activation: str
    W: Tensor  # (H, 2 H)
    weight: Tensor  # of the mixture, ()


class RecurrentNode(nn.Module):
    """A node of the search cell: one W for all its edges, one mixture for each.

    edges : for every predecessor the keys of its operations.
    weighted : whether the node has an output weight and a batch norm of its own (a node grown by morphism).
    private : for every predecessor the keys of operations with a W of their own, as those that were duplicated have.
    """

    def __init__(self, hidden: int, edges: Sequence[Sequence[str]], weighted: bool,
                 private: Sequence[Sequence[str]] | None = None) -> None:
        super().__init__()
        private = private or [()] * len(edges)
        shared = {key for keys, own in zip(edges, private, strict=True) for key in keys if key not in own}
        names = {operation_name(key) for own in private for key in own}
        unknown = sorted((shared - set(RECURRENT_OPERATIONS)) | (names - set(ACTIVATIONS)))
        if unknown:
            raise ValueError(f"unknown operations {unknown}: allowed are {', '.join(RECURRENT_OPERATIONS)}")
        self.hidden = hidden
        self.W = uniform(hidden, 2 * hidden)
        self.edges = nn.ModuleList(Mixture(keys) for keys in edges)
        self.private = nn.ModuleList(nn.ParameterDict({key: uniform(hidden, 2 * hidden) for key in own})
                                     for own in private)
        self.output_weight = nn.Parameter(torch.zeros(())) if weighted else None
        self.bn = nn.BatchNorm1d(hidden, affine=False) if weighted else None

    def live(self) -> list[int]:
        """Predecessors whose edge holds more than `none`; a node without any computes zero times state 0."""
        return [j for j, edge in enumerate(self.edges) if edge.keys != ["none"]] or [0]

    def activations(self) -> list[str]:
        """Activations that W serves on at least one edge."""
        held = {key for edge, own in zip(self.edges, self.private, strict=True) for key in edge.keys if key not in own}
        return [name for name in ACTIVATIONS if name in held] or ["identity"]

    def own(self) -> list[list[str]]:
        """For every edge the keys with a W of their own, in the order of alpha."""
        return [[key for key in edge.keys if key in own] for edge, own in zip(self.edges, self.private, strict=True)]

    def forward(self, sources: Tensor, h_mask: Tensor | None, names: list[str], weights: Tensor,
                private: Sequence[PrivateOperation]) -> Tensor:
        r"""$\sum_j \sum_o w_{jo}\, o(s_j) = \sum_j q_j s_j + \sigma(c_j)(\sum_o w_{jo} f_o(u_j) - q_j s_j)$ with
        $q_j = \sum_o w_{jo}$, $[c_j, u_j]$ from the dropped states, before the batch norm: live states (L, B, H) -> (B,
        H) [DARTS Eq. 2]. `weights` (L, K) are those of the operations that share W, of activations `names`.
        """
        dropped = masked(sources, h_mask)
        c, u = product(dropped, self.W).chunk(2, dim=-1)
        candidates = torch.stack([ACTIVATIONS[name](u) for name in names], dim=1)  # (L, K, B, H)
        mixed = (weights[:, :, None, None] * candidates).sum(dim=1)
        kept = weights.sum(dim=1)[:, None, None] * sources
        mixed = torch.lerp(kept, mixed, torch.sigmoid(c)).sum(dim=0)
        for j, activation, W, weight in private:
            mixed = mixed + weight * highway(sources[j], product(dropped[j], W), activation)
        return mixed

    def theta_parameters(self) -> list[nn.Parameter]:
        """W, the private weights, and the output weight if there is one."""
        private = [own[key] for keys, own in zip(self.own(), self.private, strict=True) for key in keys]
        return [self.W, *private] + ([] if self.output_weight is None else [self.output_weight])

    def structure(self) -> dict[str, Any]:
        """The arguments that build such a node."""
        return {"edges": [list(edge.keys) for edge in self.edges], "weighted": self.output_weight is not None,
                "private": self.own()}

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * self.W.numel() * (len(self.live()) + sum(map(len, self.own())))
