"""Language and image runs from configuration to record; the width that a budget of weights allows."""

import json
import math

import pytest
import torch

from growdarts_study import experiments, grids, records
from growdarts import drawing
from growdarts.checkpoints import Checkpoint
from growdarts_study.config import ImageRun, LanguageRun
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype
from growdarts_study.experiments import images, language, phases
from growdarts_study.experiments.phases import largest_width
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.settings import ConfigError, DataError
from growdarts.training import DivergenceError, Fit
from growdarts_study.report import grown, player, tables


def smoke(experiment, **changes):
    """A run of the notebook's own parameters, smaller."""
    config = grids.EXPERIMENTS[experiment]
    small = {"language": dict(search_tokens=1500, search_epochs=3, patience=1, min_gain=0.0, train_epochs=1, hidden=6),
             "images": dict(search_images=80, search_epochs=2, patience=1, min_gain=0.0, train_images=200,
                            train_epochs=2)}[experiment]
    (run,) = config.of(grids.defaults(experiment) | small | changes).runs()
    return run


@pytest.mark.parametrize("method", ["lstm", "darts_v2", "fixed", "grow"])
def test_a_language_run_ends_in_a_record(method):
    config = smoke("language", methods=[method])
    record = experiments.run(config)
    result = record["result"]
    assert LanguageRun.of(record["config"]).hash() == record["config_hash"]
    assert result["test_perplexity"] == pytest.approx(torch.tensor(result["test_error"]).exp().item(), rel=1e-4)
    assert 0.9 * config.parameters < result["parameters"] <= config.parameters
    assert len(record["training"][str(result["hidden"])]) == 1
    assert (record["search"] is not None) == (method in ("fixed", "grow"))
    if method == "grow":
        assert Genotype.from_dict(result["genotype"]).n_nodes >= 1
    assert records.without_timing(record) == records.without_timing(experiments.run(config))


@pytest.mark.parametrize("space, operations", [("two_input", ["add_tanh", "add_identity", "carry"]),
                                               ("darts_recurrent", ["none", "tanh", "relu"])])
def test_the_best_of_random_cells_is_trained(space, operations):
    config = smoke("language", methods=["random"], space=space, operations=operations, draws=3, learning_rates=[0.01, 0.003],
                   rate_epochs=1, parameters=2000, weights_of="cell")
    result = experiments.run(config)["result"]
    best = min(result["draws"], key=lambda draw: draw["validation_error"])
    assert len(result["draws"]) == 3 and len({str(draw["genotype"]) for draw in result["draws"]}) > 1
    assert (result["genotype"], result["learning_rate"]) == (best["genotype"], best["learning_rate"])
    assert 0.8 * 2000 < result["cell_parameters"] <= 2000 < result["parameters"]


def test_cells_of_darts_start_in_the_range_that_is_asked_for():
    for wide, least, most in ((False, 0.039, 0.04), (True, 0.24, 0.25)):  # 1 / sqrt(16)
        config = smoke("language", methods=["darts_v2"], wide_start=wide)
        network = language.model(config, 50, language.PTB_DARTS_V2, 16)
        assert all(least < weight.abs().max() <= most for weight in network.cell.parameters())
        searched = language.search_model(smoke("language", methods=["grow"], space="darts_recurrent", operations=["none", "tanh"],
                                               hidden=16, wide_start=wide), 50, 2)
        searched.cell.grow_node(morphism=False, epsilon=0.1, noise=0.1)
        assert all(least < weight.abs().max() <= most for weight in searched.cell.theta_parameters())


def test_the_next_best_trial_takes_the_place_of_a_training_that_diverges(monkeypatch):
    real, trained = language.fit, []

    def fit(network, parameters, task, settings, *rest, **more):
        if settings.train_epochs == 5:
            trained.append(settings.learning_rate)
            if len(trained) <= lost:
                raise DivergenceError(3, float("nan"), Checkpoint(None, ""))
        return real(network, parameters, task, settings, *rest, **more)

    monkeypatch.setattr(language, "fit", fit)
    config, lost = smoke("language", methods=["lstm"], learning_rates=[0.003, 0.03, 0.01], rate_epochs=1, train_epochs=5), 1
    result = experiments.run(config)["result"]
    ranked = sorted(result["learning_rates"], key=result["learning_rates"].get)
    assert [f"{rate:g}" for rate in trained] == ranked[:2] and result["diverged"] == trained[:1] and result["learning_rate"] == trained[1]
    trained, lost = [], 3
    with pytest.raises(DivergenceError):
        experiments.run(config)
    assert [f"{rate:g}" for rate in trained] == ranked


