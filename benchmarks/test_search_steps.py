"""A step of the search: the plain reference, the library, torch's LSTM and the floor, in turn; and their memory."""

import pytest

from benchmarks.floors import PASSES, floor
from benchmarks.steps import lstm_step, reference_step, search_step, subject
from benchmarks.timing import in_turn, load_average, peaks
from growdarts_study.precision import used_precision


@pytest.mark.parametrize("order", [1, 2])
def test_search_step(benchmark, measured, effort, size, order):
    before, made = load_average(), subject(size)
    floors = [floor(made, weights=weights) for weights in (False, True)]
    variants = {"reference": reference_step(made, order), "float32": search_step(made, order)}
    if size.space != "convolutional":
        variants["lstm"] = lstm_step(made)
        if used_precision("bfloat16") == "bfloat16":
            variants["bfloat16"] = search_step(made, order, "bfloat16")
    found = in_turn(benchmark, variants | {"pass": floors[0].run, "weights": floors[1].run}, "float32", effort)
    passes = PASSES[order]
    least = [sum(n * t for n, t in zip(passes, times, strict=True))
             for times in zip(found.pop("pass"), found.pop("weights"), strict=True)]
    measured.add("steps", (size, order), seconds=found | {"floor": least},
                 floor_flops=sum(n * part.flops for n, part in zip(passes, floors, strict=True)),
                 peak_mib=peaks(size, order, ("reference", "float32")),
                 load_average={"before": before, "after": load_average()})
