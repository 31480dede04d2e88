"""One node of the two-input cell: operations of x_t and a state, mixed [JG Eq. 3].

Shapes: T time, B batch, I inputs of the layer, H hidden, K operations of a node.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from growdarts.mixture import Mixture, operation_name
from growdarts.spaces.containers import OperationWeights
from growdarts.spaces.two_input.operations import TWO_INPUT, TwoInputOperation


class TwoInputNode(nn.Module):
    r"""One node: $\bar o_j(x_t, s) = \sum_o \mathrm{softmax}(\alpha_j)_o \; o(x_t, s)$ [JG Eq. 3].

    Every operation owns `W` (blocks * H, I), `U` (blocks * H, H) and `b` (blocks * H).
    """

    def __init__(self, inputs: int, hidden: int, keys: Sequence[str]) -> None:
        super().__init__()
        _refuse_unknown(keys)
        self.inputs, self.hidden = inputs, hidden
        self.mixture = Mixture(keys)
        self.W, self.U, self.b = OperationWeights(), OperationWeights(), OperationWeights()
        for key in keys:
            self._draw_weights(key)

    def _draw_weights(self, key: str) -> None:
        """Fresh weights of operation `key`, if it has any."""
        rows = TWO_INPUT[operation_name(key)].blocks * self.hidden
        bound = self.hidden**-0.5  # the range torch.nn's recurrent cells start from
        if rows:
            self.W[key] = nn.Parameter(torch.empty(rows, self.inputs).uniform_(-bound, bound))
            self.U[key] = nn.Parameter(torch.empty(rows, self.hidden).uniform_(-bound, bound))
            self.b[key] = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def operations(self) -> list[TwoInputOperation]:
        return [TWO_INPUT[operation_name(key)] for key in self.mixture.keys]

    def input_weights(self) -> tuple[Tensor, Tensor]:
        """W (sum rows, I) and b (sum rows) of all operations."""
        none = self.mixture.alpha.new_zeros(0, self.inputs)  # torch.cat wants one tensor at least
        return torch.cat([none, *self.W.values()]), torch.cat([none[:, 0], *self.b.values()])

    def state_weights(self) -> Tensor:
        """U of all operations, (sum rows, H)."""
        return torch.cat([self.mixture.alpha.new_zeros(0, self.hidden), *self.U.values()])

    def forward(self, wx: Tensor, us: Tensor, s: Tensor, weights: Tensor) -> Tensor:
        r"""$\sum_o w_o\, o(x_t, s)$ from the transformed inputs of one time step; (B, H) [JG Eq. 3]."""
        operations = self.operations()
        rows = [operation.blocks * self.hidden for operation in operations]
        outputs = [operation.function(wx_o, us_o, s) for operation, wx_o, us_o in zip(
            operations, wx.split(rows, dim=-1), us.split(rows, dim=-1), strict=True)]
        if len(outputs) == 1:  # which has no weight to share
            return outputs[0]
        return (weights @ torch.stack(outputs).flatten(1)).view(s.shape)

    def theta_parameters(self) -> list[nn.Parameter]:
        return [part[key] for key in self.mixture.keys if key in self.W for part in (self.W, self.U, self.b)]

    def add(self, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        """Add operation `name` with fresh weights at mixture weight `weight`; the old and the new alpha."""
        _refuse_unknown([name])
        old, new = self.mixture.add(name, weight)
        self._draw_weights(name)
        self.to(new)
        return old, new

    @torch.no_grad()
    def become_identity(self, epsilon: float, noise: float) -> None:
        r"""Initialise so that the node returns its state input up to the noise [JG 3.2.1].

        With all weights zero every operation is an affine function of the state alone, $o(0, 0, s) = k_o s + c_o$
        (tanh: 0, sigmoid: 1/2, a gate: s/2, ...). `add_identity` takes up the rest, $U = u I$ and $b = v$ with

        $$ w_{id}\, u = 1 - \sum_{o \neq id} w_o k_o, \qquad w_{id}\, v = -\sum_{o \neq id} w_o c_o , $$

        so the mixture is the identity for *any* alpha and no unit starts saturated. Noise of deviation
        `noise * epsilon / 10 / sqrt(I + H + 1)` then makes every weight non-zero; the method page of the book says how
        much the output changes by it. Operations that are not affine there enter with a weight of `epsilon` / 10
        together, and change the state by that share at every time step.
        """
        operations, mixture = self.operations(), self.mixture
        if "add_identity" not in mixture.keys:
            raise ValueError(f"a node of {mixture.keys} cannot be grown by morphism: it needs add_identity")
        bias, affine = zip(*map(_at_zero_weights, operations), strict=True)
        rest = mixture.keys.index("add_identity")
        for parameter in self.theta_parameters():
            parameter.zero_()
        for key, start in zip(mixture.keys, bias, strict=True):
            if key in self.b:
                self.b[key].fill_(start)
        small = [i for i, fit in enumerate(affine) if fit is None]
        if small:
            others = torch.tensor([i for i in range(len(operations)) if i not in small])
            # softmax weights: `small` share epsilon / 10, the others keep their ratios
            level = torch.logsumexp(mixture.alpha[others], 0) + torch.tensor(epsilon / 10).logit()
            mixture.alpha[torch.tensor(small)] = level.to(mixture.alpha.dtype) - torch.tensor(
                float(len(small))).log().to(mixture.alpha.dtype)
        weights = mixture.weights()
        kept = [(w, fit) for i, (w, fit) in enumerate(zip(weights, affine, strict=True)) if i != rest and i not in small]
        slope = (1 - sum(w * k for w, (k, _) in kept)) / weights[rest]
        self.U["add_identity"].copy_(slope * torch.eye(self.hidden).to(slope))
        self.b["add_identity"].fill_(-sum(w * c for w, (_, c) in kept) / weights[rest])
        deviation = noise * epsilon / 10 / (self.inputs + self.hidden + 1) ** 0.5
        for parameter in self.theta_parameters():
            parameter.add_(deviation * torch.randn_like(parameter))


def _refuse_unknown(keys: Sequence[str]) -> None:
    for name in map(operation_name, keys):
        if name not in TWO_INPUT:
            raise ValueError(f"unknown operation {name!r}: allowed are {', '.join(TWO_INPUT)}")


@torch.enable_grad()
def _at_zero_weights(operation: TwoInputOperation) -> tuple[float, tuple[float, float] | None]:
    """The bias of an operation that starts with zero weights; (k, c) if o(bias, 0, s) = k s + c for all s, else None.

    The bias is one where no gradient would reach the weights (a product of two zeros, the kink of relu), else zero. All
    this is found by evaluation on a grid of states, one unit wide.
    """
    s = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    zero, bias = s.new_zeros(len(s), operation.blocks), 0.0
    if operation.blocks:
        wx, us, state = (value.clone().requires_grad_() for value in (zero, zero, s))
        gradients = torch.autograd.grad(operation.function(wx, us, state).sum(), (wx, us), materialize_grads=True)
        bias = 0.0 if any(gradient.any() for gradient in gradients) else 1.0
    output = operation.function(zero + bias, zero, s)
    c = output[4].item()
    k = (output[8].item() - c) / 2
    return bias, ((k, c) if torch.allclose(output, k * s + c, atol=1e-12, rtol=0) else None)