def test_a_stage_without_an_error_is_recorded(monkeypatch):
    """A grown network whose error overflows ends the search; the record, which JSON must be able to hold, has no number there."""
    class Blind(phases.ControlledSearch):
        def _stage_error(self):
            return math.nan if self.state.stage_errors else super()._stage_error()

        def validation_error(self):  # not finite right after the growth
            first = self.network.n_nodes() > 1 and not vars(self).get("blind")
            self.blind = self.network.n_nodes() > 1
            return math.nan if first else super().validation_error()

    monkeypatch.setattr(phases, "ControlledSearch", Blind)
    record = experiments.run(smoke("language", methods=["grow"], search_epochs=4, stage_epochs=1, max_nodes=2))
    assert [error is None for error in record["search"]["stage_errors"]] == [False, True]
    record = json.loads(json.dumps(record, allow_nan=False))
    assert tables.events(record)["validation before, after"].str.endswith("not finite").any()
    assert "not finite" in player.search(record, "nats")
    record["search"]["events"][-1]["validation_after"] = None  # as after a pruning at the end
    assert record["search"]["events"][-1]["kind"] == "stage" and "not finite" in drawing.growth(record)
    assert grown.growth_jumps([record], "grow") == []


def test_a_search_that_diverges_is_made_again_with_half_the_step(monkeypatch):
    class Diverging(phases.ControlledSearch):
        def _search_epoch(self):
            loss = super()._search_epoch()
            return math.nan if self.state.epoch == 1 and self.settings.learning_rate in lost else loss

    lost = {}
    halved = experiments.run(smoke("language", methods=["grow"], learning_rate=0.01))
    monkeypatch.setattr(phases, "ControlledSearch", Diverging)
    lost = {0.02}
    again = experiments.run(smoke("language", methods=["grow"], learning_rate=0.02))
    assert halved["search"]["diverged"] == [] and again["search"]["diverged"] == [0.02]
    assert again["search"]["stage_errors"] == halved["search"]["stage_errors"]
    assert again["cost"]["search_epochs"] == halved["cost"]["search_epochs"] + 1  # the one before it diverged
    assert halved["cost"]["search_flops"] < again["cost"]["search_flops"] < 2 * halved["cost"]["search_flops"]
    lost = {0.02, 0.01}
    with pytest.raises(DivergenceError):
        experiments.run(smoke("language", methods=["grow"], learning_rate=0.02))


def test_a_gru_is_torchs():
    torch.manual_seed(0)
    cell, x = language.GRU(5), torch.randn(4, 3, 5)
    states, last = cell(x[:2])
    whole = cell.layer(x)[0]
    torch.testing.assert_close(torch.cat([states, cell(x[2:], last)[0]]), whole)  # carried over
    assert cell.flops() == 2 * 6 * 5 * 5
    assert experiments.run(smoke("language", methods=["gru"]))["result"]["genotype"] is None


def test_every_seed_reads_another_stretch():
    ids = torch.arange(10)
    assert [language.stretch(ids, 3, seed).tolist() for seed in (0, 2, 3)] == [[0, 1, 2], [6, 7, 8], [0, 1, 2]]
    assert language.stretch(ids, None, 5) is ids and len(language.stretch(ids, 11, 5)) == 10


def test_a_training_reads_a_stretch_only():
    flops = [experiments.run(smoke("language", methods=["lstm"], train_tokens=n))["result"]["train_flops"] for n in (1000, 2000)]
    assert flops[1] == pytest.approx(2 * flops[0])


