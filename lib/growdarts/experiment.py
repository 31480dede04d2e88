"""A time-series run from configuration to record; every method goes through here, with one upper limit of epochs."""

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from growdarts import records
from growdarts.cells.baselines import RECURRENT, HistoricalMean, VectorAutoregression
from growdarts.checkpoints import Checkpoint
from growdarts.config import TimeSeriesRun, TimeSeriesConfig
from growdarts.genotype import Genotype
from growdarts.networks import derived_forecaster, recurrent_forecaster, two_input_forecaster
from growdarts.primitives import TWO_INPUT
from growdarts.search import Search, SearchResult
from growdarts.series import Series, load_series
from growdarts.training import Fit, ForecastTask, fit

FORECAST_DAYS, FORECAST_FEATURES = 60, 2  # the first ones, whose forecasts a record keeps for a figure


def run_all(config: TimeSeriesConfig) -> list[dict[str, Any]]:
    """Run every method at every origin; records there already are read, not made again.

    Raises
    ------
    RunsFailed
        after all others are done, if some failed.
    """
    made, failed = [], {}
    with tqdm(config.runs(), desc="runs", disable=None if not config.progress else False) as bar:
        for run_config in bar:
            bar.set_postfix(method=run_config.method, origin=run_config.origin)
            try:
                made.append(_recorded(run_config, config.tier, config.progress) if config.keep_records
                            else run(run_config, progress=config.progress))
            except Exception as error:  # one diverged run must not cost the others
                failed[f"{run_config.method}, origin {run_config.origin}"] = error
    if failed:
        lines = "\n".join(f"{name}: {type(error).__name__}: {error}" for name, error in failed.items())
        raise RunsFailed(f"{len(failed)} of {len(config.runs())} runs failed:\n{lines}") from [*failed.values()][0]
    return made


class RunsFailed(RuntimeError):
    """Some of several runs failed; the records of the others are kept."""


def _recorded(config: TimeSeriesRun, tier: str, progress: bool) -> dict[str, Any]:
    """The stored record of a run, made first if it is missing; resumes from checkpoints if it was killed."""
    file = records.path(config, tier)
    if file.exists():
        return records.load(file)
    checkpoints = records.CHECKPOINTS / config.hash()
    record = {"tier": tier, **run(config, checkpoints=checkpoints, progress=progress)}
    records.write(record, file)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return record


def run(config: TimeSeriesRun, *, checkpoints: Path | None = None, progress: bool = False) -> dict[str, Any]:
    """Fit `config.method`, test it once, return the record.

    Searching methods first find a cell, at most `search_epochs` epochs. Then a found cell, and a rival of
    torch.nn alike, is trained from scratch at every size of `config.sizes`, and the size with the lowest
    validation error is tested. Mean and VAR(1) have closed forms.
    """
    torch.set_num_threads(1)  # matrices this small only wait for each other's threads
    series = load_series(config.dataset, config.window, config.origin)
    task = ForecastTask(series, config.batch_size)
    with torch.random.fork_rng(devices=[]):
        _seed(config, "search")
        search, as_searched = _search(config, task, checkpoints, progress), None
        if search is not None:
            result = search.run()
            genotype, as_searched = result.genotype, (result, task.evaluate(search.network, "test"))
        else:
            genotype = random_genotype(config) if config.method == "random" else None
        network, training = _train(config, task, genotype, checkpoints, progress)
    return _record(config, series, task, network, training, genotype, as_searched)


def _search(config: TimeSeriesRun, task: ForecastTask, checkpoints: Path | None, progress: bool) -> Search | None:
    """The search of a searching method, None for the rest."""
    if config.method not in ("grow", "grow_fresh", "fixed"):
        return None
    nodes = config.max_nodes if config.method == "fixed" else config.initial_nodes
    network = two_input_forecaster(len(task.series.features), config.hidden, config.n_layers, nodes,
                                   config.operations)
    return Search(network, task, config, morphism=config.method != "grow_fresh", progress=progress,
                  checkpoint=_checkpoint(config, "search", checkpoints))


def random_genotype(config: TimeSeriesRun) -> Genotype:
    """Uniform draw from the search space: number of nodes, then an operation for every node.

    A layer that would never leave the zero state is drawn again, as none is ever derived (Deviation D13).
    """
    n_nodes = int(torch.randint(1, config.max_nodes + 1, ()))

    def layer() -> list[str]:
        return [config.operations[int(torch.randint(len(config.operations), ()))] for _ in range(n_nodes)]

    layers = []
    while len(layers) < config.n_layers:
        drawn = layer()
        if any(TWO_INPUT[name].admits_input() for name in drawn):  # possible: the configuration saw to it
            layers.append(tuple((name,) for name in drawn))
    return Genotype(tuple(layers))


