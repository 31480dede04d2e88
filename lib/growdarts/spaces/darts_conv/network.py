"""Image classifiers around the convolutional cells: what both of DARTS' forms share, and the fixed one.

Stem, a stack of cells of which those at one and two thirds reduce, global average, linear layer.
Shapes: B batch, C channels, H = W = image_size pixels.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from growdarts.forms import plain_forms
from growdarts.spaces.darts_conv.cell import Cell, FixedCell
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype
from growdarts.spaces.genotype import require_space


class ImageNetwork(nn.Module):
    """What both forms share: stem, order of the cells, head.

    Parameters
    ----------
    channels : C of the first cell; doubled in every reduction cell.
    n_cells : at least 3, so that both kinds exist.
    image_channels, image_size : of the images; `image_size` is divisible by 4.
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

    def _build(self, kind: type[Cell], normal: Sequence[Any], reduce: Sequence[Any]) -> None:
        """Cells and head; `normal` and `reduce` are what cells of this `kind` take besides their place."""
        widths = (self.stem_multiplier * self.channels,) * 2
        channels, after_reduction, cells = self.channels, False, []
        for position in range(self.n_cells):
            reduction = position in (self.n_cells // 3, 2 * self.n_cells // 3)
            channels *= 2 if reduction else 1
            cells.append(kind(widths, channels, *(reduce if reduction else normal), reduction=reduction,
                              after_reduction=after_reduction))
            widths, after_reduction = (widths[1], cells[-1].width), reduction
        self.cells = nn.ModuleList(cells)
        self.classifier = nn.Linear(widths[1], self.classes)

    def cell_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Output of every cell in turn; `_cell_arguments` are what each needs besides its two inputs."""
        if x.ndim != 4 or x.shape[1:] != self.image_shape:
            raise ValueError(f"images of shape {tuple(x.shape)}: this network takes (B, "
                             f"{', '.join(map(str, self.image_shape))})")
        s0 = s1 = self.stem(x)
        for cell, further in zip(self.cells, self._cell_arguments(), strict=True):
            s0, s1 = s1, cell(s0, s1, further)
            yield s1

    def classified(self, s: Tensor) -> Tensor:
        """Logits (B, classes) from the output of the last cell."""
        return self.classifier(s.mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, image_channels, H, W) -> logits (B, classes)."""
        for s in self.cell_outputs(x):
            pass
        return self.classified(s)

    @torch.no_grad()
    def flops(self) -> int:
        """Of the convolutions and the linear layer for one image, multiply-adds counted twice."""
        copied, counter = deepcopy(self).eval(), FlopCounterMode(display=False)  # modes and statistics stay as they are
        with plain_forms(), counter:
            copied(self.stem[0].weight.new_zeros(1, *self.image_shape))
        return counter.get_total_flops()


class FixedImageNetwork(ImageNetwork):
    """The network of a derived or published genotype, to be trained from scratch.

    drop_path : attribute, the probability with which an edge is dropped in train mode, 0 at first; the training raises
        it.
    """

    def __init__(self, genotype: ConvolutionalGenotype, channels: int, classes: int, n_cells: int, *,
                 image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(channels, classes, n_cells, image_channels=image_channels, image_size=image_size)
        require_space(genotype, "darts_conv")
        self.genotype, self.drop_path = genotype, 0.0
        self._build(FixedCell, (genotype.normal, genotype.normal_concat), (genotype.reduce, genotype.reduce_concat))

    def _cell_arguments(self) -> list[float]:
        return [self.drop_path] * self.n_cells
