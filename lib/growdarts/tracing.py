"""Traces of single operations in one evaluation of a loss: their inputs, and the loss's gradient by their outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growdarts.mixture import Mixture


@dataclass(frozen=True)
class OperationTrace:
    r"""An operation in one evaluation of a loss L: what it computes from its weights, and the gradient by that.

    Unit u of `units` owns the rows u, units + u, 2 units + u, ... of every weight, and its outputs depend on
    no others.

    Parameters
    ----------
    mixture, key : which operation.
    weights : the weights that may be split, by name; other parts of the operation count as constant.
    function : weights by name -> the output $o$ for all inputs of the evaluation, which are held constant;
        twice differentiable by autograd.
    gradient, weight : gradient of L by the output of the mixture, which its operations share, and the mixture weight; their
        product is $dL/do$, through everything that comes after.
    units : number of units U.
    unit_dim : dimension of the weights along which rows are counted.
    """

    mixture: Mixture
    key: str
    weights: dict[str, nn.Parameter]
    function: Callable[[Mapping[str, Tensor]], Tensor]
    gradient: Tensor
    units: int
    unit_dim: int = 0
    weight: Tensor | float = 1.0


class Call(NamedTuple):
    """One call of a module: its positional arguments, detached, and the loss's gradient by its output."""

    arguments: tuple[Any, ...]
    gradient: Tensor


def record_calls(modules: Sequence[nn.Module], loss: Callable[[], Tensor]) -> dict[nn.Module, list[Call]]:
    """Evaluate `loss` once; all calls of each of `modules` in the order of time.

    A gradient is the total one: an output that is used again, as a recurrent state is by later time steps,
    counts with all that follows from it; zero if `loss` does not depend on it.
    """
    if not modules:
        return {}
    arguments: dict[nn.Module, list[tuple[Any, ...]]] = {module: [] for module in modules}
    outputs: dict[nn.Module, list[Tensor]] = {module: [] for module in modules}

    def record(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        arguments[module].append(tuple(arg.detach() if isinstance(arg, Tensor) else arg for arg in args))
        outputs[module].append(output if output.requires_grad else output.detach().requires_grad_())
        return outputs[module][-1]

    hooks = [module.register_forward_hook(record) for module in modules]
    try:
        value = loss()
    finally:
        for hook in hooks:
            hook.remove()
    gradients = iter(torch.autograd.grad(value, [output for module in modules for output in outputs[module]],
                                         allow_unused=True, materialize_grads=True))
    return {module: [Call(args, next(gradients)) for args in arguments[module]] for module in modules}


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Within the context batch norms may run; afterwards their running statistics are what they were."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, before)
