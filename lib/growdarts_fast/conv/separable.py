r"""Forward and backward pass of a separable convolution by hand, for `mixed_cell`.

It repeats $y \to \mathrm{BN}(W d)$, d the depthwise convolution of relu(y). All that is kept of the pixels are the d of every
repeat; what lies between the repeats is computed again.

Shapes: pixels (C, H, W, B), batch last; k size of a depthwise kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from growdarts_fast.conv import kernels as conv_kernels, norm_kernels
from growdarts_fast.conv.passes import Norm, Operation, flat


@dataclass(frozen=True)
class Repeat:
    """relu, depthwise, pointwise convolution and batch norm."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: Norm

    def steps(self) -> tuple[int, int]:
        """Stride and dilation."""
        return self.depthwise.stride[0], self.depthwise.dilation[0]


@dataclass(frozen=True)
class Separable(Operation):
    """Repeats one after the other."""

    repeats: Sequence[Repeat]

    @property
    def theta(self) -> list[nn.Parameter]:
        """Weights of all depthwise and pointwise convolutions."""
        return [part.weight for repeat in self.repeats for part in (repeat.depthwise, repeat.pointwise)]

    @property
    def keeps(self) -> int:
        return len(self.repeats)

    @property
    def cost(self) -> float:
        return sum(repeat.depthwise.kernel_size[0]**2 + 2 * repeat.norm.channels for repeat in self.repeats)

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
