r"""The two-input cell over all time steps as one autograd function with a backward written by hand.

Node j of N makes $s_j = \sum_o w_{jo}\, o(W_j x_t + b_j,\; U_j s_{j-1},\; s_{j-1})$. The plain form is
`growdarts.spaces.two_input.cell.TwoInputCell.states`, which also computes cells of operations that have no kernel.

An operation works unit by unit, so its derivatives $D^{us}$ by U s and $D^s$ by s itself have an entry a unit, and the gradient
goes back by $ds_{j-1} = D^s_j \odot ds_j + U_j^\top (D^{us}_j \odot ds_j)$; `two_input_kernels` has them.

Samples are columns here, so that all numbers of an operation lie side by side. What a node reads is one matrix, the state over
x_t over a row of ones, and its weights are another, (U, W, b); operations that multiply W x + b by U s have rows (U, 0, 0)
and rows (0, W, b). So a step has one product, and all weights get their gradient in one over all time steps. Where products
are small, one compiled function makes all steps, products included: to call a library for each would take longer.

Shapes: T time, B batch, I inputs, H hidden, N nodes, K operations of all nodes, R rows, H for every weight of all nodes, R' of
their matrix, C = H + I + 1 of what a node reads.
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
from growdarts_fast.products import LEAST, ROWS, SMALL, add_product, matmul
from growdarts_fast.two_input_kernels import CODES, MULTIPLIED, scan, scan_backward


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
def _layout(names: Sequence[Sequence[str]], H: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Tensor, Tensor]:
    """Of the nodes' matrix: operations' codes, and first blocks of H rows from where those of their node begin (K,); where a
    node's operations and its rows begin and end (N + 1,); the rows of U s and of W x + b (R,)."""
    firsts, ends, rows, of_us, of_wx = [], [0], [0], [], []
    for node in names:
        end = rows[-1]
        for name in node:
            blocks = range(end, end + TWO_INPUT[name].blocks)
            apart = len(blocks) * (name in MULTIPLIED)
            firsts.append(end - rows[-1])
            of_us += blocks
            of_wx += [block + apart for block in blocks]
            end += len(blocks) + apart
        ends.append(len(firsts))
        rows.append(end)
    of_us, of_wx = (torch.arange(end * H).view(end, H)[blocks].flatten() for blocks in (of_us, of_wx))
    return np.array([CODES[name] for node in names for name in node]), np.array(firsts), np.array(ends), np.array(rows) * H, of_us, of_wx


