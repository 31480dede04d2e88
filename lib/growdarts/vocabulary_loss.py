r"""The loss over a large vocabulary without its logits: a few rows at a time, the gradients in the same pass.

torch's `linear_cross_entropy` does the same in float32, but rounds its loss to bfloat16 where the products are.
Shapes: n rows, H hidden, V words.
"""

from typing import Any

import torch
from torch import Tensor, nn

from growdarts.plain import is_plain, refuse_second_derivative
from growdarts.precision import product_type

ROWS = 128  # their logits over 10,000 words fit into the cache of a core


def vocabulary_loss(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
    r"""Mean cross entropy in nats of the words y (n,) under the logits $x W^\top + b$; x (n, H), W (V, H), b (V,).

    The plain form is `cross_entropy(linear(x, W, b), y)`, see `growdarts.plain`. Within `torch.autocast` the products
    are computed in its type, softmax and loss in that of the weights.
    """
    if is_plain():
        return nn.functional.cross_entropy(nn.functional.linear(x, W, b), y)
    dtype = product_type(W)
    with torch.autocast("cpu", enabled=False):
        return _VocabularyLoss.apply(x.to(W.dtype), W, b, y, dtype)


class _VocabularyLoss(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
        wants_x, wants_W, wants_b, *_ = ctx.needs_input_grad
        dx = torch.empty_like(x) if wants_x else None
        dW = torch.zeros_like(W) if wants_W else None
        db = torch.zeros_like(b) if wants_b else None
        total, W, n = x.new_zeros(()), W.to(dtype), len(x)
        logits = b.new_empty(min(n, ROWS), len(W))
        product = logits if dtype == b.dtype else torch.empty_like(logits, dtype=dtype)
        for first in range(0, n, ROWS):
            rows, words = slice(first, first + ROWS), y[first:first + ROWS, None]
            read = x[rows].to(dtype)
            torch.mm(read, W.t(), out=product[:len(read)])
            e = logits[:len(read)].copy_(product[:len(read)]).add_(b)
            # in place, because memory that is new to the process costs more than the arithmetic
            largest = e.amax(dim=1, keepdim=True)
            target = e.gather(1, words)
            shares = e.sub_(largest).exp_().sum(dim=1, keepdim=True)
            total += (largest + shares.log() - target).sum()
            if not (wants_x or wants_W or wants_b):
                continue
            d = e.mul_(1 / (n * shares)).scatter_add_(1, words, e.new_full(words.shape, -1 / n))  # by the logits
            if wants_b:
                db += d.sum(dim=0)
            d = d.to(dtype)
            if wants_x:
                dx[rows] = d @ W
            if wants_W and dtype == dW.dtype:
                dW.addmm_(d.t(), read)
            elif wants_W:
                dW += d.t() @ read
        ctx.save_for_backward(dx, dW, db)
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("vocabulary_loss")
        return (*(None if g is None else g * grad for g in ctx.saved_tensors), None, None)
