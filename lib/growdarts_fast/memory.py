"""A pool of memory for large temporary arrays.

Fresh memory is slow, because the system provides it page by page. So freed blocks are kept for arrays of the same size, and
blocks ask for pages of 2 MiB, which Linux grants where it can.
"""

import mmap
import weakref
from contextlib import suppress
from math import prod
from threading import RLock

import numpy as np
import torch
from torch import Tensor

LARGE = 2**18  # bytes


class Memory:
    """Blocks of memory; together they never exceed the most bytes that were in use at one time."""

    def __init__(self) -> None:
        self.free: list[mmap.mmap] = []
        self.in_use = self.most = 0
        self.lock = RLock()  # a block may come back at any moment, also from another thread

    def take(self, nbytes: int) -> mmap.mmap:
        """A block of this size, of unknown content."""
        with self.lock:
            self.in_use += nbytes
            self.most = max(self.most, self.in_use)
            for i, block in enumerate(self.free):
                if len(block) == nbytes:
                    return self.free.pop(i)
            while self.free and self.in_use + sum(map(len, self.free)) > self.most:
                del self.free[0]  # the one that has not been used for longest
        block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(AttributeError, OSError):  # a system or a kernel without them
            block.madvise(mmap.MADV_HUGEPAGE)
        return block

    def give_back(self, block: mmap.mmap) -> None:
        with self.lock:
            self.in_use -= len(block)
            self.free.append(block)


_memory = Memory()


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """As `torch.empty` on the CPU."""
    nbytes = prod(shape) * dtype.itemsize
    if nbytes < LARGE:
        return torch.empty(shape, dtype=dtype)
    block = _memory.take(nbytes)
    array = np.frombuffer(block, np.uint8)
    weakref.finalize(array, _memory.give_back, block).atexit = False
    return torch.from_numpy(array).view(dtype).view(shape)
