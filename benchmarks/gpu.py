"""What only a machine with a GPU can tell, in ten minutes, as the record `gpu`: `make gpu`, or `python -m benchmarks.gpu`.

1. The tests of `tests/test_gpu.py`.
2. Search steps at the original's sizes: of the plain reference, of the library computed and captured, in both orders, and a
   weight step of cuDNN's LSTM of the same size.
3. A search on Penn Treebank at the original's size, growing from one node to eight. It ends after 50 epochs, or with the
   last whole epoch before the time is up; the record says which.

What fails ends nothing of the rest; the record says so, and the exit status is 1.
`--dry` runs all of it on the CPU at toy sizes, on generated text, into `_build`.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from benchmarks.launches import Repeated
from benchmarks.sizes import ORIGINAL, TOY, Size
from benchmarks.steps import lstm_step, reference_step, search_step, subject
from growdarts.devices.captured import Graphs
from growdarts.checkpoints import Checkpoint
from growdarts.devices import find_device
from growdarts.search import Search
from growdarts.settings import DataError
from growdarts.tasks.text import Text
from growdarts_study import grids, records
from growdarts_study.config import LanguageConfig, LanguageRun
from growdarts_study.data import files
from growdarts_study.data.text import load_text
from growdarts_study.experiments import language, phases

ROUNDS = 10
MINUTES = 10.0  # for everything
WORDS, TOKENS = 10_000, {"train": 929_589, "validation": 73_760, "test": 82_430}  # of Penn Treebank
Record = dict[str, Any]


def synchronised(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of a step, with all that it launches."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    step()
    wait()
    return time.perf_counter() - started


def measured(size: Size, order: int, device: torch.device, rounds: int) -> Record:
    """Seconds of every round of every variant, in turn, after three rounds that warm up and capture."""
    made = subject(size, device)
    graphs = Graphs() if device.type == "cuda" else Graphs(Repeated, "cpu")  # on a CPU only to see that it runs
    step = search_step(made, order)
    variants = {"reference": (reference_step(made, order), nullcontext), "eager": (step, nullcontext),
                "captured": (step, lambda: graphs.of(made.network))}
    if size.length:
        variants["lstm"] = lstm_step(made), nullcontext
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for n in range(3 + rounds):
        for name, (run, context) in variants.items():
            with context():
                found = synchronised(run, device)
            if n >= 3:
                seconds[name].append(found)
    if not graphs.replays:
        raise RuntimeError(f"no graph was captured for {size}")
    return {"size": size.as_dict(), "order": order, "seconds": seconds}


class TimeIsUp(Exception):
    """The search has no time for another epoch."""


@dataclass(frozen=True)
class Deadline(Checkpoint):
    """Keeps nothing; raises `TimeIsUp` after the epoch in which `until`, of `time.perf_counter`, is passed."""

    until: float = 0.0

    def save(self, kind: str, data: str, state: dict[str, Any]) -> None:
        """Called after every epoch."""
        if time.perf_counter() > self.until:
            raise TimeIsUp


def whole_search(config: LanguageRun, device: torch.device, until: float) -> Record:
    """A search of `config` on its text, or on generated text of about as many words where there is none."""
    try:
        text = load_text(config.dataset)
    except DataError as error:
        print(f"no Penn Treebank here, so numbers in its place ({error})", flush=True)
        generator = torch.Generator().manual_seed(0)
        parts = {part: torch.randint(WORDS, (n,), generator=generator) for part, n in TOKENS.items()}
        text = Text("numbers", tuple(map(str, range(WORDS))), **parts, floor=None, hashes={})
    phases.seed(config, "search")
    task = language.task_of(config, text, config.batch_size, device)
    network = language.search_model(config, len(text.vocabulary), config.initial_nodes).to(device)
    search, ended = Search(network, task, config, checkpoint=Deadline(None, "", until)), "by itself"
    started = time.perf_counter()
    try:
        search.run()
    except TimeIsUp:
        ended = "time was up"
    state = search.state
    return {"config": config.model_dump(), "text": text.name, "data_sha256": text.hashes, "ended": ended,
            "epochs": state.epoch, "seconds": time.perf_counter() - started, "flops": state.flops,
            "replays": search.graphs.replays, "genotype": network.genotype().to_dict(), "history": state.history,
            "events": state.events}


def tested() -> Record:
    """Runs the tests of a GPU; seconds, and whether all passed. The project's settings of pytest would ask for its plugins."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, "tests/test_gpu.py"], cwd=records.ROOT, env=os.environ | {"GPU_TESTS": "1"}, check=False)
    return {"passed": done.returncode == 0, "seconds": time.perf_counter() - started}


def settings(dry: bool) -> LanguageRun:
    """Of the search: the full tier's in first order, as the 6 hours are that the original reports."""
    small = {"dataset": "grammar", "hidden": 4, "batch_size": 20, "length": 10, "search_epochs": 2, "max_nodes": 2,
             "eval_batch_size": 20} if dry else {}
    config = LanguageConfig.of(grids.defaults("language") | grids.tier_of("language", "full")["parameters"] | small
                               | {"methods": ["grow"], "order": 1})
    return config.run_of("grow")


def main(arguments: list[str] | None = None) -> None:
    """Everything, one line a result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, at toy sizes")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for everything (default: %(default)s)")
    options, started = parser.parse_args(arguments), time.perf_counter()
    device = find_device("cpu" if options.dry else "cuda")  # an error that names what is there
    files.RETRIES = 0  # there may be no network
    torch.set_num_threads(1)
    folder = records.ROOT / "_build" / "benchmarks" if options.dry else records.RESULTS / "benchmarks"
    tests, steps = tested(), []
    failed = [] if tests["passed"] else ["tests/test_gpu.py, see above"]

    def keep(search: Record) -> None:
        records.write(records.significant({
            "name": "gpu", "provenance": records.provenance(search.get("data_sha256", {}), device), "tests": tests,
            "steps": steps, "search": search, "failed": failed, "minutes": (time.perf_counter() - started) / 60}, 5),
            folder / "gpu.json")

    for size in TOY.values() if options.dry else ORIGINAL:
        for order in (1, 2):
            try:
                steps.append(measured(size, order, device, 1 if options.dry else ROUNDS))
            except RuntimeError as error:  # no memory, no graph: the rest is measured all the same
                failed.append(f"{size}, order {order}: {error}")
                continue
            medians = {name: median(times) for name, times in steps[-1]["seconds"].items()}
            print(size.space, size.width, size.batch, f"order {order}, ms:",
                  {name: round(1e3 * seconds, 2) for name, seconds in medians.items()},
                  f"captured {medians['reference'] / medians['captured']:.1f} times as fast as the reference", flush=True)
    keep({})  # should the search fail
    found = whole_search(settings(options.dry), device, started + 60 * options.minutes - 10)
    keep(found)
    print(f"search: {found['epochs']} epochs in {found['seconds']:.0f} s, {found['ended']}; wrote {folder / 'gpu.json'}")
    if failed:
        sys.exit("failed: " + "\n".join(failed))


if __name__ == "__main__":
    main()
