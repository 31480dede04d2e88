"""What a search step asks of a GPU, counted without one: kernels that are launched, numbers that the host reads.

The step runs on the CPU in its plain form, as it would on a GPU, with few units and columns: their number does not matter.
An operation of torch that computes anything counts as one kernel: a GPU needs one for most, more for a few, such as batch
norms. What the host reads is counted on torch's device `meta`, which has no CPU's forms of the optimisers.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.sizes import Size
from benchmarks.steps import reference_step, search_step, subject
from growdarts.devices.captured import Graphs
from growdarts.forms import plain_forms

FREE = ("view", "reshape", "alias", "detach", "t.", "transpose", "permute", "expand", "slice", "select", "split", "chunk",
        "unsqueeze", "squeeze", "unbind", "as_strided", "empty", "new_empty", "lift", "unfold", "is_same_size", "diagonal")
HOST = ("_local_scalar_dense", "nonzero", "equal.", "is_nonzero")  # a GPU's answer is waited for


class Counting(TorchDispatchMode):
    """Counts `kernels` by name, and `transfers`: operations that read a number, or that copy between devices."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.kernels, self.transfers = device, Counter(), Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, result = str(function).removeprefix("aten."), function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        there = [x for x in tensors if x.device.type == self.device]
        if there and (len(there) < len(tensors) or name.startswith(HOST)):
            self.transfers[name] += 1
        elif there and not name.startswith(FREE):
            self.kernels[name] += 1
        return result


class Repeated:
    """Stands in for `growdarts.devices.captured.CudaGraph` where there is no GPU: the function itself, without being counted."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.function = function

    @staticmethod
    def warm_up(function: Callable[[], Any]) -> Any:
        """As always."""
        return function()

    def replay(self) -> Any:
        """Compute anew."""
        with torch.utils._python_dispatch._disable_current_modes():
            return self.function()


def counted(step: Callable[[], Any], device: str = "cpu") -> Counting:
    """A step, in plain form."""
    with plain_forms(), Counting(device) as counting:
        step()
    return counting


def few(size: Size) -> Size:
    """As many nodes, operations, cells and time steps; few units, columns, words and pixels."""
    return replace(size, width=4, batch=2, words=size.words and 20, pixels=size.pixels and 8)


def launches(size: Size, order: int) -> dict[str, int]:
    """Kernels of a step: of the plain reference, of the library (`eager`), and beside the graphs of its captured form, of
    which it makes `replays`; and how often the host waits for a number (`transfers`). The first step of each, which sets up
    its optimisers, is not counted."""
    made, graphs = subject(few(size)), Graphs(Repeated, "cpu")
    reference, step = reference_step(made, order), search_step(made, order)
    reference()
    with graphs.of(made.network):
        step()
        step()
        before, captured = graphs.replays, counted(step)
        replays = graphs.replays - before
    there = counted(search_step(subject(few(size), "meta"), order), "meta")
    return {"reference": counted(reference).kernels.total(), "eager": counted(step).kernels.total(),
            "captured": captured.kernels.total(), "replays": replays, "transfers": there.transfers.total()}
