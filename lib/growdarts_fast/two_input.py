r"""The two-input cell over all time steps as one autograd function with a backward written by hand.

Node j of N makes $s_j = \sum_o w_{jo}\, o(W_j x_t + b_j,\; U_j s_{j-1},\; s_{j-1})$; the chain of nodes goes on from one
time step to the next. The plain form is `TwoInputCell.states`.

An operation works unit by unit, so a node's derivatives by its transformed inputs and by its state have an entry each:
$D^{wx}$, $D^{us}$, $D^s$. `two_input_passes` has them, and step by step the gradient goes back by

$$ ds_{j-1} = D^s_j \odot ds_j + (D^{us}_j \odot ds_j)\, U_j . $$

Every weight gets its gradient in one product over all time steps. A gradient that nobody asks for is not computed.

Shapes: T time, B batch, I inputs, H hidden, N nodes, K operations, R rows of H in a node's weights.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from growdarts.forms import fast_form
from growdarts.spaces.precision import product_type
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.node import TwoInputNode
from growdarts_fast.derivatives import refuse_second_derivative
from growdarts_fast.memory import empty
from growdarts_fast.products import matmul, over_time
from growdarts_fast.two_input_kernels import CODES
from growdarts_fast.two_input_passes import AutogradPass, KernelPass, Pass


class ScanNode(NamedTuple):
    """A node: `begin`(W x + b, states that it meets, states that it makes, U, w) a pass.

    W (R, I), b (R), U (R, H), w (K,).
    """

    begin: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Pass]
    W: Tensor
    b: Tensor
    U: Tensor
    w: Tensor


@fast_form(TwoInputCell.states, "cpu")
def states(cell: TwoInputCell, x: Tensor, h: Tensor) -> Tensor:
    """`TwoInputCell.states` in float32 or float64."""
    if h.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    return two_input_scan(x, h, [ScanNode(_begin(node), *node.input_weights(), node.state_weights(), node.mixture.weights())
                                 for node in cell.nodes])


def _begin(node: TwoInputNode) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Pass]:
    names = [operation.name for operation in node.operations()]
    return partial(KernelPass, names) if set(names) <= CODES.keys() else partial(AutogradPass, node.operate())


def two_input_scan(x: Tensor, h: Tensor, nodes: Sequence[ScanNode]) -> Tensor:
    """States h_1 .. h_T (T, B, H) from x (T, B, I) and h (B, H) [JG Eq. 3].

    Within `torch.autocast` the products are computed in its type, everything else in that of `h`.
    """
    dtype = product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _TwoInputScan.apply([node.begin for node in nodes], dtype, x.to(h.dtype), h,
                                   *(tensor for node in nodes for tensor in node[1:]))


class _TwoInputScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, begin: Sequence[Callable[..., Pass]], dtype: torch.dtype, x: Tensor, h: Tensor,
                *tensors: Tensor) -> Tensor:
        (T, B, _), nodes = x.shape, _nodes(begin, tensors)
        N, read = len(nodes), x.to(dtype).flatten(0, 1)
        chain = h.new_empty(T * N + 1, *h.shape)  # every node's state is the next one's input
        chain[0] = h
        passes = []
        for j, node in enumerate(nodes):
            wx = empty((T, B, len(node.W)), h.dtype)
            _multiply(read, node.W.to(dtype).t(), wx.flatten(0, 1)).add_(node.b)
            passes.append(node.begin(wx, chain[j:-1:N], chain[j + 1::N], node.U.to(dtype), node.w))
        with torch.inference_mode():  # operations on a few numbers, whose bookkeeping counts
            for t in range(T):
                for node_pass in passes:
                    node_pass.step(t)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, *tensors)
            ctx.kept, ctx.begin, ctx.dtype = (chain, passes), begin, dtype
        return chain[N::N]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("two_input_scan")
        if ctx.kept is None:
            raise RuntimeError("a backward pass through two_input_scan used up what its forward pass kept: run that "
                               "again, or compute within growdarts.forms.plain_forms()")
        (chain, passes), ctx.kept = ctx.kept, None
        x, *tensors = ctx.saved_tensors
        N, nodes = len(passes), _nodes(ctx.begin, tensors)
        _, _, wants_x, _, *wanted = ctx.needs_input_grad
        wants = [wanted[4 * j:4 * j + 4] for j in range(N)]
        ds = torch.zeros_like(chain[0])
        for t in reversed(range(len(grad))):
            ds = ds + grad[t]
            for j in reversed(range(N)):
                wants_W, wants_b, _, wants_w = wants[j]
                ds = passes[j].back(t, ds, wants_x or wants_W or wants_b, wants_w)
        by_x, grads = torch.zeros_like(x) if wants_x else None, []
        for j, (node, node_pass) in enumerate(zip(nodes, passes, strict=True)):
            grads += _of_weights(node_pass, node, x, chain[j:-1:N], ctx.dtype, wants[j], by_x)
        return None, None, by_x, ds, *grads


def _nodes(begin: Sequence[Callable[..., Pass]], tensors: Sequence[Tensor]) -> list[ScanNode]:
    return [ScanNode(function, *tensors[4 * j:4 * j + 4]) for j, function in enumerate(begin)]


def _multiply(x: Tensor, W: Tensor, out: Tensor) -> Tensor:
    """`out` = x W in its type."""
    return matmul(x, W, out=out) if x.dtype == out.dtype else out.copy_(matmul(x, W))


def _of_weights(node_pass: Pass, node: ScanNode, x: Tensor, s: Tensor, dtype: torch.dtype, wants: Sequence[bool],
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
