"""The gradient by some of a network's parameters, and by no others."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def gradient(network: nn.Module, loss: Callable[[Any, Any], Tensor], batch: Any,
             parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
    """Value of loss(network, batch) and its gradient by `parameters`; zero where it does not depend on one.

    All other parameters are constants meanwhile. autograd alone would not ask for their gradients either, but functions
    with a backward of their own learn only in this way that they need not compute them.
    """
    chosen = set(map(id, parameters))
    frozen = [p for p in network.parameters() if p.requires_grad and id(p) not in chosen]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        value = loss(network, batch)
        if not value.requires_grad:  # no parameter has a say, as where every mixture is down to one operation
            return value.item(), [torch.zeros_like(p) for p in parameters]
        return value.item(), list(torch.autograd.grad(value, parameters, materialize_grads=True))
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
