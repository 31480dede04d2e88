r"""What a loss makes of the operations of convolutional cells, for splitting them [JG 3.2.2].

Units are the output channels of an operation's last convolution, and the weights that are split are those of that
convolution: row u belongs to unit u. What comes before it counts as constant, what comes after it - the batch norm -
must treat every channel by itself. In train mode that norm is a function of the whole batch, so o is curved in the
row: $o_u = (a - \bar a) / \sqrt{\mathrm{var}\, a + \epsilon}$ with $a = \theta_u^\top z$. In eval mode it
divides by the running statistics, o is affine, and there is nothing to split.

Shapes: B batch, C channels, H and W pixels.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_conv.operations import FactorizedReduce
from growdarts.tracing import Call, OperationTrace
from growdarts.mixture import Mixture


def last_convolutions(operation: nn.Module) -> dict[str, slice]:
    """Names of the convolutions behind which `operation` treats every channel by itself; the channels of each.

    A chain has one, the last that was registered; the two of a factorized reduction make half of the channels each.
    """
    if isinstance(operation, FactorizedReduce):
        half = operation.conv_1.out_channels
        return {"conv_1": slice(0, half), "conv_2": slice(half, None)}
    names = [name for name, part in operation.named_modules() if isinstance(part, nn.Conv2d)]
    return {name: slice(None) for name in names[-1:]}


def convolution_traces(mixture: Mixture, key: str, place: str, operation: nn.Module,
                       calls: Sequence[Call]) -> list[OperationTrace]:
    """One trace for each of the last convolutions of `operation`; its weights are named `"place.name of the weight"`.

    The traces hold a copy of the operation: its mode, statistics and other weights stay those of the calls.
    """
    frozen = copy.deepcopy(operation).requires_grad_(False)
    traces = []
    for name, channels in last_convolutions(operation).items():
        convolution = operation.get_submodule(name)
        prefix = f"{name}." if name else ""
        weights = {f"{place}.{prefix}{part}": weight for part, weight in convolution.named_parameters()}
        traces.append(OperationTrace(
            mixture, key, weights, partial(_outputs, frozen, place, [call.arguments for call in calls], channels),
            torch.cat([call.gradient[:, channels] for call in calls]), convolution.out_channels))
    return traces


def _outputs(operation: nn.Module, place: str, arguments: Sequence[tuple[Tensor, ...]], channels: slice,
             theta: Mapping[str, Tensor]) -> Tensor:
    """Channels of all calls' outputs with weights `theta` in place of the operation's, (sum B, channels, H, W)."""
    weights = {name.removeprefix(f"{place}."): weight for name, weight in theta.items()}
    return torch.cat([torch.func.functional_call(operation, weights, args)[:, channels] for args in arguments])
