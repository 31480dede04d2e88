"""Functions on several threads at once, each of which computes by itself."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache

import torch


@contextmanager
def torch_alone() -> Iterator[int]:
    """Within the context torch computes on one thread; gives how many it had.

    After an operation that it shares out, its other threads wait for the next one so eagerly that nobody else can use
    their processors for some milliseconds.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n
    finally:
        torch.set_num_threads(n)


def in_lanes(lanes: Sequence[Callable[[], None]]) -> None:
    """Call all of `lanes` at the same time; within `torch_alone`."""
    others = [_threads(len(lanes) - 1).submit(lane) for lane in lanes[1:]]
    try:
        lanes[0]()
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
