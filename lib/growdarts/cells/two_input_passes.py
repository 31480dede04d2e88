"""A two-input node's pass over the time steps of a scan: its mixture in one step, and the way back through it.

Nodes whose operations all have a kernel are computed by those; for the others, which a user may have registered, torch
computes the mixture and autograd its derivatives. What a pass keeps of the way there makes room for gradients on the way back.

Shapes: T time, B batch, H hidden, K operations, R columns, H for every weight of a node.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from growdarts.cells import two_input_kernels as kernels
from growdarts.cells.two_input_node import mixture_of
from growdarts.primitives import TWO_INPUT
from growdarts.products import add_product

Operate = Callable[[Tensor, Tensor, Tensor], list[Tensor]]

# time steps whose derivatives have so many entries are asked of autograd at once, and at least so many steps: enough for
# torch to share them out to threads, few enough for the cache
ENTRIES, STEPS = 2**18, 3


class Pass:
    """Of one node.

    Parameters
    ----------
    wx : W x + b (T, B, R), which the pass takes over.
    U : (R, H) in the type of the products.
    w : mixture weights (K,).

    Attributes
    ----------
    us_gradient : of the loss by U s (T, B, R), once all steps have been gone back.
    dw : of the loss by w (K,), if it was wanted.
    """

    us_gradient: Tensor
    dw: Tensor

    def __init__(self, wx: Tensor, U: Tensor, w: Tensor) -> None:
        self.U, self.U_ahead = U, U.t().contiguous()
        self.w = w.detach() if len(w) > 1 else torch.ones_like(w)  # a single operation has no weight to share
        self.dw = torch.zeros_like(w, dtype=torch.float64)

    def step(self, t: int, s: Tensor, z: Tensor) -> None:
        """z (B, H) becomes the mixture of time step t, from the state s (B, H)."""
        raise NotImplementedError

    def back(self, t: int, s: Tensor, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        """From the loss's gradient by the mixture of time step t, which met the state s, to that by the state.

        The steps come from the last to the first; gradients by wx and w are only computed if they are wanted.
        """
        raise NotImplementedError

    def wx_gradient(self) -> Tensor:
        """Of the loss by wx, (T, B, R); may take the place of `us_gradient`."""
        raise NotImplementedError


class KernelPass(Pass):
    """Of a node of the operations `names`, all of which have a kernel."""

    def __init__(self, names: Sequence[str], wx: Tensor, U: Tensor, w: Tensor) -> None:
        super().__init__(wx, U, w)
        H = U.shape[1]
        columns = [H * TWO_INPUT[name].blocks for name in names]
        multiplied = [H * (name == "hadamard") for name in names]
        self.layout = (np.array([kernels.CODES[name] for name in names]), *(
            np.cumsum([0, *sizes[:-1]]) for sizes in (columns, multiplied)))
        self.apart = [slice(start, start + H) for start, size in zip(self.layout[1], multiplied, strict=True) if size]
        self.inputs = torch.cat([wx[..., of_one] for of_one in self.apart] or [wx[..., :0]], dim=-1)
        for of_one in self.apart:
            wx[..., of_one] = 0
        self.us_gradient, self.squashed = wx, _squashed(names, H)
        self.steps = list(zip(wx, wx.numpy(), self.inputs.numpy(), strict=True))
        self.shares, self.share_gradients = self.w.numpy(), self.dw.numpy()

    def step(self, t: int, s: Tensor, z: Tensor) -> None:
        a, kept, inputs = self.steps[t]
        if len(self.U):
            add_product(a, s.to(self.U.dtype), self.U_ahead, halves=True)
        for squash, first, size in self.squashed:
            squash(a.narrow(1, first, size))
        kernels.mix(*self.layout, kept, inputs, s.numpy(), self.shares, z.numpy())

    def back(self, t: int, s: Tensor, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        us_gradient, kept, inputs = self.steps[t]
        back = torch.empty_like(ds)
        kernels.mix_backward(*self.layout, kept, inputs, s.numpy(), self.shares, ds.numpy(), back.numpy(),
                             self.share_gradients, wants_w)
        if len(self.U):
            add_product(back, us_gradient.to(self.U.dtype), self.U)
        return back

    def wx_gradient(self) -> Tensor:
        for of_one, gradient in zip(self.apart, self.inputs.chunk(max(1, len(self.apart)), dim=-1)):
            self.us_gradient[..., of_one] = gradient
        return self.us_gradient


class AutogradPass(Pass):
    """Of a node of any operations: `operate`(wx, us, s) gives K outputs (..., H)."""

    def __init__(self, operate: Operate, wx: Tensor, U: Tensor, w: Tensor) -> None:
        super().__init__(wx, U, w)
        self.operate, self.wx, self.us_gradient = operate, wx, torch.zeros_like(wx)
        self.met = torch.empty(*wx.shape[:2], U.shape[1], dtype=wx.dtype)  # states
        self.first = len(wx)  # of the steps whose derivatives are known

    def step(self, t: int, s: Tensor, z: Tensor) -> None:
        self.met[t] = s
        add_product(self.us_gradient[t], s.to(self.U.dtype), self.U_ahead, halves=True)
        z.copy_(mixture_of(self.operate(self.wx[t], self.us_gradient[t], s), self.w))

    def back(self, t: int, s: Tensor, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        if t < self.first:
            steps = max(STEPS, ENTRIES // max(1, self.us_gradient[0].numel()))
            self._derive(max(0, t + 1 - steps), t + 1, wants_wx, wants_w)
        if wants_w:
            self.dw += torch.stack([(output[t - self.first] * ds).sum(dtype=torch.float64) for output in self.outputs])
        H = ds.shape[1]
        for by_row in (self.wx, self.us_gradient) if wants_wx else (self.us_gradient,):
            by_row[t].unflatten(-1, (by_row.shape[-1] // H, H)).mul_(ds[:, None])
        back = ds * self.by_s[t - self.first]
        add_product(back, self.us_gradient[t].to(self.U.dtype), self.U)
        return back

    def _derive(self, first: int, stop: int, wants_wx: bool, wants_w: bool) -> None:
        """The mixture's derivatives in some time steps, by U s and W x + b in the place of these."""
        with torch.enable_grad():
            wx, us, s = (value[first:stop].detach().requires_grad_() for value in (self.wx, self.us_gradient, self.met))
            outputs = self.operate(wx, us, s)
        by_us, self.by_s, *by_wx = torch.autograd.grad(
            outputs, [us, s, wx][:2 + wants_wx], [share.expand_as(s) for share in self.w], materialize_grads=True)
        self.outputs, self.first = [output.detach() for output in outputs] if wants_w else [], first
        for kept, derivative in zip((self.us_gradient, self.wx), (by_us, *by_wx)):
            kept[first:stop] = derivative

    def wx_gradient(self) -> Tensor:
        return self.wx


def _squashed(names: Sequence[str], H: int) -> list[tuple[Callable[[Tensor], Tensor], int, int]]:
    """What is done to which columns in place: the function, the first column, their number; neighbours at once."""
    functions = {"tanh": torch.tanh_, "sigmoid": torch.sigmoid_}
    blocks = [functions.get(squash) for name in names
              for squash in kernels.SQUASHED.get(name, (None,) * TWO_INPUT[name].blocks)]
    first, found = 0, []
    for squash, alike in itertools.groupby(blocks):
        size = H * len(list(alike))
        found += [(squash, first, size)] if squash else []
        first += size
    return found
