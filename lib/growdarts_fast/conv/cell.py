r"""The convolutional search cell as one autograd function with a backward written by hand [DARTS Eq. 1, 2].

States 0 and 1 are the fitted inputs; state i = 2, 3, ... is $x_i = \sum_{j < i} \sum_o w^o_{ij}\, o(x_j)$, and the output
those of the nodes side by side. With the batch last they are slices of it, to which the operations add.

As soon as a state is known, the operations of all edges that leave it are computed; backward those of all edges that leave
the last state whose gradient is not known. The operations of such a *stage* are shared out to as
many threads as torch has, each with sums of its own: a single kernel or product is too short to be divided.

Shapes: pixels (C, H, W, B), batch last; N nodes, K operations of an edge.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from growdarts.spaces.darts_conv.cell import SearchCell
from growdarts.spaces.darts_conv.operations import FactorizedReduce, ReLUConvBN, SeparableConv, Zero
from growdarts_fast.derivatives import refuse_second_derivative
from growdarts_fast.conv.norm_kernels import row_sums
from growdarts_fast.conv.passes import Fit, Norm, Operation, Pool, Repeat, Separable, Skip, flat
from growdarts_fast.memory import empty
from growdarts.forms import fast_form


WIDE = 128  # channels from which on torch's convolutions, channels side by side, are clearly faster than `mixed_cell`


@fast_form(SearchCell.forward, "cpu")
def forward(cell: SearchCell, s0: Tensor, s1: Tensor, mixtures: Sequence[tuple[Sequence[str], Tensor]]) -> Tensor:
    """`SearchCell.forward` in float32 or float64.

    Where an operation has no form here, or the cell has at least `WIDE` channels, that is the plain form with the channels
    last in memory.
    """
    if s0.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    fits = [as_operation(fit) for fit in (cell.preprocess0, cell.preprocess1)]
    edges = [[as_operation(edge.operations[key]) for key in keys]
             for edge, (keys, _) in zip(cell.edges, mixtures, strict=True)]
    if cell.channels >= WIDE or None in chain(fits, *edges):
        return SearchCell.forward.plain(cell, *(s.contiguous(memory_format=torch.channels_last) for s in (s0, s1)), mixtures)
    batch_last = [s.permute(1, 2, 3, 0).contiguous() for s in (s0, s1)]
    out = mixed_cell(*batch_last, fits, edges, [w for _, w in mixtures], cell.n_nodes, cell.channels, cell.stride(0))
    return out.permute(3, 0, 1, 2)


def as_operation(module: nn.Module) -> Operation | None:
    """The passes of an operation or of a fitting map of a search network; None if they are not written out."""
    match module:
        case Zero():
            return Operation()
        case nn.Identity():
            return Skip()
        case SeparableConv():
            layers = list(module.op)
            norms = [_as_norm(norm) for norm in layers[3::4]]
            if all(norms) and all(type(relu) is nn.ReLU for relu in layers[::4]):
                return Separable([Repeat(*parts) for parts in zip(layers[1::4], layers[2::4], norms, strict=True)])
        case ReLUConvBN(op=layers) if type(layers[0]) is nn.ReLU and (norm := _as_norm(layers[2])):
            return Fit([layers[1]], 1, norm)
        case FactorizedReduce() if norm := _as_norm(module.bn):
            return Fit([module.conv_1, module.conv_2], 2, norm)
        case nn.Sequential() if len(module) == 2 and (norm := _as_norm(module[1])):
            pool = module[0]
            if type(pool) is nn.MaxPool2d and (pool.kernel_size, pool.padding, pool.dilation) == (3, 1, 1):
                return Pool(pool.stride, False, norm)
            if type(pool) is nn.AvgPool2d and (pool.kernel_size, pool.padding, pool.count_include_pad) == (3, 1, False):
                return Pool(pool.stride, True, norm)
    return None


def _as_norm(norm: nn.Module) -> Norm | None:
    simple = type(norm) is nn.BatchNorm2d and not norm.affine and norm.track_running_stats
    return Norm(norm, norm.training) if simple else None


class Task(NamedTuple):
    """An operation from one position to another: 0 and 1 are the inputs, 2 and 3 states 0 and 1, then come the nodes."""

    operation: Operation
    source: int
    target: int
    edge: int  # those of the two fits come first
    place: int  # in its edge
    theta: slice  # of the tensors of all operations

    @property
    def stage(self) -> int:
        """Both inputs, both states, every node."""
        return self.source // 2 if self.source < 4 else self.source - 2


def mixed_cell(s0: Tensor, s1: Tensor, fits: Sequence[Operation], edges: Sequence[Sequence[Operation]],
               weights: Sequence[Tensor], n_nodes: int, channels: int, stride: int) -> Tensor:
    """Output (N C, H / stride, W / stride, B) of inputs whose second is (..., H, W, B).

    fits : operations that make states 0 and 1 of s0 and s1.
    edges, weights : operations of every edge, those of node i after those of node i-1, and (K,) for each.
    n_nodes, channels, stride : N, C, and of the edges from states 0 and 1.
    """
    ends = [(0, 2), (1, 3), *((source, target) for target in range(4, 4 + n_nodes) for source in range(2, target))]
    tasks: list[Task] = []
    theta: list[Tensor] = []
    for edge, ((source, target), operations) in enumerate(zip(ends, [*([fit] for fit in fits), *edges], strict=True)):
        for place, operation in enumerate(operations):
            own = slice(len(theta), len(theta) + len(operation.theta))
            tasks.append(Task(operation, source, target, edge, place, own))
            theta += operation.theta
    shape = (channels, *((size - 1) // stride + 1 for size in s1.shape[1:3]), s1.shape[3])
    return _MixedCell.apply(tasks, (n_nodes, *shape), len(weights), s0, s1, *weights, *theta)


class _MixedCell(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, tasks: Sequence[Task], shape: tuple[int, ...], n_edges: int, s0: Tensor, s1: Tensor,
                *tensors: Tensor) -> Tensor:
        with torch_alone() as threads:
            weights = [[1.0], [1.0], *(w.tolist() for w in tensors[:n_edges])]
            theta, out = tensors[n_edges:], empty(shape, s1.dtype).zero_()
            states = [s0, s1, *empty((2, shape[1], *s1.shape[1:]), s1.dtype).zero_(), *out]
            sizes = [task.operation.keeps for task in tasks]
            buffers = [*empty((2, *states[2].shape), s1.dtype).split(sizes[:2]),
                     *empty((sum(sizes[2:]), *shape[1:]), s1.dtype).split(sizes[2:])]
            scratch = empty((threads, 4, *shape[1:]), s1.dtype)
            kept: list[list[Tensor]] = [[] for _ in tasks]

            def compute(k: int, total: Tensor, scratch: Tensor) -> None:
                task = tasks[k]
                kept[k] = task.operation.forward(states[task.source], theta[task.theta],
                                                 weights[task.edge][task.place], total, buffers[k], scratch)

            for stage in _stages(tasks):
                _share_out(compute, {k: tasks[k].target for k in stage}, states, tasks, scratch)
        if any(ctx.needs_input_grad):
            ctx.tasks, ctx.weights, ctx.counts = tasks, weights, [len(tensors) for tensors in kept]
            ctx.save_for_backward(*theta, *states, *(tensor for tensors in kept for tensor in tensors))
        return out.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative("mixed_cell")
        tasks, weights, saved = ctx.tasks, ctx.weights, iter(ctx.saved_tensors)
        theta, states = ([next(saved) for _ in range(n)] for n in (tasks[-1].theta.stop, tasks[-1].target + 1))
        kept = [[next(saved) for _ in range(n)] for n in ctx.counts]
        wants, n_edges = ctx.needs_input_grad[3:], len(weights) - 2
        wants_weights, wants_theta = [False, False, *wants[2:2 + n_edges]], wants[2 + n_edges:]
        by_weights, by_theta = [[0.0] * len(w) for w in weights], [None] * len(theta)
        with torch_alone() as threads:
            # by inputs, fitted inputs, nodes
            wanted = [*wants[:2], *(wants[fit.source] or any(wants_theta[fit.theta]) for fit in tasks[:2])]
            gradients = [empty(x.shape, x.dtype).zero_() if w else None for x, w in zip(states, wanted)]
            gradients += empty((n_nodes := len(states) - 4, *states[-1].shape), grad.dtype).copy_(
                grad.unflatten(0, (n_nodes, -1)))
            sums, scratch = {}, empty((threads, 4, *states[-1].shape), grad.dtype)

            def compute(k: int, dx: Tensor | None, scratch: Tensor) -> None:
                task = tasks[k]
                if dx is not None or any(wants_theta[task.theta]) or wants_weights[task.edge]:
                    by_weights[task.edge][task.place], by_theta[task.theta] = task.operation.backward(
                        states[task.source], theta[task.theta], kept[k], weights[task.edge][task.place],
                        gradients[task.target], sums[task.target], dx, wants_theta[task.theta], scratch)

            for stage in reversed(_stages(tasks)):
                for target in {tasks[k].target for k in stage} - sums.keys():
                    if gradients[target] is not None:
                        sums[target] = row_sums(flat(gradients[target]))
                _share_out(compute, {k: tasks[k].source for k in stage}, gradients, tasks, scratch)
        return (None, None, None, *gradients[:2],
                *(grad.new_tensor(w) if wanted else None for w, wanted in zip(by_weights[2:], wants_weights[2:])), *by_theta)


def _stages(tasks: Sequence[Task]) -> list[list[int]]:
    """Numbers of the tasks that can be done at the same time; forward one stage after another."""
    return [[k for k, task in enumerate(tasks) if task.stage == stage] for stage in range(tasks[-1].stage + 1)]


def _share_out(compute: Callable[[int, Tensor | None, Tensor], None], adds_to: dict[int, int],
              totals: Sequence[Tensor | None], tasks: Sequence[Task], scratch: Sequence[Tensor]) -> None:
    """Compute every task k with `totals[adds_to[k]]`, to which it adds.

    The most expensive come first, each to the thread that has least to do. All threads but the first have totals of their
    own, which are added at the end: so the result does not depend on which is faster.
    """
    shares: list[list[int]] = [[] for _ in scratch]  # tasks of every thread
    load = [0.0] * len(shares)
    for k in sorted(adds_to, key=lambda k: -tasks[k].operation.cost):
        least = load.index(min(load))
        shares[least].append(k)
        load[least] += tasks[k].operation.cost
    shares = [share for share in shares if share]
    others = [{i: empty(totals[i].shape, totals[i].dtype).zero_() for i in {adds_to[k] for k in share} if totals[i] is not None}
              for share in shares[1:]]

    def run(share: Sequence[int], own: dict[int, Tensor] | None, scratch: Tensor) -> None:
        with torch.no_grad():
            for k in share:
                compute(k, totals[adds_to[k]] if own is None else own.get(adds_to[k]), scratch)

    _at_once([partial(run, *arguments) for arguments in zip(shares, [None, *others], scratch)])  # of the shortest
    for own in others:
        for position, total in own.items():
            totals[position] += total


@contextmanager
def torch_alone() -> Iterator[int]:
    """Within the context torch computes on one thread; gives the number that it had before.

    After an operation on several threads these wait for the next one in a loop, which keeps their cores busy.
    """
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield n
    finally:
        torch.set_num_threads(n)


def _at_once(calls: Sequence[Callable[[], None]]) -> None:
    """Make all `calls` at the same time, each on a thread of its own."""
    others = [_threads(len(calls) - 1).submit(call) for call in calls[1:]]
    try:
        calls[0]()
    finally:
        wait(others)
    for other in others:
        other.result()


@cache
def _threads(n: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,))
