"""The grid file -> the jobs of a tier, checked against the notebook they run."""

import ast
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from growdarts_study import records
from growdarts_study.arms import SearchesConfig
from growdarts_study.config import Grid, ImageConfig, LanguageConfig, TimeSeriesConfig
from growdarts_study.page_settings import WholeSpaceConfig
from growdarts_study.stream_settings import StreamsConfig
from growdarts.settings import ConfigError

GRIDS = records.ROOT / "notebooks" / "grids.yml"
NOTEBOOKS: dict[type[Grid], str] = {TimeSeriesConfig: "02_time_series.ipynb", LanguageConfig: "03_penn_treebank.ipynb",
                                    ImageConfig: "04_cifar10.ipynb",
                                    WholeSpaceConfig: "09_whole_space.ipynb", SearchesConfig: "10_searches.ipynb",
                                    StreamsConfig: "11_streams.ipynb"}
EXPERIMENTS: dict[str, type[Grid]] = {config.experiment: config for config in NOTEBOOKS}


@dataclass(frozen=True)
class Job:
    """One execution of a notebook: one seed of one method, or a series with all its seeds."""

    config: Grid
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the executed notebook; the hash makes changed parameters a new job."""
        return f"{self.config.experiment}-{self.config.label()}-{self.config.hash()}"

    @property
    def notebook(self) -> Path:
        """What is executed."""
        return GRIDS.parent / NOTEBOOKS[type(self.config)]

    def is_done(self) -> bool:
        """Whether every record of the job is there. With a user's own files only the job itself can tell."""
        return all(file.exists() and run.dataset != "folder" for file, run in self.runs().items())

    def runs(self) -> dict[Path, Any]:
        """The records that it makes, each with the configuration of its run."""
        return {records.path(run, self.config.tier, self.config.experiment): run for run in self.config.runs()}

    def parameters_yaml(self) -> str:
        """What papermill injects, as one line of YAML. (As JSON, 1e-05 would be read as a string.)"""
        return yaml.safe_dump(self.overrides, default_flow_style=True, width=float("inf")).strip()


def defaults(experiment: str) -> dict[str, Any]:
    """Parameters of an experiment's notebook as it stands: values of its cell tagged `parameters`."""
    return dict(_parameters((GRIDS.parent / NOTEBOOKS[EXPERIMENTS[experiment]]).read_bytes()))


@cache  # asked for by every job
def _parameters(notebook: bytes) -> dict[str, Any]:
    cells = json.loads(notebook)["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    return {line.target.id: ast.literal_eval(line.value) for line in ast.parse(source).body}


def all_jobs(tier: str, experiment: str | None = None, grids: Path = GRIDS, device: str | None = None, task: str | None = None) -> list[Job]:
    """The jobs of `experiment` on the data `task`, None: of all that have the tier, on all data; on `device`, None: on that of the tier."""
    grid = read(grids)
    chosen = [experiment] if experiment else [name for name, tiers in grid.items() if tier in tiers]
    if not chosen:
        raise ConfigError(f"tier {tier!r}: allowed are {', '.join(sorted({t for tiers in grid.values() for t in tiers}))}")
    found = [job for name in chosen for job in jobs(name, tier, grids, device)]
    tasks = [job.config.runs()[0].dataset for job in found]
    if task is not None and task not in tasks:
        raise ConfigError(f"task {task!r}: allowed are {', '.join(sorted(set(tasks)))}")
    return [job for job, own in zip(found, tasks, strict=True) if task in (None, own)]


def jobs(experiment: str, tier: str, grids: Path = GRIDS, device: str | None = None) -> list[Job]:
    """All jobs of `tier`, in the order of methods and seeds, or of groups and series.

    Raises
    ------
    ConfigError
        unknown experiment or tier, or a parameter that the notebook does not have or allow.
    """
    chosen, config = tier_of(experiment, tier, grids), EXPERIMENTS[experiment]
    own, made = defaults(experiment), []
    for varied in _variations(chosen):
        overrides = {**chosen["parameters"], **varied, "tier": tier, "progress": True, "keep_records": True}
        if "group" not in own:
            overrides.pop("group", None)
        if device:
            overrides["device"] = device
        _known(overrides, own, str(grids))
        made.append(Job(config.of(own | overrides), overrides))
    return made


def read(grids: Path = GRIDS) -> dict[str, Any]:
    """The grid file: experiment -> tier -> what it asks for; `ConfigError` if it cannot be read."""
    try:
        return _parsed(Path(grids).read_bytes())  # in UTF-8, whatever the locale
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{grids} cannot be read ({error}): the grids and notebooks of the study are in a clone of "
                          "its repository, start Python there") from None


_parsed = cache(yaml.safe_load)  # slow, and asked for by every job of a tier


def tier_of(experiment: str, tier: str, grids: Path = GRIDS) -> dict[str, Any]:
    """What the grid file says about a tier."""
    grid = read(grids)
    if experiment not in grid:
        raise ConfigError(f"experiment {experiment!r}: allowed are {', '.join(grid)}")
    if tier not in grid[experiment]:
        raise ConfigError(f"tier {tier!r} of {experiment}: allowed are {', '.join(grid[experiment])}")
    return grid[experiment][tier]


def _variations(chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """What differs between the jobs of a tier."""
    if "groups" in chosen and "series" not in chosen:  # each a grid of methods
        return [{**differs.get("parameters", {}), **varied} for differs in chosen["groups"].values() for varied in _variations(differs)]
    if "groups" in chosen:
        return [{"group": group, **differs, "series": {name: chosen["series"][name]}}
                for group, differs in chosen["groups"].items() for name in differs.get("series", chosen["series"])]
    if "series" in chosen:
        return [{"series": {name: own}} for name, own in chosen["series"].items()]
    return [{"methods": [method], "seed": seed} for method in chosen["methods"]
            for seed in (chosen["seeds"][:1] if method in chosen.get("deterministic", ()) else chosen["seeds"])]


def _known(overrides: dict[str, Any], allowed: dict[str, Any], where: str) -> None:
    unknown = sorted(set(overrides) - set(allowed))
    if unknown:
        raise ConfigError(f"unknown parameter {unknown[0]!r} = {overrides[unknown[0]]!r} in {where}: "
                          f"allowed are {', '.join(sorted(allowed))}")


def load_records(experiment: str, tier: str, grids: Path = GRIDS, *, partial: bool = False, dataset: str | None = None,
                 diverged: bool = False) -> list[dict[str, Any]]:
    """The records of a tier (on `dataset`), in the order of its jobs: all of them, or if `partial` those that there are, and no others.
    Runs that diverged for good are left out, or if `diverged` all others.

    Raises
    ------
    RecordError
        records are missing, are not what their names say, or there are some that the grid does not ask for.
    """
    expected = {file: run for job in jobs(experiment, tier, grids) for file, run in job.runs().items()
                if dataset in (None, run.dataset)}
    there = {file: run for file, run in expected.items() if file.exists()}
    missing = [file for file in expected if file not in there]
    if missing and not partial:
        raise records.RecordError(f"{len(missing)} of {len(expected)} records are missing, the first is {missing[0]}; "
                                  f"`make batch EXPERIMENT={experiment} TIER={tier}` makes them")
    extra = sorted({file for folder in {file.parent for file in expected} for file in folder.glob("*.json")}
                   - set(expected))
    if extra:
        raise records.RecordError(f"{len(extra)} records are not of the present grid, the first is {extra[0]}; "
                                  "delete them, they were made with another configuration or by hand")
    return [record for file, run in there.items() if ("diverged" in (record := records.load_run(file, run))) == diverged]
