"""Seconds and memory: variants in turn within one process, peaks in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.sizes import Effort, Size

ROOT = Path(__file__).parents[1]


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def in_turn(benchmark: BenchmarkFixture, variants: dict[str, Callable[[], Any]], main: str,
            effort: Effort) -> dict[str, list[float]]:
    """Seconds of every variant in every round; `main` is timed by `benchmark`, the others between its rounds.

    A machine that slows down for a while thus slows all of them. `main` is run once before, to warm up and to tell how
    many rounds are possible: on average the others take about as long.
    """
    estimate = len(variants) * seconds(variants[main])
    rounds = min(effort.most, max(effort.least, int(effort.seconds / estimate)))
    found: dict[str, list[float]] = {name: [] for name in variants}

    def others() -> None:
        for name, run in variants.items():
            if name != main:
                found[name].append(seconds(run))

    benchmark.pedantic(variants[main], setup=others, rounds=rounds)
    found[main] = list(benchmark.stats.stats.data)
    return found


def peaks(size: Size, order: int, names: Sequence[str]) -> dict[str, float]:
    """Peak memory of a step of each of `names`, MiB; the processes run side by side, with a thread each."""
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda what: apart(size, what, order, threads=1)["peak_mib"], names)
        return dict(zip(names, found, strict=True))


def apart(size: Size, what: str, order: int = 1, rounds: int = 0, threads: int | None = None) -> dict[str, Any]:
    """`benchmarks.process` in a fresh process: peak memory of the first step, then seconds of `rounds` more.

    threads : None: as many as here.
    """
    job = json.dumps({"size": size.as_dict(), "what": what, "order": order, "rounds": rounds})
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)),
                                "OMP_NUM_THREADS": str(threads or torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-m", "benchmarks.process", job], env=environment, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"benchmarks.process {job} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def load_average() -> float:
    """Of the machine, over the last minute: processes that compute or wait for their turn."""
    return round(os.getloadavg()[0], 2)

