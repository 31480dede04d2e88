"""Tables and figures say what made-up records hold."""

import re

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from growdarts import drawing
from growdarts_study import experiments, grids, records
from growdarts_study.report import figures, grown, tables
from growdarts_study.report.comparison import compare_all
from growdarts_study.config import TimeSeriesRun


@pytest.fixture(scope="module")
def made():
    """Two seeds of a few methods on two made-up years, from real runs at toy size."""
    from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT

    toy = dict(dataset="eu_stock_markets", window=2, batch_size=256, hidden=4, sizes=[3], n_layers=1,
               operations=list(DEFAULT_TWO_INPUT), initial_nodes=1, max_nodes=2, order=1, search_epochs=10, patience=1,
               min_gain=0.02, epsilon=1e-3, noise=0.1, prune="stage", prune_below=0.05, keep_all_above=0.5,
               tune_epochs=1, select_on="validation", train_epochs=2, learning_rate=0.03, weight_decay=1e-3,
               alpha_learning_rate=0.05, alpha_weight_decay=1e-3, grad_clip=1.0)  # fmt: skip
    runs = []
    for method in ("mean", "var1", "lstm", "random", "fixed", "grow", "grow_fresh"):
        for seed in (0,) if method in ("mean", "var1") else (0, 1):
            for origin in (1996, 1997):
                config = TimeSeriesRun.of(toy | dict(method=method, seed=seed, origin=origin))
                runs.append({"tier": "smoke", **experiments.run(config)})
    return runs


def test_tables_hold_the_records_numbers(made):
    runs = records.table(made)
    summary = tables.summary(made)
    assert list(summary.index)[0] == "historical mean" and summary.loc["LSTM", "runs (failed)"] == "4 (0)"
    assert float(summary.loc["LSTM", "test error"]) == pytest.approx(runs[runs.method == "lstm"].test.mean(), abs=1e-4)
    rivals = tables.rivals(made)
    assert (rivals.loc["historical mean", "of the mean's"] == 1).all() and "above the floor" not in rivals
    assert tables.provenance(made).loc["runs", ""] == str(len(made))
    found = tables.differences(compare_all(made, runs, "mean"))
    assert found["outcome"].tolist() == [one.outcome() for one in compare_all(made, runs, "mean")] and len(found) == 6
    grew = next(r for r in made if r["config"]["method"] == "grow" and any(
        e["kind"] == "grow_node" for e in r["search"]["events"]))
    events = tables.events(grew)
    assert "grow node" in set(events.event) and (events["GFLOP spent"] >= 0).all()
    shown = (rivals, events, summary, found, tables.grown(made, ["grow"]))
    assert max(table.shape[1] for table in shown) <= 6  # and the index: seven columns on a page


def test_figures_draw_and_leave_nothing_empty(made):
    runs = records.table(made)
    grown = next(r for r in made if r["config"]["method"] == "grow" and len(r["search"]["stage_errors"]) > 1)
    _, ax = plt.subplots()
    figures.loss_curves(ax, grown)
    assert {"training", "validation", "grow"} <= {t.get_text() for t in ax.get_legend().get_texts()}
    drawn = [figures.mixture_weights(grown), figures.forecasts(grown, [[0.0] * 4] * 60),
             figures.forest([("mean", compare_all(made, runs, "mean"))])]
    for figure in drawn:
        assert all(ax.has_data() for ax in figure.axes)
    plt.close("all")
    layered = experiments.run(TimeSeriesRun.of(grown["config"] | {"n_layers": 2}))
    axes = figures.mixture_weights(layered).axes
    assert [ax.get_title() for ax in axes][:2] == ["layer 1, node 1", "layer 1, node 2"] and len(axes) == 4
    assert sum(len(set(ax.lines[0].get_xdata())) for ax in axes[::2]) == 2 * layered["cost"]["search_epochs"]
    plt.close("all")


def test_p_values_have_three_digits():
    assert tables.p_text(0.0451) == "0.045" and tables.p_text(1e-4) == "< 0.001"


def test_what_growths_changed_and_what_was_kept(made):
    kept, broken = grown.growth_jumps(made, "grow"), grown.growth_jumps(made, "grow_fresh")
    assert any(abs(jump) > 0 for jump in kept)  # stored unrounded
    assert max(map(abs, kept)) < 0.1 < max(map(abs, broken))
    chains = [[["gate"]], [["gate"], ["carry"]], [["gate"], ["add_tanh"]]]
    derived = [{"config": {"method": "grow"}, "result": {"genotype": {"layers": [nodes]}}} for nodes in chains]
    assert grown.kept_nodes(derived, "grow") == (3, 2, 1)


