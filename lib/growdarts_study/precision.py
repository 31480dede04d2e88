"""Precision of the matrix products: float32, or bfloat16 on processors and GPUs that compute with it."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn

from growdarts.tasks.language import LanguageModel, LanguageTask, Window

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
    lower = used_precision(asked, device) == "bfloat16"
    return torch.autocast(torch.device(device).type, torch.bfloat16) if lower else nullcontext()


@dataclass(frozen=True)
class MixedPrecisionTask(LanguageTask):
    """A language task with the products of its loss in `precision`; evaluations are in float32."""

    precision: Precision = "float32"

    def loss(self, network: LanguageModel, window: Window) -> Tensor:
        with products_in(self.precision, self.device):
            return super().loss(network, window)
