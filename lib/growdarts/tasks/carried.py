"""Recurrent cells whose carried state is more than their last output: an LSTM, stacked two-input cells.

Their forward returns the states (T, B, H) and what the next window of a text starts from.
Shapes: T time, B batch, I inputs, H hidden.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_recurrent.highway import masked
from growdarts.spaces.two_input.cell import TwoInputCell, fixed_cell
from growdarts.spaces.genotype import require_space
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.two_input.network import TwoInputForecaster
from growdarts.spaces.precision import product

State = Tensor | tuple[Tensor, ...]  # each (B, H)


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


class TwoInputLayers(TwoInputForecaster):
    """Stacked two-input cells without a head, the search space of a `TwoInputForecaster`; each carries its state."""

    def __init__(self, cells: Sequence[TwoInputCell]) -> None:
        super().__init__(cells, cells[-1].hidden, 1)
        self.head = nn.Identity()
        self.inputs, self.hidden = cells[0].inputs, cells[-1].hidden

    def forward(self, x: Tensor, h: State | None = None) -> tuple[Tensor, State]:
        """States (T, B, H) of the last cell from x (T, B, I), and the last state of every cell."""
        last = []
        for cell, start in zip(self.cells, [None] * len(self.cells) if h is None else h, strict=True):
            x = cell(x, start)
            last.append(x[-1])
        return x, tuple(last)

    def flops(self, steps: int = 1) -> int:
        """Of one sample of `steps` time steps."""
        return steps * sum(cell.flops() for cell in self.cells)


def two_input_layers(width: int, n_layers: int, n_nodes: int, operations: Sequence[str]) -> TwoInputLayers:
    """A searchable stack, E = H = `width`: every node mixes all `operations`."""
    return TwoInputLayers([TwoInputCell(width, width, [operations] * n_nodes) for _ in range(n_layers)])


def derived_layers(genotype: Genotype, width: int) -> TwoInputLayers:
    """The stack of a derived architecture, to be trained from scratch."""
    require_space(genotype, "two_input")
    return TwoInputLayers([fixed_cell(width, width, nodes) for nodes in genotype.layers])
