"""The selection of an operation to split, measured on some of the operations.

Its parts are the traces of all operations, taken in one pass, and for each operation in turn its lowest eigenpairs. A
cell of eight nodes has more than a hundred, alike in size, so those of a few, evenly spread, stand for all.
"""

import torch

from benchmarks.steps import Subject
from benchmarks.timing import seconds
from growdarts.splitting import Split, SplittingMatrices, possible_splits, select_operation, splitting_matrices


def traces(subject: Subject) -> list[SplittingMatrices]:
    """The matrices of all operations, over one batch."""
    return splitting_matrices(subject.network, subject.task("float32").loss, subject.batch(True))


def some(places: list[SplittingMatrices], sampled: int) -> list[SplittingMatrices]:
    """`sampled` of them, evenly spread, or all."""
    return places if sampled >= len(places) else [places[i * len(places) // sampled] for i in range(sampled)]


def select(places: list[SplittingMatrices]) -> Split | None:
    """Lowest eigenpairs of every place, and the choice."""
    return select_operation(possible_splits(places))


def selection_seconds(subject: Subject, sampled: int) -> dict[str, float | int]:
    """Seconds of the traces, and of the eigenpairs of the sampled places; how many places there are."""
    found: list[list[SplittingMatrices]] = []
    in_traces = seconds(lambda: found.append(traces(subject)))
    (places,) = found
    chosen = some(places, sampled)
    return {"traces": in_traces, "eigenpairs": seconds(lambda: select(chosen)), "places": len(places),
            "sampled": len(chosen)}


def selection_memory(subject: Subject) -> None:
    """What a whole selection keeps at once: all traces, a direction of every operation, and one Lanczos basis."""
    places = traces(subject)
    directions = [torch.ones_like(weight) for place in places for weight in place.trace.weights.values()]
    select(some(places, 1))
    del directions
