"""Algorithm 2 at toy size: grows, prunes, stops, resumes, repeats."""

import copy
import math
import shutil

import pytest
import torch

from growdarts_study import experiments, records
from growdarts_study.experiments import time_series
from growdarts.checkpoints import Checkpoint, CheckpointError
from growdarts_study.config import TimeSeriesRun
from growdarts.criteria import growing_helps
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts.search import Search
from growdarts.training import DivergenceError
from growdarts.tasks.series import ForecastTask


def new_search(task, config, path=None, nodes=None, morphism=True):
    torch.manual_seed(config.seed)
    network = two_input_forecaster(len(task.series.features), config.hidden, config.n_layers,
                                   nodes or config.initial_nodes, config.operations)
    return Search(network, task, config, morphism=morphism, checkpoint=Checkpoint(path, config.hash()),
                  progress=False)


@pytest.mark.parametrize("prune", ["stage", "end", "none"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("morphism", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2])
def test_every_mode_runs_and_its_history_is_consistent(task, settings, prune, order, morphism, n_layers):
    config = TimeSeriesRun.of(settings | dict(prune=prune, order=order, n_layers=n_layers, search_epochs=5, patience=1,
                                          keep_all_above=1.0, prune_below=0.12))
    result = new_search(task, config, morphism=morphism).run()
    kinds = [event["kind"] for event in result.events]
    assert kinds.count("stage") == len(result.stage_errors)
    assert ("prune" in kinds) == (prune != "none")
    grown = kinds.count("grow_node")
    assert grown == len(result.stage_errors) - 1
    assert [row["epoch"] for row in result.history] == list(range(1, result.epochs + 1))
    assert all(len(row["weights"]) == n_layers * row["nodes"] for row in result.history)
    assert all(sum(weights.values()) == pytest.approx(1, abs=0.01)
               for row in result.history for weights in row["weights"].values())
    assert {f"layer {layer}, node 1" for layer in range(1, n_layers + 1)} <= set(result.history[-1]["weights"])
    # the selected architecture is that of the best stage, not of the last
    stages = [event for event in result.events if event["kind"] == "stage"]
    best = min(range(len(stages)), key=lambda i: result.stage_errors[i])
    assert result.genotype.n_nodes == stages[best]["nodes"]
    assert len(result.genotype.layers) == n_layers


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("operations", [["add_identity"], ["add_identity", "add_relu"]])
def test_nodes_with_nothing_to_decide_are_searched_all_the_same(task, settings, order, operations):
    config = TimeSeriesRun.of(settings | dict(order=order, operations=operations, search_epochs=2))
    assert new_search(task, config).run().epochs == 2


def test_growth_by_morphism_keeps_the_validation_error_and_fresh_weights_do_not(task, config):
    def jumps(morphism):
        result = new_search(task, config, morphism=morphism).run()
        return [abs(e["validation_after"] / e["validation_before"] - 1) for e in result.events
                if e["kind"] == "grow_node"]

    assert jumps(True) and max(jumps(True)) < config.epsilon
    assert min(jumps(False)) > 0.01


def test_growing_stops_at_the_limit_of_nodes_and_of_epochs(task, settings):
    tight = TimeSeriesRun.of(settings | dict(max_nodes=2, search_epochs=40, min_gain=0.0))
    assert max(row["nodes"] for row in new_search(task, tight).run().history) == 2
    short = TimeSeriesRun.of(settings | dict(search_epochs=3))
    assert new_search(task, short).run().epochs == 3


def test_divergence_names_the_epoch_and_keeps_the_last_good_checkpoint(task, config, tmp_path):
    search = new_search(task, config, tmp_path / "search.pt")
    train = search._search_epoch
    search._search_epoch = lambda: train() if search.state.epoch < 2 else math.nan
    with pytest.raises(DivergenceError, match=r"epoch 3: loss = nan; the last good checkpoint is .*search\.pt"):
        search.run()
    assert search.checkpoint.load("search", search.data)["progress"]["epoch"] == 2


class ScriptedTask:
    """Errors by number of nodes, told beforehand: what Algorithm 2 must do then can be written down."""

    def __init__(self, errors):
        self.errors, self.seen = errors, []

    def search_batches(self):
        batch = (torch.zeros(1, 1, 4), torch.zeros(1, 4))
        return iter([(batch, batch)])

    def loss(self, network, batch):
        return torch.nn.functional.mse_loss(network(batch[0]), batch[1])

    def evaluate(self, network, part):
        self.seen.append(part)
        return self.errors[part][network.n_nodes()]

    def flops(self, network):
        return 1


@pytest.mark.parametrize("errors, stages, chosen", [
    ({1: 1.0, 2: 0.8, 3: 0.9}, [1.0, 0.8, 0.9], 2),  # the third node does not help: back to two
    ({1: 1.0, 2: 1.0, 3: 0.1}, [1.0, 1.0], 1),  # stops at the first node that does not, whatever might follow
    ({1: 1.0, 2: 0.9, 3: 0.8}, [1.0, 0.9, 0.8], 3)])  # the limit of nodes
@pytest.mark.parametrize("select_on", ["validation", "test"])
def test_algorithm_2_on_scripted_errors(settings, errors, stages, chosen, select_on):
    other = "test" if select_on == "validation" else "validation"
    task = ScriptedTask({select_on: errors, other: {n: 5.0 for n in (1, 2, 3)}})
    config = TimeSeriesRun.of(settings | dict(prune="none", patience=1, search_epochs=50, min_gain=0.0, select_on=select_on))
    network = two_input_forecaster(4, config.hidden, 1, 1, config.operations)
    result = Search(network, task, config).run()
    assert result.stage_errors == stages and result.genotype.n_nodes == chosen
    assert [e["nodes"] for e in result.events if e["kind"] == "grow_node"] == list(range(2, 1 + len(stages)))
    if select_on == "validation":
        assert set(task.seen) == {"validation"}  # the test part is not looked at


def test_a_real_divergence_is_noticed(task, settings):
    config = TimeSeriesRun.of(settings | dict(learning_rate=1e30, grad_clip=1e30))
    with pytest.raises(DivergenceError, match="epoch 1"):
        new_search(task, config).run()


def test_checkpoint_of_another_configuration_is_refused(task, settings, tmp_path):
    file = tmp_path / "search.pt"
    new_search(task, TimeSeriesRun.of(settings), file).run()
    with pytest.raises(CheckpointError, match="written by another run: its owner is"):
        new_search(task, TimeSeriesRun.of(settings | dict(noise=0.2)), file).run()


def test_damaged_checkpoint_is_one_clear_error(task, config, tmp_path):
    file = tmp_path / "search.pt"
    file.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"damaged or no checkpoint \(.*\); delete it"):
        new_search(task, config, file).run()


