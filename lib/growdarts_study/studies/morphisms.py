"""What a growth step does to a cell in the middle of its training: the numbers behind notebook 01."""

import copy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from growdarts_study.page_settings import MorphismConfig
from growdarts.growth import grow_node
from growdarts.spaces.two_input.network import TwoInputForecaster, two_input_forecaster
from growdarts_study.data.series import load_series
from growdarts.tasks.series import ForecastTask

LEARNING_RATE, BATCH = 0.01, 128
PLAYED = [float(f"{10 ** (k / 4):.2g}") for k in range(-12, 0)]  # epsilons of the slider
REACH = 3.0  # standard deviations of the input over which responses are drawn


@dataclass(frozen=True)
class Study:
    """Everything the notebook draws.

    changes : relative change of the output per growth: epsilon, noise, change.
    fresh_change : the same for a node with fresh random weights.
    errors : validation error by epoch, growing by morphism and with fresh weights after `grown_after`.
    net2net : response of a small network before and after Net2Wider and Net2Deeper.
    played : forecast of the first feature against a constant input, before and after growing, with a column for every epsilon of
        `PLAYED`, grown with the same noise, and one for fresh random weights.
    played_changes : (epsilon, relative change of the output) of these columns; None for fresh random weights.
    """

    changes: pd.DataFrame
    fresh_change: float
    errors: pd.DataFrame
    grown_after: int
    net2net: pd.DataFrame
    played: pd.DataFrame
    played_changes: list[tuple[float | None, float]]


