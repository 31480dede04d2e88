r"""Forward and backward pass of convolutional operations by hand, for `mixed_cell`.

A pass keeps one array for every batch norm, its input d, and what is known of the norm (`norm_kernels`).

Shapes: pixels (C, H, W, B), batch last; k size of a depthwise kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from growdarts_fast.conv import kernels as conv_kernels, norm_kernels

Gradients = tuple[float, list[Tensor | None]]


class Operation:
    """An operation o, with the signatures of all; this one is `none`, the absence of an edge."""

    theta: Sequence[nn.Parameter] = ()  # in the order of its module's
    cost: float = 0  # multiply-adds for a pixel of the output, roughly
    keeps: int = 0  # arrays of the output's size that a forward pass keeps

    def forward(self, x: Tensor, theta: Sequence[Tensor], weight: float, out: Tensor, buffer: Tensor,
                scratch: Tensor) -> list[Tensor]:
        """Add weight * o(x) to `out`; returns what `backward` needs, which lies in `buffer` (keeps, C, H, W, B) if it
        is large.

        In `scratch` (4, C, H, W, B) anything may be written.
        """
        return []

    def backward(self, x: Tensor, theta: Sequence[Tensor], kept: Sequence[Tensor], weight: float, G: Tensor,
                 g_sum: np.ndarray, dx: Tensor | None, wants: Sequence[bool], scratch: Tensor) -> Gradients:
        """From the gradient G by weight * o(x), with sums g_sum (C,): those by the weight and, if wanted, by theta; that by
        x is added to `dx`, unless this is None."""
        return 0.0, []


@dataclass(frozen=True)
class Norm:
    """A batch norm without affine; `train` is its mode in the forward pass, whatever it is in the backward pass."""

    module: nn.BatchNorm2d
    train: bool

    def statistics(self, d: Tensor) -> tuple[bool, float, float, np.ndarray, np.ndarray]:
        """Whether those of the batch d count, epsilon, the share by which the running ones follow, and these."""
        norm, share = self.module, 0.0
        if self.train:
            if d.numel() < 2 * len(d):
                raise ValueError("a batch norm in train mode needs more than one value a channel")
            norm.num_batches_tracked.add_(1)  # in place: assigning a buffer takes longer than a small kernel
            share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
        return self.train, norm.eps, share, norm.running_mean.numpy(), norm.running_var.numpy()

    def add(self, d: Tensor, weight: float, out: Tensor) -> Tensor:
        """Add `weight` BN(d) to `out`; returns what is known of it."""
        known = torch.empty((2, len(d)), dtype=torch.float64)
        norm_kernels.add_normalised(flat(d), weight, *self.statistics(d), known.numpy(), flat(out))
        return known

    def backward(self, d: Tensor, known: Tensor, weight: float, G: Tensor, g_sum: np.ndarray, g: Tensor) -> float:
        """Fill g, the gradient by d of what `add` added; returns that by `weight`."""
        return norm_kernels.normalised_backward(flat(G), g_sum, flat(d), known.numpy(), weight, self.train, flat(g))


class Skip(Operation):
    """The identity."""

    cost = 1

    def forward(self, x, theta, weight, out, buffer, scratch):
        out.add_(x, alpha=weight)
        return []

    def backward(self, x, theta, kept, weight, G, g_sum, dx, wants, scratch):
        if dx is not None:
            dx.add_(G, alpha=weight)
        return torch.dot(G.flatten(), x.flatten()).item(), []


@dataclass(frozen=True)
class Pool(Operation):
    """Mean or largest of 3 x 3 pixels, the border not counted, and batch norm."""

    stride: int
    mean: bool
    norm: Norm

    cost, keeps = 18, 1

    def forward(self, x, theta, weight, out, buffer, scratch):
        d = buffer[0]
        if self.mean:
            conv_kernels.convolve(x.numpy(), x.new_ones(len(x), 3, 3).numpy(), d.numpy(), self.stride, 1, False)
            d *= _shares(*x.shape[1:3], self.stride, x.dtype)
        else:
            conv_kernels.max_pool(x.numpy(), d.numpy(), 3, self.stride)
        return [d, self.norm.add(d, weight, out)]

    def backward(self, x, theta, kept, weight, G, g_sum, dx, wants, scratch):
        g = scratch[0]
        by_weight = self.norm.backward(*kept, weight, G, g_sum, g)
        if dx is not None and self.mean:
            g *= _shares(*x.shape[1:3], self.stride, x.dtype)
            ones = x.new_ones(len(x), 3, 3).numpy()
            conv_kernels.convolve_backward(x.numpy(), ones, g.numpy(), dx.numpy(), ones, self.stride, 1, False, True, False)
        elif dx is not None:
            conv_kernels.max_pool_backward(x.numpy(), g.numpy(), dx.numpy(), 3, self.stride)
        return by_weight, []


@cache
def _shares(height: int, width: int, stride: int, dtype: torch.dtype) -> Tensor:
    """1 / number of pixels that each mean is over, (H / stride, W / stride, 1)."""
    counts = []
    for size in (height, width):
        centre = torch.arange(0, size, stride)
        counts.append((centre + 1).clamp(max=size - 1) - (centre - 1).clamp(min=0) + 1)
    return 1 / (counts[0][:, None, None] * counts[1][:, None]).to(dtype)


@dataclass(frozen=True)
class Fit(Operation):
    """relu, 1 x 1 convolutions side by side, the k-th of the pixels from (k, k) on, and batch norm."""

    convolutions: Sequence[nn.Conv2d]
    stride: int
    norm: Norm

    keeps = 1

    @property
    def theta(self) -> list[nn.Parameter]:
        return [convolution.weight for convolution in self.convolutions]

    @property
    def cost(self) -> float:
        return sum(weight.numel() / self.norm.module.num_features for weight in self.theta)

    def _pixels(self, x: Tensor, k: int) -> Tensor:
        return x[:, k::self.stride, k::self.stride]

    def forward(self, x, theta, weight, out, buffer, scratch):
        d = buffer[0]
        for k, (W, part) in enumerate(zip(theta, d.split([len(W) for W in theta]), strict=True)):
            torch.mm(W.flatten(1), torch.relu(self._pixels(x, k)).flatten(1), out=part.flatten(1))
        return [d, self.norm.add(d, weight, out)]

    def backward(self, x, theta, kept, weight, G, g_sum, dx, wants, scratch):
        g, gradients = torch.empty_like(G), []
        by_weight = self.norm.backward(*kept, weight, G, g_sum, g)
        for k, (W, part, wanted) in enumerate(zip(theta, g.split([len(W) for W in theta]), wants, strict=True)):
            pixels, rows = self._pixels(x, k), part.flatten(1)
            gradients.append((rows @ torch.relu(pixels).flatten(1).t()).view_as(W) if wanted else None)
            if dx is not None:
                self._pixels(dx, k).add_((W.flatten(1).t() @ rows).view(pixels.shape).mul_(pixels > 0))
        return by_weight, gradients


@dataclass(frozen=True)
class Repeat:
    """relu, depthwise, pointwise convolution and batch norm."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: Norm

    def steps(self) -> tuple[int, int]:  # stride and dilation
        return self.depthwise.stride[0], self.depthwise.dilation[0]


