"""Precision of the matrix products: float32, or bfloat16 on processors that compute with it."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from growdarts.forms import has_fast_form

Precision = Literal["float32", "bfloat16"]


def used_precision(asked: Precision) -> Precision:
    """The precision that this processor computes in when asked for `asked`: float32 unless it has bf16 units.

    The units must be there and torch must be able to use them for every cell, which a limit on oneDNN's instruction
    sets (`ONEDNN_MAX_CPU_ISA`) can rule out.
    """
    return asked if asked == "float32" or _has_bfloat16() else "float32"


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


def products_in(asked: Precision) -> AbstractContextManager:
    """Within the context matrix products are computed in `used_precision(asked)`.

    bfloat16 has the range of float32 and 8 bits of its 24. Weights, their updates, softmax and loss stay in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=used_precision(asked) == "bfloat16")


def product_type(like: Tensor) -> torch.dtype:
    """Type in which a function that looks after its precision itself computes products of tensors such as `like`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else like.dtype


@has_fast_form
def product(x: Tensor, W: Tensor) -> Tensor:
    """x W of (..., k) and (k, m), of the type of `x`; within `torch.autocast` it is computed in its type."""
    return (x @ W).to(x.dtype)
