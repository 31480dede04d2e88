"""The two-input recurrent cell: a chain of nodes that take x_t and their predecessor's state [JG Eq. 3].

Shapes: T time, B batch, I inputs of the layer, H hidden, N nodes.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from growdarts.spaces.two_input.node import TwoInputNode
from growdarts.mixture import Mixture, operation_keys, operation_name
from growdarts.forms import has_fast_form
from growdarts.spaces.precision import product_type, require_float, without_autocast
from growdarts.spaces.two_input.operations import TWO_INPUT


class TwoInputCell(nn.Module):
    r"""A chain of two-input nodes run over time: $s_0 = h_{t-1}$, $h_t = s_N$ [JG Eq. 3].

    Parameters
    ----------
    inputs, hidden : width I of x_t and H of every state.
    nodes : for every node the keys of its operations; a node that is grown gets those that the first one starts with.
    """

    def __init__(self, inputs: int, hidden: int, nodes: Sequence[Sequence[str]]) -> None:
        super().__init__()
        if not nodes:
            raise ValueError("a cell needs at least one node")
        self.inputs, self.hidden = inputs, hidden
        self.operations = list(nodes[0])
        self.nodes = nn.ModuleList(TwoInputNode(inputs, hidden, keys) for keys in nodes)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        """All states h_1 .. h_T, (T, B, I) -> (T, B, H), starting from `h` (B, H), default zero.

        Within `torch.autocast` the products with x and h are computed in its type.
        """
        require_float(x)
        return self.states(x, x.new_zeros(x.shape[1], self.hidden) if h is None else h)

    @has_fast_form
    def states(self, x: Tensor, h: Tensor) -> Tensor:
        """h_1 .. h_T (T, B, H) from x (T, B, I) and h (B, H), one time step and node after another [JG Eq. 3]."""
        dtype = product_type(x)

        def product(s: Tensor, *weights: Tensor) -> Tensor:
            return nn.functional.linear(s.to(dtype), *(weight.to(dtype) for weight in weights)).to(h.dtype)

        states, s = [], h
        with without_autocast(x.device):
            nodes = [(node, product(x, *node.input_weights()), node.state_weights(), node.mixture.weights())
                     for node in self.nodes]
            for t in range(len(x)):
                for node, wx, U, weights in nodes:
                    s = node(wx[t], product(s, U), s, weights)
                states.append(s)
        return torch.stack(states)

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        """Append a node that mixes all operations; identity at first if `morphism` [JG 3.2.1]."""
        like = self.nodes[0].mixture.alpha
        node = TwoInputNode(self.inputs, self.hidden, self.operations).to(like)
        if morphism:
            node.become_identity(epsilon, noise)
        self.nodes.append(node)

    def mixtures(self) -> Iterator[Mixture]:
        return (node.mixture for node in self.nodes)

    def theta_parameters(self) -> list[nn.Parameter]:
        return [parameter for node in self.nodes for parameter in node.theta_parameters()]

    def structure(self) -> list[list[str]]:
        return [list(node.mixture.keys) for node in self.nodes]

    def restructure(self, structure: Sequence[Sequence[str]]) -> None:
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
    return TwoInputCell(inputs, hidden, [operation_keys(names) for names in nodes])
