"""The convolutional cells of DARTS: normal and reduction, searchable and fixed.

A cell fits the outputs s0, s1 of the two cells before it to its channels C; node i = 2, 3, ... sums what
its edges make of the states 0 .. i-1; the nodes' channels are concatenated. The edges of node i come
after those of node i-1, so a grown node leaves the numbers of all others as they are.
Shapes: B batch, C channels, H and W pixels, N nodes, K operations of an edge.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_conv.operations import FactorizedReduce, ReLUConvBN, Zero, build_operation, drop_path
from growdarts.spaces.darts.genotypes import Edge
from growdarts.spaces.genotype import GenotypeError
from growdarts.mixture import Mixture, operation_name
from growdarts.spaces.containers import OperationModules
from growdarts.forms import has_fast_form

T = TypeVar("T")


class Cell(nn.Module):
    """What both forms share: fitting the two inputs.

    Parameters
    ----------
    inputs, channels : of s0 and s1, and C of every node.
    reduction : edges from the two inputs have stride 2.
    after_reduction : s1 comes from a reduction cell, so s0 has twice its height and width. The two are the `place`.
    affine : whether the batch norms have weights; a search network's have none.
    """

    width: int  # channels of the output

    def __init__(self, inputs: tuple[int, int], channels: int, *, reduction: bool, after_reduction: bool,
                 affine: bool) -> None:
        super().__init__()
        self.channels, self.reduction = channels, reduction
        fit = FactorizedReduce if after_reduction else ReLUConvBN
        self.preprocess0 = fit(inputs[0], channels, affine=affine)
        self.preprocess1 = ReLUConvBN(inputs[1], channels, affine=affine)

    def stride(self, predecessor: int) -> int:
        """Of an edge from state `predecessor`."""
        return 2 if self.reduction and predecessor < 2 else 1


class MixedEdge(nn.Module):
    r"""$\bar o(x) = \sum_o \mathrm{softmax}(\alpha)_o \; o(x)$ [DARTS Eq. 2]; the mixture is the network's."""

    def __init__(self, channels: int, stride: int, keys: Sequence[str]) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride
        self.operations = OperationModules({key: self.build(key) for key in keys})

    def build(self, key: str) -> nn.Module:
        """Operation `key` of this edge, with fresh weights."""
        return build_operation(operation_name(key), self.channels, self.stride, search=True)

    def forward(self, x: Tensor, keys: Sequence[str], weights: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / stride, W / stride); `weights` (K,) in the order of `keys`."""
        parts = [(w, self.operations[key]) for key, w in zip(keys, weights, strict=True)]
        # zeros need not be added to anything, but an edge of nothing else stays in the graph of gradients
        parts = [(w, o) for w, o in parts if not isinstance(o, Zero)] or parts
        return sum(w * operation(x) for w, operation in parts)


class SearchCell(Cell):
    r"""$x_i = \sum_{j < i} \bar o_{ij}(x_j)$, the output is $x_2, x_3, \dots$ side by side [DARTS Eq. 1]; `edges` are
    the keys of their operations."""

    def __init__(self, inputs: tuple[int, int], channels: int, edges: Sequence[Sequence[str]], **place: bool) -> None:
        super().__init__(inputs, channels, affine=False, **place)
        self.edges = nn.ModuleList(MixedEdge(channels, self.stride(j), keys)
                                   for node in by_node(edges) for j, keys in enumerate(node))

    @property
    def n_nodes(self) -> int:
        return len(by_node(self.edges))

    @property
    def width(self) -> int:
        return self.n_nodes * self.channels

    @has_fast_form
    def forward(self, s0: Tensor, s1: Tensor, mixtures: Sequence[tuple[Sequence[str], Tensor]]) -> Tensor:
        """-> (B, N * C, H, W), edge after edge [DARTS Eq. 1]; `mixtures` are every edge's keys and weights."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in by_node(zip(self.edges, mixtures, strict=True)):
            states.append(sum(edge(x, *mixture) for x, (edge, mixture) in zip(states, node, strict=True)))
        return torch.cat(states[2:], dim=1)

    def add_node(self, keys: Sequence[str]) -> None:
        """Append a node with edges from all states; its weights are fresh, nobody reads it yet."""
        like = self.preprocess1.op[1].weight
        self.edges.extend([MixedEdge(self.channels, self.stride(j), keys).to(like).train(self.training)
                           for j in range(2 + self.n_nodes)])

    def theta_parameters(self, mixtures: Sequence[Mixture]) -> list[nn.Parameter]:
        """Weights, those of an edge in the order of its alpha."""
        return [*self.preprocess0.parameters(), *self.preprocess1.parameters()] + [
            p for edge, mixture in zip(self.edges, mixtures, strict=True)
            for key in mixture.keys for p in edge.operations[key].parameters()]

    def node_rms(self, mixtures: Sequence[Mixture]) -> float:
        """Bound of the last node's root mean square over batch and pixels.

        A batch norm leaves at most 1, an identity what it is given, and root mean squares of terms add up
        at most linearly.
        """
        rms = [1.0, 1.0]
        for node in by_node(zip(self.edges, mixtures, strict=True)):
            total = 0.0
            for j, (edge, mixture) in enumerate(node):
                for key, weight in mixture.named_weights().items():
                    operation = edge.operations[key]
                    total += weight * (rms[j] if isinstance(operation, nn.Identity) else
                                       0.0 if isinstance(operation, Zero) else 1.0)
            rms.append(total)
        return rms[-1]


