"""Fast and plain forms of the same functions.

Where the equations as they stand are slow, the library computes them another way: the mixed cells and the loss over a
large vocabulary. The plain form stays beside the fast one. It is what tests and benchmarks compare with, and
what can be differentiated twice. Convolutional cells are also traced in it, because it calls their operations one by one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_plain: ContextVar[bool] = ContextVar("plain", default=False)


def is_plain() -> bool:
    """Whether the plain forms are asked for."""
    return _plain.get()


@contextmanager
def plain_forms() -> Iterator[None]:
    """Within the context every function is computed in its plain form."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def refuse_second_derivative(name: str) -> None:
    """To be called first in a backward pass that is a function by hand: autograd would take its result for a constant.

    Raises
    ------
    RuntimeError
        the pass is itself to be differentiated.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} can be differentiated once: compute within growdarts.forms.plain_forms()")
