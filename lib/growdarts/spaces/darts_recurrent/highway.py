r"""Highway recurrent cells of DARTS: what the searched and the fixed cell share, and the fixed one.

State 0 is made of x_t and h_{t-1}; node i = 1 .. N has one weight matrix $W_i$ for whatever states it reads. With gate
and candidate $[c, u] = s_j W_i$ an operation of activation $f$ gives

$$ o(s_j) = s_j + \sigma(c)\,(f(u) - s_j) . $$

Shapes: T time, B batch, I inputs, H hidden.
"""

from typing import Any

import torch
from torch import Tensor, nn

from growdarts.forms import has_fast_form
from growdarts.spaces.darts.genotypes import RecurrentGenotype
from growdarts.spaces.genotype import require_space
from growdarts.spaces.precision import product, require_float

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda u: u}
INIT_RANGE = 0.04  # DARTS' uniform start of all weights


def uniform(*shape: int) -> nn.Parameter:
    """A fresh weight."""
    return nn.Parameter(torch.empty(*shape).uniform_(-INIT_RANGE, INIT_RANGE))


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """x times its dropout mask, if there is one."""
    return x if mask is None else x * mask


def highway(s: Tensor, read: Tensor, activation: str) -> Tensor:
    """o(s) from s (..., H) and `read`, the product [c, u] (..., 2 H)."""
    c, u = read.chunk(2, dim=-1)
    return torch.lerp(s, ACTIVATIONS[activation](u), torch.sigmoid(c))


class HighwayCell(nn.Module):
    """What the searched and the fixed cell share: the first state and the loop over time."""

    W0: nn.Parameter  # (I + H, 2 H)

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.W0 = uniform(inputs + hidden, 2 * hidden)

    def forward(self, x: Tensor, h: Tensor | None = None, x_mask: Tensor | None = None,
                h_mask: Tensor | None = None) -> Tensor:
        """All states h_1 .. h_T, (T, B, I) -> (T, B, H), starting from `h` (B, H), default zero.

        `x_mask` (B, I) and `h_mask` (B, H) are variational dropout masks: the same at every time step,
        `h_mask` the same for h and all nodes. They are applied as given, whatever the mode.
        """
        require_float(x)
        return self.states(x, x.new_zeros(x.shape[1], self.hidden) if h is None else h, x_mask, h_mask)

    def states(self, x: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
        """`forward` from a given h, one time step after another: `prepared` has what does not change over time, `_step`
        makes h_t of state 0, before its batch norm."""
        wx = self.transformed_inputs(x, x_mask)
        prepared, states = self.prepared(), []
        for wx_t in wx.unbind():  # the gradient of wx[t] would be as large as wx, once for every t
            c, u = (wx_t + product(masked(h, h_mask), self.W0[self.inputs:])).chunk(2, dim=-1)
            h = self._step(torch.lerp(h, torch.tanh(u), torch.sigmoid(c)), h_mask, prepared)
            states.append(h)
        return torch.stack(states)

    def transformed_inputs(self, x: Tensor, x_mask: Tensor | None) -> Tensor:
        """Their share of [c_0, u_0], (T, B, 2 H), all time steps in one product."""
        return product(masked(x, x_mask), self.W0[:self.inputs])


class RecurrentCell(HighwayCell):
    """A derived recurrent cell of DARTS, to be trained from scratch: no batch norm, one edge a node."""

    def __init__(self, inputs: int, hidden: int, genotype: RecurrentGenotype) -> None:
        super().__init__(inputs, hidden)
        require_space(genotype, "darts_recurrent")
        self._genotype = genotype
        self.Ws = nn.ParameterList(uniform(hidden, 2 * hidden) for _ in genotype.recurrent)

    @has_fast_form
    def states(self, x: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
        """`forward` from a given h, one time step after another."""
        return super().states(x, h, x_mask, h_mask)

    def prepared(self) -> list[tuple[list[int], Tensor | None]]:
        """Per state: the nodes it feeds, and their weights side by side, (H, nodes * 2 H)."""
        edges = self._genotype.recurrent
        fed = [[i for i, (_, j) in enumerate(edges, start=1) if j == state] for state in range(len(edges))]
        return [(nodes, torch.cat([self.Ws[i - 1] for i in nodes], dim=1) if nodes else None) for nodes in fed]

    def _step(self, s: Tensor, h_mask: Tensor | None, prepared: Any) -> Tensor:
        states = {0: s}
        for j, (nodes, W) in enumerate(prepared):  # node i is ready before its turn: its predecessor came earlier
            if nodes:
                s = states[j]
                for i, read in zip(nodes, product(masked(s, h_mask), W).chunk(len(nodes), dim=-1), strict=True):
                    states[i] = highway(s, read, self._genotype.recurrent[i - 1][0])
        return torch.stack([states[i] for i in self._genotype.concat]).mean(dim=0)

    def theta_parameters(self) -> list[nn.Parameter]:
        return [self.W0, *self.Ws]

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return sum(2 * p.numel() for p in self.theta_parameters())

    def genotype(self) -> RecurrentGenotype:
        return self._genotype
