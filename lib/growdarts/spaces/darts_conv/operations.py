"""Convolutional candidate operations by name, and the maps that fit a cell's inputs.

Every operation maps (B, C, H, W) -> (B, C, H / stride, W / stride). To add one, write a function that
builds its module and the line `@convolutional`; mixing, growing and pruning then know it. A searched cell that holds
it is computed in its plain form. In a search all operations but `none` and the identity end in a batch norm that is not
affine. Submodules carry the names of the original's, so that its state dicts fit.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Build = Callable[[int, int, bool], nn.Module]  # channels C, stride, whether batch norms are affine
CONVOLUTIONAL: dict[str, Build] = {}


def convolutional(build: Build) -> Build:
    """Register the decorated function as an operation.

    The module is tried on a few pixels: a ValueError says that it fails or returns another shape.
    """
    name = build.__name__
    if not name.isidentifier():
        raise ValueError(f"operation {name!r}: allowed are the names that a function can have")
    if name in CONVOLUTIONAL:
        raise ValueError(f"operation {name!r} is registered twice")
    for stride in (1, 2):
        expected = (2, 4, 8 // stride, 8 // stride)
        try:
            with torch.random.fork_rng(devices=[]):
                shape = tuple(build(4, stride, False)(torch.rand(2, 4, 8, 8)).shape)
        except Exception as error:
            raise ValueError(f"operation {name!r} fails with 4 channels and stride {stride}: "
                             f"{type(error).__name__}: {error}") from error
        if shape != expected:
            raise ValueError(f"operation {name!r} with stride {stride} returns shape {shape} for images of shape "
                             f"(2, 4, 8, 8): allowed is {expected}")
    CONVOLUTIONAL[name] = build
    return build


def build_operation(name: str, channels: int, stride: int, *, search: bool) -> nn.Module:
    """The module of operation `name`, in the form of the search network or of a fixed one."""
    if name not in CONVOLUTIONAL:
        raise ValueError(f"unknown operation {name!r}: allowed are {', '.join(CONVOLUTIONAL)}")
    return CONVOLUTIONAL[name](channels, stride, not search)


class Zero(nn.Module):
    """0 * x: the absence of an edge, which still competes for weight; gradients exist and are zero."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x[:, :, ::self.stride, ::self.stride]


class ReLUConvBN(nn.Module):
    """ReLU, 1 x 1 convolution, batch norm: fits an input of a cell to its channels."""

    def __init__(self, inputs: int, channels: int, *, affine: bool) -> None:
        super().__init__()
        self.op = nn.Sequential(nn.ReLU(), nn.Conv2d(inputs, channels, 1, bias=False),
                                nn.BatchNorm2d(channels, affine=affine))

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)

    def input_maps(self) -> list[tuple[nn.Conv2d, Tensor]]:
        """Convolutions that read the input, each with the running variances (rows,) behind it."""
        return [(self.op[1], self.op[2].running_var)]


class FactorizedReduce(nn.Module):
    """ReLU, two 1 x 1 convolutions on the even and on the odd pixels, batch norm.

    Each convolution reads every second pixel, which is the same as a stride of 2. The stride itself is not used:
    with few input channels torch's weight gradient of a 1 x 1 convolution with a stride writes outside its memory on
    processors without AVX-512 (uxlfoundation/oneDNN issue 6035).
    """

    def __init__(self, inputs: int, channels: int, *, affine: bool) -> None:
        super().__init__()
        if channels % 2:
            raise ValueError(f"channels = {channels}: a factorized reduction needs an even number")
        self.conv_1 = nn.Conv2d(inputs, channels // 2, 1, bias=False)
        self.conv_2 = nn.Conv2d(inputs, channels // 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, channels, H / 2, W / 2), H and W even."""
        x = torch.relu(x)
        return self.bn(torch.cat([self.conv_1(x[:, :, ::2, ::2]), self.conv_2(x[:, :, 1::2, 1::2])], dim=1))

    def input_maps(self) -> list[tuple[nn.Conv2d, Tensor]]:
        """Convolutions that read the input, each with the running variances (rows,) behind it."""
        return list(zip((self.conv_1, self.conv_2), self.bn.running_var.chunk(2), strict=True))


class SeparableConv(nn.Module):
    """`repeats` times ReLU, depthwise k x k, pointwise 1 x 1, batch norm; the first repeat has the stride."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool, *,
                 dilation: int = 1, repeats: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        layers: list[nn.Module] = []
        for i in range(repeats):
            layers += [nn.ReLU(),
                       nn.Conv2d(channels, channels, kernel, stride=1 if i else stride, padding=padding,
                                 dilation=dilation, groups=channels, bias=False),
                       nn.Conv2d(channels, channels, 1, bias=False),
                       nn.BatchNorm2d(channels, affine=affine)]
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H / stride, W / stride)."""
        return self.op(x)


def _pool(pool: nn.Module, channels: int, affine: bool) -> nn.Module:
    """A pooling, with a batch norm in a search only, as in DARTS."""
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


@convolutional
def none(channels: int, stride: int, affine: bool) -> nn.Module:
    """No connection."""
    return Zero(stride)


@convolutional
def max_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    """Largest of 3 x 3 pixels."""
    return _pool(nn.MaxPool2d(3, stride=stride, padding=1), channels, affine)


@convolutional
def avg_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    """Mean of 3 x 3 pixels, the border not counted."""
    return _pool(nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False), channels, affine)


@convolutional
def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    """x itself, or its factorized reduction."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine=affine)


@convolutional
def sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    """Separable convolution, applied twice."""
    return SeparableConv(channels, 3, stride, affine, repeats=2)


@convolutional
def sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    """Separable convolution, applied twice."""
    return SeparableConv(channels, 5, stride, affine, repeats=2)


@convolutional
def dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    """Separable convolution of every second pixel: it sees 5 x 5."""
    return SeparableConv(channels, 3, stride, affine, dilation=2)


@convolutional
def dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    """Separable convolution of every second pixel: it sees 9 x 9."""
    return SeparableConv(channels, 5, stride, affine, dilation=2)


def drop_path(x: Tensor, probability: float) -> Tensor:
    """Drop whole samples of an edge's output with `probability`, scale the others up; (B, C, H, W)."""
    keep = 1 - probability
    mask = torch.empty(len(x), 1, 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep)
    return x * mask / keep