def derived(method, *nodes):
    return {"config": {"method": method, "operations": ["carry", "gate", "hadamard", "add_tanh"]},
            "result": {"genotype": {"space": "two_input", "layers": [[[name] for name in nodes]]}}}


def test_the_table_of_cells_counts_effective_nodes_and_products():
    cells = [("grow", "gate"), ("grow", "carry", "gate"), ("grow", "gate", "hadamard"), ("fixed", "carry", "carry")]
    found = tables.grown([derived(*cell) for cell in cells], ["grow", "fixed"])
    assert list(found.loc["growing (morphism)"]) == [3, "1.7, 1.3", 2, 1, 1, "20.0 (25.0)"]
    assert list(found.loc["fixed backbone"]) == [1, "2.0, 0.0", 0, 1, 0, "0.0 (25.0)"]


def test_a_failed_run_leaves_no_mean(made):
    broken = [dict(r, result=r["result"] | {"test_error": 9.0}) if r["config"]["method"] == "random" and
              (r["config"]["seed"], r["config"]["origin"]) == (0, 1996) else r for r in made]
    row = tables.summary(broken).loc["random cell"]
    assert list(row[["runs (failed)", "test error", "against the mean, %"]]) == ["4 (1)", "-", "-"] and row["median run, %"] != "-"
    assert tables.summary(made)["runs (failed)"].str.endswith("(0)").all()


def test_a_method_stands_beside_its_number_and_leads_to_its_record():
    figure = figures.ranked([("lstm", 131.4, None, None), ("grow", 142.1, 140.0, 144.0)], "perplexity")
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == ["131.4", "142.1"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["LSTM", "growing (morphism)"]
    plt.close(figure)
    (name,) = tables.linked(pd.DataFrame({"error": [1]}, index=["LSTM"]), ["abc123"]).index
    assert 'href="../book/runs.html#abc123"' in name and ">LSTM<" in name
    linked = tables.linked(pd.DataFrame({"error": [1, 2]}, index=["random cell", "log_range*"]), "some/{}/")
    assert ["#some/random/" in linked.index[0], "#some/log_range/" in linked.index[1]] == [True, True]


def test_an_accuracy_has_wilsons_interval():
    """The example of Wilson's interval for 81 of 263 in Newcombe (1998): 0.2553 to 0.3662."""
    record = {"config": {"method": "lstm"}, "search": None, "cost": {"train_seconds": 1.0, "test_seconds": 0.1},
              "result": {"test_images": 263, "mistakes": list(range(263 - 81)), "parameters": 9, "genotype": None}}
    assert tables.accuracies([record]).loc["LSTM"].tolist() == ["30.8 (25.5 to 36.6)", "9", "-", "-", "-, 1, 0.1"]


def test_the_picture_of_the_first_page_is_that_of_the_records():
    """Words and numbers of the drawing; their places depend on the machine's fonts."""
    shown = (records.ROOT / "book" / "_static" / "growing_cell.svg").read_text()
    drawn = drawing.growth(records.longest_search(grids.load_records("time_series", "reduced"), "grow"))
    texts = [re.findall(r">([^<>]+)</text>", svg) for svg in (shown, drawn)]
    assert len(texts[0]) > 20 and texts[0] == texts[1]


def test_what_the_captions_say_of_most_searches_holds_for_the_records():
    """Index and README call the pictured cell an exception: most growing searches end with one node."""
    grown = records.table(grids.load_records("time_series", "reduced")).query("method == 'grow'")
    assert len(grown) == 50 and (grown.nodes == 1).mean() > 0.5


def test_what_the_language_page_says_of_its_cells_holds_for_the_records():
    """Those of the fixed backbone and of the growing search are one node besides those that only carry the state on."""
    found = {r["config"]["method"]: r["result"] for r in grids.load_records("language", "reduced", dataset="penn_treebank")}
    genotypes = {method: result["genotype"] for method, result in found.items()}
    fixed, grown = ([node for node in genotypes[method]["layers"][0] if node != ["carry"]] for method in ("fixed", "grow"))
    assert fixed == grown == [["gated_update"]] and genotypes["fixed"] != genotypes["grow"]
    assert found["grow"]["test_perplexity"] > 141.2  # of counting words, as the page has it
