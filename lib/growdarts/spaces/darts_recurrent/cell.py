"""The recurrent search cell of DARTS, which can grow, and its nodes.

Shapes: T time, B batch, I inputs, H hidden, N nodes, E edges, L live edges of a node, K operations.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growdarts.space import Duplicate, SearchSpace
from growdarts.spaces.containers import OperationHolder
from growdarts.devices import constant
from growdarts.spaces.darts_recurrent.highway import ACTIVATIONS, HighwayCell, highway, masked, uniform
from growdarts.tracing import OperationTrace, record_calls, statistics_kept
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS, RecurrentGenotype
from growdarts.spaces.genotype import GenotypeError
from growdarts.spaces.precision import product
from growdarts.mixture import Mixture, operation_name
from growdarts.forms import has_fast_form, plain_forms


class PrivateOperation(NamedTuple):
    """An operation with weights of its own, in one evaluation."""

    source: int  # position of its predecessor among the live ones
    activation: str
    W: Tensor  # (H, 2 H)
    weight: Tensor  # of the mixture, ()


class RecurrentNode(nn.Module):
    """A node of the search cell: a mixture an edge, one W for all operations but the copies, which have their own.

    edges : for every predecessor the keys of its operations.
    weighted : whether the node has an output weight and a batch norm of its own (a node grown by morphism).
    private : for every predecessor the keys of operations with a W of their own, as those that were duplicated have.
    """

    def __init__(self, hidden: int, edges: Sequence[Sequence[str]], weighted: bool,
                 private: Sequence[Sequence[str]] | None = None) -> None:
        super().__init__()
        private = private or [()] * len(edges)
        shared = {key for keys, own in zip(edges, private, strict=True) for key in keys if key not in own}
        names = {operation_name(key) for own in private for key in own}
        unknown = sorted((shared - set(RECURRENT_OPERATIONS)) | (names - set(ACTIVATIONS)))
        if unknown:
            raise ValueError(f"unknown operations {unknown}: allowed are {', '.join(RECURRENT_OPERATIONS)}")
        self.hidden = hidden
        self.W = uniform(hidden, 2 * hidden)
        self.edges = nn.ModuleList(Mixture(keys) for keys in edges)
        self.private = nn.ModuleList(nn.ParameterDict({key: uniform(hidden, 2 * hidden) for key in own})
                                     for own in private)
        self.output_weight = nn.Parameter(torch.zeros(())) if weighted else None
        self.bn = nn.BatchNorm1d(hidden, affine=False) if weighted else None

    def live(self) -> list[int]:
        """Predecessors whose edge holds more than `none`; a node without any computes zero times state 0."""
        return [j for j, edge in enumerate(self.edges) if edge.keys != ["none"]] or [0]

    def activations(self) -> list[str]:
        """Activations that W serves on at least one edge."""
        held = {key for edge, own in zip(self.edges, self.private, strict=True) for key in edge.keys if key not in own}
        return [name for name in ACTIVATIONS if name in held] or ["identity"]

    def own(self) -> list[list[str]]:
        """For every edge the keys with a W of their own, in the order of alpha."""
        return [[key for key in edge.keys if key in own] for edge, own in zip(self.edges, self.private, strict=True)]

    def forward(self, sources: Tensor, h_mask: Tensor | None, names: list[str], weights: Tensor,
                private: Sequence[PrivateOperation]) -> Tensor:
        r"""$\sum_j \sum_o w_{jo}\, o(s_j) = \sum_j q_j s_j + \sigma(c_j)(\sum_o w_{jo} f_o(u_j) - q_j s_j)$ with
        $q_j = \sum_o w_{jo}$, $[c_j, u_j]$ from the dropped states, before the batch norm: live states (L, B, H) -> (B,
        H) [DARTS Eq. 2]. `weights` (L, K) are those of the operations that share W, of activations `names`.
        """
        dropped = masked(sources, h_mask)
        c, u = product(dropped, self.W).chunk(2, dim=-1)
        candidates = torch.stack([ACTIVATIONS[name](u) for name in names], dim=1)  # (L, K, B, H)
        mixed = (weights[:, :, None, None] * candidates).sum(dim=1)
        kept = weights.sum(dim=1)[:, None, None] * sources
        mixed = torch.lerp(kept, mixed, torch.sigmoid(c)).sum(dim=0)
        for j, activation, W, weight in private:
            mixed = mixed + weight * highway(sources[j], product(dropped[j], W), activation)
        return mixed

    def theta_parameters(self) -> list[nn.Parameter]:
        """W, the private weights, and the output weight if there is one."""
        private = [own[key] for keys, own in zip(self.own(), self.private, strict=True) for key in keys]
        return [self.W, *private] + ([] if self.output_weight is None else [self.output_weight])

    def structure(self) -> dict[str, Any]:
        """The arguments that build such a node."""
        return {"edges": [list(edge.keys) for edge in self.edges], "weighted": self.output_weight is not None,
                "private": self.own()}

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * self.W.numel() * (len(self.live()) + sum(map(len, self.own())))


class RecurrentSearchCell(HighwayCell, OperationHolder, SearchSpace):
    r"""The recurrent search cell of DARTS, which can grow.

    $$ s_i = \mathrm{BN}\Big(\sum_{j<i} \sum_{o \neq none} \mathrm{softmax}(\alpha^{(i,j)})_o\, o(s_j)\Big),
       \qquad h_t = \frac1N \sum_{i=1}^N s_i $$

    [DARTS Eq. 2], with one batch norm without affine parameters for all states and time steps; nodes grown by morphism have
    their own. The edges, rows of the original's alpha, are ordered by node, then by predecessor.

    All operations of a node compute with one W. To be duplicated, an operation leaves it: on its edge it and its copy
    get a W of their own, $W - \delta$ and $W + \delta$, while all others keep the shared one.

    `inputs` and `hidden` are the widths I and H, `operations` the candidates of every edge, also of those that are
    grown.
    """

    def __init__(self, inputs: int, hidden: int, n_nodes: int,
                 operations: Sequence[str] = RECURRENT_OPERATIONS) -> None:
        super().__init__(inputs, hidden)
        if n_nodes < 1 or not set(operations) - {"none"}:
            raise ValueError(f"n_nodes = {n_nodes}, operations = {list(operations)}: "
                             "a cell needs a node, and a node an operation besides none")
        self.operations = list(operations)
        self.bn = nn.BatchNorm1d(hidden, affine=False)
        self.nodes = nn.ModuleList(RecurrentNode(hidden, [operations] * i, False) for i in range(1, n_nodes + 1))

    def _logits(self, columns: list[list[int]], K: int) -> Tensor:
        """All alphas as rows of K `columns`, (E, K); -inf elsewhere."""
        alpha = torch.cat([mixture.alpha for mixture in self.mixtures()])
        place = constant(tuple(row * K + column for row, edge in enumerate(columns) for column in edge), torch.int64,
                         alpha.device)
        empty = alpha.new_full((len(columns) * K,), float("-inf"))
        return empty.scatter(0, place, alpha).view(-1, K)

    def forward(self, x: Tensor, h: Tensor | None = None, x_mask: Tensor | None = None,
                h_mask: Tensor | None = None) -> Tensor:
        """As `HighwayCell.forward`; a batch of one column is a ValueError in train mode."""
        if self.training and x.shape[1] < 2:
            raise ValueError(f"batch of size {x.shape[1]}: allowed is at least 2 in train mode, batch norm has nothing "
                             "to compare a single column with")
        return super().forward(x, h, x_mask, h_mask)

    @has_fast_form
    def states(self, x: Tensor, h: Tensor, x_mask: Tensor | None, h_mask: Tensor | None) -> Tensor:
        """`forward` from a given h, one time step after another [DARTS Eq. 2]."""
        return super().states(x, h, x_mask, h_mask)

    def prepared(self) -> list[tuple[RecurrentNode, list[int], list[str], Tensor, list[PrivateOperation]]]:
        """Per node: its live predecessors; the activations that share W, and their weights (live, activations); the
        operations that do not."""
        K = len(RECURRENT_OPERATIONS)
        private = sorted({key for node in self.nodes for keys in node.own() for key in keys})  # columns after the K
        columns = [[K + private.index(key) if key in own else RECURRENT_OPERATIONS.index(key) for key in edge.keys]
                   for node in self.nodes for edge, own in zip(node.edges, node.private, strict=True)]
        weights = torch.softmax(self._logits(columns, K + len(private)), dim=-1)
        prepared = []
        for node, rows in zip(self.nodes, weights.split([len(node.edges) for node in self.nodes]), strict=True):
            live, names = node.live(), node.activations()
            shared = rows.index_select(0, constant(tuple(live), torch.int64, rows.device)).index_select(1, constant(
                tuple(map(RECURRENT_OPERATIONS.index, names)), torch.int64, rows.device))
            own = [PrivateOperation(live.index(j), operation_name(key), node.private[j][key],
                                    rows[j, K + private.index(key)])
                   for j, keys in enumerate(node.own()) for key in keys]
            prepared.append((node, live, names, shared, own))
        return prepared

    def _step(self, s: Tensor, h_mask: Tensor | None, prepared: Any) -> Tensor:
        states = [self.bn(s)]
        for node, live, *operations in prepared:
            sources = torch.stack([states[j] for j in live])  # (live, B, H)
            states.append((node.bn or self.bn)(node(sources, h_mask, *operations)))
        plain = [s for s, node in zip(states[1:], self.nodes, strict=True) if node.output_weight is None]
        h = torch.stack(plain).mean(dim=0)
        for s, node in zip(states[1:], self.nodes, strict=True):
            if node.output_weight is not None:
                h = h + node.output_weight * s
        return h

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        r"""Append a node with edges from all states; function-preserving if `morphism` [JG 3.2.1].

        The plain mean over N + 1 nodes would keep the output only if the new state were $m$, the mean of the old ones,
        in every batch. No weights give that in train mode: $\mathrm{BN}(z) = m$ needs $z = \kappa m$ with
        $\kappa^2 = \epsilon_{bn} / (1 - \mathrm{var}\, m)$, which changes from batch to batch; nor can the gates be
        closed, since $s_j W$ has no bias. Hence the new node has an output weight of its own, near zero:

        $$ h_t = \frac1N \sum_{i \le N} s_i + w\, s_{N+1}, \qquad w = \frac{\text{noise} \cdot \epsilon}{10\,(N + 1)} . $$

        Without noise the function is kept exactly, for any W and alpha, in both modes. With it a state changes by about
        $w\sqrt N$ of its size; the tenth allows for what the recurrence adds up over time. The gradient of w has full
        size from the first step, those of W and alpha grow with it. Its batch norm is its own: the shared running
        statistics would count it in from the next window on. Without `morphism` it has neither and joins the mean.
        """
        like = self.nodes[0].W
        node = RecurrentNode(self.hidden, [self.operations] * (len(self.nodes) + 1), morphism).to(like).train(self.training)
        if morphism:
            nn.init.constant_(node.output_weight, noise * epsilon / 10 / (len(self.nodes) + 1))
        self.nodes.append(node)

    def theta_parameters(self) -> list[nn.Parameter]:
        return [self.W0] + [parameter for node in self.nodes for parameter in node.theta_parameters()]

    def mixtures(self) -> Iterator[Mixture]:
        return (edge for node in self.nodes for edge in node.edges)

    def mixture_names(self) -> list[str]:
        return [f"edge {i} <- {j}" for i, node in enumerate(self.nodes, start=1) for j in range(len(node.edges))]

    def n_nodes(self) -> int:
        return len(self.nodes)

    def add_operation(self, mixture: Mixture, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        if name not in RECURRENT_OPERATIONS:
            raise ValueError(f"unknown operation {name!r}: allowed are {', '.join(RECURRENT_OPERATIONS)}")
        return mixture.add(name, weight)  # it computes with the node's W, as all others

    def _edge_of(self, mixture: Mixture) -> tuple[RecurrentNode, int]:
        """Node and predecessor of the edge of `mixture`."""
        return next((node, j) for node in self.nodes for j, edge in enumerate(node.edges) if edge is mixture)

    def containers(self, mixture: Mixture) -> dict[str, nn.ParameterDict]:
        """The W of operations that have their own."""
        node, j = self._edge_of(mixture)
        return {"W": node.private[j]}

    def operation_weights(self, mixture: Mixture, key: str) -> dict[str, nn.Parameter]:
        """`W`, (H, 2 H), of an operation: its own, or the one that it shares; empty for `none`."""
        shared = {} if key == "none" else {"W": self._edge_of(mixture)[0].W}
        return super().operation_weights(mixture, key) or shared

    def duplicate_operation(self, mixture: Mixture, key: str) -> Duplicate:
        """Add an identical copy of an operation to its edge; each then has a W of its own [JG 3.2.2]."""
        private = self.containers(mixture)["W"]
        if key not in private:
            private[key] = nn.Parameter(self.operation_weights(mixture, key)["W"].detach().clone())
        return super().duplicate_operation(mixture, key)

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Every operation but `none` on all samples and time steps that `loss` runs the cell over.

        Those that share W are taken as duplicating leaves them: each with a W of its own. Dropout masks are part of
        the trace. Its gradient at a time step is the total one: also through the later steps and the batch norm.
        """
        with plain_forms(), statistics_kept(self):
            calls = record_calls([*self.nodes], loss)
        traces = []
        for node in self.nodes:
            sources = torch.cat([call.arguments[0] for call in calls[node]], dim=1)  # (L, n, H)
            dropped = torch.cat([masked(*call.arguments[:2]) for call in calls[node]], dim=1)
            gradient = torch.cat([call.gradient for call in calls[node]])
            for s, s_dropped, j in zip(sources, dropped, node.live(), strict=True):
                edge = node.edges[j]
                traces += [OperationTrace(edge, key, self.operation_weights(edge, key),
                                          partial(_output, s, s_dropped, key), gradient, self.hidden, 1, weight)
                           for key, weight in zip(edge.keys, edge.weights().detach(), strict=True) if key != "none"]
        return traces

    def structure(self) -> list[dict[str, Any]]:
        """Per node the operations of its edges, which of them have their own W, and whether it has an output weight."""
        return [node.structure() for node in self.nodes]

    def restructure(self, structure: Sequence[dict[str, Any]]) -> None:
        like = self.nodes[0].W
        self.nodes = nn.ModuleList(RecurrentNode(self.hidden, **node) for node in structure).to(like).train(self.training)

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * self.W0.numel() + sum(node.flops() for node in self.nodes)

    def genotype(self) -> RecurrentGenotype:
        """Per node the edge and operation of the largest weight, `none` aside [DARTS 2.4].

        Copies of a duplicated operation count together. An edge that holds `none` only cannot be chosen, and a node
        without an edge to choose is left out.
        """
        number, recurrent = {0: 0}, []  # number of a state in the genotype
        for i, node in enumerate(self.nodes, start=1):
            candidates = [(weight, name, j) for j, edge in enumerate(node.edges) if j in number
                          for name, weight in edge.operation_weights().items() if name != "none"]
            if candidates:
                _, name, j = max(candidates, key=lambda candidate: candidate[0])  # the first of equals, as DARTS
                recurrent.append((name, number[j]))
                number[i] = len(recurrent)
        if not recurrent:
            raise GenotypeError("every edge of the cell holds none only: no architecture can be derived")
        return RecurrentGenotype(tuple(recurrent), tuple(range(1, len(recurrent) + 1)))


def _output(s: Tensor, dropped: Tensor, key: str, theta: Mapping[str, Tensor]) -> Tensor:
    """An operation on states (n, H) before and after dropout; unit u owns columns u and H + u of W."""
    return highway(s, dropped @ theta["W"], operation_name(key))