def test_counting_is_recorded():
    result = experiments.run(smoke("language", methods=["kneser_ney"]))["result"]
    assert result["validation_error"] == min(result["orders"].values()) == result["orders"][str(result["order"])]
    assert result["floor"] < result["test_perplexity"] < 1.1 * result["floor"]  # of a Markov chain of first order


def test_the_search_of_a_language_run_reads_the_start_of_the_text_only():
    flops = [experiments.run(smoke("language", methods=["fixed"], search_epochs=1, search_tokens=n))["cost"]["search_flops"]
             for n in (1000, 2000)]
    assert flops[1] == pytest.approx(2 * flops[0])


def test_the_best_of_random_image_cells_is_trained():
    result = experiments.run(smoke("images", methods=["random"], draws=3, trial_epochs=1))["result"]
    best = min(result["draws"], key=lambda draw: draw["validation_error"])
    assert len({str(draw["genotype"]) for draw in result["draws"]}) == 3 and result["genotype"] == best["genotype"]
    cells = [ConvolutionalGenotype.from_dict(draw["genotype"]) for draw in result["draws"]]
    assert all(a != b for cell in cells for edges in (cell.normal, cell.reduce)
               for (_, a), (_, b) in zip(edges[::2], edges[1::2], strict=True))  # two states before every node
    with pytest.raises(ConfigError, match="'random' needs a validation part"):
        smoke("images", methods=["random"], train_portion=1.0)


def test_the_best_trial_is_trained_and_the_next_best_where_that_diverges():
    def train(lost):
        def one(candidate, phase):
            asked.append((candidate, phase))
            if candidate in lost:
                raise DivergenceError(1, float("nan"), Checkpoint(None, ""))
            return candidate.upper()
        return one

    trials, asked = [("a", 0.3), ("b", None), ("c", 0.1), ("d", 0.2)], []
    assert language.phases.best_trained(trials, train("")) == ("c", "C", []) and asked == [("c", "train")]
    assert language.phases.best_trained(trials, train("cd")) == ("a", "A", ["c", "d"])
    assert asked[1:] == [("c", "train"), ("d", "train 1"), ("a", "train 2")]
    with pytest.raises(DivergenceError):
        language.phases.best_trained(trials, train("abcd"))
    assert asked[-1] == ("b", "train 3")


def test_every_seed_reads_images_of_its_own():
    runs = [smoke("images", dataset="cifar10_held_out", seed=seed, train_images=15_000, methods=["darts_v2"]) for seed in range(3)]
    assert [run.start() for run in runs] == [0, 15_000, 0]
    assert smoke("images", seed=2, methods=["darts_v2"]).start() == 0


@pytest.mark.parametrize("method", ["darts_v2", "grow"])
def test_an_image_run_ends_in_a_record(method):
    record = experiments.run(smoke("images", methods=[method]))
    result = record["result"]
    assert ImageRun.of(record["config"]).hash() == record["config_hash"]
    assert len(result["mistakes"]) / result["test_images"] == pytest.approx(result["test_error"])
    assert result["images"] == {"train": 180, "validation": 20, "test": 360}
    assert result["parameters"] <= 6000 and result["hidden"] % 2 == 0
    ConvolutionalGenotype.from_dict(result["genotype"])


def test_without_a_validation_part_the_last_weights_are_tested():
    result = experiments.run(smoke("images", methods=["darts_v2"], train_portion=1.0))["result"]
    assert result["validation_error"] is None and result["images"]["validation"] == 0


@pytest.mark.parametrize("budget, width", [(10, 3), (11, 3), (18, 4), (10**9, 8192)])
def test_the_width_is_the_largest_that_the_budget_allows(budget, width):
    def build(n):  # n * n weights, or 1 more than 9 of them
        return torch.nn.Linear(n, n, bias=False) if n != 3 else torch.nn.Linear(5, 2, bias=False)

    assert largest_width(build, budget) == width


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(ConfigError, match="parameter 'parameters' = 7: allowed is at least 16"):
        largest_width(lambda n: torch.nn.Linear(8 * n, 2, bias=False), 7)


# What a run hands on ------------------------------------------------------------------------------------------------