@dataclass(frozen=True)
class Separable(Operation):
    r"""Repeats $y \to \mathrm{BN}(W d)$, d the depthwise convolution of relu(y), one after the other.

    All that is kept of the pixels are the d; what lies between the repeats is computed again.
    """

    repeats: Sequence[Repeat]

    @property
    def theta(self) -> list[nn.Parameter]:
        return [part.weight for repeat in self.repeats for part in (repeat.depthwise, repeat.pointwise)]

    @property
    def keeps(self) -> int:
        return len(self.repeats)

    @property
    def cost(self) -> float:
        return sum(repeat.depthwise.kernel_size[0]**2 + 2 * repeat.norm.module.num_features for repeat in self.repeats)

    def forward(self, x, theta, weight, out, buffer, scratch):
        C, read, kept = len(out), x, []
        W_before, known_before = _nothing_before(C, x.dtype)
        for repeat, w, W, d in zip(self.repeats, theta[::2], theta[1::2], buffer, strict=True):
            W, known = _matrix(W), torch.empty((3 + C, C), dtype=torch.float64)
            conv_kernels.repeat(read.numpy(), W_before, known_before, _by_pixels(w), *repeat.steps(), W,
                                *repeat.norm.statistics(d), d.numpy(), known.numpy(), scratch[0].numpy())
            kept += [d, known]
            read, W_before, known_before = d, W, known.numpy()
        norm_kernels.add_linear(flat(read), W_before, known_before, weight, flat(out))
        return kept

    def backward(self, x, theta, kept, weight, G, g_sum, dx, wants, scratch):
        C, found, by_weight = len(G), [None] * len(theta), None
        for i in reversed(range(len(self.repeats))):
            repeat, (w, W), (d, known) = self.repeats[i], theta[2 * i:2 * i + 2], kept[2 * i:2 * i + 2]
            if i:
                read, W_before, known_before = kept[2 * i - 2], _matrix(theta[2 * i - 1]), kept[2 * i - 1].numpy()
                down = scratch[2 + i % 2].zero_() if dx is not None or any(wants[:2 * i]) else None
            else:
                read, (W_before, known_before), down = x, _nothing_before(C, x.dtype), dx
            dw, dW = G.new_empty(C, *w.shape[2:]), G.new_empty(C, C)
            by_top = conv_kernels.repeat_backward(
                G.numpy(), g_sum, d.numpy(), _matrix(W), known.numpy(), weight, repeat.norm.train, read.numpy(), W_before,
                known_before, _by_pixels(w), *repeat.steps(), (G if down is None else down).numpy(), dw.numpy(), dW.numpy(),
                down is not None, wants[2 * i], wants[2 * i + 1], scratch[0].numpy(), scratch[1].numpy())
            by_weight = by_top if by_weight is None else by_weight
            found[2 * i:2 * i + 2] = [g.view_as(p) if wanted else None
                                      for g, p, wanted in zip((dw, dW), (w, W), wants[2 * i:2 * i + 2])]
            if down is None:
                break
            G, weight = down, 1.0
            g_sum = norm_kernels.row_sums(flat(G)) if i else g_sum
        return by_weight, found


@cache
def _nothing_before(C: int, dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """For `repeat`, where x itself is read."""
    return torch.empty(0, C, dtype=dtype).numpy(), np.zeros((3, C))


def _matrix(weight: Tensor) -> np.ndarray:
    """Of a 1 x 1 convolution, (C, C)."""
    return weight.detach().flatten(1).contiguous().numpy()


def _by_pixels(weight: Tensor) -> np.ndarray:
    """Of a depthwise convolution, (C, k, k)."""
    return weight.detach()[:, 0].contiguous().numpy()


def flat(pixels: Tensor) -> np.ndarray:
    """(C, H, W, B) -> (C, n)."""
    return pixels.numpy().reshape(len(pixels), -1)
