"""Arms on one draw of a series: what they cost, that they are comparable, that a killed run goes on."""

import json

import pytest
import torch

from growdarts.settings import ConfigError
from growdarts.tasks.series import ForecastTask
from growdarts_study.arms import DUPLICATION, SEARCHES, SearchesRun
from growdarts_study.data.series import load_series
from growdarts_study.experiments import searches
from growdarts_study.experiments.baselines import HistoricalMean
from growdarts_study.grids import defaults

CPU = torch.device("cpu")


def config(**changes):
    values = {name: value for name, value in defaults("searches").items() if name in SearchesRun.model_fields}
    return SearchesRun.of({**values, "seed": 0, "dataset": "bilinear", "window": 3, "origin": None, "days": 300,
                           "season": None, "search_epochs": 4, "train_epochs": 4, "hidden": 4, **changes})


@pytest.fixture(scope="module")
def rows():
    return searches.run(config(arms=["grow_1", "grow_2", "fixed_1", "grow_fresh_1", "graph_grow", "graph_fixed", "random", "halving",
                                     "shared", "lstm", "lstm_2", "grow_starts", "lstm_starts"], learning_rates=[0.02, 0.05]), device=CPU)["rows"]


def test_random_draws_cost_at_most_what_growing_does(rows):
    cost = {name: rows[name]["search_flops"] + rows[name]["retrained"]["flops"] for name in ("grow_1", "random")}
    assert cost["random"] <= cost["grow_1"] and rows["random"]["draws"] > 1
    assert cost["grow_1"] - cost["random"] < 2 * cost["random"]


def test_starts_are_as_many_as_random_draws(rows):
    draws = rows["random"]["draws"]
    for name, model in (("grow_starts", "grow_1"), ("lstm_starts", "lstm")):
        more, once = rows[name]["retrained"], rows[model]["retrained"]  # the first two starts are those of the model
        assert more["validation"] <= once["validation"] and more["parameters"] == once["parameters"]
        assert more["flops"] == pytest.approx(draws * once["flops"] / 2)
    assert draws > 3 and rows["grow_starts"]["cell"] == rows["grow_1"]["cell"]
    assert rows["lstm_starts"]["retrained"]["validation"] < rows["lstm"]["retrained"]["validation"]  # of so many one is better


@pytest.mark.parametrize("arms", [["grow_1", "grow_starts", "random"], ["grow_1", "random", "lstm_starts"], ["grow_1", "grow_starts"]])
def test_starts_come_after_what_they_repeat(arms):
    with pytest.raises(ConfigError, match="must come before it"):
        config(arms=arms)


def test_the_same_start_gives_the_same_search(rows):
    assert rows["grow_1"]["errors"][:1] == rows["fixed_1"]["errors"][:1] == rows["grow_fresh_1"]["errors"][:1]
    assert rows["grow_1"]["errors"][0] != rows["grow_2"]["errors"][0]


def test_operations_of_a_training_are_counted_by_hand(rows):
    # H = 4, two features, 177 training windows of 3 days, 4 epochs, 3 passes, two steps tried; LSTM: 4 gates of W (4, 2), U (4, 4)
    assert rows["lstm"]["retrained"]["flops"] == 2 * 2 * 4 * 3 * 177 * 3 * 4 * (4 * 2 + 4 * 4)


def test_every_arm_has_a_cell_of_its_space(rows):
    assert rows["graph_grow"]["cell"]["space"] == rows["graph_fixed"]["cell"]["space"] == "darts_recurrent"
    assert len(rows["shared"]["cell"]["layers"][0]) == 3 and len(rows["graph_fixed"]["weights"]) == 1 + 2 + 3
    assert all(row["retrained"]["rate"] in (0.02, 0.05) for row in rows.values())


def test_closed_forms_are_tested_where_the_data_are():
    """On a GPU, for which torch's device meta stands: it has no numbers to read, so the errors themselves cannot be had."""
    series = load_series("bilinear", 3, days=300)
    bench, model = searches.Bench(config(), ForecastTask(series, 64, "meta")), HistoricalMean(series.train.y)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bench.errors(model)
    assert model.mean.device.type == "meta"


