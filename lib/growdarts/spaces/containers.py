"""Containers of what belongs to the operations of a mixture, by key, and what spaces do with them alike.

torch.nn's own refuse keys that name one of their attributes. An operation may be called `update` or `copy` all the same:
its weights are then stored under `update_` or `copy_`.
"""

from copy import deepcopy
from typing import Any

from torch import nn

from growdarts.mixture import Mixture
from growdarts.space import Duplicate, OperationOwner

_TAKEN = {*dir(nn.ParameterDict()), *dir(nn.ModuleDict())}


def _stored(key: str) -> str:
    """The name under which `key` is stored, also in state dicts."""
    return f"{key}_" if key in _TAKEN else key


class _ByKey:
    """Access by key instead of by the stored name; what iterates gives stored names."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(_stored(key))

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(_stored(key), value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(_stored(key))

    def __contains__(self, key: str) -> bool:
        return super().__contains__(_stored(key))


class OperationWeights(_ByKey, nn.ParameterDict):
    """A weight of every operation that owns one."""


class OperationModules(_ByKey, nn.ModuleDict):
    """The module of every operation."""


class OperationHolder(OperationOwner):
    """Drops and duplicates operations whose weights or modules lie in containers, in one place or in several."""

    def containers(self, mixture: Mixture) -> dict[str, nn.ParameterDict | nn.ModuleDict]:
        """Those of the operations of `mixture`, by the name of the place."""

    def operation_weights(self, mixture: Mixture, key: str) -> dict[str, nn.Parameter]:
        """Weights of an operation by name: the place's, or for a module such as `"place.op.1.weight"`."""
        weights = {}
        for place, container in self.containers(mixture).items():
            held = container[key] if key in container else nn.Module()
            weights.update({place: held} if isinstance(held, nn.Parameter) else held.named_parameters(place))
        return weights

    def keep_operations(self, mixture: Mixture, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only operations `index` of a mixture; the old and the new alpha."""
        dropped = [key for i, key in enumerate(mixture.keys) if i not in index]
        alphas = mixture.keep(index)
        for container in self.containers(mixture).values():
            for key in dropped:
                if key in container:
                    del container[key]
        return alphas

    def duplicate_operation(self, mixture: Mixture, key: str) -> Duplicate:
        """Add an identical copy of an operation, running statistics included, wherever it is [JG 3.2.2]."""
        weights = self.operation_weights(mixture, key)
        twin, old, new = mixture.duplicate(key)
        for container in self.containers(mixture).values():
            if key in container:
                container[twin] = deepcopy(container[key])
        copies = self.operation_weights(mixture, twin)
        return Duplicate(twin, old, new, {name: (weight, copies[name]) for name, weight in weights.items()})
