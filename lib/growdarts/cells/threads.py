"""Compiled kernels on several channels at once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor


def by_channel(kernel: Callable, *arguments: Any) -> None:
    """kernel(*arguments), the channels - rows of all tensors - shared out among as many threads as torch uses.

    The kernel must be compiled with `nogil` and fill its arguments channel by channel.
    """
    arguments = [argument.numpy() if isinstance(argument, Tensor) else argument for argument in arguments]
    rows = len(arguments[0])
    n = min(torch.get_num_threads(), rows)
    if n == 1:
        kernel(*arguments)
        return
    cuts = [rows * i // n for i in range(n + 1)]
    parts = [[argument[a:b] if isinstance(argument, np.ndarray) else argument for argument in arguments]
             for a, b in zip(cuts, cuts[1:])]
    others = [_threads(n - 1).submit(kernel, *part) for part in parts[1:]]
    kernel(*parts[0])
    for other in others:
        other.result()


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n)
