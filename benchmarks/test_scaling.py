"""How a first-order search step grows with nodes, width, batch and operations; a fresh process a point."""

from benchmarks.timing import apart


def test_step(measured, point):
    measured.add("scaling", point, **apart(point, "float32", rounds=2))
