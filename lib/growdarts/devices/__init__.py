"""Where a network and its data lie: one device, chosen by name."""

from dataclasses import fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from growdarts.settings import ConfigError

Device = Literal["auto", "cpu", "cuda"]


def find_device(asked: str | torch.device) -> torch.device:
    """The device of a name: "auto" is the GPU where there is one, else the CPU.

    A process computes on one GPU, torch's current one: CUDA_VISIBLE_DEVICES chooses among several. If there is no such
    device, a ConfigError names those that there are.
    """
    if asked == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(asked)
    except (RuntimeError, TypeError):
        device = None
    there = ["cpu"]
    if torch.cuda.is_available():
        there += ["cuda", f"cuda:{torch.cuda.current_device()}"]  # random states and graphs are those of the current one
    if device is None or device.type == "cuda" and str(device) not in there:
        others = "; CUDA_VISIBLE_DEVICES chooses another GPU" if torch.cuda.device_count() > 1 else ""
        raise ConfigError(f"device = {asked!r}: allowed are 'auto' and the devices that torch {torch.__version__} finds "
                          f"here, {', '.join(there)}{others}")
    return device


def to_device(data: Any, device: torch.device) -> Any:
    """A data set whose tensors lie on `device`: a tensor, or a dataclass whose fields are tensors, dataclasses or anything."""
    if isinstance(data, Tensor):
        return data.to(device)
    if is_dataclass(data):
        return replace(data, **{field.name: to_device(getattr(data, field.name), device) for field in fields(data)})
    return data


@lru_cache(maxsize=4096)
@torch.inference_mode(False)  # else autograd could not keep it later on
def constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers as a tensor on `device`, made once: to copy them in every pass would make a GPU wait."""
    return torch.tensor(values, dtype=dtype, device=device)