def test_checkpoints_are_not_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("code ran",))

    file = tmp_path / "evil.pt"
    torch.save({"owner": "x", "state": Evil()}, file)
    with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
        Checkpoint(file, "x").load("search", "")


@pytest.mark.parametrize("method", ["grow", "grow_fresh", "fixed", "random", "lstm", "var1", "mean"])
def test_same_seed_twice_gives_the_same_record(settings, method):
    config = TimeSeriesRun.of(settings | dict(method=method, search_epochs=4, patience=1))
    first = experiments.run(config)
    torch.randn(7)  # the state of the global generator must not matter, nor be changed
    state = torch.get_rng_state()
    second = experiments.run(config)
    assert torch.equal(state, torch.get_rng_state())
    assert records.without_timing(first) == records.without_timing(second)
    if method in ("grow", "lstm"):
        other = experiments.run(TimeSeriesRun.of(settings | dict(method=method, search_epochs=4, patience=1, seed=4)))
        assert other["result"]["test_error"] != first["result"]["test_error"]


def test_a_killed_run_ends_with_the_same_record(settings, tmp_path, monkeypatch):
    """Killed in the search, then in the middle of training from scratch; both times it goes on."""
    config = TimeSeriesRun.of(settings)
    whole = experiments.run(config)
    copies = copy.deepcopy(records.without_timing(whole))
    saves = Checkpoint.save
    for stop in (3, whole["cost"]["search_epochs"] + 2):
        counter = iter(range(1, 100))

        def save(self, *arguments):
            saves(self, *arguments)
            if next(counter) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", save)
        with pytest.raises(KeyboardInterrupt):
            experiments.run(config, checkpoints=tmp_path)
        assert any(tmp_path.iterdir())
        monkeypatch.setattr(Checkpoint, "save", saves)
        assert records.without_timing(experiments.run(config, checkpoints=tmp_path)) == copies
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


