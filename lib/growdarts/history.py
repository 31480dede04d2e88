"""What a search knows and notes down: its progress, its result."""

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


def mixture_weights(network: SearchSpace) -> dict[str, dict[str, float]]:
    """Mixture weights by name of the mixture, rounded: they are for looking at."""
    return {name: {key: round(weight, 3) for key, weight in mixture.named_weights().items()}
            for name, mixture in named_mixtures(network).items()}
