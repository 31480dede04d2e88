"""Networks around the cells: the forecaster of multivariate series, and stacked cells for a language model."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from growdarts.forms import plain_forms
from growdarts.spaces.containers import OperationHolder
from growdarts.spaces.two_input.cell import TwoInputCell, fixed_cell
from growdarts.spaces.two_input.node import TwoInputNode
from growdarts.spaces.genotype import require_space
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.mixture import Mixture
from growdarts.space import SearchSpace
from growdarts.tracing import OperationTrace, record_calls


class Forecaster(nn.Module):
    """Forecasts the vector after a window: stacked `cells` (T, B, I) -> (T, B, H), linear head on the last state."""

    def __init__(self, cells: Sequence[nn.Module], hidden: int, outputs: int) -> None:
        super().__init__()
        self.cells = nn.ModuleList(cells)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        for cell in self.cells:
            x = cell(x)
        return self.head(x[-1])

    def theta_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())


class TwoInputForecaster(Forecaster, OperationHolder, SearchSpace):
    """A forecaster of two-input cells as a search space; a mixture a node, layer by layer."""

    cells: "nn.ModuleList[TwoInputCell]"

    @property
    def operations(self) -> list[str]:
        return self.cells[0].operations

    def theta_parameters(self) -> list[nn.Parameter]:
        return [p for cell in self.cells for p in cell.theta_parameters()] + list(self.head.parameters())

    def mixtures(self) -> Iterator[Mixture]:
        return (mixture for cell in self.cells for mixture in cell.mixtures())

    def n_nodes(self) -> int:
        return max(len(cell.nodes) for cell in self.cells)

    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> None:
        for cell in self.cells:
            cell.grow_node(morphism=morphism, epsilon=epsilon, noise=noise)

    def add_operation(self, mixture: Mixture, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        return self._node_of(mixture).add(name, weight)

    def containers(self, mixture: Mixture) -> dict[str, nn.ParameterDict]:
        node = self._node_of(mixture)
        return {"W": node.W, "U": node.U, "b": node.b}

    def _node_of(self, mixture: Mixture) -> TwoInputNode:
        return next(node for cell in self.cells for node in cell.nodes if node.mixture is mixture)

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Every operation with weights on all samples and time steps that `loss` runs the cells over.

        Its gradient at a time step is the total one: also through the later steps that the state reaches.
        """
        with plain_forms():
            calls = record_calls([*self.cells, *(node for cell in self.cells for node in cell.nodes)], loss)
        traces = []
        for cell, node in ((cell, node) for cell in self.cells for node in cell.nodes):
            x = torch.cat([call.arguments[0].flatten(0, 1) for call in calls[cell]])
            s = torch.cat([call.arguments[2] for call in calls[node]])
            gradient = torch.cat([call.gradient for call in calls[node]])
            weights = node.mixture.weights().detach()
            traces += [OperationTrace(node.mixture, key, self.operation_weights(node.mixture, key),
                                      partial(operation.output, x, s), gradient, cell.hidden, weight=weight)
                       for key, operation, weight in zip(node.mixture.keys, node.operations(), weights, strict=True)
                       if operation.blocks]
        return traces

    def structure(self) -> list[list[list[str]]]:
        return [cell.structure() for cell in self.cells]

    def restructure(self, structure: Sequence[Sequence[Sequence[str]]]) -> None:
        for cell, nodes in zip(self.cells, structure, strict=True):
            cell.restructure(nodes)

    def mixture_names(self) -> list[str]:
        return [f"layer {layer}, node {node}" for layer, cell in enumerate(self.cells, start=1)
                for node in range(1, len(cell.nodes) + 1)]

    def flops(self, steps: int = 1) -> int:
        """Of one sample of `steps` time steps; the head is applied once."""
        head = sum(2 * p.numel() for p in self.head.parameters() if p.ndim == 2)
        return steps * sum(cell.flops() for cell in self.cells) + head

    def genotype(self) -> Genotype:
        return Genotype(tuple(cell.derive() for cell in self.cells))


def two_input_forecaster(features: int, hidden: int, n_layers: int, n_nodes: int,
                         operations: Sequence[str], outputs: int | None = None) -> TwoInputForecaster:
    """The searchable network: every node mixes all `operations`; `outputs` are as many as features if None."""
    widths = [features] + [hidden] * (n_layers - 1)
    cells = [TwoInputCell(width, hidden, [operations] * n_nodes) for width in widths]
    return TwoInputForecaster(cells, hidden, outputs or features)


def derived_forecaster(genotype: Genotype, features: int, hidden: int,
                       outputs: int | None = None) -> TwoInputForecaster:
    """The network of a derived architecture, to be trained from scratch; `outputs` are as many as features if None."""
    require_space(genotype, "two_input")
    widths = [features] + [hidden] * (len(genotype.layers) - 1)
    cells = [fixed_cell(width, hidden, nodes) for width, nodes in zip(widths, genotype.layers, strict=True)]
    return TwoInputForecaster(cells, hidden, outputs or features)


class TwoInputLayers(TwoInputForecaster):
    """Stacked two-input cells without a head, for a language model: the search space of `TwoInputForecaster`, with the last states returned."""

    def __init__(self, cells: Sequence[TwoInputCell]) -> None:
        super().__init__(cells, cells[-1].hidden, 1)
        self.head = nn.Identity()
        self.inputs, self.hidden = cells[0].inputs, cells[-1].hidden

    def forward(self, x: Tensor, h: Sequence[Tensor] | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """States (T, B, H) of the last cell from x (T, B, I), and the last state of every cell."""
        last = []
        for cell, start in zip(self.cells, [None] * len(self.cells) if h is None else h, strict=True):
            x = cell(x, start)
            last.append(x[-1])
        return x, tuple(last)


def two_input_layers(width: int, n_layers: int, n_nodes: int, operations: Sequence[str]) -> TwoInputLayers:
    """A searchable stack whose inputs and states have `width` units; every node mixes all `operations`."""
    return TwoInputLayers([TwoInputCell(width, width, [operations] * n_nodes) for _ in range(n_layers)])


def derived_layers(genotype: Genotype, width: int) -> TwoInputLayers:
    """The stack of a derived architecture, to be trained from scratch."""
    require_space(genotype, "two_input")
    return TwoInputLayers([fixed_cell(width, width, nodes) for nodes in genotype.layers])