class FixedCell(Cell):
    """A derived cell: every node sums two `edges`, an operation and a predecessor each; `concat` make the output."""

    def __init__(self, inputs: tuple[int, int], channels: int, edges: Sequence[Edge], concat: Sequence[int],
                 **place: bool) -> None:
        super().__init__(inputs, channels, affine=True, **place)
        self.concat, self.predecessors = tuple(concat), [j for _, j in edges]
        self.operations = nn.ModuleList(build_operation(name, channels, self.stride(j), search=False)
                                        for name, j in edges)
        self.width = len(self.concat) * channels

    def forward(self, s0: Tensor, s1: Tensor, drop_probability: float) -> Tensor:
        """-> (B, width, H, W); in train mode every edge but an identity is dropped with `drop_probability`."""
        states, outputs = [self.preprocess0(s0), self.preprocess1(s1)], []
        for j, operation in zip(self.predecessors, self.operations, strict=True):
            outputs.append(operation(states[j]))
            if self.training and drop_probability > 0 and not isinstance(operation, nn.Identity):
                outputs[-1] = drop_path(outputs[-1], drop_probability)
            if len(outputs) == 2:
                states.append(outputs[0] + outputs[1])
                outputs = []
        return torch.cat([states[i] for i in self.concat], dim=1)


def by_node(edges: Iterable[T]) -> list[list[T]]:
    """The edges of a cell, or what belongs to them, node by node: the first two, the next three, ..."""
    left, nodes = list(edges), []
    while left:
        n = len(nodes) + 2
        nodes.append(left[:n])
        left = left[n:]
    return nodes


def derive(mixtures: Sequence[Mixture], kind: str) -> tuple[Edge, ...]:
    """Per node the two edges whose strongest operation weighs most, strongest first [DARTS 2.4].

    `none` competes in the softmax but is not taken; copies of a duplicated operation count together.
    """
    edges: list[Edge] = []
    for i, node in enumerate(by_node(mixtures), start=2):
        found = []
        for j, mixture in enumerate(node):
            weights = {name: w for name, w in mixture.operation_weights().items() if name != "none"}
            if weights:
                best = max(weights, key=weights.__getitem__)
                found.append((weights[best], best, j))
        if len(found) < 2:
            raise GenotypeError(f"node {i} of the {kind} cell: {len(found)} edges hold an operation "
                                "other than none, a genotype needs two")
        found.sort(key=lambda entry: -entry[0])  # stable: of equal edges the first
        edges += [(best, j) for _, best, j in found[:2]]
    return tuple(edges)
