"""Records of language modelling by characters -> effects, tables and the verdict on C2."""

import numpy as np
import pandas as pd
import pytest

from growdarts_study.report import language


def record(method, seed, nats, space="two_input", genotype=None, tokens=5 * language.WORDS, dataset=language.DATASET):
    return {"config": {"dataset": dataset, "space": space, "method": method, "seed": seed}, "cost": {"search_flops": 4e9},
            "result": {"test_error": nats, "tokens": {"test": tokens}, "train_flops": 6e9, "cell_parameters": 100, "hidden": 7, "genotype": genotype}}


def runs_of(effects):
    """Runs in which growing has so many percent (of the logarithm) over its rivals, seed by seed."""
    return language.read([record("grow", seed, 1.3) for seed in range(len(next(iter(effects.values()))))] + [
        record(rival, seed, 1.3 - effect / 500) for rival, of_seed in effects.items() for seed, effect in enumerate(of_seed)])


def test_an_effect_is_the_ratio_of_perplexities_a_word():
    runs = language.read([record("grow", 0, 1.31), record("lstm", 0, 1.30), record("lstm", 1, 1.0)])
    found = language.effects(runs, "grow", "lstm")
    assert found.index.tolist() == [0]  # paired
    assert found[0] == pytest.approx(100 * np.log(np.exp(1.31) ** 5 / np.exp(1.30) ** 5))  # five characters a word


def test_other_texts_stay_out_and_rows_have_names():
    cell = {"layers": [[["carry"], ["add_tanh"], ["gate", "carry"]]]}
    runs = language.read([record("grow", 0, np.log(4), genotype=cell), record("fixed", 0, 1.0, "darts_recurrent", {"recurrent": [["tanh", 0]] * 3}),
                          record("lstm", 0, 1.0, dataset="penn_treebank")])
    assert runs.index.tolist() == [(0, "graph_fixed"), (0, "grow")]
    assert runs.loc[(0, "grow"), ["bits", "nodes", "flops"]].tolist() == pytest.approx([2, 2, 1e10])
    assert runs.loc[(0, "graph_fixed"), "nodes"] == 3
    assert language.read([]).empty


def test_cells_and_their_bits():
    one, two = ({"layers": [[[name] for name in names]]} for names in (["gate"], ["add_tanh", "carry"]))
    table = language.cells_table(language.read([record("grow", 3, np.log(4), genotype=one), record("random", 3, np.log(2), genotype=two),
                                                record("grow", 5, np.log(2), genotype=two), record("lstm", 3, 1.0)]))
    assert table.loc[3].to_dict() == {"growing": "gate: 2.00", "random cells": "add_tanh, carry: 1.00"}
    assert table.loc[5].to_dict() == {"growing": "add_tanh, carry: 1.00", "random cells": "-"}


@pytest.mark.parametrize("lstm, gru, random, verdict", [
    (-5, -6, -4, "supported"), (-5, -6, 5, "contradicted"), (-5, -2, -4, "no difference worth having"), (0.3, -0.4, 0.5, "no difference worth having"),
    (-5, 0.3, -4, "no difference worth having"), (-5, -2.8, -4, "undecided")])
def test_verdicts(lstm, gru, random, verdict):
    noise = np.linspace(-1, 1, 12)
    found = language.c2(runs_of({"lstm": lstm + noise, "gru": gru + noise, "random": random + noise}))
    assert found.verdict == verdict
    assert found.estimate.mean == pytest.approx(max(lstm, gru, random)) and found.estimate.n == 12


def test_one_seed_says_nothing_and_chance_is_not_told():
    assert language.c2(runs_of({"lstm": [-9.0], "gru": [-9.0], "random": [-9.0]})).verdict == "undecided"
    wide = np.linspace(-40, 30, 12)
    assert language.c2(runs_of({"lstm": wide, "gru": wide, "random": wide})).verdict == "undecided"


def test_two_seeds_have_no_interval():
    runs = runs_of({rival: [4.0, 6.0] for rival in language.RIVALS})
    assert language.contrast_table(runs)["perplexity a word"].tolist() == ["+5.1 % (-)"] * 3
    assert language.contrast_table(runs)["80 % power finds"].tolist() == ["-"] * 3
    assert language.c2(runs).verdict == "undecided"
    assert language.contrast_table(runs_of({rival: [4.0, 6.0, 5.0] for rival in language.RIVALS}))["perplexity a word"].str.contains("to").all()


def test_the_effect_that_would_have_been_found_has_a_power_of_80_percent():
    from statsmodels.stats.power import TTestPower

    values = [4.0, 6.0, 5.0, 9.0, 1.0]
    needed = TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8) * np.std(values, ddof=1)
    (found,) = language.contrast_table(runs_of({"lstm": values}))["80 % power finds"]
    assert found == f"{100 * np.expm1(-needed / 100):+.0f} %"


def test_seeds_count_where_growing_has_all_rivals():
    assert language.paired(language.read([])) == 0
    assert language.paired(runs_of({"lstm": [1.0, 2.0], "gru": [1.0], "random": [1.0, 2.0]})) == 1
    assert language.paired(runs_of({"lstm": [1.0], "gru": [1.0]})) == 0


def test_it_is_so_far_until_every_rival_has_all_seeds():
    noise = np.linspace(-1, 1, 12)
    found = {"lstm": noise - 5, "gru": noise - 5, "random": noise - 4}
    assert not language.c2(runs_of(found)).preliminary()
    assert language.c2(runs_of(found | {"gru": noise[:11] - 5})).preliminary()


def test_tables():
    runs = runs_of({"lstm": [-4.0, -6.0], "gru": [-4.0, -6.0], "random": [0.0, 0.0], "kneser_ney": [1.0, 1.0]})
    table = language.contrast_table(runs)
    assert table.index.tolist() == ["random cells", "LSTM", "GRU", "Kneser-Ney, counts"]
    assert table.loc["LSTM", "perplexity a word"].startswith("-4.9 %")  # exp(-0.05)
    assert table["seeds"].tolist() == [2] * 4
    arms = language.arms_table(runs)
    assert arms.loc["growing", "operations"] == "1" and arms.loc["growing", "bits a character"].startswith(f"{1.3 / np.log(2):.3f}")
    axes = language.picture(runs).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == arms.index.tolist()
    assert [text.get_text() for text in axes.texts][0] == f"{1.3 / np.log(2):.2f}"  # of growing, the first row
    assert pd.isna(runs["nodes"]).all() and arms["effective nodes"].tolist() == ["-"] * 5
