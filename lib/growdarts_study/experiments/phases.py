"""What the runs of all experiments share: seeds, checkpoints, the search, the width that a budget of weights allows."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from tqdm import tqdm

from growdarts_study import records
from growdarts_study.config import SEARCHING
from growdarts_study.controls import ControlledSearch, ControlledSettings
from growdarts.space import SearchSpace
from growdarts.checkpoints import Checkpoint, replacing
from growdarts.history import Progress, SearchResult
from growdarts.settings import ConfigError
from growdarts.training import DivergenceError, Fit, Task

C, F = TypeVar("C"), TypeVar("F")  # a candidate, and what its training gives
WIDEST = 8192  # units or channels


@dataclass(frozen=True)
class Searched:
    """A search and the test error of its network as it stood at the end, all operations mixed.

    That error decides nothing, it shows what deriving and training from scratch cost. `diverged` has the learning rates with which the search
    diverged before.
    """

    result: SearchResult
    test_error: float
    diverged: list[float]


def seed(config: ControlledSettings, phase: str) -> None:
    """Seed torch for one phase, so that a resumed run need not repeat the phases before it."""
    torch.backends.cudnn.deterministic = True  # else a GPU's convolutions differ from run to run in their last digits
    torch.manual_seed(seed_of(config.seed, phase))


def seed_of(seed: int, phase: str) -> int:
    """The number that torch is seeded with for one phase of the runs with `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{phase}".encode()).digest()[:4], "big")


def checkpoint(config: ControlledSettings, phase: str, folder: Path | None) -> Checkpoint:
    """Where a phase keeps its state."""
    return Checkpoint(folder / f"{phase}.pt" if folder else None, config.hash())


def search(config: Any, build: Callable[[int], SearchSpace], task: Task, checkpoints: Path | None,
           progress: bool) -> Searched | None:
    """The search of a searching method, None for the rest; `build` gives its network by the number of nodes, which is then
    moved to where the task is.

    A search that diverges is made again from the start with half the learning rate; what it cost counts.

    Raises
    ------
    DivergenceError
        that diverged as well.
    """
    if config.method not in SEARCHING:
        return None
    diverged: list[float] = []
    lost = Progress()
    while True:
        seed(config, "search")
        network = build(config.max_nodes if config.method == "fixed" else config.initial_nodes).to(task.device)
        settings = config.model_copy(update={"learning_rate": config.learning_rate / (1 + len(diverged))})
        started = ControlledSearch(network, task, settings, morphism=config.method != "grow_fresh", progress=progress, checkpoint=checkpoint(
            config, "search again" if diverged else "search", checkpoints))
        try:
            found = started.run()
        except DivergenceError:
            if diverged:
                raise
            lost = started.state
            diverged.append(settings.learning_rate)
        else:
            found = replace(found, epochs=found.epochs + lost.epoch, seconds=found.seconds + lost.seconds, flops=found.flops + lost.flops)
            return Searched(found, task.evaluate(network, "test"), diverged)


def rows(config: Any, hashes: dict[str, str], make: Callable[[str, dict[str, Any]], dict[str, Any]], device: torch.device,
         checkpoints: Path | None, progress: bool) -> dict[str, Any]:
    """What `make` gives for every arm of a run, on one thread, by the arm's name and the rows before it. Those that are done are kept in
    `checkpoints`, and taken from there if they are of the same data."""
    torch.set_num_threads(1)
    kept = checkpoints / "rows.json" if checkpoints else None
    stored = json.loads(kept.read_text()) if kept and kept.exists() else {}
    made: dict[str, Any] = stored["rows"] if stored.get("data") == hashes else {}
    with torch.random.fork_rng(devices=random_devices(device)), tqdm(
            config.arms, desc=config.label(), disable=None if not progress else False) as bar:
        for name in bar:
            bar.set_postfix(arm=name)
            if name not in made:
                made[name] = make(name, made)
                if kept:
                    with replacing(kept) as temporary:
                        temporary.write_text(json.dumps({"data": hashes, "rows": made}))
    return made


def random_devices(device: torch.device) -> list[torch.device]:
    """Of `torch.random.fork_rng`: those besides the CPU on which a run on `device` draws."""
    return [device] if device.type == "cuda" else []


def best_trained(trials: Sequence[tuple[C, float | None]], train: Callable[[C, str], F]) -> tuple[C, F, list[C]]:
    """Train the candidate whose trial had the least error (None: the trial diverged); if its training diverges, the next best, and so on.

    `train(candidate, name of the phase)` trains one. Returns the candidate, what its training gave, and those that diverged.

    Raises
    ------
    DivergenceError
        all of them did.
    """
    diverged: list[C] = []
    for candidate, _ in sorted(trials, key=lambda trial: math.inf if trial[1] is None else trial[1]):
        try:
            return candidate, train(candidate, f"train {len(diverged)}" if diverged else "train"), diverged
        except DivergenceError:
            diverged.append(candidate)
            if len(diverged) == len(trials):
                raise
    raise ValueError("no candidate to train")


def largest_width(build: Callable[[int], nn.Module], parameters: int, step: int = 1) -> int:
    """The largest width, a multiple of `step`, whose network has at most `parameters` weights.

    Raises
    ------
    ConfigError
        even the smallest has more.
    """

    def size(width: int) -> int:
        with torch.device("meta"):  # shapes only
            return sum(p.numel() for p in build(width).parameters() if p.requires_grad)

    if size(step) > parameters:
        raise ConfigError(f"parameter 'parameters' = {parameters}: allowed is at least {size(step)}, what the "
                          f"narrowest network has")
    low, high = 1, WIDEST // step  # in steps; low fits
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if size(middle * step) <= parameters else (low, middle - 1)
    return low * step


def record(config: ControlledSettings, hashes: dict[str, str], searched: Searched | None, fits: dict[str, Fit],
           test_seconds: float, result: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Everything about a run; `fits` by the width of what was trained from scratch."""
    found = searched.result if searched else None
    return {
        "config": config.model_dump(), "config_hash": config.hash(),
        "provenance": records.provenance(hashes, device),
        "cost": {"search_seconds": found.seconds if found else 0.0,
                 "search_flops": found.flops if found else 0.0,
                 "search_epochs": found.epochs if found else 0,
                 "train_seconds": sum(f.seconds for f in fits.values()),
                 "test_seconds": test_seconds,
                 "peak_memory_mib": records.peak_memory_mib(),
                 **({"peak_gpu_memory_mib": round(torch.cuda.max_memory_allocated(device) / 2**20, 1)}
                    if device.type == "cuda" else {})},
        "result": result,
        "training": {width: records.significant(f.errors, 5) for width, f in fits.items()},
        "search": None if found is None else {
            "diverged": searched.diverged, **records.significant({
                "validation_error": found.validation_error, "test_error": searched.test_error, "stage_errors": found.stage_errors,
                "events": found.events}, 17),
            "history": records.significant(found.history, 4)}}
