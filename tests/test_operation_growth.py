"""Operations that grow in the middle of a search: resuming, refusals, when a stage goes on, batch norm's statistics."""

import copy
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from growdarts.pruning import renew_statistics
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.checkpoints import Checkpoint
from growdarts_study.config import TimeSeriesRun
from growdarts_study.controls import ControlledSearch as Search
from growdarts_study.controls import random_operation
from growdarts.criteria import gained_since, stage_is_over
from growdarts.growth import grow_operation
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.language import LanguageModel, LanguageTask
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts_study.records import without_timing
from growdarts_study.data.series import load_series
from growdarts_study.data.text import load_text
from growdarts.training import DivergenceError
from growdarts.tasks.series import ForecastTask

# Resuming -----------------------------------------------------------------------------------------------------


def forecasts(task):
    return two_input_forecaster(len(task.series.features), 3, 1, 1, ["add_tanh", "add_identity", "gate", "carry"])


def language(task):
    return LanguageModel(len(task.text.vocabulary), RecurrentSearchCell(3, 3, 1))


def forecast_task():
    series = load_series("synthetic_var", 3)
    few = {part: replace(w, x=w.x[:, :80], y=w.y[:80], dates=w.dates[:80])
           for part, w in (("train", series.train), ("validation", series.validation))}
    return ForecastTask(replace(series, **few), batch_size=40)


def language_task():
    text = load_text("grammar")
    return LanguageTask(replace(text, train=text.train[:110], validation=text.validation[:80]), 10, 10)


@pytest.mark.parametrize("space, growth, resample, every", [
    (forecasts, "morphism", False, None), (forecasts, "splitting", True, None), (language, "splitting", False, None),
    (language, "morphism", True, None), (forecasts, "off", True, None), (forecasts, "random", False, 1),
    (forecasts, "splitting_all", False, 2), (language, "random", False, None)])
def test_a_search_killed_after_any_epoch_goes_on_bit_for_bit(settings, tmp_path, space, growth, resample, every):
    task = forecast_task() if space is forecasts else language_task()
    config = TimeSeriesRun.of(settings | dict(
        max_nodes=2, search_epochs=4, min_gain=0.5, prune_below=0.19, keep_all_above=1.0,
        alpha_learning_rate=0.3, duplicate_above=0.01, grow_operations=growth, resample=resample, duplicate_epochs=every))

    def search(path):
        torch.manual_seed(1)
        network = space(task)
        for mixture in network.mixtures() if resample else ():  # else there is nothing to draw
            network.keep_operations(mixture, list(range(1, len(mixture.keys))))
        return Search(network, task, config, checkpoint=Checkpoint(path, "same"))

    straight = search(tmp_path / "whole.pt")
    whole = straight.run()
    kinds = {event["kind"] for event in whole.events if event["what"]}
    assert ("grow_node" in kinds) == (every is None) and ("grow_operation" in kinds, "resample" in kinds) == (growth != "off", resample)

    def check(result, resumed):
        assert result.genotype == whole.genotype
        for part in ("history", "events", "stage_errors", "flops", "epochs", "validation_error"):
            assert without_timing(getattr(result, part)) == without_timing(getattr(whole, part))
        now, then = resumed.network.state_dict(), straight.network.state_dict()
        assert list(now) == list(then) and all(torch.equal(now[name], then[name]) for name in then)

    for stop in range(1, whole.epochs):
        killed = search(tmp_path / f"{stop}.pt")
        train = killed._search_epoch

        def until(train=train, killed=killed, stop=stop):
            if killed.state.epoch == stop:
                raise KeyboardInterrupt
            return train()

        killed._search_epoch = until
        with pytest.raises(KeyboardInterrupt):
            killed.run()
        torch.manual_seed(999)
        resumed = search(tmp_path / f"{stop}.pt")
        torch.manual_seed(998)  # nothing may depend on what another process drew
        check(resumed.run(), resumed)
    again = search(tmp_path / "whole.pt")  # killed after the last epoch
    check(again.run(), again)


# A pruning that ruins the network -----------------------------------------------------------------------------


