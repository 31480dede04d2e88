"""Precision of the matrix products: float32, or bfloat16 on processors that compute with it."""

from contextlib import AbstractContextManager
from typing import Literal

import torch
from torch import Tensor

from growdarts.products import differentiable

Precision = Literal["float32", "bfloat16"]


def used_precision(asked: Precision) -> Precision:
    """The precision that this processor computes in when asked for `asked`: without bf16 units, float32."""
    capabilities = torch.cpu.get_capabilities()
    has_units = capabilities.get("avx512_bf16", False) or capabilities.get("amx_bf16", False)
    return asked if has_units else "float32"


def products_in(asked: Precision) -> AbstractContextManager:
    """Within the context matrix products are computed in `used_precision(asked)`.

    bfloat16 has the range of float32 and 8 bits of its 24. Weights, their updates, softmax and loss stay in float32.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=used_precision(asked) == "bfloat16")


def product_type(like: Tensor) -> torch.dtype:
    """Type in which a function that looks after its precision itself computes products of tensors such as `like`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else like.dtype


def product(x: Tensor, W: Tensor) -> Tensor:
    """x W of the type of `x`; within `torch.autocast` it is computed in its type."""
    return (x @ W).to(x.dtype) if torch.is_autocast_enabled("cpu") else differentiable(x, W)
