"""The floor of a step: the products that no way of computing it avoids, at the speed `torch.mm` reaches at their shapes.

A pass over a batch is a forward pass and the gradients by the inputs of every product; the gradients by weights only
where they are asked for. Only matrix products or convolutions count, nothing elementwise, no memory traffic between
them, and operands are the same again and again, hence in the cache where they fit. So no step can go below its floor,
unless its products are faster than `torch.mm`, as those of `growdarts_fast.products` are on some processors.

Shapes: T time, B batch, H hidden, N nodes, V words.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.sizes import Size
from benchmarks.steps import Subject, weights_of
from benchmarks.timing import seconds
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.forms import plain_forms
from growdarts.spaces.two_input.operations import TWO_INPUT

ROWS = 128  # of the decoder's products: their logits fit into the cache, so these are its fastest shapes

# Passes of a search step, (without, with) gradients by weights. First order: alpha step, weight step. Second order:
# before that the weights' gradient of the virtual step and there, in place of the alpha step's one, and two passes of
# the finite difference.
PASSES = {1: (1, 1), 2: (2, 3)}


class Floor(NamedTuple):
    """Of one pass over a batch: floating-point operations, multiply-adds counted twice, and what computes them."""

    flops: int
    run: Callable[[], None]


def floor(subject: Subject, *, weights: bool) -> Floor:
    """Of a pass of the search network without or with the gradients by `weights`."""
    if subject.size.space == "convolutional":
        return _of_convolutions(convolutions(subject, subject.network, weights=weights))
    return _of_products(products(subject.size, weights=weights))


def derived_floor(subject: Subject, network: nn.Module) -> Floor:
    """Of a pass of the derived `network` with the gradients by its weights."""
    if subject.size.space == "convolutional":
        return _of_convolutions(convolutions(subject, network, weights=True))
    return _of_products(derived_products(subject.size, network.genotype()))


# ---- language models ---------------------------------------------------------------------------


Product = tuple[int, int, int]  # (rows, inner, columns) of a product of two matrices


def products(size: Size, *, weights: bool) -> Counter[Product]:
    """How often which product."""
    T, B, H = size.length, size.batch, size.width
    if size.space == "recurrent":
        of_the_cell = _recurrent(size.nodes, T, B, H, weights)
    else:
        rows = H * sum(TWO_INPUT[name].blocks for name in size.candidates())
        of_the_cell = _two_input([rows] * size.nodes, T, B, H, weights)
    return _with_decoder(of_the_cell, size, weights)


def derived_products(size: Size, genotype: Genotype) -> Counter[Product]:
    """The same of a derived cell, with gradients by its weights."""
    T, B, H = size.length, size.batch, size.width
    if size.space == "recurrent":
        of_the_cell = _before_the_nodes(T, B, H, True)
        for fed in Counter(j for _, j in genotype.recurrent).values():  # nodes that read the same state
            of_the_cell += [((B, H, 2 * H * fed), T), ((B, 2 * H * fed, H), T), ((H, T * B, 2 * H * fed), 1)]
    else:
        (nodes,) = genotype.layers
        of_the_cell = _two_input([H * sum(TWO_INPUT[name].blocks for name in names) for names in nodes], T, B, H, True)
    return _with_decoder(of_the_cell, size, True)


def _with_decoder(of_the_cell: list[tuple[Product, int]], size: Size, weights: bool) -> Counter[Product]:
    found = _decoder(size.length * size.batch, size.width, size.words, weights)
    for product, count in of_the_cell:
        found[product] += count
    return found


def _decoder(n: int, H: int, V: int, weights: bool) -> Counter[Product]:
    found: Counter[Product] = Counter()
    for first in range(0, n, ROWS):
        rows = min(ROWS, n - first)
        found[rows, H, V] += 1
        found[rows, V, H] += 1
        if weights:
            found[V, rows, H] += 1
    return found


def _before_the_nodes(T: int, B: int, H: int, weights: bool) -> list[tuple[Product, int]]:
    """What makes state 0 of a recurrent cell."""
    found = [((T * B, H, 2 * H), 1), ((B, H, 2 * H), T), ((B, 2 * H, H), T - 1)]  # of x, of h and back
    if weights:
        found += [((T * B, 2 * H, H), 1), ((H, T * B, 2 * H), 2)]  # by x; by the weights of x and h
    return found


def _recurrent(nodes: int, T: int, B: int, H: int, weights: bool) -> list[tuple[Product, int]]:
    """A new state meets the weights of all later nodes at once, gradients by weights wait for all time steps."""
    found = _before_the_nodes(T, B, H, weights)
    for later in range(nodes, 0, -1):
        found += [((B, H, 2 * H * later), T), ((B, 2 * H * later, H), T)]
    if weights:
        found += [((H, T * B * sources, 2 * H), 1) for sources in range(1, nodes + 1)]
    return found


def _two_input(rows_of_nodes: Sequence[int], T: int, B: int, H: int, weights: bool) -> list[tuple[Product, int]]:
    """x meets the weights of all nodes and time steps at once, the state those of one node at a time."""
    found: list[tuple[Product, int]] = []
    for j, rows in enumerate(rows_of_nodes):
        found += [((T * B, H, rows), 1), ((B, H, rows), T), ((B, rows, H), T if j else T - 1)]
        if weights:
            found += [((T * B, rows, H), 1), ((rows, T * B, H), 2)]  # by x; by W and U
    return [(product, count) for product, count in found if all(product)]


def _of_products(counts: Counter[Product]) -> Floor:
    made = [(torch.randn(m, k), torch.randn(k, n), torch.empty(m, n), count) for (m, k, n), count in counts.items()]

    def run() -> None:
        for a, b, out, count in made:
            for _ in range(count):
                torch.mm(a, b, out=out)

    return Floor(sum(2 * m * k * n * count for (m, k, n), count in counts.items()), run)


# ---- convolutional networks --------------------------------------------------------------------


class Convolution(NamedTuple):
    """Shapes and settings of a convolution, and which gradients a pass asks it for."""

    x: torch.Size
    weight: torch.Size
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    by_x: bool
    by_weight: bool

    def flops(self) -> int:
        """Of the forward pass and, as many each, of the gradients."""
        pixels = (self.x[2] // self.stride[0]) * (self.x[3] // self.stride[1])
        return 2 * self.x[0] * pixels * self.weight.numel() * (1 + self.by_x + self.by_weight)

    def operands(self, layout: torch.memory_format) -> Callable[[], Any]:
        """A call that computes it, forward and backward, on tensors of this layout."""
        x, weight = (torch.randn(shape).to(memory_format=layout) for shape in (self.x, self.weight))
        settings = (self.stride, self.padding, self.dilation)
        gradient = torch.randn_like(torch.conv2d(x, weight, None, *settings, self.groups))
        mask = [self.by_x, self.by_weight, False]

        def run() -> None:
            torch.conv2d(x, weight, None, *settings, self.groups)
            if any(mask):
                torch.ops.aten.convolution_backward(gradient, x, weight, None, *settings, False, [0, 0], self.groups,
                                                    mask)

        return run


def convolutions(subject: Subject, network: nn.Module, *, weights: bool) -> Counter[Convolution]:
    """Those of a network in a pass, heard by hooks; the plain forms call every convolution as a module."""
    found: Counter[Convolution] = Counter()

    def listen(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        found[Convolution(x.shape, module.weight.shape, module.stride, module.padding, module.dilation, module.groups,
                          x.requires_grad, weights)] += 1

    task = subject.task("float32")
    hooks = [m.register_forward_hook(listen) for m in network.modules() if isinstance(m, nn.Conv2d)]
    thetas = weights_of(network)
    try:
        for theta in thetas:
            theta.requires_grad_(weights)
        with plain_forms():
            task.loss(network, subject.batch(True))
    finally:
        for theta in thetas:
            theta.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    return found


def _of_convolutions(counts: Counter[Convolution]) -> Floor:
    """Each in whichever layout of its images is faster."""
    made = []
    with torch.no_grad():
        for convolution, count in counts.items():
            runs = [convolution.operands(layout) for layout in (torch.contiguous_format, torch.channels_last)]
            made.append((min(runs, key=lambda run: min(seconds(run) for _ in range(3))), count))

    @torch.no_grad()
    def run() -> None:
        for compute, count in made:
            for _ in range(count):
                compute()

    return Floor(sum(convolution.flops() * count for convolution, count in counts.items()), run)