class Fragile(ForecastTask):
    """A pruned network has no finite validation error: before it has been trained for an epoch, or ever."""

    def use(self, ruined, curable):
        self.__dict__.update(ruined=ruined, curable=curable, held="", trained=set())
        return self

    def train_batches(self):
        self.trained.add(self.held)
        return super().train_batches()

    def evaluate(self, network, part):
        self.__dict__["held"] = str(network.structure())
        pruned = any(len(mixture.keys) < 4 for mixture in network.mixtures())
        return self.ruined if pruned and not (self.curable and self.held in self.trained) else super().evaluate(
            network, part)


@pytest.mark.parametrize("ruined", [math.inf, math.nan])
def test_a_pruning_that_ruins_the_network_is_cured_by_tuning_or_an_error(settings, ruined):
    config = TimeSeriesRun.of(settings | dict(max_nodes=1, search_epochs=2, prune_below=0.24, keep_all_above=1.0,
                                              alpha_learning_rate=0.3))
    task = Fragile(forecast_task().series, 40)
    result = Search(forecasts(task), task.use(ruined, True), config).run()
    tuned, = [event for event in result.events if event["kind"] == "tune"]
    assert not math.isfinite(tuned["validation_before"]) and math.isfinite(tuned["validation_after"])
    assert math.isfinite(result.validation_error)
    with pytest.raises(DivergenceError, match=f"epoch 2: loss = {ruined}"):
        Search(forecasts(task), task.use(ruined, False), config).run()


# Refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["morphism", "splitting"])
def test_growing_operations_where_none_owns_weights_is_refused(task, settings, mode):
    config = TimeSeriesRun.of(settings | dict(grow_operations=mode))
    for network in (two_input_forecaster(4, 3, 1, 1, ["carry"]),
                    SearchImageNetwork(2, 10, 3, 1, ["none", "max_pool_3x3"], image_channels=1, image_size=8)):
        with pytest.raises(ValueError, match=f"grow_operations = '{mode}': allowed is 'off' with the operations "
                                             r"\[.*\], none of which owns weights"):
            Search(network, task, config)
        Search(network, task, TimeSeriesRun.of(settings))
    # in a reduction cell a skipped connection halves the image, which takes weights
    images = SearchImageNetwork(2, 10, 3, 1, ["none", "skip_connect"], image_channels=1, image_size=8)
    Search(images, task, config)


# When a stage goes on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("errors, split_at, over", [
    ([1.0, 0.9, 0.95, 0.92], 0, True), ([1.0, 0.9, 0.95], 0, False),
    ([1.0, 0.9, 0.95, 0.92], 4, False),  # split just now
    ([1.0, 0.9, 0.95, 0.92, 0.91], 4, False), ([1.0, 0.9, 0.95, 0.92, 0.91, 0.9], 4, True),  # two epochs for it
    ([1.0, 0.9, 0.95, 0.92, 0.91, 0.8], 4, False),  # it gained
    ([1.0, 0.9, 0.95, 0.92, 0.8, 0.85, 0.82], 4, True), ([], 0, False)])
def test_patience_starts_anew_at_a_split(errors, split_at, over):
    assert stage_is_over(errors, 2, 0.01, split_at) is over


@pytest.mark.parametrize("errors, split_at, gained", [
    ([1.0, 1.1, 1.2], 0, True),  # the first epoch of a stage always is a gain
    ([1.0, 1.1, 1.2], 1, False), ([1.0, 1.1, 0.9, 1.2], 1, True), ([1.0, 1.1, 0.9, 1.2], 2, True),
    ([1.0, 1.1, 0.9, 1.2], 3, False), ([1.0, 1.1, 0.995, 1.2], 2, False),  # too little to count
    ([1.0], 1, False)])
def test_gained_since(errors, split_at, gained):
    assert gained_since(errors, 0.01, split_at) is gained


@pytest.mark.parametrize("growth, at", [
    ("off", []), ("morphism", [2, 4]), ("splitting", [2, 4]), ("random", [2, 4]), ("splitting_all", [2, 2, 4, 4])])