def study(config: MorphismConfig) -> Study:
    """Train a one-node cell on the synthetic series for a while, then grow it in every way."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        task = ForecastTask(load_series("synthetic_var", config.window, dtype=torch.float64), BATCH)
        trained = _Training(two_input_forecaster(
            len(task.series.features), config.hidden, 1, 1, config.operations).double(), task)
        before = trained.epochs(config.epochs_before)
        grown = {name: trained.grown(morphism=morphism) for name, morphism in (("morphism", True), ("fresh", False))}
        changes = _changes(trained, config, task)
        fresh_change = relative_change(trained.network, grown["fresh"].network, task.series.validation.x)
        errors = pd.DataFrame({name: before + [task.evaluate(run.network, "validation")]
                               + run.epochs(config.epochs_after) for name, run in grown.items()})
        net2net = _net2net()
        return Study(changes, fresh_change, errors, config.epochs_before, net2net,
                     *_played(trained, grown["fresh"].network, config, task))


class _Training:
    """A network with its optimisers, trained on all parameters at once."""

    def __init__(self, network: TwoInputForecaster, task: ForecastTask) -> None:
        self.network, self.task = network, task
        self.theta = torch.optim.Adam(network.theta_parameters(), lr=LEARNING_RATE)
        self.alpha = torch.optim.Adam(network.alpha_parameters(), lr=LEARNING_RATE)

    def epochs(self, count: int) -> list[float]:
        """Train; validation error after every epoch."""
        errors = []
        for _ in range(count):
            for batch in self.task.train_batches():
                self.network.zero_grad()
                self.task.loss(self.network, batch).backward()
                self.theta.step()
                self.alpha.step()
            errors.append(self.task.evaluate(self.network, "validation"))
        return errors

    def grown(self, *, morphism: bool, epsilon: float = 1e-3, noise: float = 0.1) -> "_Training":
        """A copy with one more node."""
        other = copy.deepcopy(self)
        grow_node(other.network, other.theta, other.alpha, morphism=morphism, epsilon=epsilon, noise=noise)
        return other


@torch.no_grad()
def relative_change(before: nn.Module, after: nn.Module, x: Tensor) -> float:
    """|after(x) - before(x)| / |before(x)|, Euclidean norms over all outputs."""
    old = before(x)
    return ((after(x) - old).norm() / old.norm()).item()


@torch.no_grad()
def _responses(networks: dict[str, nn.Module], config: MorphismConfig, task: ForecastTask) -> pd.DataFrame:
    """First output of each network when every day of the window holds the same value in every feature."""
    level = torch.linspace(-REACH, REACH, 101, dtype=torch.float64)
    x = level[None, :, None].expand(config.window, -1, len(task.series.features))
    return pd.DataFrame({"input": level, **{name: network(x)[:, 0] for name, network in networks.items()}})


def _changes(trained: _Training, config: MorphismConfig, task: ForecastTask) -> pd.DataFrame:
    rows = []
    for epsilon in config.epsilons:
        for noise in config.noises:
            for _ in range(config.draws):
                grown = trained.grown(morphism=True, epsilon=epsilon, noise=noise)
                change = relative_change(trained.network, grown.network, task.series.validation.x)
                rows.append({"epsilon": epsilon, "noise": noise, "change": change})
    return pd.DataFrame(rows)


def _played(trained: _Training, fresh: nn.Module, config: MorphismConfig,
            task: ForecastTask) -> tuple[pd.DataFrame, list[tuple[float | None, float]]]:
    """Responses and changes by the same growth at every epsilon of `PLAYED`, with the most noise of `config`."""
    networks = {}
    for epsilon in PLAYED:
        torch.manual_seed(config.seed)
        networks[epsilon] = trained.grown(morphism=True, epsilon=epsilon, noise=max(config.noises)).network
    networks[None] = fresh
    x = task.series.validation.x
    return (_responses({"before": trained.network, **{str(epsilon): network for epsilon, network in networks.items()}}, config, task),
            [(epsilon, relative_change(trained.network, network, x)) for epsilon, network in networks.items()])


@torch.no_grad()
def _net2net() -> pd.DataFrame:
    """Net2Wider behind tanh, Net2Deeper behind relu (exact) and behind tanh (not), on one small network."""
    first, second = nn.Linear(1, 16).double(), nn.Linear(16, 1).double()
    nn.init.normal_(first.weight, std=2.0)
    nn.init.normal_(second.weight)
    x = torch.linspace(-REACH, REACH, 101, dtype=torch.float64)[:, None]
    columns = {"input": x[:, 0]}
    for name, activation in (("tanh", torch.tanh), ("relu", torch.relu)):
        wide_first, wide_second = net2wider(first, second, 40)
        inner = activation(first(x))
        columns[f"{name}: before"] = second(inner)[:, 0]
        columns[f"{name}: Net2Wider"] = wide_second(activation(wide_first(x)))[:, 0]
        columns[f"{name}: Net2Deeper"] = second(activation(net2deeper(16, inner)(inner)))[:, 0]
    return pd.DataFrame(columns)


@torch.no_grad()
def net2wider(first: nn.Linear, second: nn.Linear, width: int) -> tuple[nn.Linear, nn.Linear]:
    """Widen the layer between two linear maps to `width` units without changing the function [Net2Net].

    New units copy random old ones; the outgoing weights of a unit are divided by its number of copies.
    Exact for any elementwise activation between the two.
    """
    old = first.out_features
    if width < old:
        raise ValueError(f"width = {width}: allowed is at least the present {old}")
    source = torch.cat([torch.arange(old), torch.randint(old, (width - old,))])
    copies = torch.bincount(source, minlength=old)[source]
    wide_first = nn.Linear(first.in_features, width).to(first.weight)
    wide_second = nn.Linear(width, second.out_features).to(second.weight)
    wide_first.weight.copy_(first.weight[source])
    wide_first.bias.copy_(first.bias[source])
    wide_second.weight.copy_(second.weight[:, source] / copies)
    wide_second.bias.copy_(second.bias)
    return wide_first, wide_second


@torch.no_grad()
def net2deeper(width: int, like: Tensor) -> nn.Linear:
    """An identity layer of `width` units [Net2Net]; exact where the activation before it is idempotent (relu)."""
    layer = nn.Linear(width, width).to(like)
    layer.weight.copy_(torch.eye(width))
    layer.bias.zero_()
    return layer
