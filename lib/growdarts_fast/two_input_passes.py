"""A two-input node's pass over the time steps of a scan: its mixture in one step, and the way back through it.

Nodes whose operations all have a kernel are computed by those; for the others, which a user may have registered, torch
computes the mixture and autograd its derivatives. What a pass keeps of the way there makes room for gradients on the way back.

Shapes: T time, B batch, H hidden, K operations, R columns, H for every weight of a node.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from growdarts_fast import two_input_kernels as kernels
from growdarts.spaces.two_input.node import mixture_of
from growdarts_fast.memory import empty
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_fast.products import add_product
from growdarts_fast.team import lanes

Operate = Callable[[Tensor, Tensor, Tensor], list[Tensor]]

# time steps whose derivatives have so many entries are asked of autograd at once, and at least so many steps: enough for
# torch to share them out to threads, few enough for the cache
ENTRIES, STEPS = 2**18, 3


class Pass:
    """Of one node.

    Parameters
    ----------
    wx : W x + b (T, B, R), which the pass takes over.
    met, made : states that the node meets, and those that it makes, which the pass fills (T, B, H).
    U : (R, H) in the type of the products.
    w : mixture weights (K,).

    Attributes
    ----------
    us_gradient : of the loss by U s (T, B, R), once all steps have been gone back.
    dw : of the loss by w (K,), if it was wanted.
    """

    us_gradient: Tensor
    dw: Tensor

    def __init__(self, wx: Tensor, met: Tensor, made: Tensor, U: Tensor, w: Tensor) -> None:
        self.met, self.made = met, made
        self.U, self.U_ahead = U, U.t().contiguous()
        self.w = w.detach() if len(w) > 1 else torch.ones_like(w)  # a single operation has no weight to share

    def step(self, t: int) -> None:
        """Make the state of time step t."""
        raise NotImplementedError

    def back(self, t: int, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        """From the loss's gradient ds (B, H) by the state that was made in time step t to that by the one that was met,
        which is valid until the next call.

        The steps come from the last to the first; gradients by wx and w are only computed if they are wanted.
        """
        raise NotImplementedError

    def wx_gradient(self) -> Tensor:
        """Of the loss by wx, (T, B, R); may take the place of `us_gradient`."""
        raise NotImplementedError


class KernelPass(Pass):
    """Of a node of the operations `names`, all of which have a kernel."""

    def __init__(self, names: Sequence[str], wx: Tensor, met: Tensor, made: Tensor, U: Tensor, w: Tensor) -> None:
        super().__init__(wx, met, made, U, w)
        H = U.shape[1]
        columns = [H * TWO_INPUT[name].blocks for name in names]
        multiplied = [H * (name == "hadamard") for name in names]
        self.layout = (np.array([kernels.CODES[name] for name in names]), *(
            np.cumsum([0, *sizes[:-1]]) for sizes in (columns, multiplied)))
        self.apart = [slice(start, start + H) for start, size in zip(self.layout[1], multiplied, strict=True) if size]
        self.inputs = empty((*wx.shape[:2], H * len(self.apart)), wx.dtype)
        for of_one, its_inputs in zip(self.apart, self._parted(), strict=True):
            its_inputs.copy_(wx[..., of_one])
            wx[..., of_one] = 0
        self.us_gradient = wx
        self.multiplies, self.by_state = len(U) > 0, torch.empty_like(met[0])
        # made once, as in every step it would take a while
        self.steps = list(zip(wx, wx.numpy(), self.inputs.numpy(), met, met.numpy(), made.numpy(), strict=True))
        self.lanes = lanes(wx.shape[1])
        self.shares, self.share_gradients = self.w.numpy(), np.zeros((self.lanes, len(w)))  # every lane adds up its own

    def step(self, t: int) -> None:
        a, kept, inputs, s, s_read, z = self.steps[t]
        if self.multiplies:
            add_product(a, s, self.U_ahead, halves=True)
        kernels.mix(*self.layout, kept, inputs, s_read, self.shares, z, self.lanes)

    def back(self, t: int, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        us_gradient, kept, inputs, _, s_read, _ = self.steps[t]
        kernels.mix_backward(*self.layout, kept, inputs, s_read, self.shares, ds.numpy(), self.by_state.numpy(),
                             self.share_gradients, wants_w)
        if self.multiplies:
            add_product(self.by_state, us_gradient, self.U)
        return self.by_state

    @property
    def dw(self) -> Tensor:
        """Of all lanes together."""
        return torch.from_numpy(self.share_gradients.sum(axis=0))

    def wx_gradient(self) -> Tensor:
        for of_one, gradient in zip(self.apart, self._parted(), strict=True):
            self.us_gradient[..., of_one] = gradient
        return self.us_gradient

    def _parted(self) -> Sequence[Tensor]:
        """`inputs` operation by operation."""
        return self.inputs.chunk(len(self.apart), dim=-1) if self.apart else ()


class AutogradPass(Pass):
    """Of a node of any operations: `operate`(wx, us, s) gives K outputs (..., H)."""

    def __init__(self, operate: Operate, wx: Tensor, met: Tensor, made: Tensor, U: Tensor, w: Tensor) -> None:
        super().__init__(wx, met, made, U, w)
        self.operate, self.wx, self.us_gradient = operate, wx, torch.zeros_like(wx)
        self.dw = torch.zeros_like(w, dtype=torch.float64)
        self.first = len(wx)  # of the steps whose derivatives are known

    def step(self, t: int) -> None:
        s = self.met[t]
        add_product(self.us_gradient[t], s, self.U_ahead, halves=True)
        self.made[t] = mixture_of(self.operate(self.wx[t], self.us_gradient[t], s), self.w)

    def back(self, t: int, ds: Tensor, wants_wx: bool, wants_w: bool) -> Tensor:
        if t < self.first:
            steps = max(STEPS, ENTRIES // max(1, self.us_gradient[0].numel()))
            self._derive(max(0, t + 1 - steps), t + 1, wants_wx, wants_w)
        if wants_w:
            self.dw += torch.stack([(output[t - self.first] * ds).sum(dtype=torch.float64) for output in self.outputs])
        H = ds.shape[1]
        for by_row in (self.wx, self.us_gradient) if wants_wx else (self.us_gradient,):
            by_row[t].unflatten(-1, (by_row.shape[-1] // H, H)).mul_(ds[:, None])
        back = ds * self.by_s[t - self.first]
        add_product(back, self.us_gradient[t], self.U)
        return back

    def _derive(self, first: int, stop: int, wants_wx: bool, wants_w: bool) -> None:
        """The mixture's derivatives in some time steps, by U s and W x + b in the place of these."""
        with torch.enable_grad():
            wx, us, s = (value[first:stop].detach().requires_grad_() for value in (self.wx, self.us_gradient, self.met))
            outputs = self.operate(wx, us, s)
        varying = [(output, share.expand_as(s)) for output, share in zip(outputs, self.w, strict=True)
                   if output.requires_grad]  # the others are constants
        inputs = [us, s, wx][:2 + wants_wx]
        if varying:
            of, shares = zip(*varying)
            by_us, self.by_s, *by_wx = torch.autograd.grad(of, inputs, shares, materialize_grads=True)
        else:
            by_us, self.by_s, *by_wx = map(torch.zeros_like, inputs)
        # copies, as an operation may return what it is given, which the derivatives replace
        self.outputs, self.first = [output.detach().clone() for output in outputs] if wants_w else [], first
        for kept, derivative in zip((self.us_gradient, self.wx), (by_us, *by_wx)):
            kept[first:stop] = derivative

    def wx_gradient(self) -> Tensor:
        return self.wx
