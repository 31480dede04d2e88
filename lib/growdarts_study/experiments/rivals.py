"""The rivals in language modelling: an LSTM whose state can be dropped, and a GRU. Those on series are in `time_series`.

Shapes: T time, B batch, I inputs, H hidden.
"""

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_recurrent.highway import masked
from growdarts.spaces.precision import product
from growdarts.tasks.language import State


class LSTM(nn.Module):
    """torch's LSTM of one layer with variational dropout of its state (Gal & Ghahramani 2016)."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.layer = nn.LSTM(inputs, hidden)

    def forward(self, x: Tensor, h: State | None = None, x_mask: Tensor | None = None,
                h_mask: Tensor | None = None) -> tuple[Tensor, State]:
        """States (T, B, H) from x (T, B, I), and the last (h, c); masks (B, I) and (B, H), the same at every step."""
        x = masked(x, x_mask)
        if h_mask is None:  # torch's fused loop
            states, last = self.layer(x, None if h is None else (h[0][None], h[1][None]))
            return states, (last[0][0], last[1][0])
        zero = x.new_zeros(x.shape[1], self.hidden)
        h, c = (zero, zero) if h is None else h
        wx = product(x, self.layer.weight_ih_l0.t()) + (self.layer.bias_ih_l0 + self.layer.bias_hh_l0)  # (T, B, 4 H)
        U, states = self.layer.weight_hh_l0.t(), []
        for wx_t in wx.unbind():
            i, f, g, o = (wx_t + product(h * h_mask, U)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states), (h, c)

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * (self.layer.weight_ih_l0.numel() + self.layer.weight_hh_l0.numel())


class GRU(nn.Module):
    """torch's GRU of one layer as the cell of a language model."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inputs = self.hidden = width
        self.layer = nn.GRU(width, width)

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """States (T, B, H) from x (T, B, H), and the last (B, H)."""
        states, last = self.layer(x, None if h is None else h[None])
        return states, last[0]

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * (self.layer.weight_ih_l0.numel() + self.layer.weight_hh_l0.numel())
