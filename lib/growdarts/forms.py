"""Plain and fast forms of the same function.

A few functions decide how long a search takes. In this package each is a plain one, which reads like its equation and can
be differentiated as often as one likes, marked by `has_fast_form`. The package `growdarts_fast`, if it can be
imported, registers faster forms of the same signature for a kind of device, with `fast_form`. The plain form is used if

* the fast form returns `NotImplemented`, by which it declines arguments that it cannot take,
* the code is inside `plain_forms()`, or the environment has GROWDARTS_PLAIN=1, or
* torch is tracing or exporting, or a module has hooks.

The contract of a fast form: the values and first derivatives of the plain one up to rounding, the same side effects on
buffers, no random draws, and an error for a second derivative.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

F = TypeVar("F", bound=Callable[..., Any])

logger = logging.getLogger(__name__)
_plain: ContextVar[bool] = ContextVar("plain", default=False)
_forms: dict[tuple[Callable[..., Any], str], Callable[..., Any]] = {}  # plain function, kind of device -> its fast form


def has_fast_form(plain: F) -> F:
    """Decorator: calls go to the fast form for the device of module and tensors, if there is one that takes them.

    The function itself stays available as its attribute `plain`.
    """

    @wraps(plain)
    def chosen(*args: Any, **kwargs: Any) -> Any:
        if not _plain.get() and _fast_package() and not _watched(args):
            tensors = [next(arg.parameters()) if isinstance(arg, nn.Module) else arg for arg in args]
            devices = {tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)}
            fast = _forms.get((plain, *devices))  # none for those of two devices
            if fast is not None and (result := fast(*args, **kwargs)) is not NotImplemented:
                return result
        return plain(*args, **kwargs)

    chosen.plain = plain
    return chosen


def _watched(args: tuple[Any, ...]) -> bool:
    """Whether somebody looks at the operations themselves: torch's tracers, or hooks on a module that is called."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting() or any(
        module._forward_hooks or module._forward_pre_hooks
        for arg in args[:1] if isinstance(arg, nn.Module) for module in arg.modules())


def fast_form(of: Callable[..., Any], device: str) -> Callable[[F], F]:
    """Decorator: registers a function as the fast form of `of`, which has been marked by `has_fast_form`, on `device`."""

    def register(fast: F) -> F:
        _forms[of.plain, device] = fast
        return fast

    return register


@cache
def _fast_package() -> bool:
    """Whether `growdarts_fast` can be imported, which registers its forms. The only place that looks for it.

    Not where the environment has GROWDARTS_PLAIN=1: compiling the forms takes longer than a small run.
    """
    if os.environ.get("GROWDARTS_PLAIN") == "1":
        return False
    try:
        import growdarts_fast  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name not in ("growdarts_fast", "numba", "llvmlite"):
            raise
        logger.info("plain forms only: there is no module %s", error.name)
        return False
    return True


@contextmanager
def plain_forms() -> Iterator[None]:
    """Within the context every function is computed in its plain form."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)
