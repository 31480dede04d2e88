"""Tables, verdicts and figures say what made-up records hold."""

import re

import matplotlib.pyplot as plt
import pytest

from growdarts import experiment, figures, records, report_figures, tables, verdicts
from growdarts.comparison import Difference, Interval, compare_all
from growdarts.config import RunConfig


@pytest.fixture(scope="module")
def made():
    """Two seeds of a few methods on two made-up years, from real runs at toy size."""
    from growdarts.primitives import DEFAULT_TWO_INPUT

    toy = dict(dataset="eu_stock_markets", window=2, batch_size=256, hidden=4, sizes=[3], n_layers=1,
               operations=list(DEFAULT_TWO_INPUT), initial_nodes=1, max_nodes=2, order=1, search_epochs=10, patience=1,
               min_gain=0.02, epsilon=1e-3, noise=0.1, prune="stage", prune_below=0.05, keep_all_above=0.5,
               tune_epochs=1, select_on="validation", train_epochs=2, learning_rate=0.03, weight_decay=1e-3,
               alpha_learning_rate=0.05, alpha_weight_decay=1e-3, grad_clip=1.0)  # fmt: skip
    runs = []
    for method in ("mean", "var1", "lstm", "random", "fixed", "grow", "grow_fresh"):
        for seed in (0,) if method in ("mean", "var1") else (0, 1):
            for origin in (1996, 1997):
                config = RunConfig.of(toy | dict(method=method, seed=seed, origin=origin))
                runs.append({"tier": "smoke", **experiment.run(config)})
    return runs


def test_tables_hold_the_records_numbers(made):
    runs = records.table(made)
    summary = tables.summary(made)
    assert list(summary.index)[0] == "historical mean" and summary.loc["LSTM", "runs"] == 4
    assert float(summary.loc["LSTM", "test error"]) == pytest.approx(runs[runs.method == "lstm"].test.mean(), abs=1e-4)
    rivals = tables.rivals(made)
    assert (rivals.loc["historical mean", "of the mean's"] == 1).all() and "above the floor" not in rivals
    assert tables.budget(made).loc["LSTM", "training epochs"] == "at most 1 x 2"
    assert tables.provenance(made).loc["runs", ""] == str(len(made))
    found = tables.differences(compare_all(made, runs, "mean"))
    assert set(found["told from chance"]) <= {"better", "worse", "no"} and len(found) == 6
    assert list(tables.discretising(made).index) == ["fixed backbone", "growing (morphism)", "growing (fresh weights)"]
    grown = next(r for r in made if r["config"]["method"] == "grow" and any(
        e["kind"] == "grow_node" for e in r["search"]["events"]))
    events = tables.events(grown)
    assert "grow node" in set(events.event) and (events["GFLOP spent"] >= 0).all()


def test_figures_draw_and_leave_nothing_empty(made):
    runs = records.table(made)
    grown = next(r for r in made if r["config"]["method"] == "grow" and len(r["search"]["stage_errors"]) > 1)
    _, ax = plt.subplots()
    figures.loss_curves(ax, grown)
    assert {"training", "validation", "grow"} <= {t.get_text() for t in ax.get_legend().get_texts()}
    drawn = [figures.mixture_weights(grown), figures.forecasts(grown, [[0.0] * 4] * 60),
             report_figures.every_seed(runs), report_figures.cost_and_quality(runs),
             report_figures.country_skill(made, ["grow", "lstm"]),
             report_figures.forest([("mean", compare_all(made, runs, "mean"))]),
             report_figures.what_was_grown(made, ["grow", "random"])]
    for figure in drawn:
        assert all(ax.has_data() for ax in figure.axes)
    plt.close("all")
    dots = report_figures.every_seed(runs).axes[0].lines
    assert sum(len(line.get_xdata()) for line in dots if line.get_linestyle() == "None") == 1 + 2 * 5


def test_cells_are_drawn_with_their_weights(made):
    svg = figures.search_cell([{"gate": 0.7, "carry": 0.3}, {"add_tanh": 1.0}])
    assert svg.count("<svg") == 1 and all(text in svg for text in ("gate", "0.70", "carry", "0.30", "add_tanh"))
    assert "hadamard" in figures.fixed_cell([["hadamard"]])
    grown = next(r for r in made if r["config"]["method"] == "grow")
    assert len(re.findall(r"stage \d", figures.growth(grown))) == len(grown["search"]["stage_errors"])
    assert figures.operation_counts([{"layers": [[["gate", "gate"], ["carry"]]]}]) == {"gate": 1, "carry": 1}


def difference(decided, method="grow", rival="lstm"):
    low, high = {-1: (-2.0, -1.0), 0: (-1.0, 1.0), 1: (1.0, 2.0)}[decided]
    return Difference(method, rival, *[Interval((low + high) / 2, low, high, 5)] * 2, statistic=1.0, p_value=1e-4)


def test_sentences_follow_the_numbers():
    better = verdicts.describe(difference(-1))
    assert better == ("growing (morphism) errs 1.50 % less than LSTM (95 % interval over years -2.00 to -1.00 %, over "
                      "seeds -2.00 to -1.00 %; Diebold-Mariano p < 0.001): told from chance")
    assert "more than" in verdicts.describe(difference(1)) and verdicts.describe(difference(0)).endswith("not told from chance")
    assert verdicts.anything_beats_the_mean([difference(0)]) == "Nothing beats the historical mean beyond chance."
    assert verdicts.anything_beats_the_mean([difference(-1, "gru"), difference(-1), difference(1, "var1")]) == (
        "Beyond chance, GRU and growing (morphism) beat the historical mean; VAR(1) is worse than it.")
    assert verdicts.listing([]) == "none" and verdicts.listing(["a", "b", "c"]) == "a, b and c"


@pytest.mark.parametrize("decided, c1, c4", [
    (-1, "supported", "supported"), (0, "not supported", "not supported"), (1, "contradicted", "contradicted")])
def test_verdicts_follow_the_differences(made, monkeypatch, decided, c1, c4):
    runs = records.table(made)
    monkeypatch.setattr(verdicts, "compare", lambda _, __, method, rival: difference(decided, method, rival))
    assert verdicts.claim_c1(made, runs)[0] == c1
    assert verdicts.claim_c4(made, runs)[0] == c4
    monkeypatch.setattr(verdicts, "cost_ratio", lambda _: Interval(0.5, 0.4, 0.6, 5))
    assert verdicts.claim_c3(made, runs)[0] == ("supported" if decided <= 0 else "not supported")
    monkeypatch.setattr(verdicts, "cost_ratio", lambda _: Interval(1.0, 0.9, 1.1, 5))
    assert verdicts.claim_c3(made, runs)[0] == "not supported"


def test_cost_ratio_is_the_geometric_mean(made):
    runs = records.table(made)
    flops = runs.set_index(["method", "seed", "origin"]).search_flops
    product = 1.0
    for seed in (0, 1):
        for origin in (1996, 1997):
            product *= flops["grow", seed, origin] / flops["fixed", seed, origin]
    assert verdicts.cost_ratio(runs).mean == pytest.approx(product ** (1 / 4))


def test_the_picture_of_the_first_page_is_that_of_the_records():
    """Words and numbers of the drawing; their places depend on the machine's fonts."""
    shown = (records.ROOT / "book" / "_static" / "growing_cell.svg").read_text()
    drawn = figures.growth(records.longest_search(records.load_tier("reduced", "g7_brics"), "grow"))
    texts = [re.findall(r">([^<>]+)</text>", svg) for svg in (shown, drawn)]
    assert len(texts[0]) > 20 and texts[0] == texts[1]