def test_random_draws_cover_the_space_and_are_alive(settings):
    torch.manual_seed(0)
    drawn = [time_series.random_genotype(TimeSeriesRun.of(settings | dict(method="random", n_layers=2))) for _ in range(300)]
    assert {genotype.n_nodes for genotype in drawn} == {1, 2, 3}
    assert {name for g in drawn for layer in g.layers for node in layer for name in node} == set(settings["operations"])
    assert all(any(TWO_INPUT[node[0]].admits_input() for node in layer) for g in drawn for layer in g.layers)


def test_growing_comes_close_to_the_known_floor(settings):
    """Two thirds of the way from the mean's error to the best possible one, or the search is broken."""
    config = TimeSeriesRun.of(settings | dict(search_epochs=20, train_epochs=40, patience=5, sizes=[12],
                                          learning_rate=0.01))
    result = experiments.run(config)["result"]
    mean = experiments.run(TimeSeriesRun.of(settings | dict(method="mean")))["result"]["test_error"]
    assert result["floor"] * 0.9 < result["test_error"] < result["floor"] + (mean - result["floor"]) / 3


def test_batches_cover_the_training_days_once(task):
    targets = torch.cat([y for _, y in task.train_batches()])
    assert sorted(targets[:, 0].tolist()) == sorted(task.series.train.y[:, 0].tolist())
    pairs = list(task.search_batches())
    assert len(pairs) == len(list(task.train_batches()))
    validation = {tuple(row) for row in task.series.validation.y.tolist()}
    assert all(tuple(row) in validation for _, (_, y) in pairs for row in y.tolist())


def test_evaluation_is_the_mean_over_days_and_features(task):
    mean = torch.nn.Module()
    mean.forward = lambda x: torch.zeros(x.shape[1], len(task.series.features))
    by_hand = sum(value**2 for row in task.series.test.y.tolist() for value in row) / task.series.test.y.numel()
    assert ForecastTask(task.series, 7).evaluate(mean, "test") == pytest.approx(by_hand, rel=1e-5)


def test_growing_helps_compares_with_the_best_stage():
    assert growing_helps([1.0], 0.0)
    assert growing_helps([1.0, 0.9], 0.05)
    assert not growing_helps([1.0, 0.96], 0.05)
    assert not growing_helps([1.0, 0.5, 0.6], 0.0)


# What a search hands on ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("virtual_clip", [True, False])
def test_the_alpha_step_is_of_the_order_and_with_the_clip_that_the_settings_say(task, settings, order, virtual_clip,
                                                                              monkeypatch):
    seen = []

    def spy(network, loss, train_batch, validation_batch, *, order, step, radius):
        seen.append((order, step.clip, step.xi, radius))
        return [torch.zeros_like(alpha) for alpha in network.alpha_parameters()]

    monkeypatch.setattr("growdarts.search.alpha_gradient", spy)
    config = TimeSeriesRun.of(settings | dict(order=order, virtual_clip=virtual_clip, search_epochs=1, grad_clip=0.7))
    search = new_search(task, config)
    search.run()
    assert set(seen) == {(order, 0.7 if virtual_clip else None, config.learning_rate, config.radius)}
    (alpha_group,) = search.alpha_optimizer.param_groups
    assert alpha_group["betas"] == (0.5, 0.999) and alpha_group["lr"] == config.alpha_learning_rate


def test_an_operation_is_split_from_the_best_weights_of_a_stage_that_has_stalled(task, settings, monkeypatch):
    """Errors by script: a gain, then none. The split comes after the stall, from the state of the better epoch."""
    config = TimeSeriesRun.of(settings | dict(grow_operations="splitting", search_epochs=5, patience=1, max_nodes=1))
    search, errors, seen = new_search(task, config), iter([3.0, 2.0, 2.5] + [9.0] * 20), []
    monkeypatch.setattr(search, "validation_error", lambda: next(errors))
    restore = Search._restore
    monkeypatch.setattr(Search, "_restore", lambda self, state: (seen.append("restored"), restore(self, state)))

    def spy(network, *_):
        best = search.state.stage_best["network"]
        seen.append((len(search.state.epoch_errors),
                     all(torch.equal(value, best[name]) for name, value in network.state_dict().items())))
        return [], 0

    monkeypatch.setattr("growdarts.search.steepest_descent", spy)
    monkeypatch.setattr(task.__class__, "evaluate", lambda *_: 1.0)
    search.run()
    assert seen[:2] == ["restored", (3, True)]