def test_a_language_run_trains_with_its_own_decay_and_is_tested_on_test_text(monkeypatch):
    seen, fit = [], language.fit
    monkeypatch.setattr(language, "fit", lambda network, parameters, task, settings, *rest, **more: (
        seen.append(settings), fit(network, parameters, task, settings, *rest, **more))[1])
    parts = []
    monkeypatch.setattr(language.MixedPrecisionTask, "evaluate", lambda self, network, part, *_: (
        parts.append(part), {"test": 2.5, "validation": 2.25, "train": 2.0}[part])[1])
    config = smoke("language", methods=["lstm"], weight_decay=0.5, train_weight_decay=0.125)
    result = experiments.run(config)["result"]
    assert {settings.weight_decay for settings in seen} == {0.125}
    assert (result["test_error"], result["validation_error"]) == (2.5, 2.25) and parts.count("test") == 1


def test_steps_are_tried_and_the_best_is_trained_with(monkeypatch):
    errors = {8.0: None, 4.0: 1.0, 2.0: 3.0}

    def fit(network, parameters, task, settings, *_, label, **__):
        if "rate" in label and errors[settings.learning_rate] is None:
            raise DivergenceError(1, float("nan"), Checkpoint(None, ""))
        seen.append((settings.learning_rate, settings.train_epochs))
        return Fit(errors[settings.learning_rate], [], 0.0)

    seen = []
    monkeypatch.setattr(language, "fit", fit)
    config = smoke("language", methods=["lstm"], learning_rates=[8.0, 4.0, 2.0], rate_epochs=2, train_epochs=5)
    result = experiments.run(config)["result"]
    assert seen == [(4.0, 2), (2.0, 2), (4.0, 5)] and result["learning_rate"] == 4.0
    assert result["learning_rates"] == {"8": None, "4": 1.0, "2": 3.0}


@pytest.mark.parametrize("changes, name, most", [
    (dict(train_batch_size=10_001), "train_batch_size", 10_000),  # the grammar has 20,000, 4,000 and 4,000 tokens
    (dict(eval_batch_size=2001), "eval_batch_size", 2000),
    (dict(methods=["fixed"], batch_size=751), "batch_size", 750),  # of 1,500 that are searched on
    (dict(methods=["fixed"], search_tokens=None, batch_size=2001), "batch_size", 2000)])
def test_too_many_columns_are_named_before_anything_is_trained(monkeypatch, changes, name, most):
    monkeypatch.setattr(language.phases, "search", lambda *_, **__: pytest.fail("searched"))
    monkeypatch.setattr(language, "fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ConfigError, match=f"parameter '{name}' = {changes[name]}: allowed is at most {most}, half the"):
        experiments.run(smoke("language", **{"methods": ["lstm"], **changes}))


def test_as_many_columns_as_there_are_pairs_of_words():
    experiments.run(smoke("language", methods=["fixed"], search_epochs=1, batch_size=750, train_batch_size=10_000,
                          eval_batch_size=2000))
    experiments.run(smoke("language", methods=["lstm"], batch_size=100_000))  # it searches nothing


@pytest.mark.parametrize("phase", ["search", "train"])
def test_too_many_images_are_named_before_anything_is_trained(monkeypatch, phase):
    monkeypatch.setattr(images.phases, "search", lambda *_, **__: pytest.fail("searched"))
    with pytest.raises(DataError, match=f"with '{phase}_images' = 1438 and '{phase}_portion' = .*n_images=1438 is not"):
        experiments.run(smoke("images", methods=["grow"], **{f"{phase}_images": 1438}))


def test_an_image_run_cuts_out_in_training_only(monkeypatch):
    seen, prepared = {}, images.AuxiliaryTask.__post_init__
    monkeypatch.setattr(images.ImageTask, "__post_init__", lambda task: (
        seen.setdefault(type(task).__name__, task.cutout_length), prepared(task))[1])
    experiments.run(smoke("images", methods=["grow"], cutout_length=3, search_epochs=1, train_epochs=1))
    assert seen == {"ImageTask": 0, "AuxiliaryTask": 3}
