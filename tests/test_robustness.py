"""What the contrasts would say otherwise, against counting by hand and against scipy's distributions."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_contrasts import record, trained
from test_whole_space_report import record as space_record

from growdarts_study.report import claims, contrasts, robustness, searches, whole_space

SERIES = ["bilinear", "setar", "narma10", "mackey_glass", "henon_lattice"]
MEANS = [3.0, -1.0, 4.0, 2.0, 12.0]


def made(rows, tasks=("bilinear",), seeds=1, group="main"):
    return searches.read([record(task, seed, rows(task, seed), group) for task in tasks for seed in range(seeds)])


def test_the_mean_without_each_task():
    table = pd.DataFrame([MEANS, MEANS], columns=SERIES)
    assert robustness.without_each(table) == pytest.approx((8 / 4, 21 / 4))


def test_tests_by_signs_and_ranks_agree_with_all_labellings():
    """Both p-values are shares of the 32 ways to give the five means a sign that are at least as extreme."""
    above, sign, wilcoxon = robustness.ranks(pd.DataFrame([MEANS], columns=SERIES))
    signs = np.array(list(product([-1, 1], repeat=5)))
    rank_sums = signs @ stats.rankdata(np.abs(MEANS))
    assert above == 4
    assert sign == pytest.approx(np.mean(np.abs(signs.sum(axis=1)) >= 3))
    assert wilcoxon == pytest.approx(np.mean(np.abs(rank_sums) >= abs(np.sign(MEANS) @ stats.rankdata(np.abs(MEANS)))))


def test_an_error_that_explodes_is_left_out():
    table = pd.DataFrame({"bilinear": [1.0, 2.0, -6000.0, 3.0], "setar": [3.0, 4.0, 8.0, 5.0]})
    exploded, of, without = robustness.without_exploded(table)
    assert (exploded, of) == (1, 8) and without.mean == pytest.approx((2.0 + 5.0) / 2)


def test_a_search_that_diverged_is_left_out():
    def rows(task, seed):
        return {"grow_2": trained(0.5, one_shot={"test": 0.2}), "prune_none": {"diverged": "training diverged"} if (task, seed) == ("setar", 1) else
                trained(0.5, one_shot={"test": 0.1})}

    runs = made(rows, ("bilinear", "setar"), seeds=2)
    without = robustness.without_diverged(runs, "grow_2", "prune_none", "one_shot")
    assert without.n == 2 and without.percent().mean == pytest.approx(100)
    assert robustness.failures(runs).to_dict("index") == {"no pruning": {"runs": 4, "diverged": 1, "exploded": 0}}


def test_an_arm_whose_error_explodes_is_listed_and_others_are_not():
    runs = made(lambda task, seed: {"grow_1": trained(0.5, one_shot={"test": 1e9 if seed else 0.1}), "lstm": trained(0.6),
                                      "gru": trained(1e9)}, seeds=2)
    assert robustness.failures(runs).to_dict("index") == {"growing from 1 node": {"runs": 2, "diverged": 0, "exploded": 1},
                                                          "GRU": {"runs": 2, "diverged": 0, "exploded": 2}}


def test_weights_are_kept_against_the_same_cell_from_scratch():
    """A training of kept weights that diverged is left out; no other arm is looked at."""
    def rows(task, seed):
        return {"kept_2": trained(0.5, one_shot={"test": 0.2}) | {"kept": {"test": None if (task, seed) == ("setar", 1) else 0.6}}, "grow_2": trained(9.0)}

    found = robustness.weights_kept(made(rows, ("bilinear", "setar"), seeds=2))
    assert found.n == 2 and found.percent().mean == pytest.approx(20)


def test_over_seeds_a_seed_without_all_tasks_is_left_out():
    table = pd.DataFrame({"bilinear": [1.0, 2.0, 6.0, 50.0], "setar": [3.0, 4.0, 8.0, np.nan]})
    found = robustness.over_seeds(table)
    assert found.n == 3 and found.mean == pytest.approx(4.0)
    assert found.high >= stats.t.interval(0.95, 2, 4.0, stats.sem([2.0, 3.0, 7.0]))[1] - 1e-9


def test_scatter_of_seeds_and_of_series_is_what_was_drawn():
    random = np.random.default_rng(1)
    noise, truth = random.normal(0, 30, (4, 4000)), random.normal(5, 20, 4000)
    noise[0, ::2] = np.nan  # half of the series have three seeds
    assert robustness.scatter(pd.DataFrame(noise + truth)) == pytest.approx((30, 20), rel=0.03)
    assert robustness.scatter(pd.DataFrame([[1.0, 2.0], [3.0, 1.0]])) == pytest.approx((np.sqrt(1.25), 0.0))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_draws_that_match_are_counted_on_two_cells(k):
    """Cells of half and of twice LSTM's error: the best of k draws is the worse one with probability 1 / 2^k."""
    (space,) = whole_space.read([space_record({"good": 0.25, "bad": 1.0})])

    def matching(shift):
        error = 0.5 * np.exp(np.log(2) * (2 / 2**k - 1) + shift)
        return robustness.matching_draws(made(lambda *_: {"lstm": trained(0.5), "grow_1": trained(error)}), [space])

    assert (matching(0.01), matching(-0.01)) == (k, k + 1)


