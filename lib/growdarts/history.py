"""What a search knows and notes down: its progress, every change of the architecture, its result."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from growdarts.space import Genotype, SearchSpace, named_mixtures


@dataclass
class Progress:
    """The state of a search besides the network: counters, histories, best states. Plain values, so that it can be saved."""

    epoch: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    epoch_errors: list[float] = field(default_factory=list)  # validation, of the stage under way
    split_at: int = 0  # how many of them there were when an operation was split last
    stage_errors: list[float] = field(default_factory=list)  # Algorithm 2's eva, one a stage
    history: list[dict[str, Any]] = field(default_factory=list)  # one row an epoch
    events: list[dict[str, Any]] = field(default_factory=list)  # every growth, pruning, end of a stage
    stage_best: dict[str, Any] = field(default_factory=dict)  # snapshot
    best: dict[str, Any] = field(default_factory=dict)  # snapshot


@dataclass(frozen=True)
class SearchResult:
    """The derived architecture and how it came about."""

    genotype: Genotype
    validation_error: float
    epochs: int
    seconds: float
    flops: float
    stage_errors: list[float]
    history: list[dict[str, Any]]
    events: list[dict[str, Any]]


@contextmanager
def change(state: Progress, network: SearchSpace, validation_error: Callable[[], float], kind: str) -> Iterator[dict[str, Any]]:
    """Notes one change of the architecture, made within the context, in `state.events`: what, when, its cost and effect.

    The entry can be added to within the context. After an error nothing is noted.
    """
    entry = {"kind": kind, "epoch": state.epoch, "what": [], "validation_before": validation_error()}
    yield entry
    state.events.append(entry | {
        "validation_after": validation_error(), "nodes": network.n_nodes(), "weights": mixture_weights(network),
        "parameters": sum(p.numel() for p in network.theta_parameters()),
        "flops_spent": state.flops, "seconds_spent": state.seconds})


def mixture_weights(network: SearchSpace) -> dict[str, dict[str, float]]:
    """Mixture weights by name of the mixture, rounded: they are for looking at."""
    return {name: {key: round(weight, 3) for key, weight in mixture.named_weights().items()}
            for name, mixture in named_mixtures(network).items()}
