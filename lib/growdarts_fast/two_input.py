r"""The two-input cell over all time steps as one autograd function with a backward written by hand.

Node j of N makes $s_j = \sum_o w_{jo}\, o(W_j x_t + b_j,\; U_j s_{j-1},\; s_{j-1})$. The plain form is
`growdarts.spaces.two_input.cell.TwoInputCell.states`, which also computes cells of operations that have no kernel.

An operation works unit by unit, so its derivatives $D^{us}$ by U s and $D^s$ by s itself have an entry a unit, and the gradient
goes back by $ds_{j-1} = D^s_j \odot ds_j + U_j^\top (D^{us}_j \odot ds_j)$; `two_input_kernels` has them.

Samples are columns here, so that all numbers of an operation lie side by side. What a node reads is one matrix, the state over
x_t over a row of ones, and its weights are another, (U, W, b); operations that multiply W x + b by U s have rows (U, 0, 0)
and rows (0, W, b). So a step has one product, and all weights get their gradient in one over all time steps.

Shapes: T time, B batch, I inputs, H hidden, N nodes, K operations, R rows, H for every weight of a node, R' of its matrix, C =
H + I + 1 of what it reads.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from growdarts.forms import fast_form
from growdarts.spaces.precision import product_type
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_fast.derivatives import kept_once
from growdarts_fast.memory import empty
from growdarts_fast.products import LEAST, ROWS, add_product, matmul
from growdarts_fast.two_input_kernels import CODES, MULTIPLIED, mix, mix_backward


@fast_form(TwoInputCell.states, "cpu")
def states(cell: TwoInputCell, x: Tensor, h: Tensor) -> Tensor:
    """`TwoInputCell.states` in float32 or float64, of operations that have a kernel [JG Eq. 3].

    Within `torch.autocast` the products are computed in its type, everything else in that of `h`.
    """
    names = tuple(tuple(operation.name for operation in node.operations()) for node in cell.nodes)
    if h.dtype not in (torch.float32, torch.float64) or not {name for node in names for name in node} <= CODES.keys():
        return NotImplemented
    tensors = [tensor for node in cell.nodes
               for tensor in (*node.input_weights(), node.state_weights(), node.mixture.weights())]
    dtype = product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _TwoInputScan.apply(names, dtype, x.to(h.dtype), h, *tensors)


@cache
def _layout(names: Sequence[str], H: int) -> tuple[np.ndarray, np.ndarray, Tensor, Tensor, int]:
    """Of a node's matrix: operations' codes and first blocks of H rows (K,), the rows of U s and of W x + b (R,), and R'."""
    firsts, of_us, of_wx, end = [], [], [], 0
    for name in names:
        blocks = range(end, end + TWO_INPUT[name].blocks)
        apart = len(blocks) * (name in MULTIPLIED)
        firsts.append(end)
        of_us += blocks
        of_wx += [block + apart for block in blocks]
        end += len(blocks) + apart
    of_us, of_wx = (torch.arange(end * H).view(end, H)[blocks].flatten() for blocks in (of_us, of_wx))
    return np.array([CODES[name] for name in names]), np.array(firsts), of_us, of_wx, end * H


