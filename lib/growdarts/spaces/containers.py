"""Containers of what belongs to the operations of a mixture, by key.

torch.nn's own refuse keys that name one of their attributes. An operation may be called `update` or `copy` all the same:
its weights are then stored under `update_` or `copy_`.
"""

from typing import Any

from torch import nn

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