def test_duplication_is_forced_at_given_epochs_and_what_it_gives_is_kept(task, settings, monkeypatch, growth, at):
    """Errors by script that only rise: the network is that of the first epoch after the last duplication."""
    config = TimeSeriesRun.of(settings | dict(max_nodes=1, search_epochs=6, duplicate_epochs=2, grow_operations=growth,
                                              duplicate_above=1e-6, max_copies=3, prune="none"))
    search, errors, seen = Search(forecasts(task), task, config), iter(range(1, 99)), []
    monkeypatch.setattr(search, "validation_error", lambda: float(next(errors)))
    train = search._search_epoch
    monkeypatch.setattr(search, "_search_epoch", lambda: (train(), seen.append(copy.deepcopy(search.network.state_dict())))[0])
    result = search.run()
    duplicated = [event for event in result.events if event["kind"] == "grow_operation"]
    assert [event["epoch"] for event in duplicated] == at and result.epochs == 6 and len(result.stage_errors) == 1
    kept, expected = search.network.state_dict(), seen[4 if at else 0]
    assert list(kept) == list(expected) and all(torch.equal(kept[name], expected[name]) for name in kept)
    if growth == "splitting_all":  # the curved ones at once, of whose copies only one has a place left the second time
        names = [event["what"][0].split(": ")[1].split(" -> ") for event in duplicated]
        assert {key for key, _ in names[:2]} == {"add_tanh", "gate"} == {key.split("#")[0] for key, _ in names[2:]}
        assert {copy for _, copy in names} == {"add_tanh#2", "gate#2", "add_tanh#3", "gate#3"}


def test_every_operation_with_weights_and_a_place_left_is_drawn_as_often(task, settings):
    config, network = TimeSeriesRun.of(settings | dict(max_copies=2)), forecasts(task)
    optimizers = [torch.optim.Adam(p) for p in (network.theta_parameters(), network.alpha_parameters())]
    grow_operation(network, *optimizers, mixture=0, key="gate", step=0.1)
    torch.manual_seed(5)
    drawn = Counter(random_operation(network, config) for _ in range(1000))
    assert set(drawn) == {(0, "add_tanh"), (0, "add_identity")} and abs(drawn[0, "add_tanh"] - 500) < 3 * 250**0.5
    for key in ("add_tanh", "add_identity"):
        grow_operation(network, *optimizers, mixture=0, key=key, step=0.1)
    assert random_operation(network, config) is None


# Statistics of batch norm -------------------------------------------------------------------------------------


class Batches:
    """Three batches, one of another size; a pass draws once from torch's random state, as those of real tasks do."""

    def __init__(self):
        self.batches = [torch.randn(n, 3, dtype=torch.float64) for n in (4, 4, 2)]

    def train_batches(self):
        torch.rand(())
        return iter(self.batches)

    def loss(self, network, batch):
        return network(batch).square().mean()


def test_renewed_statistics_are_the_plain_means_of_the_batches():
    task = Batches()
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.3), nn.Linear(2, 2),
                            nn.BatchNorm1d(2, affine=False)).double()
    for batch in task.batches:
        network(batch * 100)
    weights = copy.deepcopy([*network.parameters()])
    assert renew_statistics(network.eval(), task) and not network.training and not network[1].training
    x = task.batches
    for linear, norm in ((network[0], network[1]), (network[2], network[3])):
        y = [linear(batch) for batch in x]
        torch.testing.assert_close(norm.running_mean, sum(batch.mean(0) for batch in y) / 3)
        torch.testing.assert_close(norm.running_var, sum(batch.var(0, unbiased=True) for batch in y) / 3)
        scale, shift = (1.0, 0.0) if norm.weight is None else (norm.weight, norm.bias)
        x = [(batch - batch.mean(0)) / (batch.var(0, unbiased=False) + norm.eps).sqrt() * scale + shift for batch in y]
    assert (network[1].momentum, network[3].momentum) == (0.3, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in network.parameters())


def test_without_batch_norm_nothing_is_renewed_or_drawn():
    network, state = nn.Linear(3, 2).double(), torch.get_rng_state()
    assert not renew_statistics(network.eval(), Batches.__new__(Batches)) and not network.training
    assert not renew_statistics(nn.BatchNorm1d(3, track_running_stats=False), Batches.__new__(Batches))
    assert torch.equal(torch.get_rng_state(), state)
