"""The image classifier that is searched: normal and reduction cells that share their mixtures, grow and shrink.

Shapes: C channels, H and W pixels, K operations of an edge, E edges of a cell.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from growdarts.spaces.darts_conv.operations import FactorizedReduce, ReLUConvBN
from growdarts.space import SearchSpace
from growdarts.spaces.containers import OperationHolder, OperationModules
from growdarts.spaces.darts_conv.cell import MixedEdge, SearchCell, derive
from growdarts.tracing import Call, OperationTrace, record_calls, statistics_kept
from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, ConvolutionalGenotype
from growdarts.spaces.darts_conv.network import ImageNetwork
from growdarts.mixture import Mixture
from growdarts.forms import plain_forms


class SearchImageNetwork(ImageNetwork, OperationHolder, SearchSpace):
    """The network that is searched.

    All normal cells share one mixture an edge, `normal`, and all reduction cells another, `reduce`: an operation of
    an edge has its own weights in every cell of the kind, and is dropped or duplicated in all of them at once.
    `n_nodes` are those of a cell at the start, `operations` the candidates of every edge, also of those that are grown.
    """

    def __init__(self, channels: int, classes: int, n_cells: int, n_nodes: int = 4,
                 operations: Sequence[str] = CONVOLUTIONAL_OPERATIONS, *, image_channels: int = 3,
                 image_size: int = 32) -> None:
        super().__init__(channels, classes, n_cells, image_channels=image_channels, image_size=image_size)
        self.operations = list(operations)
        n_edges = sum(range(2, 2 + n_nodes))
        self._build_edges([self.operations] * n_edges, [self.operations] * n_edges)

    def _build_edges(self, normal: Sequence[Sequence[str]], reduce: Sequence[Sequence[str]]) -> None:
        self._build(SearchCell, [normal], [reduce])
        self.normal = nn.ModuleList(map(Mixture, normal))
        self.reduce = nn.ModuleList(map(Mixture, reduce))

    def _mixtures_of(self, cell: SearchCell) -> "nn.ModuleList[Mixture]":
        return self.reduce if cell.reduction else self.normal

    def _cell_arguments(self) -> list[list[tuple[list[str], Tensor]]]:
        normal, reduce = ([(m.keys, m.weights()) for m in kind] for kind in (self.normal, self.reduce))
        return [reduce if cell.reduction else normal for cell in self.cells]

    def theta_parameters(self) -> list[nn.Parameter]:
        cells = [p for cell in self.cells for p in cell.theta_parameters(self._mixtures_of(cell))]
        return [*self.stem.parameters(), *cells, *self.classifier.parameters()]

    def mixtures(self) -> Iterator[Mixture]:
        yield from self.normal
        yield from self.reduce

    def mixture_names(self) -> list[str]:
        """`normal i <- j`, then `reduction i <- j`, for every mixture; states 0 and 1 are the cell's inputs."""
        edges = [(i, j) for i in range(2, 2 + self.n_nodes()) for j in range(i)]
        return [f"{kind} {i} <- {j}" for kind in ("normal", "reduction") for i, j in edges]

    def n_nodes(self) -> int:
        return self.cells[0].n_nodes

    @torch.no_grad()
    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> "list[Widened]":
        """Every cell gains a node; whatever reads a cell gains its channels [JG 3.2.1].

        Cell k reads cells k-1 and k-2, the head reads the last. With `morphism` the new columns are noise,
        so small that the output changes by at most `epsilon`: they share `noise` * `epsilon` as independent
        contributions do, and are divided by a bound of the new node's root mean square. The new node itself
        has fresh weights; the gradient reaches it through the noise. Returns what has been replaced.
        """
        for kind in (self.normal, self.reduce):
            kind.extend([Mixture(self.operations) for _ in range(2 + self.n_nodes())])
            kind.to(self.stem[0].weight).train(self.training)
        for cell in self.cells:
            cell.add_node(self.operations)
        readers = 2 * self.n_cells - 2  # every cell but the last has two, the last one
        level = {cell: noise * epsilon / readers**0.5 / max(cell.node_rms(self._mixtures_of(cell)), 1.0)
                 if morphism else None for cell in self.cells}
        replaced = []
        for position, source in enumerate(self.cells, start=1):
            for reader, fit in zip(self.cells[position:], ("preprocess1", "preprocess0"), strict=False):
                replaced += widen_fitting(getattr(reader, fit), source.channels, level[source])
        last = self.cells[-1]
        rows = self.classifier.weight.square().mean(dim=1).sqrt()  # as large as the entries of each row
        replaced.append(widen(self.classifier, last.channels, rows * level[last] if morphism else None))
        return replaced

    def add_operation(self, mixture: Mixture, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        built = [(edge, edge.build(name)) for edge in self._edges_of(mixture).values()]
        old, new = mixture.add(name, weight)
        for edge, operation in built:
            edge.operations[name] = operation.to(new).train(self.training)
        return old, new

    def _edges_of(self, mixture: Mixture) -> dict[str, MixedEdge]:
        """The edge of `mixture` in every cell of its kind, by the name of the cell."""
        return {f"cell {number}": edge for number, cell in enumerate(self.cells)
                for edge, candidate in zip(cell.edges, self._mixtures_of(cell), strict=True) if candidate is mixture}

    def containers(self, mixture: Mixture) -> dict[str, OperationModules]:
        """Those of the edge of `mixture` in every cell of its kind, by the name of the cell."""
        return {cell: edge.operations for cell, edge in self._edges_of(mixture).items()}

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Of every operation that ends in a convolution, cell by cell; meant for train mode."""
        places = [(mixture, key, cell, edge.operations[key]) for mixture in self.mixtures() for key in mixture.keys
                  for cell, edge in self._edges_of(mixture).items() if last_convolutions(edge.operations[key])]
        with statistics_kept(self), plain_forms():  # which call every operation as a module
            calls = record_calls([operation for *_, operation in places], loss)
        return [trace for *place, operation in places
                for trace in convolution_traces(*place, operation, calls[operation])]

    def structure(self) -> dict[str, list[list[str]]]:
        return {kind: [list(mixture.keys) for mixture in getattr(self, kind)] for kind in ("normal", "reduce")}

    def restructure(self, structure: dict[str, list[list[str]]]) -> None:
        like = self.stem[0].weight
        self._build_edges(**structure)
        self.to(like).train(self.training)

    def genotype(self) -> ConvolutionalGenotype:
        concat = tuple(range(2, 2 + self.n_nodes()))
        return ConvolutionalGenotype(normal=derive(self.normal, "normal"), normal_concat=concat,
                                     reduce=derive(self.reduce, "reduction"), reduce_concat=concat)


# ---- growing: layers that read a cell gain inputs when the cell gains a node

Widened = tuple[nn.Parameter, nn.Parameter, tuple[slice, ...]]  # old, the new that holds it bit for bit, and where


@torch.no_grad()
def widen(layer: nn.Conv2d | nn.Linear, extra: int, deviation: Tensor | None) -> Widened:
    """Let `layer` read `extra` more inputs, after those it reads [JG 3.2.1].

    `deviation` (rows,) is that of the normal new entries; None draws them as fresh weights are drawn.
    """
    old = layer.weight
    columns = old.new_empty(old.shape[0], extra, *old.shape[2:])
    if deviation is None:
        columns.uniform_(-1, 1).mul_((old.shape[1] + extra) ** -0.5)  # torch.nn's range for this fan-in
    else:
        columns.normal_().mul_(deviation.view(-1, *[1] * (old.ndim - 1)))
    layer.weight = nn.Parameter(torch.cat([old, columns], dim=1), requires_grad=old.requires_grad)
    if isinstance(layer, nn.Linear):
        layer.in_features += extra
    else:
        layer.in_channels += extra
    return old, layer.weight, tuple(slice(0, n) for n in old.shape)


@torch.no_grad()
def widen_fitting(preprocess: ReLUConvBN | FactorizedReduce, extra: int, level: float | None) -> "list[Widened]":
    r"""Let a cell's `preprocess` read `extra` more channels, of root mean square 1 [JG 3.2.1].

    The batch norm behind divides by the deviation $\sigma_r$ of row r over the batch, so the new columns get
    `level` $\sigma_r / \sqrt{extra}$: then row r changes by about `level` of its unit variance. $\sigma_r$ is
    the running one, or half the norm of the row where the running one has not come down to it yet.
    `level` None draws fresh weights.
    """
    replaced = []
    for convolution, running_var in preprocess.input_maps():
        deviation = None
        if level is not None:
            norm = convolution.weight.flatten(1).norm(dim=1)
            deviation = level * torch.minimum((running_var + 1e-5).sqrt(), norm / 2) / extra**0.5
        replaced.append(widen(convolution, extra, deviation))
    return replaced


# ---- splitting: what a loss makes of the operations
#
# Units are the output channels of an operation's last convolution, and the weights that are split are those of that
# convolution: row u belongs to unit u. What comes before it counts as constant, what comes after it - the batch norm -
# must treat every channel by itself. In train mode that norm is a function of the whole batch, so o is curved in the
# row; in eval mode it divides by the running statistics, o is affine, and there is nothing to split.

def last_convolutions(operation: nn.Module) -> dict[str, slice]:
    """Names of the convolutions behind which `operation` treats every channel by itself; the channels of each.

    A chain has one, the last that was registered; the two of a factorized reduction make half of the channels each.
    """
    if isinstance(operation, FactorizedReduce):
        half = operation.conv_1.out_channels
        return {"conv_1": slice(0, half), "conv_2": slice(half, None)}
    names = [name for name, part in operation.named_modules() if isinstance(part, nn.Conv2d)]
    return {name: slice(None) for name in names[-1:]}


def convolution_traces(mixture: Mixture, key: str, place: str, operation: nn.Module,
                       calls: Sequence[Call]) -> list[OperationTrace]:
    """One trace for each of the last convolutions of `operation`; its weights are named `"place.name of the weight"`.

    The traces hold a copy of the operation: its mode, statistics and other weights stay those of the calls.
    """
    frozen = copy.deepcopy(operation).requires_grad_(False)
    traces = []
    for name, channels in last_convolutions(operation).items():
        convolution = operation.get_submodule(name)
        weights = {f"{place}.{part}": weight for part, weight in convolution.named_parameters(name)}

        def outputs(theta: Mapping[str, Tensor], channels: slice = channels) -> Tensor:
            own = {part.removeprefix(f"{place}."): weight for part, weight in theta.items()}
            return torch.cat([functional_call(frozen, own, call.arguments)[:, channels] for call in calls])

        gradient = torch.cat([call.gradient[:, channels] for call in calls])
        traces.append(OperationTrace(mixture, key, weights, outputs, gradient, convolution.out_channels))
    return traces
