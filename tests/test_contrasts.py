"""The rules of the protocol, on tables whose answer is known."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from growdarts_study.report import claims, contrasts, searches
from growdarts_study.report.comparison import Interval
from growdarts_study.report.whole_space import TaskSpace


def table(mean, between, within, tasks=8, seeds=12, seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(mean + between * random.standard_normal(tasks) + within * random.standard_normal((seeds, tasks)),
                        columns=[f"t{i}" for i in range(tasks)])


def test_the_interval_over_tasks_is_at_least_students():
    effects = table(-5, 4, 2)
    found = contrasts.contrast(effects)
    low, high = stats.t.interval(0.95, 7, effects.mean().mean(), stats.sem(effects.mean()))
    assert found.over.mean == pytest.approx(effects.mean().mean())
    assert found.over.low <= low + 1e-9 and found.over.high >= high - 1e-9 and found.over.n == 8


def test_noise_of_seeds_widens_the_interval_where_tasks_agree_by_chance():
    effects = table(0, 0, 1, tasks=3, seeds=4)
    effects = effects - effects.mean()  # all tasks have the mean 0, which seeds alone cannot promise
    assert contrasts.contrast(effects).over.high > 0.3


@pytest.mark.parametrize("mean, between, verdict", [
    (-10, 2, "supported"), (10, 2, "contradicted"), (0, 0.5, "no difference worth having"), (-4, 12, "undecided")])
def test_verdicts(mean, between, verdict):
    assert contrasts.contrast(table(mean, between, 0.5)).verdict() == verdict


def test_a_difference_below_the_margin_is_no_support():
    found = contrasts.contrast(table(-2.0, 0.3, 0.1))
    assert found.over.high < 0 and found.verdict() == "no difference worth having"


def test_a_corrected_p_value_can_take_support_away():
    found = contrasts.contrast(table(-10, 8, 0.5))
    assert found.p_value < 0.05 and found.verdict() == "supported" and found.verdict(0.06) == "undecided"


def test_blocks_that_move_together_widen_the_interval():
    random = np.random.default_rng(0)
    level = np.exp(random.normal(size=30))
    same = np.tile(level, (5, 1))
    crisis = np.where(level > np.quantile(level, 0.9), 2.0, 0.9)
    low, high = contrasts.block_interval(same * crisis, same)
    assert low < 100 * np.log((level * crisis).sum() / level.sum()) < high and high - low > 10
    assert np.allclose(contrasts.block_interval(same * 1.1, same), 100 * np.log(1.1))


def test_the_rule_errs_as_often_as_it_says_and_sees_large_effects():
    effects = table(0, 4, 2, tasks=10, seed=3)
    none, large = contrasts.simulate(effects, 0.0), contrasts.simulate(effects, -12.0)
    assert none.get("better", 0) + none.get("worse", 0) < 0.07
    assert large["better"] > 0.95


def test_within_a_task_a_seed_is_the_unit():
    effects = pd.DataFrame({"a": [-4.0, -5.0, -6.0, -5.0], "b": [0.1, -0.1, 0.2, -0.2], "c": [-30.0, 30.0, 10.0, -20.0]})
    found = contrasts.by_task(effects)
    assert list(found["outcome"]) == ["better", "equal within 2 %", "undecided"]
    assert found.loc["a", "p"] == pytest.approx(3 * stats.ttest_1samp(effects["a"], 0).pvalue)


def test_a_search_that_never_reaches_the_target_is_censored():
    row = pd.Series({"errors": [0.9, 0.5, 0.3], "spent": [10.0, 20.0, 30.0]})
    assert [searches.cost_until(row, target, 99.0) for target in (0.95, 0.5, 0.31, 0.2)] == [10.0, 20.0, 30.0, 99.0]


def record(task, seed, rows, group="main", operations=("add_tanh",), floor=0.5):
    return {"config": {"dataset": task, "seed": seed, "group": group, "operations": list(operations)}, "floor": floor,
            "closed_forms": {"mean": {"validation": 1.0, "test": 1.0}, "ridge": {"validation": 0.8, "test": 0.7}}, "rows": rows}


def trained(test, operations=("add_tanh",), flops=1.0, **more):
    return {"retrained": {"validation": test, "test": test, "flops": flops, "parameters": 9}, "search_flops": 2.0,
            "cell": {"space": "two_input", "layers": [[[name] for name in operations]]}, **more}


def test_records_become_rows():
    runs = searches.read([record("bilinear", 0, {"lstm": {"retrained": {"test": 0.75, "flops": 1.0, "parameters": 3}},
                                                 "grow_1": trained(0.6, ("carry", "hadamard"), one_shot={"test": 0.55})}),
                          record("bilinear", 0, {"grow_1": trained(0.7, one_shot={"test": 0.5})}, "elementary", ["mul_tanh"]),
                          record("santa_fe_laser", 0, {"lstm": {"retrained": {"test": None, "flops": 1.0, "parameters": 3}}}, floor=None)])
    assert runs.loc[("bilinear", 0, "lstm"), "share"] == 0.5
    assert runs.loc[("bilinear", 0, "grow_1"), "nodes"] == 1 and runs.loc[("bilinear", 0, "grow_1"), "flops"] == 3.0
    assert runs.loc[("bilinear", 0, "grow_1 (elementary)"), "retrained"] == 0.7
    assert runs.loc[("santa_fe_laser", 0, "lstm"), "retrained"] == 1.0  # diverged
    assert runs.loc[("santa_fe_laser", 0, "ridge"), "share"] == pytest.approx(1.0)
    assert searches.effects(runs, "grow_1", "lstm").loc[0, "bilinear"] == pytest.approx(100 * np.log(0.6 / 0.75))


def test_products_are_judged_against_cells_of_as_many_nodes():
    many = [record("bilinear", seed, {"grow_2": trained(0.6, ("hadamard", "add_tanh") if seed else ("add_tanh",))}) for seed in range(12)]
    found = searches.products(searches.read(many), ["bilinear"])
    chance = (11 * (1 - (7 / 8) ** 2) + 1 / 8) / 12
    assert found.verdict == "supported" and found.estimate.mean == pytest.approx(100 * (11 / 12 - chance))


def test_the_table_of_claims_has_every_claim_once_and_says_what_is_preliminary():
    verdicts = [searches.Verdict("C1", "error < LSTM", "supported", Interval(-9.0, -12.0, -6.0, 9), 3.0, 12),
                searches.Verdict("C4", "one-shot", "undecided", Interval(0.0, -5.0, 5.0, 3), 1.0, 12)]
    html = claims.claims_table(verdicts, {"C1": "page.html"}, {"C2": ("undecided", "one seed")})
    assert html.count("<tr>") == 1 + len(claims.CLAIMS) and html.count("so far") == 1
    assert "✓ supported<" in html and "error &lt; LSTM; 9 series, 12 seeds each" in html and '<a href="page.html">C1</a>' in html
    assert html.count("– not tested") == len(claims.CLAIMS) - 3


def test_the_plot_of_an_interval_is_to_scale():
    plot = claims.interval_plot(Interval(-10.0, -20.0, 0.0, 5), 3.0)
    (low, high), centre = re.search(r'class="range" x1="([\d.]+)" x2="([\d.]+)"', plot).groups(), re.search(r'cx="([\d.]+)"', plot)[1]
    assert float(high) == claims.WIDTH / 2 and float(centre) == pytest.approx((float(low) + float(high)) / 2, abs=0.1) and float(low) > 0


def test_weights_in_the_order_of_the_errors_have_tau_one():
    cells = pd.DataFrame({0: [0.1, 0.2, 0.3, 0.9]}, ["add_tanh", "gate", "add_relu", "add_tanh+gate"])
    rivals = pd.DataFrame({0: [1.0, 0.5]}, ["mean", "lstm"])
    space = TaskSpace("bilinear", cells, cells, rivals, rivals, pd.Series({0: 0.05}), "known")
    weights = [{"add_tanh": 0.6, "gate": 0.3, "add_relu": 0.1, "carry": 0.0}]
    found = [record("bilinear", seed, {"grow_1": trained(0.2, weights=w)}) for seed, w in enumerate([weights, [dict(
        zip(weights[0], reversed(weights[0].values())))]])]
    assert searches.rank_correlation(searches.read(found[:1]), [space])["bilinear"] == pytest.approx(1.0)
    assert searches.rank_correlation(searches.read(found[1:]), [space])["bilinear"] == pytest.approx(-1.0)
    regret = searches.regret(searches.read(found), [space], ["grow_1"])["grow_1"]
    assert regret.mean == pytest.approx(100 * np.log(0.2 / 0.1))


def test_a_claim_against_several_rivals_needs_all_of_them_and_one_worse_is_enough():
    def verdict(*means, p_values=None):
        found = [contrasts.contrast(table(mean, 1.0, 0.5, seed=i)) for i, mean in enumerate(means)]
        return searches._all_of("C1", "error", found, p_values or [one.p_value for one in found]).verdict

    assert verdict(-10, -12, -9) == "supported" and verdict(-10, -12, 9) == "contradicted" and verdict(-10, 0, -9) == "undecided"
    assert verdict(-10, -12, 9, p_values=[0.01, 0.01, 0.2]) == "undecided"
