"""Search spaces, one file each, behind the interface `SearchSpace`."""

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from growdarts.genotype import Genotype
from growdarts.mixture import Mixture


class SearchSpace(Protocol):
    """What `growdarts.search` needs of a network; it must not know which space it grows."""

    def __call__(self, x: Tensor) -> Tensor: ...

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture logits."""

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights, in an order that depends on the structure only."""

    def mixtures(self) -> Iterator[Mixture]:
        """Every mixture, in the order of the nodes."""

    def n_nodes(self) -> int:
        """Nodes of the (deepest) cell."""

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        """Add one node to every cell, function-preserving if `morphism`."""

    def keep_operations(self, mixture: Mixture, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only operations `index` in the node of `mixture`; the old and the new alpha."""

    def structure(self) -> Any:
        """Plain description of nodes and their operations, enough to rebuild the network."""

    def restructure(self, structure: Any) -> None:
        """Rebuild the nodes for `structure`; weights are fresh."""

    def flops(self) -> int:
        """Floating-point operations of one forward pass per sample."""

    def genotype(self) -> Genotype:
        """The discrete architecture."""
