"""Functions on several threads at once, each of which computes by itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def torch_alone() -> Iterator[int]:
    """Within the context torch computes on one thread; gives the number that it had before.

    After an operation on several threads these wait for the next one in a loop, which keeps their cores busy for some
    milliseconds.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n
    finally:
        torch.set_num_threads(n)


def at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all `calls` at the same time, each on a thread of its own; within `torch_alone`."""
    others = [_threads(len(calls) - 1).submit(call) for call in calls[1:]]
    try:
        calls[0]()
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