class _NodePass:
    """A node's pass over the time steps: its mixture in one step, and the gradients through it, which overwrite what it
    saved.

    names, W, b, U, w : its operations, their weights (R, I), (R,), (R, H) and mixture weights (K,).
    read, after : what the node reads, and what the next one does, of which the pass fills the states (T, C, B).
    weights : (R', C). gradient : of the loss by their products (T, R', B), once `backward_step` has been called for all
        steps. dw : of the loss by w (K,).
    """

    def __init__(self, names: Sequence[str], W: Tensor, b: Tensor, U: Tensor, w: Tensor, read: Tensor, after: Tensor,
                 dtype: torch.dtype) -> None:
        (T, C, B), H = read.shape, U.shape[1]
        *self.layout, self.of_us, self.of_wx, rows = _layout(names, H)
        self.weights = read.new_zeros(rows, C, dtype=dtype)
        self.weights[:, :H].index_copy_(0, self.of_us, U.to(dtype))
        self.weights[:, H:].index_copy_(0, self.of_wx, torch.cat((W, b[:, None]), dim=1).to(dtype))
        w = w.detach() if len(w) > 1 else torch.ones_like(w)  # a single operation has no weight to share
        self.shares, self.dw = w.numpy(), torch.zeros_like(w, dtype=torch.float64)
        self.read, self.gradient = read, empty((T, rows, B), read.dtype)
        # views that every step needs, made once
        self.steps = list(zip(read, self.gradient, *(values.flatten(1).numpy() for values in (
            self.gradient, read[:, :H], after[:, :H])), strict=True))

    def step(self, t: int) -> None:
        """Make the state of time step t."""
        read, sums, kept, s, z = self.steps[t]
        if self.weights.dtype == sums.dtype:
            matmul(self.weights, read, out=sums, halves=True)
        else:
            sums.copy_(self.weights @ read.to(self.weights.dtype))
        mix(*self.layout, kept, s, self.shares, z)

    def backward_step(self, t: int, ds: Tensor, back: Tensor, by_read: Tensor) -> None:
        """From the loss's gradient ds (H, B) by the state made in time step t to that by the first rows of what was read there,
        `by_read` (H or more, B), zeros before, of weights `back`. The steps come from the last to the first."""
        _, gradient, kept, s, _ = self.steps[t]
        mix_backward(*self.layout, kept, s, self.shares, ds.numpy().ravel(), by_read.numpy().ravel(), self.dw.numpy())
        add_product(by_read, back, gradient.to(back.dtype))

    def by_weights(self) -> Tensor:
        """The gradient by them (R', C), computed in their type and added up in float32 at least; a few steps at a time."""
        B, dtype = self.read.shape[2], self.weights.dtype
        total = torch.zeros_like(self.weights, dtype=torch.promote_types(dtype, torch.float32))
        if total.dtype == dtype and total.numel() * B < LEAST:  # copies cost more than they gain
            return total.addbmm_(self.gradient, self.read.transpose(1, 2))
        for several in zip(*(values.split(max(1, ROWS // max(1, B))) for values in (self.gradient, self.read)), strict=True):
            x, y = (values.to(dtype).transpose(0, 1).flatten(1) for values in several)
            add_product(total, x, y.t())
        return total


class _TwoInputScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, names: Sequence[Sequence[str]], dtype: torch.dtype, x: Tensor, h: Tensor,
                *tensors: Tensor) -> Tensor:
        (T, B, I), (_, H), N = x.shape, h.shape, len(names)
        chain = empty((T * N + 1, H + I + 1, B), h.dtype)  # every node's state is read by the next one
        chain[0, :H] = h.t()
        chain[:-1].unflatten(0, (T, N))[:, :, H:-1] = x.transpose(1, 2).contiguous()[:, None]
        chain[:, -1] = 1
        passes = [_NodePass(of_node, *tensors[4 * j:4 * j + 4], chain[j:-1:N], chain[j + 1::N], dtype)
                  for j, of_node in enumerate(names)]
        with torch.inference_mode():  # whose bookkeeping counts, with operations on a few numbers
            for t in range(T):
                for node_pass in passes:
                    node_pass.step(t)
        if any(ctx.needs_input_grad):
            ctx.kept = passes
        return chain[N::N, :H].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        passes = kept_once(ctx, "two_input_scan")
        (T, B, H), (_, C, _) = grad.shape, passes[0].read.shape
        _, _, wants_x, _, *wants = ctx.needs_input_grad
        used = C - 1 if wants_x else H  # rows of what is read
        back = [node_pass.weights[:, :used].t().contiguous() for node_pass in passes]
        by_read, ds = [empty((T, used, B), grad.dtype).zero_() for _ in passes], grad.new_zeros(H, B)
        with torch.inference_mode():
            for t in reversed(range(T)):
                ds = ds + grad[t].t()
                for node_pass, weights, gradients in reversed(list(zip(passes, back, by_read, strict=True))):
                    node_pass.backward_step(t, ds, weights, gradients[t])
                    ds = gradients[t, :H]
        grads = []
        for j, node_pass in enumerate(passes):
            dW = db = dU = None
            if any(wants[4 * j:4 * j + 3]):
                by_weights = node_pass.by_weights()
                dU, by_wx = by_weights[node_pass.of_us, :H], by_weights[node_pass.of_wx, H:]
                dW, db = by_wx[:, :-1], by_wx[:, -1]
            grads += [value if value is None else value.contiguous() for value in (dW, db, dU, node_pass.dw.to(grad.dtype))]
        return None, None, sum(by_read)[:, H:].transpose(1, 2).contiguous() if wants_x else None, ds.t(), *grads
