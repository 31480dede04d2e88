"""What was tried and not kept, in turn with what is kept."""

import pytest

from benchmarks.timing import in_turn
from benchmarks.tried import trials


def test_what_was_tried(benchmark, measured, effort, trial):
    found = trials(measured.quick)[trial]
    if found.missing:
        measured.add("tried", trial, what=found.what, size=found.size, missing=found.missing)
        pytest.skip(found.missing)
    seconds = in_turn(benchmark, {"kept": found.kept, "tried": found.tried}, "kept", effort)
    measured.add("tried", trial, what=found.what, size=found.size, why=found.why, seconds=seconds)
