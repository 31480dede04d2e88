r"""The loss over a large vocabulary without its logits: a few rows at a time, the gradients in the same pass.

torch's `linear_cross_entropy` does the same in float32, but rounds its loss to bfloat16 where the products are.
Shapes: n rows, H hidden, V words.
"""

from typing import Any

import torch
from torch import Tensor, nn

from growdarts_fast.derivatives import refuse_second_derivative
from growdarts_fast.memory import empty
from growdarts.forms import fast_form
from growdarts.spaces.precision import product_type
from growdarts.tasks import language
from growdarts_fast.products import add_product, matmul

ROWS = 128  # their logits over 10,000 words fit into the cache of a core


@fast_form(language.vocabulary_loss, "cpu")
def vocabulary_loss(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """`growdarts.tasks.language.vocabulary_loss`; within `torch.autocast` softmax and loss are of the type of the weights."""
    if W.dtype not in (torch.float32, torch.float64):
        return NotImplemented
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
        W_read, n = W.to(dtype), len(x)
        logits, shares = empty((min(n, ROWS), len(W)), b.dtype), x.new_empty(n)
        product = None if dtype == b.dtype else empty(logits.shape, dtype)
        for first in range(0, n, ROWS):
            rows = slice(first, first + ROWS)
            read = x[rows].to(dtype)
            # in place, because memory that is new to the process costs more than the arithmetic
            e = logits[:len(read)]
            if product is None:
                matmul(read, W_read.t(), out=e).add_(b)
            else:
                e.copy_(torch.mm(read, W_read.t(), out=product[:len(read)])).add_(b)
            p = torch.softmax(e, 1, out=e)
            torch.gather(p, 1, y[rows, None], out=shares[rows, None])
            # the gradient by the logits is p but for 1 at the word itself, which is subtracted in the end
            if wants_b:
                db += p.sum(dim=0)
            if wants_x or wants_W:
                p = p.to(dtype)
            if wants_x:
                dx[rows] = matmul(p, W_read)
            if wants_W:
                add_product(dW, p.t(), read)
        if wants_x:
            dx -= W[y]
        if wants_W:
            dW.index_add_(0, y, x, alpha=-1)
        if wants_b:
            db -= torch.bincount(y, minlength=len(b))
        exact = shares > torch.finfo(shares.dtype).tiny
        total = -shares[exact].log().sum()
        for rows in (~exact).nonzero().flatten().split(ROWS):  # so small that they have lost digits, or all of them
            anew = nn.functional.linear(x[rows].to(dtype), W_read).to(b.dtype) + b
            total += nn.functional.cross_entropy(anew, y[rows], reduction="sum")
        ctx.save_for_backward(dx, dW, db)
        ctx.n = n
        return total / n

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("vocabulary_loss")
        return (*(None if g is None else g * (grad / ctx.n) for g in ctx.saved_tensors), None, None)
