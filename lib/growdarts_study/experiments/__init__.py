"""An experiment's runs, from configuration to record: found again if they are there, resumed if they were killed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from growdarts.devices import Device, find_device
from growdarts.training import DivergenceError
from growdarts_study import records
from growdarts_study.arms import SearchesRun
from growdarts_study.config import Grid, ImageRun, LanguageRun, TimeSeriesRun
from growdarts_study.data.images import image_hashes
from growdarts_study.data.series import series_hashes, stream_hashes
from growdarts_study.data.text import text_hashes
from growdarts_study.experiments import images, language, searches, streams, time_series, whole_space
from growdarts_study.page_settings import WholeSpaceRun
from growdarts_study.stream_settings import StreamRun

Run = TimeSeriesRun | LanguageRun | ImageRun | WholeSpaceRun | SearchesRun | StreamRun
RUNNERS: dict[type, Callable[..., dict[str, Any]]] = {
    TimeSeriesRun: time_series.run, LanguageRun: language.run, ImageRun: images.run,
    WholeSpaceRun: whole_space.run, SearchesRun: searches.run, StreamRun: streams.run}
HASHES: dict[type, Callable[[Any], dict[str, str]]] = {  # sha256 of the data of a run, as its record keeps them
    TimeSeriesRun: lambda config: series_hashes(config.dataset),
    LanguageRun: lambda config: text_hashes(config.dataset, config.folder),
    ImageRun: lambda config: image_hashes(config.dataset, config.train_images, config.start()),
    WholeSpaceRun: lambda config: {name: value for seed in config.seeds for name, value in series_hashes(
        config.dataset, config.days, config.draw(seed)).items()},
    SearchesRun: lambda config: series_hashes(config.dataset, config.days, config.draw(config.seed)),
    StreamRun: lambda config: stream_hashes(config.dataset, config.draw())}


def run(config: Run, *, checkpoints: Path | None = None, progress: bool = False, device: Device = "auto") -> dict[str, Any]:
    """Fit `config.method`, test it once, return the record.

    Parameters
    ----------
    checkpoints : folder in which every phase keeps its state; None keeps nothing. Those of a GPU serve on a CPU, and
        the other way round.
    device : see `growdarts.devices`; one that is not there is a `ConfigError`.
    """
    return RUNNERS[type(config)](config, checkpoints=checkpoints, progress=progress, device=find_device(device))


def run_all(config: Grid) -> list[dict[str, Any]]:
    """Make all runs of a notebook's parameters; records there already are read, not made again. Left out, with a line that says so, are
    runs whose record says that they diverged.

    Raises
    ------
    ConfigError
        the device is not there.
    RunsFailed
        after all others are done, if some failed.
    """
    find_device(config.device)  # one error, not one a run
    runs, made, failed = config.runs(), [], {}
    with tqdm(runs, desc="runs", disable=None if not config.progress else False) as bar:
        for run_config in bar:
            bar.set_postfix(run=run_config.label())
            try:
                record = _recorded(run_config, config) if config.keep_records else run(run_config, progress=config.progress, device=config.device)
                if "diverged" in record:
                    bar.write(f"{run_config.label()}: {record['diverged']}")
                else:
                    made.append(record)
            except Exception as error:  # one failed run must not cost the others
                failed[run_config.label()] = error
    if failed:
        lines = "\n".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        raise RunsFailed(f"{len(failed)} of {len(runs)} runs failed:\n{lines}") from [*failed.values()][0]
    return made


class RunsFailed(RuntimeError):
    """Some of several runs failed; the records of the others are kept."""


def _recorded(config: Run, grid: Grid) -> dict[str, Any]:
    """The stored record of a run, made first if it is missing; resumes from checkpoints if it was killed. Of a run that diverged for good
    it says that, and in which epoch of its search or training (`diverged`), and no more."""
    file = records.path(config, grid.tier, grid.experiment)
    if file.exists():
        return records.load_run(file, config, HASHES[type(config)](config))
    checkpoints = records.CHECKPOINTS / config.hash()
    try:
        made = run(config, checkpoints=checkpoints, progress=grid.progress, device=grid.device)
    except DivergenceError as error:
        if hasattr(config, "record_entries"):  # a run of several arms, whose record has another form
            raise
        made = {"config": config.model_dump(), "config_hash": config.hash(), "provenance": records.provenance(
            HASHES[type(config)](config), find_device(grid.device)), "diverged": str(error).split(";")[0]}
    record = {"tier": grid.tier, **made}
    records.write(record, file)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return record
