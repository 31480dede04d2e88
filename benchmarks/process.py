"""A step in a process of its own, which says how far its memory rose: python -m benchmarks.process '{"size": ...}'.

Prints {"peak_mib": ..., "seconds": [...], "forward_flops": ...}, the last of a batch. Linux only: the kernel's mark of
the largest resident memory is set back.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.sizes import TOY, Size
from benchmarks.splitting import selection_memory
from benchmarks.steps import Subject, reference_step, search_step, subject
from benchmarks.timing import seconds


def peak_rise(step: Callable[[], Any]) -> float:
    """MiB by which the resident memory of this process exceeds, at most, during `step` what it was before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak is the present size
    before = _status("VmRSS")
    step()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """Of this process, KiB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])


def step_of(made: Subject, what: str, order: int) -> Callable[[], Any]:
    """What is measured: "reference", "splitting", or a precision of the library's step."""
    if what == "reference":
        return reference_step(made, order)
    if what == "splitting":
        return lambda: selection_memory(made)
    return search_step(made, order, what)


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Load everything by a step of toy size, then the step of interest."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    size = Size(**job["size"])
    step_of(subject(TOY[size.space]), job["what"], job["order"])()
    made = subject(size)
    step = step_of(made, job["what"], job["order"])
    peak = peak_rise(step)
    return {"peak_mib": peak, "seconds": [seconds(step) for _ in range(job["rounds"])],
            "forward_flops": made.network.flops() * size.batch * max(1, size.length)}  # of all tokens or images


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
