"""Image classifiers around the convolutional cells: the searchable and the fixed network of DARTS.

Stem, a stack of cells of which those at one and two thirds reduce, global average, linear layer.
Shapes: B batch, C channels, H = W = image_size pixels, K operations of an edge, E edges of a cell.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.cells import Duplicate
from growdarts.cells.conv_operations import convolution_flops
from growdarts.cells.conv_tracing import convolution_traces, last_convolutions
from growdarts.cells.darts_conv import AuxiliaryHead, Cell, FixedCell, MixedEdge, SearchCell, count_edges, derive
from growdarts.cells.tracing import OperationTrace, record_calls, statistics_kept
from growdarts.cells.widening import Widened, widen, widen_fitting
from growdarts.darts_genotypes import CONVOLUTIONAL_OPERATIONS, ConvolutionalGenotype
from growdarts.mixture import Mixture


class ImageNetwork(nn.Module):
    """What both forms share: stem, order of the cells, head.

    Parameters
    ----------
    channels : C of the first cell; doubled in every reduction cell.
    classes : number of classes.
    n_cells : at least 3, so that both kinds exist.
    image_channels, image_size : of the images; `image_size` is divisible by 4.

    Raises
    ------
    ValueError
        a number out of range; images of another size.
    """

    stem_multiplier = 3

    def __init__(self, channels: int, classes: int, n_cells: int, *, image_channels: int = 3,
                 image_size: int = 32) -> None:
        super().__init__()
        if n_cells < 3:
            raise ValueError(f"n_cells = {n_cells}: allowed is at least 3, a normal and two reduction cells")
        if image_size < 4 or image_size % 4:
            raise ValueError(f"image_size = {image_size}: allowed are multiples of 4, it is halved twice")
        self.channels, self.classes, self.n_cells = channels, classes, n_cells
        self.image_shape = (image_channels, image_size, image_size)
        width = self.stem_multiplier * channels
        self.stem = nn.Sequential(nn.Conv2d(image_channels, width, 3, padding=1, bias=False),
                                  nn.BatchNorm2d(width))

    def _build(self, make: Callable[..., Cell]) -> None:
        """Cells and head; `make(inputs, channels, reduction=..., after_reduction=...)` gives a cell."""
        widths = (self.stem_multiplier * self.channels,) * 2
        channels, after_reduction, cells = self.channels, False, []
        for position in range(self.n_cells):
            reduction = position in (self.n_cells // 3, 2 * self.n_cells // 3)
            channels *= 2 if reduction else 1
            cells.append(make(widths, channels, reduction=reduction, after_reduction=after_reduction))
            widths, after_reduction = (widths[1], cells[-1].width), reduction
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(widths[1], self.classes)

    def _states(self, x: Tensor) -> Iterator[Tensor]:
        """Output of every cell in turn."""
        if x.ndim != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(f"images of shape {tuple(x.shape)}: this network takes (B, "
                             f"{', '.join(map(str, self.image_shape))})")
        s0 = s1 = self.stem(x)
        for cell, further in zip(self.cells, self._cell_arguments(), strict=True):
            s0, s1 = s1, cell(s0, s1, further)
            yield s1

    def _cell_arguments(self) -> list[Any]:
        """What every cell's forward needs besides its two inputs."""
        raise NotImplementedError

    def _logits(self, s: Tensor) -> Tensor:
        return self.classifier(s.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, image_channels, H, W) -> logits (B, classes)."""
        for s in self._states(x):
            pass
        return self._logits(s)

    def flops(self) -> int:
        """Of the convolutions and the linear layer for one image, multiply-adds counted twice."""
        pixels = self.image_shape[1] * self.image_shape[2]
        total = convolution_flops(self.stem, pixels) + 2 * self.classifier.weight.numel()
        for cell in self.cells:
            total += cell.flops(pixels)
            pixels //= cell.stride(0) ** 2
        return total


class FixedImageNetwork(ImageNetwork):
    """The network of a derived or published genotype, to be trained from scratch.

    Parameters
    ----------
    genotype : its cells; the other parameters are those of `ImageNetwork`.
    auxiliary : a second classifier at two thirds of the depth, for training; images of 32 to 40 pixels.

    `drop_path` is the probability with which an edge is dropped in train mode, 0 at first; the training
    raises it.
    """

    def __init__(self, genotype: ConvolutionalGenotype, channels: int, classes: int, n_cells: int, *,
                 auxiliary: bool = False, image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(channels, classes, n_cells, image_channels=image_channels, image_size=image_size)
        self.genotype, self.drop_path = genotype, 0.0

        def make(inputs: tuple[int, int], channels: int, *, reduction: bool, after_reduction: bool) -> Cell:
            edges, concat = ((genotype.reduce, genotype.reduce_concat) if reduction else
                             (genotype.normal, genotype.normal_concat))
            return FixedCell(inputs, channels, edges, concat, reduction=reduction, after_reduction=after_reduction)

        self._build(make)
        self.auxiliary_head = None
        if auxiliary:
            if not 32 <= image_size <= 40:
                raise ValueError(f"image_size = {image_size}: an auxiliary head needs 32 to 40")
            self.auxiliary_head = AuxiliaryHead(self.cells[2 * n_cells // 3].width, classes)

    def _cell_arguments(self) -> list[float]:
        return [self.drop_path] * self.n_cells

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the network and of its auxiliary head, (B, classes) each."""
        if self.auxiliary_head is None:
            raise ValueError("this network was built without an auxiliary head")
        states = list(self._states(x))
        return self._logits(states[-1]), self.auxiliary_head(states[2 * self.n_cells // 3])


class SearchImageNetwork(ImageNetwork):
    """The network that is searched (`growdarts.cells.SearchSpace`), owner of its operations' weights.

    All normal cells share one mixture an edge, `normal`, and all reduction cells another, `reduce`: an operation of
    an edge has its own weights in every cell of the kind, and is dropped or duplicated in all of them at once.

    Parameters
    ----------
    n_nodes : of every cell at the start.
    operations : of every edge, also of those that are grown; the other parameters are `ImageNetwork`'s.
    """

    def __init__(self, channels: int, classes: int, n_cells: int, n_nodes: int = 4,
                 operations: Sequence[str] = CONVOLUTIONAL_OPERATIONS, *, image_channels: int = 3,
                 image_size: int = 32) -> None:
        super().__init__(channels, classes, n_cells, image_channels=image_channels, image_size=image_size)
        self.operations = list(operations)
        self._build_edges({kind: [self.operations] * count_edges(n_nodes) for kind in ("normal", "reduce")})

    def _build_edges(self, structure: dict[str, list[list[str]]]) -> None:
        def make(inputs: tuple[int, int], channels: int, *, reduction: bool, after_reduction: bool) -> Cell:
            return SearchCell(inputs, channels, structure["reduce" if reduction else "normal"],
                              reduction=reduction, after_reduction=after_reduction)

        self._build(make)
        self.normal = nn.ModuleList(Mixture(keys) for keys in structure["normal"])
        self.reduce = nn.ModuleList(Mixture(keys) for keys in structure["reduce"])

    def _mixtures_of(self, cell: SearchCell) -> "nn.ModuleList[Mixture]":
        return self.reduce if cell.reduction else self.normal

    def _cell_arguments(self) -> list[list[tuple[list[str], Tensor]]]:
        normal, reduce = ([(m.keys, m.weights()) for m in kind] for kind in (self.normal, self.reduce))
        return [reduce if cell.reduction else normal for cell in self.cells]

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Architecture logits of the normal, then of the reduction cells' edges."""
        return [mixture.alpha for mixture in self.mixtures()]

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights of the stem, the cells and the head."""
        cells = [p for cell in self.cells for p in cell.theta_parameters(self._mixtures_of(cell))]
        return [*self.stem.parameters(), *cells, *self.classifier.parameters()]

    def mixtures(self) -> Iterator[Mixture]:
        """Mixtures of the normal cells, then of the reduction cells, edge by edge."""
        yield from self.normal
        yield from self.reduce

    def mixture_names(self) -> list[str]:
        """`normal i <- j`, then `reduction i <- j`, for every mixture; states 0 and 1 are the cell's inputs."""
        edges = [(i, j) for i in range(2, 2 + self.n_nodes()) for j in range(i)]
        return [f"{kind} {i} <- {j}" for kind in ("normal", "reduction") for i, j in edges]

    def n_nodes(self) -> int:
        """Nodes of every cell."""
        return self.cells[0].n_nodes

    @torch.no_grad()
    def grow_node(self, *, morphism: bool, epsilon: float, noise: float) -> list[Widened]:
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
        for source, first, second in zip(self.cells, [*self.cells[1:], None], [*self.cells[2:], None, None]):
            if first is not None:
                replaced += widen_fitting(first.preprocess1, source.channels, level[source])
            if second is not None:
                replaced += widen_fitting(second.preprocess0, source.channels, level[source])
        last = self.cells[-1]
        rows = self.classifier.weight.square().mean(dim=1).sqrt()  # as large as the entries of each row
        replaced.append(widen(self.classifier, last.channels, rows * level[last] if morphism else None))
        return replaced

    def keep_operations(self, mixture: Mixture, index: list[int]) -> tuple[nn.Parameter, nn.Parameter]:
        """Keep only operations `index` of the edge of `mixture`, in every cell of its kind."""
        before = set(mixture.keys)
        old, new = mixture.keep(index)
        for edge in self._edges_of(mixture).values():
            for key in before - set(mixture.keys):
                del edge.operations[key]
        return old, new

    def add_operation(self, mixture: Mixture, name: str, weight: float) -> tuple[nn.Parameter, nn.Parameter]:
        """Add operation `name`, with fresh weights, to the edge of `mixture` in every cell of its kind, at mixture
        weight `weight`."""
        built = [(edge, edge.build(name)) for edge in self._edges_of(mixture).values()]
        old, new = mixture.add(name, weight)
        for edge, operation in built:
            edge.operations[name] = operation.to(new).train(self.training)
        return old, new

    def _edges_of(self, mixture: Mixture) -> dict[str, MixedEdge]:
        """The edge of `mixture` in every cell of its kind, by the name of the cell."""
        return {f"cell {number}": edge for number, cell in enumerate(self.cells)
                for edge, candidate in zip(cell.edges, self._mixtures_of(cell), strict=True) if candidate is mixture}

    def operation_weights(self, mixture: Mixture, key: str) -> dict[str, nn.Parameter]:
        """Weights of operation `key` in all cells of the kind, by names such as `"cell 0.op.1.weight"`."""
        return {f"{cell}.{name}": weight for cell, edge in self._edges_of(mixture).items()
                for name, weight in edge.operations[key].named_parameters()}

    def duplicate_operation(self, mixture: Mixture, key: str) -> Duplicate:
        """Add an identical copy of `key`, running statistics included, in every cell of the kind [JG 3.2.2].

        Raises
        ------
        ValueError
            `key` owns no weights: the two could never differ.
        """
        weights = self.operation_weights(mixture, key)
        if not weights:
            raise ValueError(f"operation {key!r} owns no weights, so a copy of it could never differ from it")
        twin, old, new = mixture.duplicate(key)
        for edge in self._edges_of(mixture).values():
            edge.operations[twin] = copy.deepcopy(edge.operations[key])
        copies = self.operation_weights(mixture, twin)
        return Duplicate(twin, old, new, {name: (weights[name], copies[name]) for name in weights})

    def trace_operations(self, loss: Callable[[], Tensor]) -> list[OperationTrace]:
        """Every operation that ends in a convolution, cell by cell; meant for train mode (`cells.conv_tracing`)."""
        places = [(mixture, key, cell, edge.operations[key]) for mixture in self.mixtures() for key in mixture.keys
                  for cell, edge in self._edges_of(mixture).items() if last_convolutions(edge.operations[key])]
        with statistics_kept(self):
            calls = record_calls([operation for *_, operation in places], loss)
        return [trace for *place, operation in places
                for trace in convolution_traces(*place, operation, calls[operation])]

    def structure(self) -> dict[str, list[list[str]]]:
        """Keys of every edge of both kinds."""
        return {kind: [list(mixture.keys) for mixture in getattr(self, kind)] for kind in ("normal", "reduce")}

    def restructure(self, structure: dict[str, list[list[str]]]) -> None:
        """Rebuild cells, mixtures and head for `structure`, with fresh weights."""
        like = self.stem[0].weight
        self._build_edges(structure)
        self.to(like).train(self.training)

    def genotype(self) -> ConvolutionalGenotype:
        """The two strongest edges of every node, all nodes side by side."""
        concat = tuple(range(2, 2 + self.n_nodes()))
        return ConvolutionalGenotype(normal=derive(self.normal, "normal"), normal_concat=concat,
                                     reduce=derive(self.reduce, "reduction"), reduce_concat=concat)
