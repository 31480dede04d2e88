"""One run -> one JSON record with its provenance; reading them back as tables."""

import hashlib
import json
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from growdarts.checkpoints import replacing
from growdarts.settings import ConfigError
from growdarts.spaces.genotype import genotype_from_dict
from growdarts_study import ROOT

RESULTS = ROOT / "data" / "results"
CHECKPOINTS = ROOT / "_build" / "checkpoints"
PACKAGES = ("torch", "numpy", "pandas", "pydantic", "papermill", "growdarts")
TIMINGS = ("seconds", "seconds_spent")  # what may differ between two runs of one configuration
# What every record of a run holds, and what that of a run that diverged for good holds; what stands behind a dot is an entry of an entry.
ENTRIES = ("config.method", "config.seed", "config_hash", "provenance.data_sha256", "cost.search_seconds",
           "cost.search_flops", "cost.search_epochs", "cost.train_seconds", "result.test_error",
           "result.validation_error", "result.parameters", "result.hidden", "result.genotype", "training", "search")
DIVERGED = ("config.method", "config.seed", "config_hash", "provenance.data_sha256", "diverged")
AGAIN = "delete it to have it made again"


class RecordError(RuntimeError):
    """A file is not the record that its name says, or cannot be written."""


def path(config: Any, tier: str, experiment: str, folder: Path = RESULTS) -> Path:
    """File of a run's record. The hash in its name makes a changed configuration a new file."""
    return folder / experiment / tier / config.dataset / config.method / f"{config.label()}-{config.hash()}.json"


def write(record: dict[str, Any], file: Path) -> None:
    """Write `record` whole or not at all, one top-level entry a line; `RecordError` where there is no room for it."""
    lines = _lines(record | {"sha256": _checksum(record)})
    try:
        with replacing(file) as temporary:
            temporary.write_text("{\n" + lines + "\n}\n")
    except OSError as error:
        raise RecordError(f"{file} cannot be written ({error}): nothing of it was; make room, run again") from error


def _lines(record: dict[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value, allow_nan=False, separators=(',', ':'))}"
                      for key, value in record.items())


def _checksum(record: dict[str, Any]) -> str:
    return hashlib.sha256(_lines(record).encode()).hexdigest()


def load(file: Path, entries: Iterable[str] = ENTRIES, remedy: str = AGAIN) -> dict[str, Any]:
    """Read one record; raises `RecordError` if the file is missing, is not one or lacks one of its `entries` (`DIVERGED`, if the run diverged)."""
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8-sig"), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{file} is not a record ({error}); {remedy}") from None
    stored = record.pop("sha256", None) if isinstance(record, dict) else None
    if stored is not None and stored != _checksum(record):  # older ones have none
        raise RecordError(f"{file} is damaged: its checksum is that of another content; {remedy}")
    missing = [entry for entry in (entries if _lacks(record, "diverged") else DIVERGED) if _lacks(record, entry)]
    if missing:
        raise RecordError(f"{file} lacks {', '.join(missing)}; {remedy}")
    return record


def load_run(file: Path, config: Any, hashes: dict[str, str] | None = None) -> dict[str, Any]:
    """Read the record of the run of `config`; raises `RecordError` if it is that of another run, or of other data.

    hashes : the sha256 of the data that it should have been made from; None: of any.
    """
    record = load(file, getattr(config, "record_entries", ENTRIES))
    try:
        same = record["config_hash"] == config.hash() and type(config).of(record["config"]) == config
    except (ConfigError, TypeError):
        same = False
    if not same:
        found = record["config"]
        raise RecordError(f"{file} holds the record of another run than its name says, of {found['method']} with seed "
                          f"{found['seed']} and hash {record['config_hash']}; {AGAIN}")
    made_from = record["provenance"]["data_sha256"]
    if hashes is not None and made_from != hashes:
        other = sorted({name for name, _ in dict(made_from or {}).items() ^ hashes.items()})
        raise RecordError(f"{file} was made from other data than are there now: {', '.join(other)} differ; bring those "
                          "back, or move the record away to have it made anew")
    return record


def _no_number(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _lacks(record: Any, entry: str) -> bool:
    """Whether a record lacks an entry of the form of `ENTRIES`."""
    for name in entry.split("."):
        if not isinstance(record, dict) or name not in record:
            return True
        record = record[name]
    return False


def table(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """One row a run: method, seed, origin, errors (in the unit of the experiment), sizes and costs."""
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
    """Floats inside lists and dicts rounded to `digits` significant digits, to keep records small; None for one that is not finite, which JSON does not have."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: significant(item, digits) for key, item in value.items()}
    return [significant(item, digits) for item in value] if isinstance(value, list | tuple) else value


def provenance(data_hashes: dict[str, str], device: torch.device = torch.device("cpu")) -> dict[str, Any]:
    """Who made a record: commit, packages, data, machine; of a run on a GPU that too."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), **_library_commit(),
            "python": platform.python_version(), "packages": {name: _version(name) for name in PACKAGES},
            "data_sha256": data_hashes,
            "hardware": {"processor": _processor(), "cores": os.cpu_count(),
                         "threads": torch.get_num_threads(), "system": platform.platform(terse=True),
                         "memory_gib": _memory_gib(), **(_gpu(device) if device.type == "cuda" else {})}}


def _version(package: str) -> str | None:
    """None where it is not installed, such as this one where it is run from an archive."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_gib() -> float | None:
    """Of the machine; None where it does not tell."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _gpu(device: torch.device) -> dict[str, Any]:
    """Its name, memory and driver, and the version of CUDA that torch was built with."""
    found = torch.cuda.get_device_properties(device)
    try:
        lines = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True,
                               text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        lines = []
    return {"gpu": found.name, "gpu_memory_gib": round(found.total_memory / 2**30, 1), "driver": lines[0] if lines else None,
            "cuda": torch.version.cuda}


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


@cache
def _library_commit() -> dict[str, Any]:
    """Commit of the checkout, and whether lib/ differed from it."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(here.parent), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an archive or an installation may lie in somebody else's
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--", ".."))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "modified": None}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
