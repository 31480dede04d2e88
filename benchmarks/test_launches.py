"""What a search step asks of a GPU, counted on the CPU; of sizes that differ in width or batch only, once."""

import pytest

from benchmarks.launches import launches


@pytest.mark.parametrize("order", [1, 2])
def test_launches(measured, counted, order):
    measured.add("launches", (counted, order), **launches(counted, order))
