r"""The two-input cell over all time steps as one autograd function with a backward written by hand.

Node j of N makes $s_j = \sum_o w_{jo}\, o(W_j x_t + b_j,\; U_j s_{j-1},\; s_{j-1})$; the chain of nodes goes on from one
time step to the next. The plain form is `growdarts.spaces.two_input.cell.TwoInputCell.states`. Cells that hold an operation
without a kernel, as users may register them, are computed by it.

An operation works unit by unit, so a node's derivatives by its transformed inputs and by its state have an entry each:
$D^{wx}$, $D^{us}$, $D^s$. `two_input_kernels` has them, and step by step the gradient goes back by

$$ ds_{j-1} = D^s_j \odot ds_j + (D^{us}_j \odot ds_j)\, U_j . $$

Every weight gets its gradient in one product over all time steps. Only gradients that are asked for are computed.

Shapes: T time, B batch, I inputs, H hidden, N nodes, K operations, R columns, H for every weight of a node.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from growdarts.forms import fast_form
from growdarts.spaces.precision import product_type
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_fast.derivatives import refuse_second_derivative
from growdarts_fast.memory import empty
from growdarts_fast.products import add_product, matmul, over_time
from growdarts_fast.two_input_kernels import CODES, HADAMARD, MULTIPLIED, mix, mix_backward


class ScanNode(NamedTuple):
    """A node: names of its operations, W (R, I), b (R,), U (R, H), mixture weights w (K,)."""

    names: Sequence[str]
    W: Tensor
    b: Tensor
    U: Tensor
    w: Tensor


@fast_form(TwoInputCell.states, "cpu")
def states(cell: TwoInputCell, x: Tensor, h: Tensor) -> Tensor:
    """`TwoInputCell.states` in float32 or float64, of operations that have a kernel."""
    names = [[operation.name for operation in node.operations()] for node in cell.nodes]
    if h.dtype not in (torch.float32, torch.float64) or not {name for node in names for name in node} <= CODES.keys():
        return NotImplemented
    return two_input_scan(x, h, [ScanNode(of_node, *node.input_weights(), node.state_weights(), node.mixture.weights())
                                 for of_node, node in zip(names, cell.nodes, strict=True)])


def two_input_scan(x: Tensor, h: Tensor, nodes: Sequence[ScanNode]) -> Tensor:
    """States h_1 .. h_T (T, B, H) from x (T, B, I) and h (B, H) [JG Eq. 3].

    Within `torch.autocast` the products are computed in its type, everything else in that of `h`.
    """
    dtype = product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _TwoInputScan.apply([node.names for node in nodes], dtype, x.to(h.dtype), h,
                                   *(tensor for node in nodes for tensor in node[1:]))


class _NodePass:
    """A node's pass over the time steps: its mixture in one step, and the gradients through it.

    The backward pass overwrites the values that the forward pass saved.

    Parameters
    ----------
    wx : W x + b (T, B, R), whose memory the pass takes over.
    before, after : states that the node reads, and those that it makes, which the pass fills (T, B, H).
    U : in the type of the products.

    Attributes
    ----------
    us_gradient : of the loss by U s (T, B, R), once `backward_step` has been called for all steps.
    dw : of the loss by w (K,), if it was wanted.
    """

    def __init__(self, names: Sequence[str], wx: Tensor, before: Tensor, after: Tensor, U: Tensor, w: Tensor) -> None:
        H = U.shape[1]
        self.U, self.U_ahead = U, U.t().contiguous()
        w = w.detach() if len(w) > 1 else torch.ones_like(w)  # a single operation has no weight to share
        self.shares, self.dw = w.numpy(), torch.zeros_like(w, dtype=torch.float64)
        columns = [H * TWO_INPUT[name].blocks for name in names]
        codes = [CODES[name] for name in names]
        factors = [2 * H if code >= MULTIPLIED else H * (code == HADAMARD) for code in codes]
        starts, places = (np.cumsum([0, *sizes[:-1]]) for sizes in (columns, factors))
        self.layout = np.array(codes), starts, places
        self.inputs = empty((*wx.shape[:2], sum(factors)), wx.dtype)
        # W x + b of operations that multiply it by U s is kept apart: its columns in wx and in `inputs`
        self.apart = [(wx[..., a:a + H], self.inputs[..., b:b + H]) for a, b, size in zip(starts, places, factors, strict=True)
                      if size]
        for columns, its_inputs in self.apart:
            its_inputs.copy_(columns)
            columns.zero_()
        self.us_gradient = wx
        self.multiplies, self.by_state = len(U) > 0, torch.empty_like(before[0])
        # views that every step needs, made once
        self.steps = list(zip(wx, wx.numpy(), self.inputs.numpy(), before, before.numpy(), after.numpy(), strict=True))

    def step(self, t: int) -> None:
        """Make the state of time step t."""
        a, kept, inputs, s, s_read, z = self.steps[t]
        if self.multiplies:
            add_product(a, s, self.U_ahead, halves=True)
        mix(*self.layout, kept, inputs, s_read, self.shares, z)

    def backward_step(self, t: int, ds: Tensor, wants_w: bool) -> Tensor:
        """From the loss's gradient ds (B, H) by the state made in time step t to that by the state read there, which is
        valid until the next call. The steps come from the last to the first."""
        us_gradient, kept, inputs, _, s_read, _ = self.steps[t]
        mix_backward(*self.layout, kept, inputs, s_read, self.shares, ds.numpy(), self.by_state.numpy(), self.dw.numpy(),
                     wants_w)
        if self.multiplies:
            add_product(self.by_state, us_gradient, self.U)
        return self.by_state

    def wx_gradient(self) -> Tensor:
        """Of the loss by wx, (T, B, R), in the place of `us_gradient`."""
        for columns, gradient in self.apart:
            columns.copy_(gradient)
        return self.us_gradient


class _TwoInputScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, names: Sequence[Sequence[str]], dtype: torch.dtype, x: Tensor, h: Tensor,
                *tensors: Tensor) -> Tensor:
        (T, B, _), nodes = x.shape, _nodes(names, tensors)
        N, read = len(nodes), x.to(dtype).flatten(0, 1)
        chain = h.new_empty(T * N + 1, *h.shape)  # every node's state is the next one's input
        chain[0] = h
        passes = []
        for j, node in enumerate(nodes):
            wx = empty((T, B, len(node.W)), h.dtype)
            _multiply(read, node.W.to(dtype).t(), wx.flatten(0, 1)).add_(node.b)
            passes.append(_NodePass(node.names, wx, chain[j:-1:N], chain[j + 1::N], node.U.to(dtype), node.w))
        with torch.inference_mode():  # whose bookkeeping counts, with operations on a few numbers
            for t in range(T):
                for node_pass in passes:
                    node_pass.step(t)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, *tensors)
            ctx.kept, ctx.names, ctx.dtype = (chain, passes), names, dtype
        return chain[N::N]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("two_input_scan")
        if ctx.kept is None:
            raise RuntimeError("a backward pass through two_input_scan used up what its forward pass kept: run that "
                               "again, or compute within growdarts.forms.plain_forms()")
        (chain, passes), ctx.kept = ctx.kept, None
        x, *tensors = ctx.saved_tensors
        N, nodes = len(passes), _nodes(ctx.names, tensors)
        _, _, wants_x, _, *wanted = ctx.needs_input_grad
        wants = [wanted[4 * j:4 * j + 4] for j in range(N)]
        ds = torch.zeros_like(chain[0])
        for t in reversed(range(len(grad))):
            ds = ds + grad[t]
            for j in reversed(range(N)):
                ds = passes[j].backward_step(t, ds, wants[j][3])
        by_x, grads = torch.zeros_like(x) if wants_x else None, []
        for j, (node, node_pass) in enumerate(zip(nodes, passes, strict=True)):
            grads += _of_weights(node_pass, node, x, chain[j:-1:N], ctx.dtype, wants[j], by_x)
        return None, None, by_x, ds, *grads


def _nodes(names: Sequence[Sequence[str]], tensors: Sequence[Tensor]) -> list[ScanNode]:
    return [ScanNode(of_node, *tensors[4 * j:4 * j + 4]) for j, of_node in enumerate(names)]


def _multiply(x: Tensor, W: Tensor, out: Tensor) -> Tensor:
    """`out` = x W in its type."""
    return matmul(x, W, out=out) if x.dtype == out.dtype else out.copy_(matmul(x, W))


def _of_weights(node_pass: _NodePass, node: ScanNode, x: Tensor, s: Tensor, dtype: torch.dtype, wants: Sequence[bool],
                by_x: Tensor | None) -> list[Tensor | None]:
    """The gradients by a node's W, b, U and w, from its pass over x (T, B, I) and the states s (T, B, H); what it
    contributes to that by x is added to `by_x`."""
    wants_W, wants_b, wants_U, wants_w = wants
    dU = over_time(node_pass.us_gradient, s, dtype) if wants_U else None  # before they become those by W x + b
    dW = db = None
    if wants_W or wants_b or by_x is not None:
        wx_gradient = node_pass.wx_gradient()
        dW = over_time(wx_gradient, x, dtype) if wants_W else None
        db = wx_gradient.sum(dim=(0, 1)) if wants_b else None
        if by_x is not None:
            by_x += matmul(wx_gradient.to(dtype).flatten(0, 1), node.W.to(dtype)).view_as(by_x)
    return [dW, db, dU, node_pass.dw.to(node.w.dtype) if wants_w else None]