class _Passes:
    """The forward pass over the time steps, and the backward pass, which overwrites what the forward pass saved.

    W, b, U, w : of every node, weights (its R, I), (its R,), (its R, H) and mixture weights (its K,).
    chain : (T N + 1, C, B), what nodes read one after another; the forward pass fills the states.
    weights : (R', C). kept : the products (T, R', B). dw : of the loss by w (K,).
    """

    def __init__(self, names: Sequence[Sequence[str]], W: Sequence[Tensor], b: Sequence[Tensor], U: Sequence[Tensor],
                 w: Sequence[Tensor], chain: Tensor, dtype: torch.dtype) -> None:
        (steps, C, B), H, N = chain.shape, U[0].shape[1], len(names)
        *layout, self.of_us, self.of_wx = _layout(names, H)
        self.rows = list(map(slice, layout[-1], layout[-1][1:]))  # of a node
        self.weights = chain.new_zeros(layout[-1][-1], C, dtype=dtype)
        self.weights[:, :H].index_copy_(0, self.of_us, torch.cat(U).to(dtype))
        self.weights[:, H:].index_copy_(0, self.of_wx, torch.cat((torch.cat(W), torch.cat(b)[:, None]), dim=1).to(dtype))
        # a single operation has no weight to share
        shares = torch.cat([of_node.detach() if len(of_node) > 1 else torch.ones_like(of_node) for of_node in w])
        self.dw = torch.zeros_like(shares, dtype=torch.float64)
        self.chain, self.kept, self.H, self.N = chain, empty(((steps - 1) // N, len(self.weights), B), chain.dtype), H, N
        self.arguments = *layout, *(array.numpy() for array in (self.weights.to(chain.dtype), shares, self.kept, chain)), H
        self.small = dtype == chain.dtype and self.weights.numel() * B <= N * SMALL

    def forward(self) -> None:
        """Make the states."""
        if self.small:
            return scan(*self.arguments, (0, len(self.chain) - 1), True)
        with torch.inference_mode():  # whose bookkeeping counts, with operations on a few numbers
            for k, read in enumerate(self.chain[:-1]):
                t, j = divmod(k, self.N)
                weights, sums = self.weights[self.rows[j]], self.kept[t, self.rows[j]]
                if weights.dtype == sums.dtype:
                    matmul(weights, read, out=sums, halves=True)
                else:
                    sums.copy_(weights @ read.to(weights.dtype))
                scan(*self.arguments, (k, k + 1), False)

    def backward(self, by_chain: Tensor, by_weights: Tensor) -> None:
        """From the loss's gradient by the states that the cell returns, in the place of these in `by_chain` (T N + 1, H or more, B), zero
        elsewhere, to that by as many rows of all of `chain`. That by `weights` is added to `by_weights` if this has rows."""
        steps, dtype, found = len(self.chain) - 1, self.weights.dtype, (by_chain.numpy(), by_weights.numpy(), self.dw.numpy())
        if self.small:
            return scan_backward(*self.arguments, (0, steps), True, *found)
        transposed = [self.weights[rows, :by_chain.shape[1]].t().contiguous() for rows in self.rows]
        product = torch.empty_like(by_chain[0], dtype=dtype)  # summed up before it is added, which loses fewer digits
        with torch.inference_mode():
            for k in reversed(range(steps)):
                t, j = divmod(k, self.N)
                scan_backward(*self.arguments, (k, k + 1), False, *found)
                by_chain[k] += matmul(transposed[j], self.kept[t, self.rows[j]].to(dtype), out=product)
        for j, rows in enumerate(self.rows if len(by_weights) else []):
            total, pair = by_weights[rows], (self.kept[:, rows], self.chain[j:-1:self.N])
            if total.dtype == dtype and self.weights[rows].numel() * self.chain.shape[2] < LEAST:  # copies cost more than they gain
                total.addbmm_(pair[0], pair[1].transpose(1, 2))
                continue
            several = max(1, ROWS // max(1, self.chain.shape[2]))  # time steps at once
            for x, y in zip(*(values.split(several) for values in pair), strict=True):
                x, y = (values.to(dtype).transpose(0, 1).flatten(1) for values in (x, y))
                add_product(total, x, y.t())


class _TwoInputScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, names: Sequence[Sequence[str]], dtype: torch.dtype, x: Tensor, h: Tensor,
                *tensors: Tensor) -> Tensor:
        (T, B, I), (_, H), N = x.shape, h.shape, len(names)
        chain = empty((T * N + 1, H + I + 1, B), h.dtype)  # every node's state is read by the next one
        chain[0, :H] = h.t()
        chain[:-1].unflatten(0, (T, N))[:, :, H:-1] = x.transpose(1, 2).contiguous()[:, None]
        chain[:, -1] = 1
        parts = [tensors[i::4] for i in range(4)]
        passes = _Passes(names, *parts, chain, dtype)
        passes.forward()
        if any(ctx.needs_input_grad):
            ctx.kept, ctx.sizes = passes, [list(map(len, part)) for part in parts]
        return chain[N::N, :H].transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        passes = kept_once(ctx, "two_input_scan")
        (steps, C, B), H, N, weights = passes.chain.shape, passes.H, passes.N, passes.weights
        _, _, wants_x, _, *wants = ctx.needs_input_grad
        wants_theta = any(any(wants[i::4]) for i in range(3))
        by_chain = empty((steps, C - 1 if wants_x else H, B), grad.dtype).zero_()
        by_chain[N::N, :H] = grad.transpose(1, 2)
        by_weights = weights.new_zeros(len(weights) * wants_theta, C, dtype=torch.promote_types(weights.dtype, torch.float32))
        passes.backward(by_chain, by_weights)
        dW = db = dU = [None] * N
        if wants_theta:
            by_wx = by_weights[passes.of_wx, H:]
            dW, db, dU = (of_all.contiguous().split(sizes) for of_all, sizes in zip(
                (by_wx[:, :-1], by_wx[:, -1], by_weights[passes.of_us, :H]), ctx.sizes))
        dw = passes.dw.to(grad.dtype).split(ctx.sizes[3])
        dx = by_chain[:-1, H:].unflatten(0, (-1, N)).sum(1).transpose(1, 2).contiguous() if wants_x else None
        return None, None, dx, by_chain[0, :H].t(), *(gradient for of_node in zip(dW, db, dU, dw, strict=True) for gradient in of_node)
