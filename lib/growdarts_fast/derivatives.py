"""Backward passes that are written by hand are not differentiated again."""

import torch


def refuse_second_derivative(name: str) -> None:
    """To be called first in such a backward pass: autograd would take its result for a constant.

    torch's `once_differentiable` says nothing where the gradient that comes in is a constant itself, as that of a sum is.

    Raises
    ------
    RuntimeError
        the backward pass is itself to be differentiated.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(f"{name} can be differentiated once: compute within growdarts.forms.plain_forms()")
