"""The two-input recurrent cell: every node mixes operations of x_t and its predecessor [JG Eq. 3].

Shapes: T time, B batch, I inputs of the layer, H hidden, N nodes, K operations of a node.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from growdarts.cells import Duplicate
from growdarts.cells.tracing import OperationTrace, record_calls
from growdarts.mixture import Mixture, operation_name
from growdarts.primitives import TWO_INPUT, TwoInputOperation

KEEP_STATE = ("add_identity", "carry")  # operations that can hand s on; a new node needs one of them


class TwoInputNode(nn.Module):
    r"""One node: $\bar o_j(x_t, s) = \sum_o \mathrm{softmax}(\alpha_j)_o \; o(x_t, s)$ [JG Eq. 3].

    Every operation owns `W` (blocks * H, I), `U` (blocks * H, H) and `b` (blocks * H).
    """

    def __init__(self, inputs: int, hidden: int, keys: Sequence[str]) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.mixture = Mixture(keys)
        self.W, self.U, self.b = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        bound = hidden**-0.5  # the range torch.nn's recurrent cells start from
        for key, rows in zip(keys, self._rows(), strict=True):
            if rows:
                self.W[key] = nn.Parameter(torch.empty(rows, inputs).uniform_(-bound, bound))
                self.U[key] = nn.Parameter(torch.empty(rows, hidden).uniform_(-bound, bound))
                self.b[key] = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))

    def operations(self) -> list[TwoInputOperation]:
        """The node's operations, in the order of alpha."""
        return [TWO_INPUT[operation_name(key)] for key in self.mixture.keys]

    def _rows(self) -> list[int]:
        return [operation.blocks * self.hidden for operation in self.operations()]

    def project_inputs(self, x: Tensor) -> Tensor:
        """W x + b of all operations and all time steps in one product: (T, B, I) -> (T, B, sum rows)."""
        if not len(self.W):
            return x.new_zeros(*x.shape[:-1], 0)
        return nn.functional.linear(x, torch.cat(list(self.W.values())), torch.cat(list(self.b.values())))

    def state_weights(self) -> Tensor:
        """U of all operations, (sum rows, H)."""
        if not len(self.U):
            return self.mixture.alpha.new_zeros(0, self.hidden)
        return torch.cat(list(self.U.values()))

    def forward(self, wx: Tensor, us: Tensor, s: Tensor, weights: Tensor) -> Tensor:
        """`mix`, as a call that hooks can listen to."""
        return self.mix(wx, us, s, weights)

    def mix(self, wx: Tensor, us: Tensor, s: Tensor, weights: Tensor) -> Tensor:
        r"""$\sum_o w_o\, o(x_t, s)$ from the transformed inputs of one time step; (B, H) [JG Eq. 3]."""
        rows = self._rows()
        outputs = [operation.function(wx_o, us_o, s) for operation, wx_o, us_o in zip(
            self.operations(), wx.split(rows, dim=-1), us.split(rows, dim=-1), strict=True)]
        if len(outputs) == 1:
            return outputs[0]
        return torch.tensordot(weights, torch.stack(outputs), dims=1)

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights of the operations, in the order of alpha."""
        return [part[key] for key in self.mixture.keys if key in self.W for part in (self.W, self.U, self.b)]

    def keep(self, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only the operations `index`; returns the old and the new alpha."""
        dropped = set(self.mixture.keys) - {self.mixture.keys[i] for i in index}
        for key in dropped & set(self.W.keys()):
            for part in (self.W, self.U, self.b):
                del part[key]
        return self.mixture.keep(index)

    def weights_of(self, key: str) -> dict[str, nn.Parameter]:
        """`W`, `U`, `b` of operation `key`; empty if it owns none."""
        return {"W": self.W[key], "U": self.U[key], "b": self.b[key]} if key in self.W else {}

    def duplicate(self, key: str) -> Duplicate:
        """Add an identical copy `"name#2"` of `key`; the two share its mixture weight [JG 3.2.2].

        Raises
        ------
        ValueError
            `key` owns no weights: the two could never differ.
        """
        weights = self.weights_of(key)
        if not weights:
            raise ValueError(f"operation {key!r} owns no weights, so a copy of it could never differ from it")
        copy, old, new = self.mixture.duplicate(key)
        for name in weights:
            getattr(self, name)[copy] = nn.Parameter(weights[name].detach().clone())
        copies = self.weights_of(copy)
        return Duplicate(copy, old, new, {name: (weights[name], copies[name]) for name in weights})

    def traces(self, x: Tensor, s: Tensor, gradient: Tensor) -> list[OperationTrace]:
        """Every operation with weights on inputs (n, I) and states (n, H), the loss's `gradient` by the node (n, H)."""

        def output(operation: TwoInputOperation, theta: Mapping[str, Tensor]) -> Tensor:
            linear = nn.functional.linear
            return operation.function(linear(x, theta["W"], theta["b"]), linear(s, theta["U"]), s)

        return [OperationTrace(self.mixture, key, self.weights_of(key), partial(output, operation),
                               weight * gradient, self.hidden)
                for key, operation, weight in zip(self.mixture.keys, self.operations(),
                                                  self.mixture.weights().detach(), strict=True) if key in self.W]

    @torch.no_grad()
    def become_identity(self, epsilon: float, noise: float) -> None:
        r"""Initialise so that the node returns its state input up to the noise [JG 3.2.1].

        With all weights zero every operation is an affine function of the state alone,
        $o(0, 0, s) = k_o s + c_o$ (tanh: 0, sigmoid: 1/2, a gate: s/2, ...), found by evaluation, not by
        declaration. `add_identity` takes up the rest, $U = u I$ and $b = v$ with

        $$ w_{id}\, u = 1 - \sum_{o \neq id} w_o k_o, \qquad w_{id}\, v = -\sum_{o \neq id} w_o c_o , $$

        so the mixture is the identity for *any* alpha and no unit starts saturated. Where no gradient would
        reach an operation at zero weights (a product of two zeros, the kink of relu), its bias starts at one.
        Noise of deviation `noise * epsilon / 10 / sqrt(I + H + 1)` then makes every weight non-zero; the 10 is
        room for what layers, time steps and linear nodes add up. Without `add_identity`, or for an operation
        that is not affine there, those operations enter with a total weight of `epsilon` / 10 and `carry` or
        `add_identity` with the rest.
        """
        operations, mixture = self.operations(), self.mixture
        bias = [_start_bias(operation) for operation in operations]
        affine = [_affine_at_zero(operation, start) for operation, start in zip(operations, bias, strict=True)]
        keeper = next((i for name in KEEP_STATE for i, o in enumerate(operations) if o.name == name), None)
        if keeper is None:
            raise ValueError(f"a node of {mixture.keys} cannot be grown by morphism: it needs one of "
                             f"{', '.join(KEEP_STATE)}")
        for parameter in self.theta_parameters():
            parameter.zero_()
        for key, start in zip(mixture.keys, bias, strict=True):
            if key in self.b:
                self.b[key].fill_(start)
        exact = operations[keeper].name == "add_identity"
        small = [i for i, fit in enumerate(affine) if i != keeper and (fit is None or not exact)]
        if small:
            others = torch.tensor([i for i in range(len(operations)) if i not in small])
            # softmax weights: `small` share epsilon / 10, the others keep their ratios
            level = torch.logsumexp(mixture.alpha[others], 0) + torch.tensor(epsilon / 10).logit()
            mixture.alpha[torch.tensor(small)] = level.to(mixture.alpha.dtype) - torch.tensor(
                float(len(small))).log().to(mixture.alpha.dtype)
        if exact:
            weights = mixture.weights()
            kept = [(w, fit) for i, (w, fit) in enumerate(zip(weights, affine, strict=True))
                    if i != keeper and i not in small]
            key = mixture.keys[keeper]
            slope = (1 - sum(w * k for w, (k, _) in kept)) / weights[keeper]
            self.U[key].copy_(slope * torch.eye(self.hidden).to(slope))
            self.b[key].fill_(-sum(w * c for w, (_, c) in kept) / weights[keeper])
        deviation = noise * epsilon / 10 / (self.inputs + self.hidden + 1) ** 0.5
        for parameter in self.theta_parameters():
            parameter.add_(deviation * torch.randn_like(parameter))