def test_restarts_are_read_where_seeds_share_a_series():
    generated, real = space_record({"a": 0.5}), space_record({"a": 0.5}, "log_range", None)
    real["rivals"]["lstm"] = {"validation": [0.4, 0.2, 0.3, 0.5, 0.6], "test": [1.0, 0.5, 2.0, 1.0, 1.0]}
    found = robustness.restarts(whole_space.read([generated, real]))
    assert found == pytest.approx({"log_range": 100 * np.log(0.5)})  # the logarithms of 2 and 0.5 add up to nothing


def test_targets_reached_before_the_first_growth_are_counted():
    pilots = made(lambda *_: {"fixed_4": trained(0.5, errors=[0.9, 0.5])}, group="pilot")  # the target is 0.505

    def rows(_, seed):
        errors = [[0.9, 0.5, 0.4], [0.9, 0.8, 0.5], [0.9, 0.8, 0.7], [0.5, 0.4, 0.3]][seed]
        return {"grow_1": trained(0.5, errors=errors, grown=[[2], [2], [2], []][seed])}

    assert robustness.before_growth(made(rows, seeds=4), pilots) == (2, 3)


def test_nodes_that_are_given_back():
    cells, grown = [("gate",), ("gate", "carry"), ("gate",), ("gate",)], [[3], [3], [3, 6], []]
    runs = made(lambda _, seed: {"grow_1": trained(0.5, cells[seed], grown=grown[seed])}, seeds=4)
    assert robustness.given_back(runs) == pytest.approx(2 / 3)


def test_a_search_that_was_run_twice():
    def rows(_, seed):
        return {"grow_2": trained(0.5, ("gate",), one_shot={"test": 0.4}),
                "kept_2": trained(0.5, ("gate", "carry")[:1 + seed], one_shot={"test": [0.4, 0.1][seed]})}

    assert robustness.run_twice(made(rows, seeds=2)) == (1, 2, pytest.approx(4.0))
    diverged = {"diverged": "search diverged in epoch 3: loss = inf"}  # has no error of its own, and no cell
    assert robustness.run_twice(made(lambda task, seed: rows(task, 0) | ({"kept_2": diverged} if seed == 2 else {}), seeds=3)) == (2, 2, pytest.approx(1.0))


def test_the_share_of_the_larger_step():
    def rows(_, seed):
        found = {"lstm": trained(0.5), "grow_1": trained(0.5)}
        for arm, rate in zip(found, (0.02 if seed else 0.005, 0.005), strict=True):
            found[arm]["retrained"]["rate"] = rate
        return found

    runs = made(rows, seeds=4)
    assert [robustness.larger_step(runs, arm) for arm in ("lstm", "grow_1")] == [0.75, 0.0]


def test_primary_contrasts_are_corrected_for_those_to_come():
    random = np.random.default_rng(0)
    errors = {arm: dict(zip(SERIES, 0.5 * np.exp(shift + 0.02 * random.standard_normal(5)), strict=True))
              for arm, shift in (("grow_1", 0.05), ("lstm", 0.0), ("gru", 0.0), ("random", 0.0))}
    runs = made(lambda task, _: {arm: trained(own[task]) for arm, own in errors.items()}, SERIES, seeds=2)
    rows = claims.primary(runs)["C1"]
    raw = np.array([stats.ttest_1samp(np.log([errors["grow_1"][task] / errors[rival][task] for task in SERIES]), 0).pvalue
                    for (_, rival), *_ in rows])
    assert [one.p_value for _, one, _ in rows] == pytest.approx(raw)
    held, by_hand = 0.0, {}
    for place, i in enumerate(np.argsort(raw)):
        held = by_hand[i] = max(held, min(1.0, (8 - place) * raw[i]))
    assert [p for *_, p in rows] == pytest.approx([by_hand[i] for i in range(3)])
    assert isinstance(rows[0][1], contrasts.Contrast)
