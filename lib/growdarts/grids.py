"""The grid file -> the jobs of a tier, checked against the notebook they run."""

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import papermill
import yaml

from growdarts import records
from growdarts.config import ConfigError, TimeSeriesConfig

GRIDS = records.ROOT / "notebooks" / "grids.yml"
NOTEBOOKS = {"time_series": records.ROOT / "notebooks" / "02_time_series.ipynb"}


@dataclass(frozen=True)
class Job:
    """One execution of a notebook: one method, one seed, all origins of the tier."""

    config: TimeSeriesConfig
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the executed notebook; the hash makes changed parameters a new job."""
        return f"{self.config.methods[0]}-seed{self.config.seed}-{self.config.hash()}"

    def is_done(self) -> bool:
        """Whether every record of the job is there."""
        return all(records.path(run, self.config.tier).exists() for run in self.config.runs())

    def parameters_json(self) -> str:
        """What papermill injects, typed: as JSON, which papermill reads as YAML."""
        return json.dumps(self.overrides, sort_keys=True)


def notebook_defaults(notebook: Path) -> dict[str, Any]:
    """Values of the notebook's cell tagged `parameters`."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}


def jobs(experiment: str, tier: str, grids: Path = GRIDS) -> list[Job]:
    """All jobs of `tier`, in the order of methods and seeds.

    Raises
    ------
    ConfigError
        unknown experiment or tier, or a parameter that the notebook does not have or allow.
    """
    grid = yaml.safe_load(Path(grids).read_text())
    if experiment not in grid:
        raise ConfigError(f"experiment {experiment!r}: allowed are {', '.join(grid)}")
    if tier not in grid[experiment]:
        raise ConfigError(f"tier {tier!r}: allowed are {', '.join(grid[experiment])}")
    chosen = grid[experiment][tier]
    defaults = notebook_defaults(NOTEBOOKS[experiment])
    made = []
    for method in chosen["methods"]:
        seeds = chosen["seeds"][:1] if method in chosen["deterministic"] else chosen["seeds"]
        for seed in seeds:
            overrides = {**chosen["parameters"], "methods": [method], "seed": seed, "tier": tier,
                         "progress": True, "keep_records": True}
            unknown = sorted(set(overrides) - set(defaults))
            if unknown:
                raise ConfigError(f"unknown parameter {unknown[0]!r} = {overrides[unknown[0]]!r} in {grids}: "
                                  f"allowed are {', '.join(sorted(defaults))}")
            made.append(Job(TimeSeriesConfig.of(defaults | overrides), overrides))
    return made
