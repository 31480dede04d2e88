"""The interface `SearchSpace` between a search and its network. The spaces themselves are in `spaces`."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from growdarts.tracing import OperationTrace
from growdarts.mixture import Mixture


class Genotype(Protocol):
    """A discrete architecture; `growdarts.spaces.genotype.JsonForm` makes JSON of it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and names, among them "space"."""


class SearchSpace(Protocol):
    """What `growdarts.search` needs of a network, whatever space that is of. A network may inherit from it."""

    operations: Sequence[str]  # candidates of every mixture, also of those that are grown

    def __call__(self, x: Tensor) -> Tensor: ...

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture logits."""
        return [mixture.alpha for mixture in self.mixtures()]

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights, in an order that depends on the structure only."""

    def mixtures(self) -> Iterator[Mixture]:
        """Every mixture, in the order of the nodes."""

    def mixture_names(self) -> list[str]:
        """A name for every mixture, in their order, that stays when the network grows."""

    def n_nodes(self) -> int:
        """Nodes of the (deepest) cell."""

    def grow_node(self, *, morphism: bool, epsilon: float,
                  noise: float) -> Sequence[tuple[nn.Parameter, nn.Parameter, tuple[slice, ...]]] | None:
        """Add one node to every cell, function-preserving if `morphism`.

        Returns (old, new, index) for every parameter that had to be replaced by a larger one.
        """

    def keep_operations(self, mixture: Mixture, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only operations `index` in the node of `mixture`; the old and the new alpha."""

    def add_operation(self, mixture: Mixture, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        """Add candidate `name`, with fresh weights, at mixture weight `weight`; the old and the new alpha."""

    def structure(self) -> Any:
        """Plain description of nodes and their operations, enough to rebuild the network."""

    def restructure(self, structure: Any) -> None:
        """Rebuild the nodes for `structure`; weights are fresh."""

    def genotype(self) -> Genotype:
        """The discrete architecture."""

    def modules(self) -> Iterator[nn.Module]:
        """The network and all its parts. Those that are an `OperationOwner` can duplicate operations."""


def named_mixtures(network: SearchSpace) -> dict[str, Mixture]:
    """The mixtures of `network` by name, in their order."""
    return dict(zip(network.mixture_names(), network.mixtures(), strict=True))


class Duplicate(NamedTuple):
    """An operation that now exists twice."""

    key: str  # of the copy
    old_alpha: nn.Parameter
    alpha: nn.Parameter  # the copy's logit is the last
    weights: dict[str, tuple[nn.Parameter, nn.Parameter]]  # original and copy, by name


@runtime_checkable
class OperationOwner(Protocol):
    """What a part of a search space offers whose operations can be duplicated: the module with their weights."""

    def mixtures(self) -> Iterator[Mixture]:
        """The mixtures whose operations' weights it owns."""

    def operation_weights(self, mixture: Mixture, key: str) -> dict[str, nn.Parameter]:
        """Weights that operation `key` computes with, in all its places, by name; none for one without weights."""

    def duplicate_operation(self, mixture: Mixture, key: str) -> Duplicate:
        """Add an identical copy of `key`, which owns weights, with half of its mixture weight each [JG 3.2.2].

        Weights that `key` shared with others are its own afterwards: `Duplicate.weights` has new ones in their place.
        """

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Evaluate `loss` once, in the present mode; a trace of every operation with weights that took part.

        An operation that is held in several places has one a place. Nothing in the network changes, its running
        statistics included.
        """
