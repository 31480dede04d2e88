"""Passes over a network as CUDA graphs: captured once for every structure and shape, replayed from then on.

The kernels of a recurrent cell are so small that to launch them takes longer than to run them; a graph launches all of a
pass at once. The first batch of a shape is computed as always, which also sets up what a capture must not; the second is
captured; it and all later ones are replayed, on copies of their tensors. On a CPU everything is computed as always.

After torch's notes "CUDA semantics", section "CUDA Graphs".
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only, tree_unflatten

logger = logging.getLogger(__name__)
_active: ContextVar["Graphs | None"] = ContextVar("graphs", default=None)


class CudaGraph:
    """What a function without arguments launches, and the tensors that it returns, captured.

    All graphs share one pool of memory, so a replay may overwrite what another one has returned. Random draws come from
    the GPU's generator, which a replay moves on.
    """

    stream: Any = None  # of all captures
    first: Any = None  # a graph that is never dropped: torch takes no pool again that has been without any

    def __init__(self, function: Callable[[], Any]) -> None:
        before, self.graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph, pool=self._first().pool(), stream=CudaGraph.stream):
                self.returned = function()
        except BaseException:  # torch 2.11 leaves the stream, and pool and generator as if the capture still went on
            torch.cuda.set_stream(before)
            CudaGraph.first = None
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            generator.graphsafe_set_state(generator.clone_state())
            raise

    @classmethod
    def _first(cls) -> torch.cuda.CUDAGraph:
        if cls.first is None:
            cls.stream, first = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            with warnings.catch_warnings(action="ignore"), torch.cuda.graph(first, stream=cls.stream):
                pass  # of which torch warns
            cls.first = first
        return cls.first

    @classmethod
    def warm_up(cls, function: Callable[[], Any]) -> Any:
        """function(), on the stream of the captures: what it sets up is then that of the captures, and nothing of a later
        capture waits for another stream."""
        cls._first()
        here = torch.cuda.current_stream()
        cls.stream.wait_stream(here)
        with torch.cuda.stream(cls.stream):
            result = function()
        here.wait_stream(cls.stream)
        return result

    def replay(self) -> Any:
        """Compute anew; returns the same tensors as ever, with other values."""
        self.graph.replay()
        return self.returned


class Graphs:
    """The graphs of one network on one task, made by `record` where the network is on a device of `kind`."""

    def __init__(self, record: type[CudaGraph] = CudaGraph, kind: str = "cuda") -> None:
        self.record, self.kind, self.on, self.replays = record, kind, False, 0
        self.tensors: list[Tensor] = []
        self.passes: dict[Any, _Pass | None] = {}

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """Within the context, in which the network's tensors stay the same objects, `growdarts.bilevel.gradient` uses the
        graphs. Those of other tensors, as before a growth or a pruning, are dropped first."""
        tensors = [*network.parameters(), *network.buffers()]
        if list(map(id, tensors)) != list(map(id, self.tensors)):
            self.tensors, self.passes = tensors, {}
        self.on = self.record is not None and tensors[0].device.type == self.kind
        token = _active.set(self if self.on else None)
        try:
            yield
        finally:
            _active.reset(token)

    def run(self, function: Callable[[Any], Any], batch: Any, *key: Any) -> Any:
        """function(batch), whose results are tensors in tuples and lists.

        Parameters
        ----------
        function : reads no numbers of the device and copies none to it; depends on nothing that changes but the tensors of
            network and batch. It may leave tensors in `batch.memory`, in fields that were None or are no arguments.
        batch : tensors, None and plain values in tuples and in dataclasses that torch's `register_dataclass` knows.
        key : what else tells one function from another.
        """
        key = (*key, _signature(batch))
        if not self.on:
            return function(batch)
        if key not in self.passes:
            self.passes[key] = None
            return self.record.warm_up(lambda: function(batch))
        try:
            self.passes[key] = self.passes[key] or _Pass(function, batch, self.record)
        except RuntimeError as error:
            logger.warning("no CUDA graph can be captured, so every step is computed without (%s)", error)
            self.on, self.record = False, None
            return function(batch)
        self.replays += 1
        return self.passes[key](batch)


def active() -> Graphs | None:
    """Those whose context this is, if there is a GPU."""
    return _active.get()


class _Pass:
    """A recorded function, with the tensors that it reads."""

    def __init__(self, function: Callable[[Any], Any], batch: Any, record: type[CudaGraph]) -> None:
        leaves, form = tree_flatten(tree_map_only(Tensor, torch.clone, batch))
        self.inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        memory = getattr(batch, "memory", None)
        left = [f.name for f in fields(memory) if not f.init or getattr(memory, f.name) is None] if memory else []

        def of_inputs() -> Any:
            copied = tree_unflatten(leaves, form)
            return function(copied), {name: getattr(copied.memory, name) for name in left}

        self.recorded = record(of_inputs)

    def __call__(self, batch: Any) -> Any:
        given = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
        for kept, value in zip(self.inputs, given, strict=True):
            kept.copy_(value)
        result, left = tree_map_only(Tensor, torch.clone, self.recorded.replay())
        for name, value in left.items():
            setattr(batch.memory, name, value)
        return result


def _signature(batch: Any) -> Any:
    """What two batches share that share a graph."""
    leaves, form = tree_flatten(batch)
    return form, *((x.shape, x.stride(), x.dtype) if isinstance(x, Tensor) else x for x in leaves)
