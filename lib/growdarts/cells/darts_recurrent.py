"""The recurrent search cell of DARTS, which can grow.

Shapes: T time, B batch, I inputs, H hidden, N nodes, E edges, K operations.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.cells.highway import ACTIVATIONS, HighwayCell, masked, uniform
from growdarts.darts_genotypes import RECURRENT_OPERATIONS, RecurrentGenotype
from growdarts.genotype import GenotypeError
from growdarts.interop import StateDictError
from growdarts.mixture import Mixture


class RecurrentNode(nn.Module):
    """A node of the search cell: one W for all its edges, one mixture for each.

    Parameters
    ----------
    edges : for every predecessor the names of its operations.
    weighted : whether the node enters the output by a weight of its own (a node grown by morphism).
    """

    def __init__(self, hidden: int, edges: Sequence[Sequence[str]], weighted: bool) -> None:
        super().__init__()
        unknown = sorted({key for keys in edges for key in keys} - set(RECURRENT_OPERATIONS))
        if unknown:
            raise ValueError(f"unknown operations {unknown}: allowed are {', '.join(RECURRENT_OPERATIONS)}")
        self.W = uniform(hidden, 2 * hidden)
        self.edges = nn.ModuleList(Mixture(keys) for keys in edges)
        self.output_weight = nn.Parameter(torch.zeros(())) if weighted else None

    def live(self) -> list[int]:
        """Predecessors whose edge holds more than `none`; a node without any computes zero times state 0."""
        return [j for j, edge in enumerate(self.edges) if edge.keys != ["none"]] or [0]

    def activations(self) -> list[str]:
        """Activations that at least one edge holds."""
        held = {key for edge in self.edges for key in edge.keys}
        return [name for name in ACTIVATIONS if name in held] or ["identity"]

    def theta_parameters(self) -> list[nn.Parameter]:
        """W, and the output weight if there is one."""
        return [self.W] if self.output_weight is None else [self.W, self.output_weight]


class RecurrentSearchCell(HighwayCell):
    r"""The recurrent search cell of DARTS, which can grow; a `growdarts.cells.SearchSpace`.

    $$ s_i = \mathrm{BN}\Big(\sum_{j<i} \sum_{o \neq none} \mathrm{softmax}(\alpha^{(i,j)})_o\, o(s_j)\Big),
       \qquad h_t = \frac1N \sum_{i=1}^N s_i $$

    [DARTS Eq. 2], with one batch norm without affine parameters for all states and time steps. The edges, rows of
    the original's alpha, are ordered by node, then by predecessor.

    Parameters
    ----------
    inputs, hidden : width I of x_t and H of every state.
    n_nodes : nodes to start with.
    operations : candidates of every edge, now and when the cell grows.
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

    def alpha_matrix(self) -> Tensor:
        """The original's alpha (E, K), columns as in RECURRENT_OPERATIONS; -inf where an edge has no such operation."""
        mixtures, K = list(self.mixtures()), len(RECURRENT_OPERATIONS)
        place = [row * K + RECURRENT_OPERATIONS.index(key) for row, m in enumerate(mixtures) for key in m.keys]
        alpha = torch.cat([mixture.alpha for mixture in mixtures])
        empty = alpha.new_full((len(mixtures) * K,), float("-inf"))
        return empty.scatter(0, torch.tensor(place, device=alpha.device), alpha).view(-1, K)

    @torch.no_grad()
    def load_alpha(self, matrix: Tensor) -> None:
        """Take over the original's alpha (E, K)."""
        mixtures = list(self.mixtures())
        if matrix.shape != (len(mixtures), len(RECURRENT_OPERATIONS)):
            raise StateDictError(f"alpha {tuple(matrix.shape)} instead of {(len(mixtures), len(RECURRENT_OPERATIONS))}")
        for mixture, row in zip(mixtures, matrix, strict=True):
            mixture.alpha.copy_(row[[RECURRENT_OPERATIONS.index(key) for key in mixture.keys]])

    def _prepare(self) -> list[tuple[RecurrentNode, list[int], list[str], Tensor]]:
        """Per node: its live predecessors, its activations, and their weights (live, activations)."""
        weights = torch.softmax(self.alpha_matrix(), dim=-1).split([len(node.edges) for node in self.nodes])
        prepared = []
        for node, rows in zip(self.nodes, weights, strict=True):
            live, names = node.live(), node.activations()
            columns = [RECURRENT_OPERATIONS.index(name) for name in names]
            prepared.append((node, live, names, rows[live][:, columns]))
        return prepared

    def _step(self, s: Tensor, h_mask: Tensor | None, prepared: Any) -> Tensor:
        states = [self.bn(s)]
        for node, live, names, weights in prepared:
            sources = torch.stack([states[j] for j in live])  # (live, B, H)
            states.append(self.bn(self._mix(node.W, sources, masked(sources, h_mask), names, weights)))
        plain = [s for s, node in zip(states[1:], self.nodes, strict=True) if node.output_weight is None]
        h = torch.stack(plain).mean(dim=0)
        for s, node in zip(states[1:], self.nodes, strict=True):
            if node.output_weight is not None:
                h = h + node.output_weight * s
        return h

    @staticmethod
    def _mix(W: Tensor, sources: Tensor, dropped: Tensor, names: list[str], weights: Tensor) -> Tensor:
        r"""$\sum_j \sum_o w_{jo}\, o(s_j) = \sum_j q_j s_j + \sigma(c_j)(\sum_o w_{jo} f_o(u_j) - q_j s_j)$ with
        $q_j = \sum_o w_{jo}$, $[c_j, u_j]$ from `dropped` states: (live, B, H) -> (B, H) [DARTS Eq. 2]."""
        c, u = (dropped @ W).chunk(2, dim=-1)
        candidates = torch.stack([ACTIVATIONS[name](u) for name in names], dim=1)  # (live, K, B, H)
        mixed = torch.bmm(weights[:, None], candidates.flatten(2)).view_as(sources)
        kept = weights.sum(dim=1)[:, None, None] * sources
        return torch.lerp(kept, mixed, torch.sigmoid(c)).sum(dim=0)

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        r"""Append a node with edges from all states; function-preserving if `morphism` [JG 3.2.1].

        The plain mean over N + 1 nodes would keep the output only if the new state were $m$, the mean of the old
        ones, in every batch. No weights give that in train mode: batch norm leaves the new state a variance of
        $v / (v + \epsilon_{bn})$ whatever W and alpha are, so that $\mathrm{BN}(z) = m$ needs $z = \kappa m$ with
        $\kappa^2 = \epsilon_{bn} / (1 - \mathrm{var}\, m)$, which changes from batch to batch. Closing the gates does
        not help either, since $s_j W$ has no bias: $\sigma(c)$ is open for one sign of $s_j$ or 1/2 for all.

        Hence the new node gets what a new channel gets in a convolutional cell, an output weight of its own,
        near zero:

        $$ h_t = \frac1N \sum_{i \le N} s_i + w\, s_{N+1}, \qquad w = \frac{\text{noise} \cdot \epsilon}{10\,(N + 1)} . $$

        Without noise the function is kept exactly, for any W and alpha, in both modes. With it a state changes by
        about $w\sqrt N$ of its size; the tenth leaves room for what the recurrence adds up over time (no factor
        would do for a chaotic cell). W and alpha start as those of any node, inherited parameters are untouched.
        w is trained like every weight: its gradient has full size from the first step, those of W and alpha grow
        with it. Without `morphism` the node has no weight of its own and joins the mean, as in a fresh cell.
        The running statistics are untouched at the moment of growth; later batches count the new state in.
        """
        like = self.nodes[0].W
        node = RecurrentNode(self.hidden, [self.operations] * (len(self.nodes) + 1), morphism).to(like)
        if morphism:
            nn.init.constant_(node.output_weight, noise * epsilon / 10 / (len(self.nodes) + 1))
        self.nodes.append(node)

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture logits, one a mixture."""
        return [mixture.alpha for mixture in self.mixtures()]

    def theta_parameters(self) -> list[nn.Parameter]:
        """W0 and the weights of all nodes."""
        return [self.W0] + [parameter for node in self.nodes for parameter in node.theta_parameters()]

    def mixtures(self) -> Iterator[Mixture]:
        """One mixture an edge, by node, then by predecessor."""
        return (edge for node in self.nodes for edge in node.edges)

    def mixture_names(self) -> list[str]:
        """`edge i <- j` for every mixture."""
        return [f"edge {i} <- {j}" for i, node in enumerate(self.nodes, start=1) for j in range(len(node.edges))]

    def n_nodes(self) -> int:
        """Intermediate nodes."""
        return len(self.nodes)

    def keep_operations(self, mixture: Mixture, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only operations `index` of an edge; the old and the new alpha. W serves all edges and stays."""
        return mixture.keep(index)

    def structure(self) -> list[dict[str, Any]]:
        """Per node the operations of its edges, and whether it has an output weight."""
        return [{"edges": [list(edge.keys) for edge in node.edges], "weighted": node.output_weight is not None}
                for node in self.nodes]

    def restructure(self, structure: Sequence[dict[str, Any]]) -> None:
        """Rebuild the nodes for `structure`, with fresh weights."""
        like = self.nodes[0].W
        self.nodes = nn.ModuleList(RecurrentNode(self.hidden, **node) for node in structure).to(like)

    def flops(self) -> int:
        """Multiply-adds, counted twice, of the matrix products of one time step and sample."""
        return 2 * self.W0.numel() + sum(2 * len(node.live()) * node.W.numel() for node in self.nodes)

    def genotype(self) -> RecurrentGenotype:
        """Per node the edge and operation of the largest weight, `none` aside [DARTS 2.4].

        An edge that holds `none` only cannot be chosen, and a node without an edge to choose is left out.
        """
        number, recurrent = {0: 0}, []  # number of a state in the genotype
        for i, node in enumerate(self.nodes, start=1):
            candidates = [(weight, key, j) for j, edge in enumerate(node.edges) if j in number
                          for key, weight in edge.named_weights().items() if key != "none"]
            if candidates:
                _, key, j = max(candidates, key=lambda candidate: candidate[0])  # the first of equals, as DARTS
                recurrent.append((key, number[j]))
                number[i] = len(recurrent)
        if not recurrent:
            raise GenotypeError("every edge of the cell holds none only: no architecture can be derived")
        return RecurrentGenotype(tuple(recurrent), tuple(range(1, len(recurrent) + 1)))

    def original_tensors(self) -> dict[str, Tensor]:
        """Names of the original's search cell. Its alpha is not in its state dict: see `load_alpha`."""
        weighted = [i for i, node in enumerate(self.nodes, start=1) if node.output_weight is not None]
        if weighted:
            raise StateDictError(f"nodes {weighted} have output weights, which the original's cell does not know")
        return {"_W0": self.W0, **{f"_Ws.{i}": node.W for i, node in enumerate(self.nodes)},
                **{f"bn.{name}": buffer for name, buffer in self.bn.named_buffers()}}
