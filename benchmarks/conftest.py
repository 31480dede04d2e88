"""Sizes of the cases, and the records that a run leaves: `steps` and `scaling`, and `launches`, which counts.

`make benchmark` runs all; `make benchmark QUICK=1` the same code at toy sizes, whose records go to `_build`. A run of a part
leaves those records of which it left out no case.
"""

import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.launches import few
from benchmarks.sizes import BASES, FULL, ORIGINAL, QUICK, STEPS, TOY, TOY_VALUES, VALUES, Effort, Size, sweeps
from benchmarks.timing import load_average
from growdarts_study import records
from growdarts_study.precision import used_precision

KEPT, TOY_RECORDS = records.RESULTS / "benchmarks", records.ROOT / "_build" / "benchmarks"


class Measured:
    """What has been measured so far, by part of the records and by case."""

    def __init__(self, quick: bool) -> None:
        self.quick, self.started, self.load = quick, time.perf_counter(), load_average()
        self.parts: dict[str, dict[Any, dict[str, Any]]] = {"steps": {}, "growth": {}, "scaling": {}, "launches": {}}
        self.sizes = list(TOY.values()) if quick else STEPS
        self.counted = list(dict.fromkeys(few(size) for size in (TOY.values() if quick else ORIGINAL)))
        self.bases = TOY if quick else BASES
        self.sweeps = sweeps(self.bases, TOY_VALUES if quick else VALUES)

    def add(self, part: str, case: Any, **values: Any) -> None:
        """More about a case."""
        self.parts[part].setdefault(case, {}).update(values)

    def points(self) -> list[Size]:
        """Of all sweeps, each once."""
        return list(dict.fromkeys(size for fields in self.sweeps.values() for sizes in fields.values()
                                  for size in sizes))

    def contents(self) -> dict[str, dict[str, Any]]:
        """Of the records of which no case was left out, by name."""
        growth, found = self.parts["growth"], {}
        if (set(self.parts["steps"]) == {(size, order) for size in self.sizes for order in (1, 2)}
                and len(growth) == len(self.sizes)
                and all({"seconds", "grow_node", "selection"} <= case.keys() for case in growth.values())
                and set(self.parts["scaling"]) == set(self.points())):
            found["steps"] = {
                "steps": [{"size": size.as_dict(), "order": order, **values}
                          for (size, order), values in self.parts["steps"].items()],
                "growth": [{"size": size.as_dict(), **values} for size, values in growth.items()]}
            found["scaling"] = {
                "sweeps": {space: {field: [{"value": getattr(size, field), **self.parts["scaling"][size]} for size in sizes]
                                   for field, sizes in fields.items()} for space, fields in self.sweeps.items()},
                "bases": {space: size.as_dict() for space, size in self.bases.items()}}
        if set(self.parts["launches"]) == {(size, order) for size in self.counted for order in (1, 2)}:
            found["launches"] = {"launches": [{"size": size.as_dict(), "order": order, **values}
                                              for (size, order), values in self.parts["launches"].items()]}
        return found

    def write(self) -> list[Path]:
        """Those records."""
        folder, made, written = TOY_RECORDS if self.quick else KEPT, self._provenance(), []
        for name, parts in self.contents().items():
            written.append(folder / f"{name}.json")
            records.write(records.significant({"name": name, "provenance": made, **parts}, 5), written[-1])
        return written

    def _provenance(self) -> dict[str, Any]:
        made = records.provenance({})
        made["packages"] |= {name: version(name) for name in ("numba", "pytest-benchmark")}
        return made | {"load_average": {"before": self.load, "after": load_average()},
                       "bfloat16": used_precision("bfloat16") == "bfloat16",
                       "minutes": (time.perf_counter() - self.started) / 60}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="toy sizes: whether everything runs")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    config.measured = Measured(config.getoption("--quick"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    measured = metafunc.config.measured
    for name, sizes in (("size", measured.sizes), ("point", measured.points()), ("counted", measured.counted)):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, sizes, ids=[
                "-".join(str(value) for value in size.as_dict().values() if value) for size in sizes])


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    measured = session.config.measured
    if exitstatus == 0 and measured.contents():
        print("\n" + "\n".join(f"wrote {file}" for file in measured.write()))
    elif any(measured.parts.values()):
        print("\nno record is written: some cases failed or were left out")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Measured:
    return request.config.measured


@pytest.fixture
def effort(measured: Measured) -> Effort:
    return QUICK if measured.quick else FULL
