"""A time-series run from configuration to record, with one upper limit of epochs for every method; and the rivals."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from growdarts_study import records
from growdarts_study.config import TimeSeriesRun
from growdarts_study.experiments import phases
from growdarts_study.experiments.baselines import HistoricalMean, lags, least_squares
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.two_input.network import Forecaster, derived_forecaster, two_input_forecaster
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_study.data.series import load_series
from growdarts.training import Fit, fit
from growdarts.tasks.language import OF_THE_CELL
from growdarts.tasks.series import ForecastTask

RECURRENT = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
FORECAST_DAYS, FORECAST_FEATURES = 60, 2  # the first ones, whose forecasts a record keeps for a figure


def run(config: TimeSeriesRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """Fit `config.method`, test it once, return the record.

    Searching methods first find a cell, at most `search_epochs` epochs. Then a found cell, and a rival of
    torch.nn alike, is trained from scratch at every size of `config.sizes`, and the size with the lowest
    validation error is tested. Mean and VAR(1) have closed forms.
    """
    torch.set_num_threads(1)  # matrices this small only wait for each other's threads
    series = load_series(config.dataset, config.window, config.origin)
    task = ForecastTask(series, config.batch_size, device)
    features, outputs = len(series.features), len(series.targets)
    with torch.random.fork_rng(devices=phases.random_devices(device)):
        phases.seed(config, "search")
        searched = phases.search(config, lambda nodes: two_input_forecaster(
            features, config.hidden, config.n_layers, nodes, config.operations, outputs), task, checkpoints, progress)
        genotype = searched.result.genotype if searched else None
        if config.method == "random":
            genotype = random_genotype(config)
        network, hidden, fits = _train(config, task, genotype, checkpoints, progress)
    started = time.perf_counter()
    errors = task.squared_errors(network, "test")  # (n, F_out)
    with torch.no_grad():
        forecast = network(task.series.test.x[:, :FORECAST_DAYS])[:, :FORECAST_FEATURES]
    fitted = network.theta_parameters() if fits else network.buffers()  # of mean and VAR(1), solved for
    parameters = sum(value.numel() for value in fitted)
    return phases.record(config, series.hashes, searched, fits, time.perf_counter() - started, {
        "test_error": errors.mean().item(), "validation_error": task.evaluate(network, "validation"),
        "floor": series.floor, "features": list(series.targets),
        "feature_errors": errors.mean(0).tolist(), "parameters": parameters,
        "hidden": hidden, "genotype": genotype.to_dict() if genotype else None,
        "days": [series.test.dates[0], series.test.dates[-1], len(series.test.dates)],
        "daily_errors": records.significant(errors.tolist(), 3),
        "forecast": records.significant(forecast.tolist(), 3)}, device)


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
           progress: bool) -> tuple[nn.Module, int | None, dict[str, Fit]]:
    """The fitted network, its size, and the fits of all sizes."""
    series, features, outputs = task.series, len(task.series.features), len(task.series.targets)
    if config.method == "mean":
        return HistoricalMean(series.train.y), None, {}
    if config.method == "var1":
        return least_squares(series.train, lags(1))(0.0), None, {}
    nodes = f" N={genotype.n_nodes}" if genotype else ""
    fits, networks = {}, {}
    for hidden in config.sizes:
        phases.seed(config, f"train {hidden}")
        network = (derived_forecaster(genotype, features, hidden, outputs) if genotype else
                   recurrent_forecaster(config.method, features, hidden, config.n_layers, outputs)).to(task.device)
        fits[hidden] = fit(network, network.theta_parameters(), task, config, phases.checkpoint(config, f"train-{hidden}", checkpoints),
                           label=f"{config.method} H={hidden}{nodes}", progress=progress)
        networks[hidden] = network
    best = min(fits, key=lambda hidden: fits[hidden].validation_error)
    return networks[best], best, {str(hidden): fitted for hidden, fitted in fits.items()}


class TorchRecurrent(nn.Module):
    """torch.nn's RNN, GRU or LSTM as a cell: (T, B, I) -> (T, B, H)."""

    def __init__(self, kind: str, inputs: int, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.layer = RECURRENT[kind](inputs, hidden, n_layers)

    def forward(self, x: Tensor) -> Tensor:
        """States of the last layer."""
        return self.layer(x)[0]


def recurrent_forecaster(kind: str, features: int, hidden: int, n_layers: int,
                         outputs: int | None = None) -> Forecaster:
    """A forecaster around torch.nn's RNN, GRU or LSTM; `outputs` are as many as features if None."""
    return Forecaster([TorchRecurrent(kind, features, hidden, n_layers)], hidden, outputs or features)


class WideSearchCell(RecurrentSearchCell):
    """The recurrent search cell of DARTS, whose weights start in the range of torch.nn's recurrent cells, those of later nodes too."""

    def __init__(self, *sizes: Any) -> None:
        super().__init__(*sizes)
        wider(self)

    def grow_node(self, **how: Any) -> None:
        """Append a node."""
        super().grow_node(**how)
        wider(self.nodes[-1])


class GraphForecaster(Forecaster):
    """A forecaster around the recurrent search cell of DARTS, as a search space."""

    def __init__(self, features: int, hidden: int, n_nodes: int, outputs: int) -> None:
        super().__init__([WideSearchCell(features, hidden, n_nodes)], hidden, outputs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cells[0], name) if name in OF_THE_CELL else super().__getattr__(name)

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights of the cell and the head."""
        return [*self.cells[0].theta_parameters(), *self.head.parameters()]

    def flops(self, steps: int) -> int:
        """Of one sample of `steps` time steps."""
        return steps * self.cells[0].flops() + 2 * self.head.weight.numel()


def wider(cell: nn.Module) -> nn.Module:
    """Weights of a cell of DARTS drawn from the range of torch.nn's recurrent cells: its own 0.04 is meant for hundreds of units,
    and in a cell of 16 the input would be lost on the way."""
    for weight in cell.parameters():
        if weight.ndim == 2:
            nn.init.uniform_(weight, -((weight.shape[1] // 2) ** -0.5), (weight.shape[1] // 2) ** -0.5)
    return cell
