"""What is measured: search space, sizes, and how many rounds."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT

Space = Literal["recurrent", "two_input", "convolutional"]

# In this order a sweep over the number of operations takes them: `none` is the absence of an edge, so it comes last.
CANDIDATES: dict[Space, tuple[str, ...]] = {
    "recurrent": (*RECURRENT_OPERATIONS[1:], "none"),
    "two_input": DEFAULT_TWO_INPUT,
    "convolutional": ("sep_conv_3x3", *(name for name in CONVOLUTIONAL_OPERATIONS if name not in
                                        ("sep_conv_3x3", "none")), "none")}


@dataclass(frozen=True)
class Size:
    """A search network and a batch.

    Parameters
    ----------
    space : whose cell; "recurrent" (of DARTS) and "two_input" stand in a language model of one layer.
    width : hidden units H = E, or channels C of the first cell.
    batch : columns of text B, or images.
    nodes : N of every cell.
    operations : candidates K of every mixture, the first of `CANDIDATES`.
    cells : of the convolutional network.
    length, words : window T (tokens) and vocabulary V of the text.
    pixels : side of the images, which have 3 channels and 10 classes.
    """

    space: Space
    width: int
    batch: int
    nodes: int
    operations: int
    cells: int = 0
    length: int = 0
    words: int = 0
    pixels: int = 0

    def candidates(self) -> list[str]:
        """The operations, in the order of the library."""
        chosen = CANDIDATES[self.space][:self.operations]
        order = {"recurrent": RECURRENT_OPERATIONS, "two_input": DEFAULT_TWO_INPUT,
                 "convolutional": CONVOLUTIONAL_OPERATIONS}[self.space]
        return sorted(chosen, key=order.index)

    def as_dict(self) -> dict[str, Any]:
        """For records and command lines."""
        return asdict(self)


def recurrent(width: int, batch: int, nodes: int = 8) -> Size:
    """The recurrent cell of DARTS on windows of Penn Treebank's size."""
    return Size("recurrent", width, batch, nodes, len(RECURRENT_OPERATIONS), length=35, words=10_000)


def two_input(width: int, batch: int, nodes: int = 4) -> Size:
    """The paper's cell on windows of the same size."""
    return Size("two_input", width, batch, nodes, len(DEFAULT_TWO_INPUT), length=35, words=10_000)


def convolutional(width: int, cells: int, batch: int, nodes: int = 4) -> Size:
    """The cells of DARTS on images of CIFAR-10's size."""
    return Size("convolutional", width, batch, nodes, len(CONVOLUTIONAL_OPERATIONS), cells=cells, pixels=32)


STEPS = [recurrent(64, 32), recurrent(128, 32), recurrent(300, 64), recurrent(300, 256),
         two_input(64, 32), two_input(128, 32), two_input(300, 64), two_input(300, 256),
         convolutional(4, 3, 16), convolutional(8, 5, 32), convolutional(16, 8, 16)]

# Those of the original's code for Penn Treebank (search, training) and CIFAR-10, and the paper's cell at the same.
ORIGINAL = [recurrent(300, 256), recurrent(300, 64), two_input(300, 256), two_input(300, 64), convolutional(16, 8, 64)]

# The same three spaces at a size at which a step takes milliseconds.
TOY: dict[Space, Size] = {
    "recurrent": replace(recurrent(8, 4, 2), length=4, words=40),
    "two_input": replace(two_input(8, 4, 2), length=4, words=40),
    "convolutional": replace(convolutional(4, 3, 4, 2), pixels=8)}


# Around these sizes one thing is varied at a time.
BASES: dict[Space, Size] = {"recurrent": recurrent(64, 16), "two_input": two_input(64, 16),
                            "convolutional": convolutional(8, 3, 16)}
WIDTHS = {"recurrent": (64, 128, 256, 512), "two_input": (64, 128, 256, 512), "convolutional": (4, 8, 16, 32)}
VALUES: dict[Space, dict[str, tuple[int, ...]]] = {
    space: {"nodes": (1, 2, 4, 8), "width": widths, "batch": (8, 32, 128), "operations": (1, 2, 4)}
    for space, widths in WIDTHS.items()}
TOY_VALUES: dict[Space, dict[str, tuple[int, ...]]] = dict.fromkeys(TOY, {"nodes": (1, 2)})


def sweeps(bases: dict[Space, Size],
           values: dict[Space, dict[str, tuple[int, ...]]]) -> dict[Space, dict[str, list[Size]]]:
    """By space and field of `Size`: the base with each of its values."""
    return {space: {name: [replace(base, **{name: value}) for value in chosen]
                    for name, chosen in values[space].items()} for space, base in bases.items()}


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    least, most : rounds of every case; seconds : that they may take, unless `least` rounds take longer.
    sampled : operations whose splitting is measured, of all.
    """

    least: int
    most: int
    seconds: float
    sampled: int


FULL = Effort(least=5, most=15, seconds=20.0, sampled=4)
QUICK = Effort(least=2, most=2, seconds=1.0, sampled=2)
