"""State dicts of other code: everything fits, or an error lists what does not."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class StateDictError(ValueError):
    """A state dict does not fit; says what is missing, left over or of another shape."""


@torch.no_grad()
def load_tensors(targets: Mapping[str, Tensor], state: Mapping[str, Tensor], optional: Sequence[str] = ()) -> None:
    """Copy `state` into `targets` of the same names; nothing is written unless everything fits.

    Raises
    ------
    StateDictError
        lists the names that are missing and left over, and wrong shapes.
    """
    missing = [name for name in targets if name not in state and name not in optional]
    left_over = [name for name in state if name not in targets]
    shapes = [f"{name} {tuple(state[name].shape)} instead of {tuple(target.shape)}"
              for name, target in targets.items() if name in state and state[name].shape != target.shape]
    if missing or left_over or shapes:
        raise StateDictError(f"the state dict does not fit: missing {missing}, left over {left_over}, "
                             f"wrong shapes [{', '.join(shapes)}]")
    for name, target in targets.items():
        if name in state:
            target.copy_(state[name])