def test_growth_is_forced_at_the_same_epochs_and_costs_as_much_as_from_scratch():
    arms = [name for name in SEARCHES if name.startswith("forced")]
    rows = searches.run(config(arms=arms, stage_epochs=2, search_epochs=6), device=CPU)["rows"]
    for name in arms[:-1]:
        assert rows[name]["grown"] == [2, 4] and rows[name]["epochs"] == 6 and len(rows[name]["weights"]) == 3
    assert rows["forced_scratch"]["grown"] == [] and rows["forced_scratch"]["epochs"] == 4
    assert rows["forced_scratch"]["search_flops"] == pytest.approx(rows["forced_morphism"]["search_flops"], rel=0.01)
    before = rows["forced_fresh"]["errors"]
    assert before[:2] == rows["forced_morphism"]["errors"][:2] and before[2] != rows["forced_morphism"]["errors"][2]


@pytest.fixture(scope="module")
def copies():
    return searches.run(config(arms=list(DUPLICATION), duplicate_epochs=2, search_epochs=6, hidden=3), device=CPU)["rows"]


def test_operations_are_duplicated_at_the_same_epochs_from_the_same_start(copies):
    errors = {name: row["errors"] for name, row in copies.items()}
    assert all(own[:2] == errors["copy_none"][:2] for name, own in errors.items() if name != "wider")
    assert errors["wider"][:2] != errors["copy_none"][:2]
    held = {name: sorted(row["weights"][0]) for name, row in copies.items()}
    assert [len(held[name]) - 8 for name in ("copy_splitting", "copy_morphism", "copy_random", "copy_random_more", "copy_none", "wider")] == [2, 2, 2, 2, 0, 0]
    assert 2 < len(held["copy_all"]) - 8 <= 5  # those that are curved, once each


def test_the_wider_cell_has_as_many_weights_and_takes_as_many_operations(copies):
    # two features, H units: a block of H rows has H * (2 + H + 1) weights, and there are eight
    blocks = sum(2 if key.startswith("gated") else 1 for key in copies["copy_splitting"]["weights"][0] if key != "carry")
    wanted = blocks * 3 * 6
    width = min(range(3, 12), key=lambda H: abs(8 * H * (H + 3) - wanted))
    assert width > 3 and copies["wider"]["network_flops"] == pytest.approx(177 * 2 * (3 * 8 * width * (width + 2) + width), rel=1e-3)
    for name in ("copy_none", "wider"):
        an_epoch = 6 * copies[name]["network_flops"]
        assert abs(copies[name]["search_flops"] - copies["copy_splitting"]["search_flops"]) <= 0.51 * an_epoch
        assert copies[name]["epochs"] == round(copies["copy_splitting"]["search_flops"] / an_epoch)
    (cell,), = copies["wider"]["cell"]["layers"][0]
    rows = width * (2 if cell == "gated_update" else 1)
    assert copies["wider"]["retrained"]["parameters"] == rows * (width + 3) + 1 + width + 1  # one alpha, the head


def test_random_copies_can_take_as_many_operations_as_splitting(copies):
    short, more, splitting = (copies[name] for name in ("copy_random", "copy_random_more", "copy_splitting"))
    assert short["search_flops"] < splitting["search_flops"] and short["epochs"] == 6
    assert more["search_flops"] == pytest.approx(splitting["search_flops"], rel=0.2)  # other operations may be drawn, which cost more or less
    assert more["epochs"] == round(6 * splitting["search_flops"] / short["search_flops"]) > 6
    assert more["errors"][:2] == short["errors"][:2]


def test_remedies_start_as_the_search_that_they_mend():
    rows = searches.run(config(arms=["grow_2", "judged_2", "kept_2", "long_1"]), device=CPU)["rows"]
    assert rows["judged_2"]["errors"][:3] == rows["grow_2"]["errors"][:3] and rows["kept_2"]["errors"] == rows["grow_2"]["errors"]
    assert rows["judged_2"]["stage_errors"] != rows["grow_2"]["stage_errors"]
    assert rows["kept_2"]["retrained"]["test"] == rows["grow_2"]["retrained"]["test"] != rows["kept_2"]["kept"]["test"]
    assert rows["long_1"]["epochs"] > 4  # the limit of the others


