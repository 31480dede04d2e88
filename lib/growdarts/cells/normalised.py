r"""Batch norms of 1 x 1 convolutions that need not exist, and of pools.

The batch norm of W d is linear once its statistics are known, and these follow from the moments of d,

$$ \mathrm{mean} = W \bar d, \qquad \mathrm{var} = \mathrm{diag}(W \mathrm{cov}(d) W^\top), \qquad
   \mathrm{BN}(W d) = \mathrm{diag}(scale)\, (W d - \mathrm{mean}), \quad scale = (\mathrm{var} + \epsilon)^{-1/2} . $$

So neither W d nor its normalised form is ever stored, forward or backward: both are products of small matrices with d.

Shapes: C channels, d (R, n) with R rows and n = H W B pixels, W (C, R).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from growdarts.cells import norm_kernels as kernels
from growdarts.cells.threads import by_channel


class Normalised(NamedTuple):
    """What a pass knows of BN(W d), or of BN(d); float64, but W. Without batch statistics `WS` and `inner` are empty."""

    mean: Tensor  # (C,), as scale
    scale: Tensor
    W: Tensor
    WS: Tensor  # W cov(d)
    inner: Tensor  # mean of d

    @property
    def folded(self) -> Tensor:
        """diag(scale) W."""
        return self.W * self.scale[:, None].to(self.W)

    @property
    def shift(self) -> Tensor:
        """-scale mean: BN(W d) = `folded` d + `shift`."""
        return (-self.scale * self.mean).to(self.W)


def normalise(norm: nn.BatchNorm2d, W: Tensor, d: Tensor) -> Normalised:
    """BN(W d), by the statistics of the batch in train mode, of which the running ones take note; else by these."""
    if not norm.training:
        return _by_running_statistics(norm, W)
    (C, R), n = W.shape, d.shape[1]
    WS, inner, mean, variance = (torch.empty(size, dtype=torch.float64) for size in ((C, R), R, C, C))
    kernels.moments((d @ d.t()).numpy(), d.sum(1).numpy(), W.numpy(), n, inner.numpy(), WS.numpy(), mean.numpy(),
                    variance.numpy())
    _take_note(norm, mean, variance, n)
    return Normalised(mean, (variance + norm.eps).rsqrt_(), W, WS, inner)


def add_normalised(norm: nn.BatchNorm2d, d: Tensor, weight: float, out: Tensor) -> Normalised:
    """Add `weight` BN(d) to `out`."""
    known, variance = _by_running_statistics(norm, d[:0]), norm.running_var.to(torch.float64, copy=True)
    by_channel(kernels.add_normalised, d, weight, norm.eps, norm.training, known.mean, variance, out)
    if norm.training:
        _take_note(norm, known.mean, variance, d.shape[1])
    return known._replace(scale=(variance + norm.eps).rsqrt_())


def _by_running_statistics(norm: nn.BatchNorm2d, W: Tensor) -> Normalised:
    empty = torch.empty(0, 0, dtype=torch.float64)
    return Normalised(norm.running_mean.to(torch.float64, copy=True), (norm.running_var.double() + norm.eps).rsqrt_(),
                      W, empty, empty.flatten())


def _take_note(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, n: int) -> None:
    """Let the running statistics follow those of n values, as torch's batch norm does."""
    if n < 2:
        raise ValueError("a batch norm in train mode needs more than one value a channel")
    norm.num_batches_tracked += 1
    share = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
    norm.running_mean.lerp_(mean.to(norm.running_mean), share)
    norm.running_var.lerp_((variance * (n / (n - 1))).to(norm.running_var), share)


class Backward(NamedTuple):
    """Of `weight` BN(W d), from the gradient G by it: that by d is A^T G + B d + k, those by W and by `weight`."""

    A: Tensor
    B: Tensor
    k: Tensor
    dW: Tensor
    by_weight: float


def normalise_backward(G: Tensor, g_sum: Tensor, d: Tensor, known: Normalised, weight: float, train: bool) -> Backward:
    """See `norm_kernels.normalise_backward`; `g_sum` are the sums of G's rows."""
    C, R = known.W.shape
    A, B, k, dW = (d.new_empty(size) for size in ((C, R), (R, R), R, (C, R)))
    by_weight = kernels.normalise_backward(
        (G @ d.t()).numpy(), g_sum.numpy(), *(tensor.numpy() for tensor in known), weight, d.shape[1], train,
        *(tensor.numpy() for tensor in (A, B, k, dW)))
    return Backward(A, B, k, dW, by_weight)


def add_normalised_backward(G: Tensor, g_sum: Tensor, d: Tensor, known: Normalised, weight: float,
                            train: bool) -> tuple[Tensor, float]:
    """Gradients by d and by `weight` of `weight` BN(d), from G by it."""
    g, by_weight = torch.empty_like(d), torch.empty_like(known.mean)
    by_channel(kernels.add_normalised_backward, d, G, g_sum, known.mean, known.scale, weight, train, g, by_weight)
    return g, by_weight.sum().item()
