"""One run -> one JSON record with its provenance; reading them back as tables."""

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from growdarts.checkpoints import replacing
from growdarts.spaces.genotype import genotype_from_dict

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "data" / "results"
CHECKPOINTS = ROOT / "_build" / "checkpoints"
PACKAGES = ("torch", "numpy", "pandas", "pydantic", "papermill", "growdarts")
TIMINGS = ("seconds", "seconds_spent")  # what may differ between two runs of one configuration


class RecordError(RuntimeError):
    """A file is not a record of this project."""


def path(config: Any, tier: str, experiment: str, folder: Path = RESULTS) -> Path:
    """File of a run's record. The hash in its name makes a changed configuration a new file."""
    return folder / experiment / tier / config.dataset / config.method / f"{config.label()}-{config.hash()}.json"


def write(record: dict[str, Any], file: Path) -> None:
    """Write `record` whole or not at all, one top-level entry a line."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, separators=(',', ':'))}"
                       for key, value in record.items())
    with replacing(file) as temporary:
        temporary.write_text("{\n" + lines + "\n}\n")


def load(file: Path, entries: Iterable[str] = ("config", "config_hash", "provenance", "cost", "result"),
         remedy: str = "delete it to have it made again") -> dict[str, Any]:
    """Read one record; raises `RecordError` if the file is missing, is not one or lacks one of the `entries`."""
    try:
        record = json.loads(Path(file).read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise RecordError(f"{file} is not a record ({error}); {remedy}") from None
    missing = set(entries) - set(record)
    if missing:
        raise RecordError(f"{file} lacks {', '.join(sorted(missing))}; {remedy}")
    return record


def table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a run: method, seed, origin, errors (mean squared, standardised), sizes and costs."""
    rows = []
    for record in records:
        result, cost, config = record["result"], record["cost"], record["config"]
        genotype = result["genotype"]
        rows.append({
            "method": config["method"], "seed": config["seed"], "origin": config["origin"],
            "validation": result["validation_error"], "test": result["test_error"],
            "parameters": result["parameters"], "hidden": result["hidden"],
            "nodes": None if genotype is None else genotype_from_dict(genotype).n_nodes,
            "search_seconds": cost["search_seconds"], "search_flops": cost["search_flops"],
            "train_seconds": cost["train_seconds"], "search_epochs": cost["search_epochs"]})
    return pd.DataFrame(rows)


def longest_search(records: Iterable[dict[str, Any]], method: str) -> dict[str, Any]:
    """The first of the searches of `method` with the most changes of the architecture, for a picture."""
    return max((record for record in records if record["config"]["method"] == method),
               key=lambda record: len(record["search"]["events"]))


def without_timing(value: Any) -> Any:
    """`value` without seconds, provenance and cost: what must be equal for equal configurations."""
    if isinstance(value, dict):
        return {key: without_timing(item) for key, item in value.items()
                if key not in {*TIMINGS, "provenance", "cost"}}
    return [without_timing(item) for item in value] if isinstance(value, list) else value


def significant(value: Any, digits: int) -> Any:
    """Floats inside lists and dicts rounded to `digits` significant digits, to keep records small."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: significant(item, digits) for key, item in value.items()}
    return [significant(item, digits) for item in value] if isinstance(value, list | tuple) else value


def provenance(data_hashes: dict[str, str]) -> dict[str, Any]:
    """Who made a record: commit, packages, data, machine."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), **_library_commit(),
            "python": platform.python_version(), "packages": {name: version(name) for name in PACKAGES},
            "data_sha256": data_hashes,
            "hardware": {"processor": _processor(), "cores": os.cpu_count(),
                         "threads": torch.get_num_threads(), "system": platform.platform(terse=True)}}


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


@cache
def _library_commit() -> dict[str, Any]:
    """Commit of the checkout, and whether lib/ differed from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--", "lib"))}
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive is no checkout
        return {"commit": None, "modified": None}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