def test_the_second_order_is_another_search_that_costs_more_passes():
    rows = searches.run(config(arms=["grow_1", "second_1"]), device=CPU)["rows"]
    assert rows["second_1"]["spent"][0] / rows["grow_1"]["spent"][0] == pytest.approx(15 / 6)  # in forward passes: 6 of them, and 9 more
    assert rows["second_1"]["errors"] != rows["grow_1"]["errors"]


def test_a_killed_run_goes_on_with_the_arms_that_are_left(tmp_path, monkeypatch):
    settings = config(arms=["lstm", "gru"])
    whole, made = searches.run(settings, device=CPU), []
    real = searches._arm

    def arm(bench, name, *others):
        made.append(name)
        if name == "gru" and len(made) == 2:
            raise KeyboardInterrupt
        return real(bench, name, *others)

    monkeypatch.setattr(searches, "_arm", arm)
    with pytest.raises(KeyboardInterrupt):
        searches.run(settings, device=CPU, checkpoints=tmp_path)
    assert searches.run(settings, device=CPU, checkpoints=tmp_path)["rows"] == whole["rows"]
    assert made == ["lstm", "gru", "gru"]


def test_rows_of_other_data_are_not_taken(tmp_path):
    settings = config(arms=["lstm"])
    (tmp_path / "rows.json").write_text(json.dumps({"data": {"bilinear": "other"}, "rows": {"lstm": "stale"}}))
    assert searches.run(settings, device=CPU, checkpoints=tmp_path)["rows"]["lstm"] != "stale"


def test_a_training_that_diverges_has_no_error(monkeypatch):
    def diverge(*arguments, **options):
        raise searches.DivergenceError(1, float("nan"), searches.phases.checkpoint(config(), "x", None))

    monkeypatch.setattr(searches, "fit", diverge)
    row = searches.run(config(arms=["lstm"]), device=CPU)["rows"]["lstm"]
    assert row["retrained"]["test"] is None and row["retrained"]["flops"] > 0


def test_a_search_that_diverges_says_when_and_names_no_file(monkeypatch, tmp_path):
    def diverge(search):
        raise searches.DivergenceError(3, float("nan"), search.checkpoint)

    monkeypatch.setattr(searches.ControlledSearch, "run", diverge)
    rows = searches.run(config(arms=["grow_1", "random"]), device=CPU, checkpoints=tmp_path)["rows"]
    assert rows == {"grow_1": {"diverged": "training diverged in epoch 3: loss = nan"}, "random": {"diverged": "grow_1, whose cost would be the budget"}}


def test_real_series_keep_the_errors_of_blocks_of_days():
    row = searches.run(config(arms=["lstm"], dataset="synthetic_var", days=None), device=CPU)["rows"]["lstm"]["retrained"]
    n = [20] * (len(row["blocks"]) - 1)
    assert len(row["blocks"]) > 3
    low = sum(a * b for a, b in zip(n, row["blocks"])) / sum(n)
    assert low == pytest.approx(row["test"], rel=0.1)


@pytest.mark.parametrize("changes, message", [
    ({"arms": ["random"]}, "'grow_1'"), ({"arms": ["grow_9"]}, "arms"), ({"arms": ["lstm", "lstm"]}, "twice"),
    ({"arms": ["forced_fresh"]}, "stage_epochs"), ({"stage_epochs": 2}, "stage_epochs"),
    ({"arms": ["copy_none"]}, "duplicate_epochs"), ({"arms": ["grow_1", "wider"], "duplicate_epochs": 2}, "duplicate_epochs"),
    ({"duplicate_epochs": 2}, "duplicate_epochs"), ({"arms": ["wider"], "duplicate_epochs": 2}, "copy_splitting"),
    ({"arms": ["copy_random_more"], "duplicate_epochs": 2}, "copy_splitting"),
    ({"learning_rates": [0.0]}, "learning_rates"), ({"operations": ["add_tanh"]}, "add_identity"), ({"group": "a b"}, "group")])
def test_bad_arms_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)
