"""Layers that read a cell gain inputs when the cell gains a node."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_conv.operations import FactorizedReduce, ReLUConvBN


class Widened(NamedTuple):
    """`new` replaces `old` in the network and holds it, bit for bit, at `index`; both train the same entries."""

    old: nn.Parameter
    new: nn.Parameter
    index: tuple[slice, ...]


@torch.no_grad()
def widen(layer: nn.Conv2d | nn.Linear, extra: int, deviation: Tensor | None) -> Widened:
    """Let `layer` read `extra` more inputs, after those it reads [JG 3.2.1].

    Parameters
    ----------
    deviation : (rows,) of the normal new entries; None draws them as fresh weights are drawn.
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
    return Widened(old, layer.weight, tuple(slice(0, n) for n in old.shape))


@torch.no_grad()
def widen_fitting(preprocess: ReLUConvBN | FactorizedReduce, extra: int, level: float | None) -> list[Widened]:
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
