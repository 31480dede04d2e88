"""Precision of the matrix products: float32, or bfloat16 on processors and GPUs that compute with it."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from growdarts.forms import has_fast_form

Precision = Literal["float32", "bfloat16"]


def used_precision(asked: Precision, device: str | torch.device = "cpu") -> Precision:
    """The precision that `device` computes in when asked for `asked`: float32 unless it has bf16 units.

    On a processor the units must be there and torch must be able to use them for every cell, which a limit on oneDNN's
    instruction sets (`ONEDNN_MAX_CPU_ISA`) can rule out.
    """
    kind = torch.device(device).type
    units = _has_bfloat16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return asked if asked == "float32" or units else "float32"


@cache
def _has_bfloat16() -> bool:
    """Whether the processor has bf16 units and torch's LSTM runs in bfloat16, which is tried out once."""
    capabilities = torch.cpu.get_capabilities()
    if not (capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)):
        return False
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16):
        try:
            nn.LSTM(1, 1)(torch.zeros(1, 1, 1))[0].sum().backward()
        except RuntimeError:
            return False
    return True


def products_in(asked: Precision, device: str | torch.device = "cpu") -> AbstractContextManager:
    """Within the context matrix products on `device` are computed in `used_precision(asked, device)`.

    bfloat16 has the range of float32 and 8 bits of its 24. Weights, their updates, softmax and loss stay in float32.
    """
    return _autocast(device, used_precision(asked, device) == "bfloat16")


def without_autocast(device: str | torch.device) -> AbstractContextManager:
    """Within the context every function on `device` computes in the types of its arguments."""
    return _autocast(device, False)


def _autocast(device: str | torch.device, enabled: bool) -> AbstractContextManager:
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16, enabled=enabled) if torch.amp.is_autocast_available(kind) else nullcontext()


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