def _train(config: TimeSeriesRun, task: ForecastTask, genotype: Genotype | None, checkpoints: Path | None,
           progress: bool) -> tuple[nn.Module, dict[str, Any]]:
    """The fitted network and how its size was chosen."""
    series, features = task.series, len(task.series.features)
    if config.method == "mean":
        return HistoricalMean(series.train.y), {"hidden": None, "fits": {}}
    if config.method == "var1":
        return VectorAutoregression(series.train.x, series.train.y), {"hidden": None, "fits": {}}
    build: Callable[[int], nn.Module]
    if config.method in RECURRENT:
        build = lambda hidden: recurrent_forecaster(config.method, features, hidden, config.n_layers)  # noqa: E731
    else:
        build = lambda hidden: derived_forecaster(genotype, features, hidden)  # noqa: E731
    nodes = f" N={genotype.n_nodes}" if genotype else ""
    fits: dict[int, Fit] = {}
    best = None
    for hidden in config.sizes:
        _seed(config, f"train {hidden}")
        network = build(hidden)
        fits[hidden] = fit(network, network.theta_parameters(), task, config,
                           _checkpoint(config, f"train-{hidden}", checkpoints),
                           label=f"{config.method} H={hidden}{nodes}", progress=progress)
        if best is None or fits[hidden].validation_error < fits[best[0]].validation_error:
            best = (hidden, network)
    return best[1], {"hidden": best[0], "fits": fits}


def _record(config: TimeSeriesRun, series: Series, task: ForecastTask, network: nn.Module,
            training: dict[str, Any], genotype: Genotype | None,
            as_searched: tuple[SearchResult, float] | None) -> dict[str, Any]:
    """Test once and put everything into one record.

    `as_searched` is the search and the test error of its network as it stood at the end, all operations
    mixed: it decides nothing, it shows what deriving and training from scratch cost.
    """
    search, search_test_error = as_searched or (None, None)
    started = time.perf_counter()
    errors = task.squared_errors(network, "test")  # (n, F)
    with torch.no_grad():
        forecast = network(series.test.x[:, :FORECAST_DAYS])[:, :FORECAST_FEATURES]
    fits: dict[int, Fit] = training["fits"]
    fitted = network.theta_parameters() if fits else network.buffers()  # of mean and VAR(1), solved for
    parameters = sum(value.numel() for value in fitted)
    return {
        "config": config.model_dump(), "config_hash": config.hash(),
        "provenance": records.provenance(series.hashes),
        "cost": {"search_seconds": search.seconds if search else 0.0,
                 "search_flops": search.flops if search else 0.0,
                 "search_epochs": search.epochs if search else 0,
                 "train_seconds": sum(f.seconds for f in fits.values()),
                 "test_seconds": time.perf_counter() - started,
                 "peak_memory_mib": records.peak_memory_mib()},
        "result": {
            "test_error": errors.mean().item(), "validation_error": task.evaluate(network, "validation"),
            "floor": series.floor, "features": list(series.features),
            "feature_errors": errors.mean(0).tolist(), "parameters": parameters,
            "hidden": training["hidden"], "genotype": genotype.to_dict() if genotype else None,
            "days": [series.test.dates[0], series.test.dates[-1], len(series.test.dates)],
            "daily_errors": records.significant(errors.tolist(), 3),
            "forecast": records.significant(forecast.tolist(), 3)},
        "training": {str(hidden): records.significant(f.errors, 5) for hidden, f in fits.items()},
        "search": None if search is None else {
            "validation_error": search.validation_error, "test_error": search_test_error,
            "stage_errors": search.stage_errors, "events": search.events,
            "history": records.significant(search.history, 4)}}


def _seed(config: TimeSeriesRun, phase: str) -> None:
    """Seed torch for one phase, so that a resumed run need not repeat the phases before it."""
    digest = hashlib.sha256(f"{config.seed}/{phase}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:4], "big"))


def _checkpoint(config: TimeSeriesRun, phase: str, folder: Path | None) -> Checkpoint:
    return Checkpoint(folder / f"{phase}.pt" if folder else None, config.hash())
