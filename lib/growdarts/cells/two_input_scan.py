r"""The two-input cell over all time steps as one autograd function with a backward written by hand.

Node j of N makes $s_j = \sum_o w_{jo}\, o(W_j x_t + b_j,\; U_j s_{j-1},\; s_{j-1})$; the chain of nodes goes on from one
time step to the next. The plain form is `TwoInputCell._plain`.

An operation works unit by unit, so a node's derivatives by its transformed inputs and by its state have an entry each:
$D^{wx}$, $D^{us}$, $D^s$. They do not depend on the gradient that comes back. Hence the backward pass asks autograd for
them for many time steps at once, whatever the operations are, and what is left to be done step by step is

$$ ds_{j-1} = D^s_j \odot ds_j + (D^{us}_j \odot ds_j)\, U_j . $$

Every weight gets its gradient in one product over many time steps. A gradient that nobody asks for is not computed.

Shapes: T time, B batch, I inputs, H hidden, N nodes, K operations, R rows of H in a node's weights.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from growdarts.cells.tracing import Heard
from growdarts.cells.two_input_node import mixture_of
from growdarts.plain import refuse_second_derivative
from growdarts.precision import product_type
from growdarts.products import add_product, matmul

# time steps whose D^{us} have so many entries are done at once, and at least so many steps: enough for torch to share them
# out to threads, few enough for the cache
ENTRIES, STEPS = 5 * 2**17, 3


class ScanNode(NamedTuple):
    """A node: `operate`(wx, us, s) gives K outputs (..., H) from (..., R H), (..., R H), (..., H); W (R H, I), b (R H),
    U (R H, H), w (K,)."""

    operate: Callable[[Tensor, Tensor, Tensor], list[Tensor]]
    W: Tensor
    b: Tensor
    U: Tensor
    w: Tensor


def two_input_scan(x: Tensor, h: Tensor, nodes: Sequence[ScanNode], heard: Heard | None = None) -> Tensor:
    """States h_1 .. h_T (T, B, H) from x (T, B, I) and h (B, H) [JG Eq. 3].

    Within `torch.autocast` the products are computed in its type, everything else in that of `h`. `heard` gets the states
    (T, N, B, H) that the nodes meet and, in the backward pass, the gradients by what they make of them.
    """
    dtype = product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _TwoInputScan.apply([node.operate for node in nodes], heard, dtype, x.to(h.dtype), h,
                                   *(tensor for node in nodes for tensor in node[1:]))


class _TwoInputScan(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, operate: list[Callable], heard: Heard | None, dtype: torch.dtype, x: Tensor, h: Tensor,
                *tensors: Tensor) -> Tensor:
        (T, B, _), N = x.shape, len(operate)
        nodes = _nodes(operate, tensors)
        chain = h.new_empty(T * N + 1, B, h.shape[1])  # every node's state is the next one's input
        chain[0] = h
        read = x.to(dtype).flatten(0, 1)
        Ws, Us = [node.W.to(dtype).t() for node in nodes], [node.U.to(dtype).t() for node in nodes]
        wx = [matmul(read, W).add_(node.b).view(T, B, -1) for node, W in zip(nodes, Ws, strict=True)]
        us, s = [torch.empty_like(projected) for projected in wx], h
        by_step = [zip(nodes, Us, *rows, strict=True) for rows in zip(zip(*wx), zip(*us))]
        with torch.inference_mode():  # operations on a few numbers, whose bookkeeping counts
            for i, (node, U, wx_t, us_t) in enumerate(itertools.chain.from_iterable(by_step), 1):
                matmul(s.to(dtype), U, out=us_t, halves=True)
                s = mixture_of(node.operate(wx_t.to(h.dtype), us_t.to(h.dtype), s), node.w)
                chain[i] = s
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, *tensors)
            ctx.kept, ctx.operate, ctx.heard, ctx.dtype = (chain, wx, us), operate, heard, dtype
        if heard is not None:
            heard.keep(chain[:-1].unflatten(0, (T, N)), N)
        return chain[N::N]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("two_input_scan")
        if ctx.kept is None:
            raise RuntimeError("a backward pass through two_input_scan used up what its forward pass kept: run that "
                               "again, or compute within growdarts.plain.plain_forms()")
        (chain, wx, us), ctx.kept = ctx.kept, None
        x, *tensors = ctx.saved_tensors
        dtype, N, nodes = ctx.dtype, len(ctx.operate), _nodes(ctx.operate, tensors)
        _, _, _, wants_x, _, *wants = ctx.needs_input_grad
        T, B, H = grad.shape
        grads = [torch.zeros_like(t) if wanted else None for t, wanted in zip(tensors, wants, strict=True)]
        by_x = torch.zeros_like(x) if wants_x else None
        Us = [node.U.to(dtype) for node in nodes]
        ds = torch.zeros_like(chain[0])
        steps = max(STEPS, ENTRIES // max(1, B * max(projected.shape[-1] for projected in wx)))
        for stop in range(T, 0, -steps):
            start = max(0, stop - steps)
            locals_ = [_Local(node, wx[j][start:stop].to(chain.dtype), us[j][start:stop].to(chain.dtype),
                              chain[start * N + j:stop * N + j:N], wants_x or any(wants[4 * j:4 * j + 2]), wants[4 * j + 3])
                       for j, node in enumerate(nodes)]
            for t in range(stop - start - 1, -1, -1):
                ds = ds + grad[start + t]
                for j in range(N - 1, -1, -1):
                    ds = locals_[j].follow(t, ds, Us[j])
            for j, local in enumerate(locals_):
                if ctx.heard is not None:
                    ctx.heard.gradients[start:stop, j] = local.gradient
                _collect(local, x[start:stop], dtype, nodes[j].W, wants[4 * j:4 * j + 4], grads[4 * j:4 * j + 4],
                         None if by_x is None else by_x[start:stop])
        return None, None, None, by_x, ds, *grads


class _Local:
    """A node in some consecutive time steps: its derivatives there, and the gradient that comes back to it."""

    def __init__(self, node: ScanNode, wx: Tensor, us: Tensor, s: Tensor, wants_wx: bool, wants_w: bool) -> None:
        self.s, self.blocks = s, us.shape[-1] // s.shape[-1]
        with torch.enable_grad():
            us, s = (value.detach().requires_grad_() for value in (us, s))
            wx = wx.detach().requires_grad_(wants_wx)
            outputs = node.operate(wx, us, s)
        shares = node.w.detach() if len(outputs) > 1 else torch.ones_like(node.w)
        by_us, self.by_s, *by_wx = torch.autograd.grad(
            outputs, [us, s, wx][:2 + wants_wx], [share.expand_as(s) for share in shares], materialize_grads=True)
        self.outputs = [output.detach() for output in outputs] if wants_w and len(outputs) > 1 else None
        # in the place of what has done its duty
        self.by_us, self.by_wx = us.detach().copy_(by_us), wx.detach().copy_(by_wx[0]) if wants_wx else None
        self.gradient = torch.empty_like(s)  # of the loss by s_j
        self.steps = list(zip(self.gradient, self.by_s, self._by_row(self.by_us), self.by_us, strict=True)
                          ) if self.blocks else list(zip(self.gradient, self.by_s))

    def follow(self, t: int, ds: Tensor, U: Tensor) -> Tensor:
        """From the loss's gradient by the node's state (B, H) in step `t` to that by the state it was made of; `by_us`
        becomes the loss's gradient by U s."""
        gradient, by_s, *more = self.steps[t]
        gradient.copy_(ds)
        back = ds * by_s
        if not self.blocks:
            return back
        by_row, us_gradient = more
        by_row *= ds[:, None]
        return back.add_(matmul(us_gradient.to(U.dtype), U))

    def wx_gradient(self) -> Tensor:
        """Of the loss by W x + b, (steps, B, R H), in the place of `by_wx`."""
        self._by_row(self.by_wx).mul_(self.gradient[:, :, None])
        return self.by_wx

    def _by_row(self, values: Tensor) -> Tensor:
        """(..., R H) as (..., R, H)."""
        return values.unflatten(-1, (self.blocks, -1))


