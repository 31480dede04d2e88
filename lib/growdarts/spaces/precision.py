"""Types that cells compute in: that of their inputs, and for products that of `torch.autocast`, where it is on."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from growdarts.forms import has_fast_form


def without_autocast(device: str | torch.device) -> AbstractContextManager:
    """Within the context every function on `device` computes in the types of its arguments."""
    kind = torch.device(device).type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _autocasts(x: Tensor) -> bool:
    """Whether `torch.autocast` is on where x is."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def require_float(x: Tensor) -> None:
    """Raises TypeError unless x is of a type that cells compute in; within `torch.autocast` others may come in."""
    if x.dtype not in (torch.float32, torch.float64) and not _autocasts(x):
        raise TypeError(f"inputs of type {x.dtype}: allowed are torch.float32 and torch.float64")


def product_type(like: Tensor) -> torch.dtype:
    """Type in which a function that looks after its precision itself computes products of tensors such as `like`."""
    return torch.get_autocast_dtype(like.device.type) if _autocasts(like) else like.dtype


@has_fast_form
def product(x: Tensor, W: Tensor) -> Tensor:
    """x W of (..., k) and (k, m), of the type of `x`; within `torch.autocast` it is computed in its type."""
    return (x @ W).to(x.dtype)