def _states(operation: TwoInputOperation, bias: float) -> tuple[Tensor, Tensor, Tensor]:
    """wx, us and s, one unit wide, of an operation with zero weights on a grid of states."""
    s = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    us = s.new_zeros(len(s), operation.blocks)
    return us + bias, us, s


@torch.enable_grad()
def _start_bias(operation: TwoInputOperation) -> float:
    """0 if a gradient reaches the operation's weights when they are all zero, else 1."""
    wx, us, s = (value.requires_grad_() for value in _states(operation, 0.0))
    if not operation.blocks:
        return 0.0
    gradients = torch.autograd.grad(operation.function(wx, us, s).sum(), (wx, us), materialize_grads=True)
    return 0.0 if any(gradient.any() for gradient in gradients) else 1.0


def _affine_at_zero(operation: TwoInputOperation, bias: float) -> tuple[float, float] | None:
    """(k, c) if o(bias, 0, s) = k s + c for all s, else None; checked on a grid of states."""
    wx, us, s = _states(operation, bias)
    output = operation.function(wx, us, s)
    c = output[4].item()
    k = (output[8].item() - c) / 2
    return (k, c) if torch.allclose(output, k * s + c, atol=1e-12, rtol=0) else None


class TwoInputCell(nn.Module):
    r"""A chain of two-input nodes run over time: $s_0 = h_{t-1}$, $h_t = s_N$ [JG Eq. 3].

    Parameters
    ----------
    inputs, hidden : width I of x_t and H of every state.
    nodes : for every node the keys of its operations; one key a node gives the fixed form.
    operations : operations of a node that is grown; default the first node's.
    """

    def __init__(self, inputs: int, hidden: int, nodes: Sequence[Sequence[str]],
                 operations: Sequence[str] | None = None) -> None:
        super().__init__()
        self.inputs, self.hidden = inputs, hidden
        self.operations = list(operations or nodes[0])
        self.nodes = nn.ModuleList(TwoInputNode(inputs, hidden, keys) for keys in nodes)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """All states h_1 .. h_T, (T, B, I) -> (T, B, H), starting from `h` (B, H), default zero."""
        h = x.new_zeros(x.shape[1], self.hidden) if h is None else h
        nodes = [(node, node.project_inputs(x), node.state_weights().t(), node.mixture.weights())
                 for node in self.nodes]
        states = []
        for t in range(len(x)):
            for node, wx, U_transposed, weights in nodes:
                h = node(wx[t], h @ U_transposed, h, weights)
            states.append(h)
        return torch.stack(states)

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        """Append a node that mixes all operations; identity at first if `morphism` [JG 3.2.1]."""
        like = self.nodes[0].mixture.alpha
        node = TwoInputNode(self.inputs, self.hidden, self.operations).to(like)
        if morphism:
            node.become_identity(epsilon, noise)
        self.nodes.append(node)

    def operation_weights(self, mixture: Mixture, key: str) -> dict[str, nn.Parameter]:
        """`W`, `U`, `b` of an operation; empty if it owns none."""
        return self._node_of(mixture).weights_of(key)

    def duplicate_operation(self, mixture: Mixture, key: str) -> Duplicate:
        """Add an identical copy of operation `key` to the node of `mixture` [JG 3.2.2]."""
        return self._node_of(mixture).duplicate(key)

    def _node_of(self, mixture: Mixture) -> TwoInputNode:
        return next(node for node in self.nodes if node.mixture is mixture)

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Every operation with weights on all samples and time steps that `loss` runs the cell over.

        Its gradient at a time step is the total one: also through the later steps that the state reaches.
        """
        calls = record_calls([self, *self.nodes], loss)
        x = torch.cat([call.arguments[0].flatten(0, 1) for call in calls[self]])  # (n, I), n = T * B of all calls
        return [trace for node in self.nodes
                for trace in node.traces(x, torch.cat([call.arguments[2] for call in calls[node]]),
                                         torch.cat([call.gradient for call in calls[node]]))]

    def mixtures(self) -> Iterator[Mixture]:
        """One mixture a node."""
        return (node.mixture for node in self.nodes)

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights of all nodes."""
        return [parameter for node in self.nodes for parameter in node.theta_parameters()]

    def structure(self) -> list[list[str]]:
        """Keys of every node."""
        return [list(node.mixture.keys) for node in self.nodes]

    def restructure(self, structure: Sequence[Sequence[str]]) -> None:
        """Rebuild the nodes for `structure`, with fresh weights."""
        like = self.nodes[0].mixture.alpha
        self.nodes = nn.ModuleList(TwoInputNode(self.inputs, self.hidden, keys) for keys in structure).to(like)

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return sum(2 * p.numel() for p in self.theta_parameters() if p.ndim == 2)

    def derive(self) -> tuple[tuple[str, ...], ...]:
        """Per node its strongest operation, as often as it is held.

        If no node's strongest operation lets the input into a zero state, the cell would output zero for
        ever. As DARTS passes over `none`, the node that gives such an operation the most weight then takes
        it in place of its strongest one (Deviation D13).
        """
        weights = [node.mixture.operation_weights() for node in self.nodes]
        chosen = [max(w, key=w.__getitem__) for w in weights]
        if not any(TWO_INPUT[name].admits_input() for name in chosen):
            inlets = [(weight, j, name) for j, w in enumerate(weights) for name, weight in w.items()
                      if TWO_INPUT[name].admits_input()]
            if inlets:  # else the cell holds none, and is what it is
                _, j, chosen[j] = max(inlets)
        return tuple(tuple(name for key in node.mixture.keys if operation_name(key) == name)
                     for node, name in zip(self.nodes, chosen, strict=True))


def fixed_cell(inputs: int, hidden: int, nodes: Sequence[Sequence[str]]) -> TwoInputCell:
    """A derived architecture as a cell to be trained from scratch; copies in a node are averaged."""
    return TwoInputCell(inputs, hidden, [_unique(names) for names in nodes])


def _unique(names: Sequence[str]) -> list[str]:
    """`["gate", "gate"]` -> `["gate", "gate#2"]`."""
    seen: dict[str, int] = {}
    keys = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        keys.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return keys