def _nodes(operate: Sequence[Callable], tensors: Sequence[Tensor]) -> list[ScanNode]:
    return [ScanNode(function, *tensors[4 * j:4 * j + 4]) for j, function in enumerate(operate)]


def _collect(local: _Local, x: Tensor, dtype: torch.dtype, W: Tensor, wants: Sequence[bool],
             grads: Sequence[Tensor | None], by_x: Tensor | None) -> None:
    """Add what a node's time steps contribute to the gradients by its W, b, U and w, and by x (steps, B, I)."""
    wants_W, wants_b, wants_U, _ = wants
    dW, db, dU, dw = grads
    if local.blocks and (wants_W or wants_b or by_x is not None):
        wx_gradient = local.wx_gradient().flatten(0, 1)
        if wants_b:
            db += wx_gradient.sum(dim=0)
        if wants_W:
            add_product(dW, wx_gradient.to(dtype).t(), x.to(dtype).flatten(0, 1))
        if by_x is not None:
            by_x += matmul(wx_gradient.to(dtype), W.to(dtype)).view_as(by_x)
    if local.blocks and wants_U:
        add_product(dU, local.by_us.to(dtype).flatten(0, 1).t(), local.s.to(dtype).flatten(0, 1))
    if local.outputs is not None:
        dw += torch.stack([torch.dot(output.flatten(), local.gradient.flatten()) for output in local.outputs])
