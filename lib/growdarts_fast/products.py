"""Products of matrices, by whichever of torch's two libraries computes them faster, or within a compiled loop.

`torch.mm` of float32 goes to the BLAS that torch was built with. That is MKL for x86 processors, which uses the widest
vector instructions of Intel's alone; `torch.nn.Linear` as `torch.compile` builds it goes to oneDNN, which uses them on
others too. Both compute in float32. oneDNN takes longer to start, so small products have `torch.mm`, as have other types,
Intel's processors, and builds without MKL or oneDNN.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from growdarts.forms import fast_form
from growdarts.spaces.precision import product

# A compiled function that is called has code of its own and code within its caller, rounded differently: which of the two runs would
# depend on whether this process has compiled them, or found them in numba's cache.
inlined = numba.njit(inline="always", nogil=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"})

LEAST = 2**21  # multiply-adds from which oneDNN is the faster one
SMALL = 2**20  # multiply-adds up to which a loop that is compiled with all else of a cell is faster than either library
LONG = 256  # terms of a sum from which halves are worth their time
ROWS = 4096  # of a product over time: as many are copied side by side at once


def _onednn_product(processor: str) -> Any:
    """oneDNN's product if it is the faster one on this `processor`, else None."""
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    faster = both and not processor.startswith("Intel")
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if faster else None


_linear = _onednn_product(torch.cpu.get_capabilities().get("cpu_name", ""))


def matmul(x: Tensor, W: Tensor, out: Tensor | None = None, *, halves: bool = False) -> Tensor:
    """x W of matrices (n, k) and (k, m), in `out` if that is given; autograd does not follow it.

    halves : add up long sums in two halves, as torch.mm does. It takes an eighth longer and loses fewer digits, for what is
        multiplied again and again, such as states.
    """
    if not _is_faster(x, W):
        return torch.mm(x, W, out=out)
    half = len(W) // 2
    found = (_onednn(x[:, :half], W[:half]).add_(_onednn(x[:, half:], W[half:])) if halves and len(W) >= LONG
             else _onednn(x, W))
    return found if out is None else out.copy_(found)


@inlined
def add_small_product(out: Any, W: Any, x: Any) -> None:
    """For compiled functions: out (R, n) += W x of (R, C) and (C, n), four terms at once, added up before they are added to `out`."""
    (R, C), n = W.shape, x.shape[1]
    total, fours = np.empty(n, x.dtype), C // 4 * 4
    for r in range(R):
        total[:] = 0
        for c in range(0, fours, 4):
            w0, w1, w2, w3 = W[r, c], W[r, c + 1], W[r, c + 2], W[r, c + 3]
            x0, x1, x2, x3 = x[c], x[c + 1], x[c + 2], x[c + 3]
            for i in range(n):
                total[i] += w0 * x0[i] + w1 * x1[i] + w2 * x2[i] + w3 * x3[i]
        for c in range(fours, C):
            w, term = W[r, c], x[c]
            for i in range(n):
                total[i] += w * term[i]
        row = out[r]
        for i in range(n):
            row[i] += total[i]


def add_product(total: Tensor, x: Tensor, W: Tensor) -> None:
    """total += x W of matrices (n, k) and (k, m), computed in the type of W; autograd does not follow it."""
    if x.dtype != W.dtype:
        x = x.to(W.dtype)
    if W.dtype == total.dtype and not _is_faster(x, W):
        total.addmm_(x, W)  # in place: memory that is new to the process takes long
    else:
        total += matmul(x, W)


def over_time(x: Tensor, y: Tensor, dtype: torch.dtype) -> Tensor:
    """x^T y over all dimensions but the last, (T, ..., n) and (T, ..., m) -> (n, m), computed in `dtype` and added up in
    float32 at least; a few steps at a time."""
    steps = max(1, ROWS // x[0, ..., 0].numel())
    total = x.new_zeros(x.shape[-1], y.shape[-1], dtype=torch.promote_types(dtype, torch.float32))
    for a, b in zip(x.split(steps), y.split(steps), strict=True):
        add_product(total, a.to(dtype).flatten(0, -2).t(), b.to(dtype).flatten(0, -2))
    return total


@fast_form(product, "cpu")
def differentiable(x: Tensor, W: Tensor) -> Tensor:
    """x W of (..., k) and (k, m) by oneDNN where that is faster; autograd follows it, as often as one likes."""
    if torch.is_autocast_enabled("cpu") or not _is_faster(x, W):
        return NotImplemented
    return _Product.apply(x.flatten(0, -2), W).unflatten(0, x.shape[:-1])


def _onednn(x: Tensor, W: Tensor) -> Tensor:
    if not (W.is_contiguous() or W.t().is_contiguous()):
        W = W.contiguous()  # for others it has no fast way: hundreds of times the seconds
    return _linear.default(x, W.t(), None, "none", [], "")


def _is_faster(x: Tensor, W: Tensor) -> bool:
    if _linear is None or torch.compiler.is_compiling():  # which chooses for itself
        return False
    return x.dtype == torch.float32 and x.is_cpu and W.is_cpu and x.numel() * W.shape[1] >= LEAST


class _Product(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor) -> Tensor:
        ctx.save_for_backward(x, W)
        return matmul(x, W)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (x, W), (wants_x, wants_W) = ctx.saved_tensors, ctx.needs_input_grad
        return (_Product.apply(grad, W.t()) if wants_x else None, _Product.apply(x.t(), grad) if wants_W else None)
