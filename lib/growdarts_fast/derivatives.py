"""Backward passes that are written by hand are not differentiated again."""

from typing import Any

import torch


def refuse_second_derivative(name: str) -> None:
    """First in such a backward pass: a RuntimeError if it is itself to be differentiated.

    torch's `once_differentiable` says nothing where the gradient that comes in is a constant itself, as that of a sum is.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} can be differentiated once: compute within growdarts.forms.plain_forms()")


def kept_once(ctx: Any, name: str) -> Any:
    """First in one that overwrites what its forward pass kept: gives that, once."""
    refuse_second_derivative(name)
    if ctx.kept is None:
        raise RuntimeError(f"a backward pass through {name} used up what its forward pass kept: run that again, or compute "
                           "within growdarts.forms.plain_forms()")
    kept, ctx.kept = ctx.kept, None
    return kept
