r"""A mixed edge of the convolutional cells as one autograd function with a backward written by hand [DARTS Eq. 2].

A separable convolution repeats $y \to \mathrm{BN}(W d)$, d the depthwise convolution of relu(y); a pool is BN(d). The
batch norms come from the moments of d (`normalised`), so that the edge is

$$ \bar o(x) = \sum_o w_o\, \big( \mathrm{diag}(scale_o)\, W_o d_o + shift_o \big) , $$

products of small matrices with what the last depthwise convolutions gave. All that is kept is d, one array for every
batch norm; what lies between the repeats is computed again. Backward, from the gradient G by the output, each d
gets $A^\top G + B d + k$, and whatever else is wanted follows from $G d^\top$.

The plain form is `darts_conv.MixedEdge.plain`. A gradient that nobody asks for is not computed.

Shapes: pixels (C, H, W, B), batch last; as matrices (C, n) with n = H W B; K operations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.cells import conv_kernels as kernels
from growdarts.cells.conv_operations import SeparableConv
from growdarts.cells.normalised import (Normalised, add_normalised, add_normalised_backward, normalise,
                                        normalise_backward)
from growdarts.cells.threads import by_channel
from growdarts.plain import refuse_second_derivative


@dataclass(frozen=True)
class Repeat:
    """relu, depthwise, pointwise convolution and batch norm."""

    kernel: int
    stride: int
    dilation: int
    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d


@dataclass(frozen=True)
class Pool:
    """Mean or largest of kernel x kernel pixels, the border not counted, and batch norm."""

    kernel: int
    stride: int
    mean: bool
    norm: nn.BatchNorm2d


Operation = Sequence[Repeat] | Pool  # no repeat is the identity


def as_operation(module: nn.Module) -> Operation | None:
    """An operation of a search network in the form that is computed here; None if it has no such form."""
    match module:
        case nn.Identity():
            return ()
        case SeparableConv(op=layers) if all(type(relu) is nn.ReLU for relu in layers[::4]):
            repeats = tuple(Repeat(d.kernel_size[0], d.stride[0], d.dilation[0], d, p, norm)
                            for d, p, norm in zip(layers[1::4], layers[2::4], layers[3::4], strict=True))
            return repeats if all(_is_simple(repeat.norm) for repeat in repeats) else None
        case nn.Sequential() if len(module) == 2 and _is_simple(module[1]):
            pool, norm = module
            if type(pool) is nn.MaxPool2d and (pool.kernel_size, pool.padding, pool.dilation) == (3, 1, 1):
                return Pool(3, pool.stride, False, norm)
            if type(pool) is nn.AvgPool2d and (pool.kernel_size, pool.padding, pool.count_include_pad) == (3, 1, False):
                return Pool(3, pool.stride, True, norm)
    return None


def _is_simple(norm: nn.Module) -> bool:
    return type(norm) is nn.BatchNorm2d and not norm.affine and norm.track_running_stats


def mixed_edge(x: Tensor, operations: Sequence[Operation], w: Tensor, stride: int) -> Tensor:
    """sum_o w_o o(x), (C, H, W, B) -> (C, H / stride, W / stride, B); `w` (K,)."""
    theta = [part.weight for operation in operations if not isinstance(operation, Pool)
             for repeat in operation for part in (repeat.depthwise, repeat.pointwise)]
    return _MixedEdge.apply(operations, stride, x, w, *theta)


class _MixedEdge(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, operations: Sequence[Operation], stride: int, x: Tensor, w: Tensor, *theta: Tensor) -> Tensor:
        out, weights, kept = _empty_after(x, stride).zero_(), iter(theta), []
        constant = x.new_zeros(len(x), 1, 1, 1)
        for operation, weight in zip(operations, w.tolist(), strict=True):
            if isinstance(operation, Pool):
                d = _pool(x, operation)
                kept += [d, *add_normalised(operation.norm, d.flatten(1), weight, out.flatten(1))]
            elif not operation:
                out.add_(x, alpha=weight)
            else:
                y, shift = x, x.new_zeros(len(x))
                for last, repeat in zip([False] * (len(operation) - 1) + [True], operation):
                    d = _convolve(y, shift, next(weights), repeat)
                    known = normalise(repeat.norm, next(weights).flatten(1).contiguous(), d.flatten(1))
                    kept += [d, *known]
                    y, shift = None if last else (known.folded @ d.flatten(1)).view_as(d), known.shift
                out.flatten(1).addmm_(known.folded, d.flatten(1), alpha=weight)
                constant += weight * shift.view_as(constant)
        out += constant
        if any(ctx.needs_input_grad):
            ctx.operations, ctx.n_theta = operations, len(theta)
            ctx.train = [part.norm.training for operation in operations
                         for part in ([operation] if isinstance(operation, Pool) else operation)]
            ctx.save_for_backward(x, w, *theta, *kept)
        return out

    @staticmethod
    def backward(ctx: Any, G: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("mixed_edge")
        x, w, *rest = ctx.saved_tensors
        _, _, wants_x, wants_w, *wants = ctx.needs_input_grad
        theta, wants = iter(rest[:ctx.n_theta]), iter(wants)
        kept, train = iter(rest[ctx.n_theta:]), iter(ctx.train)
        G = G.contiguous()
        g_sum = G.flatten(1).sum(1)
        dx, dw, d_theta = torch.zeros_like(x) if wants_x else None, [], []

        def passed() -> tuple[Tensor, Normalised, bool]:
            return next(kept), Normalised(*(next(kept) for _ in Normalised._fields)), next(train)

        for operation, weight in zip(ctx.operations, w.tolist(), strict=True):
            if isinstance(operation, Pool):
                d, known, in_train = passed()
                g, by_weight = add_normalised_backward(G.flatten(1), g_sum, d.flatten(1), known, weight, in_train)
                if wants_x:
                    _pool_backward(x, operation, g.view_as(d), dx)
            elif not operation:
                by_weight = torch.dot(G.flatten(), x.flatten()).item() if wants_w else 0.0
                if wants_x:
                    dx.add_(G, alpha=weight)
            else:
                passes = [_Pass(repeat, next(theta), *passed(), next(wants), next(wants), next(theta).shape)
                          for repeat in operation]
                by_weight, gradients = _repeats_backward(x, passes, G, g_sum, weight, dx)
                d_theta += gradients
            dw.append(by_weight)
        return None, None, dx, w.new_tensor(dw) if wants_w else None, *d_theta


@dataclass(frozen=True)
class _Pass:
    """A repeat in the forward pass: its depthwise weight, d, its batch norm; which gradients are wanted."""

    repeat: Repeat
    weight: Tensor
    d: Tensor
    known: Normalised
    train: bool
    wants_depthwise: bool
    wants_pointwise: bool
    shape: torch.Size  # of the pointwise weight


def _repeats_backward(x: Tensor, passes: Sequence[_Pass], G: Tensor, g_sum: Tensor, weight: float,
                      dx: Tensor | None) -> tuple[float, list[Tensor | None]]:
    """Of `weight` times a separable convolution: gradients by `weight` and its parameters; that by x, added to `dx`."""
    gradients: list[Tensor | None] = [None] * (2 * len(passes))
    by_weight = None
    for i in reversed(range(len(passes))):
        p = passes[i]
        back = normalise_backward(G.flatten(1), g_sum, p.d.flatten(1), p.known, weight, p.train)
        by_weight = back.by_weight if by_weight is None else by_weight
        if p.wants_pointwise:
            gradients[2 * i + 1] = back.dW.view(p.shape)
        before = passes[:i]
        if dx is None and not p.wants_depthwise and not any(b.wants_depthwise or b.wants_pointwise for b in before):
            break
        g = torch.mm(back.A.t(), G.flatten(1))
        if p.train:
            g.addmm_(back.B, p.d.flatten(1))
        if before:
            known, d = before[-1].known, before[-1].d
            y, shift = (known.folded @ d.flatten(1)).view_as(d), known.shift
            dy = torch.zeros_like(y)
        else:
            y, shift, dy = x, x.new_zeros(len(x)), dx
        gradients[2 * i] = _convolve_backward(y, shift, p, g.view_as(p.d), back.k, dy)
        if before:
            G, g_sum, weight = dy, dy.flatten(1).sum(1), 1.0
    return by_weight, gradients


def _empty_after(x: Tensor, stride: int) -> Tensor:
    C, H, W, B = x.shape
    return x.new_empty(C, (H - 1) // stride + 1, (W - 1) // stride + 1, B)


def _by_pixels(weight: Tensor) -> Tensor:
    return weight.reshape(len(weight), *weight.shape[2:]).contiguous()


def _convolve(y: Tensor, shift: Tensor, weight: Tensor, repeat: Repeat) -> Tensor:
    """Depthwise convolution of relu(y + shift)."""
    d = _empty_after(y, repeat.stride)
    by_channel(kernels.convolve, y, shift, _by_pixels(weight), d, repeat.stride, repeat.dilation, True)
    return d


def _convolve_backward(y: Tensor, shift: Tensor, p: _Pass, g: Tensor, g_shift: Tensor,
                       dy: Tensor | None) -> Tensor | None:
    """From the gradient g + g_shift by `_convolve`: that by the weight if wanted; that by y, added to `dy`."""
    weight = _by_pixels(p.weight)
    dw = torch.empty_like(weight)
    by_channel(kernels.convolve_backward, y, shift, weight, g, g_shift, g if dy is None else dy, dw, p.repeat.stride,
               p.repeat.dilation, True, dy is not None, p.wants_depthwise)
    return dw.view(p.weight.shape) if p.wants_depthwise else None


def _pool(x: Tensor, pool: Pool) -> Tensor:
    d = _empty_after(x, pool.stride)
    if not pool.mean:
        by_channel(kernels.max_pool, x, d, pool.kernel, pool.stride)
        return d
    ones = x.new_ones(len(x), pool.kernel, pool.kernel)
    by_channel(kernels.convolve, x, x.new_zeros(len(x)), ones, d, pool.stride, 1, False)
    return d.mul_(_shares(*x.shape[1:3], pool.kernel, pool.stride, x.dtype))


def _pool_backward(x: Tensor, pool: Pool, g: Tensor, dx: Tensor) -> None:
    """Add the gradient by x to `dx`."""
    if not pool.mean:
        by_channel(kernels.max_pool_backward, x, g, dx, pool.kernel, pool.stride)
        return
    g.mul_(_shares(*x.shape[1:3], pool.kernel, pool.stride, x.dtype))
    ones, zeros = x.new_ones(len(x), pool.kernel, pool.kernel), x.new_zeros(len(x))
    by_channel(kernels.convolve_backward, x, zeros, ones, g, zeros, dx, torch.empty_like(ones), pool.stride, 1, False,
               True, False)


@cache
def _shares(height: int, width: int, kernel: int, stride: int, dtype: torch.dtype) -> Tensor:
    """1 / number of pixels that each mean is over, (H / stride, W / stride, 1)."""
    counts = []
    for size in (height, width):
        centre, reach = torch.arange(0, size, stride), kernel // 2
        counts.append((centre + reach).clamp(max=size - 1) - (centre - reach).clamp(min=0) + 1)
    return 1 / (counts[0][:, None, None] * counts[1][:, None]).to(dtype)
