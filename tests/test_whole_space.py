"""Every cell at once: the same numbers as one at a time."""

import numpy as np
import pytest
import torch

from growdarts import ForecastTask, fit, series_from_returns
from growdarts.checkpoints import Checkpoint
from growdarts.settings import ConfigError
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.two_input.network import derived_forecaster
from growdarts_study.page_settings import WholeSpaceRun
from growdarts_study.experiments.whole_space import StackedForecasters, errors, train

OPERATIONS = ["add_tanh", "gated_update", "mul_relu"]
VALUES = {"seeds": [0, 1], "operations": OPERATIONS, "nodes": 2, "batch_size": 32, "hidden": 4, "train_epochs": 4,
          "patience": 2, "schedule": "cosine", "learning_rate": 0.05, "weight_decay": 1e-4, "grad_clip": 0.1,
          "dataset": "bilinear", "window": 5, "origin": None, "days": 400, "season": None}


def build(cell, seed):
    torch.manual_seed(seed)
    return derived_forecaster(Genotype((tuple((name,) for name in cell),)), 3, 4, 2)


def series(seed):
    values = np.random.default_rng(seed).normal(size=(200, 3))
    values[1:, 0] += values[:-1, 0] * values[:-1, 1]
    return series_from_returns(values, 5, (120, 160, 200), targets=[0, 1], dtype=torch.float64)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_every_network_is_trained_as_it_would_be_alone():
    config = WholeSpaceRun.of(VALUES)
    network = StackedForecasters(OPERATIONS, 2, [0, 1], build)
    found = train(network, [series(0), series(1)], config, [torch.Generator().manual_seed(50 + seed) for seed in (0, 1)])
    ended = set()
    for i, first in enumerate(OPERATIONS):
        for j, second in enumerate(OPERATIONS):
            for seed in (0, 1):
                alone, task = build([first, second], seed), ForecastTask(series(seed), 32)
                torch.manual_seed(50 + seed)
                fitted = fit(alone, alone.theta_parameters(), task, config)
                assert found["validation"][i, j, seed].item() == pytest.approx(fitted.validation_error, rel=1e-9)
                assert found["test"][i, j, seed].item() == pytest.approx(task.evaluate(alone, "test"), rel=1e-9)
                assert found["epochs"][i, j, seed] == len(fitted.errors)
                ended.add(len(fitted.errors))
    assert len(ended) > 1  # some ended by their patience


def test_a_network_that_diverges_leaves_the_others_alone():
    config, both = WholeSpaceRun.of(VALUES), [series(0), series(1)]
    orders = lambda: [torch.Generator().manual_seed(seed) for seed in (0, 1)]  # noqa: E731
    sound = train(StackedForecasters(OPERATIONS, 2, [0, 1], build), both, config, orders())
    broken = StackedForecasters(OPERATIONS, 2, [0, 1], build)
    with torch.no_grad():
        broken.head_bias[0, 1, 0] = torch.nan
    found = train(broken, both, config, orders())
    other = torch.ones(broken.grid, dtype=bool)
    other[0, 1, 0] = False
    assert found["validation"][0, 1, 0] == found["test"][0, 1, 0] == torch.inf
    torch.testing.assert_close(found["test"][other], sound["test"][other], rtol=1e-12, atol=0)


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    config, both = WholeSpaceRun.of(VALUES | {"nodes": 1, "patience": 9}), [series(0), series(1)]

    def run(settings, path):
        orders = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        return train(StackedForecasters(OPERATIONS, 1, [0, 1], build), both, settings, orders, Checkpoint(path, "x"))

    whole = run(config, None)

    class Killed(Exception):
        pass

    class UntilThird(Checkpoint):
        saved = []

        def save(self, *arguments):
            super().save(*arguments)
            self.saved.append(1)
            if len(self.saved) == 2:
                raise Killed

    with pytest.raises(Killed):
        train(StackedForecasters(OPERATIONS, 1, [0, 1], build), both, config,
              [torch.Generator().manual_seed(seed) for seed in (0, 1)], UntilThird(tmp_path / "state.pt", "x"))
    resumed = run(config, tmp_path / "state.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_windows_of_another_seed_are_not_seen():
    network = StackedForecasters(OPERATIONS, 1, [0, 1], build)
    x, y = torch.randn(2, 5, 7, 3), torch.randn(2, 7, 2)
    first = errors(network, x, y)
    x[1] = 0
    assert torch.equal(errors(network, x, y)[:, 0], first[:, 0])
    assert not torch.equal(errors(network, x, y)[:, 1], first[:, 1])


def test_many_windows_are_evaluated_a_few_at_a_time():
    """All at once took 12 GB for the cells of three nodes: two at a time were killed on a machine of 24 GiB."""
    network = StackedForecasters(OPERATIONS, 1, [0, 1], build)
    x, y, seen = torch.randn(2, 5, 300, 3), torch.randn(2, 300, 2), []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    found = errors(network, x, y)
    assert seen == [128, 128, 44]
    torch.testing.assert_close(found, (network(x) - y).square().mean((-1, -2)).detach())


@pytest.mark.parametrize("changed, message", [
    ({"operations": ["add_tanh", "carry"]}, "carry"), ({"seeds": [0, 0]}, "twice"), ({"days": 10}, "250")])
def test_bad_settings_are_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        WholeSpaceRun.of(VALUES | changed)
