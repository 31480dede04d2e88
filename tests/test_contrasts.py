"""The rules of the protocol, on tables whose answer is known."""

import re
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT, TWO_INPUT
from growdarts_study.arms import DUPLICATION
from growdarts_study.report import ablations, claims, contrasts, ranks, searches
from growdarts_study.report.comparison import Interval, interval
from growdarts_study.report.whole_space import TaskSpace


def table(mean, between, within, tasks=8, seeds=12, seed=0):
    random = np.random.default_rng(seed)
    return pd.DataFrame(mean + between * random.standard_normal(tasks) + within * random.standard_normal((seeds, tasks)),
                        columns=[f"t{i}" for i in range(tasks)])


def test_the_interval_over_tasks_is_students_where_that_is_the_wider_one():
    effects = table(-5, 4, 2)
    found = contrasts.contrast(effects)
    means = effects.mean()
    assert (found.over.low, found.over.high) == pytest.approx(stats.t.interval(0.95, 7, means.mean(), stats.sem(means)))
    assert found.over.mean == pytest.approx(means.mean()) and found.over.n == 8


def test_noise_of_seeds_widens_the_interval_where_tasks_agree_by_chance():
    effects = table(0, 0, 1, tasks=3, seeds=4)
    effects = effects - effects.mean()  # all tasks have the mean 0, which seeds alone cannot promise
    over = contrasts.contrast(effects).over
    assert over.high > 0.3 and over.low < over.at_90().low < -0.2 and 0.2 < over.at_90().high < over.high
    drawn = np.random.default_rng(1).integers(3, size=(2000, 3))  # the same by a loop: tasks, then seeds within them
    means = [np.mean([np.random.default_rng(i).choice(effects.iloc[:, task], 4).mean() for i, task in enumerate(tasks, 3 * n)]) for n, tasks in enumerate(drawn)]
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx([over.low, over.high], rel=0.08)
    assert np.percentile(means, [5, 95]) == pytest.approx([over.at_90().low, over.at_90().high], rel=0.08)


def test_what_a_t_test_finds_goes_by_students_interval_also_where_the_bootstrap_is_wider():
    effects = table(0, 1, 6, tasks=9, seeds=4)
    found, own = contrasts.contrast(effects), interval(effects.mean())
    assert found.over.high - found.over.low > own.high - own.low
    assert (found.over.detectable(), found.p_value) == pytest.approx((own.detectable(), stats.ttest_1samp(effects.mean(), 0).pvalue))


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
    none, large = contrasts.simulate(effects, 0.0, 1), contrasts.simulate(effects, -12.0, 1, draws=100)
    assert none.get("better", 0) + none.get("worse", 0) < 0.07
    assert large["better"] > 0.95
    assert contrasts.simulate(effects, -4.0, 6, draws=100).get("better", 0) < contrasts.simulate(effects, -4.0, 1, draws=100)["better"]


def test_within_a_task_a_seed_is_the_unit():
    effects = pd.DataFrame({"a": [-4.0, -5.0, -6.0, -5.0], "b": [0.1, -0.1, 0.2, -0.2], "c": [-30.0, 30.0, 10.0, -20.0]})
    found = contrasts.by_task(effects)
    assert list(found["outcome"]) == ["better", "equal within 2 %", "undecided"]
    assert found.loc["a", "p"] == pytest.approx(3 * stats.ttest_1samp(effects["a"], 0).pvalue)


def test_a_search_that_never_reaches_the_target_is_censored():
    row = {"errors": [0.9, 0.5, 0.3], "spent": [10.0, 20.0, 30.0]}
    assert [searches.cost_until(row, target, 99.0) for target in (0.95, 0.5, 0.31, 0.2)] == [10.0, 20.0, 30.0, 99.0]
    assert searches.cost_until(row, 0.2, 25.0) == 30.0  # never less than it spent


def test_costs_are_ratios_until_the_target_of_the_pilots():
    def run(seed, group, grown, fixed):
        row = lambda errors: trained(0.5, errors=errors, spent=[10.0 * (i + 1) for i in range(len(errors))])  # noqa: E731
        return record("bilinear", seed, {"fixed_4": row(fixed)} | ({"grow_1": row(grown)} if grown else {}), group)

    pilots = searches.read([run(100, "pilot", None, [0.9, 0.5])])  # the mean's error is 1: the target is 0.505
    runs = searches.read([run(0, "main", [0.9, 0.8, 0.6, 0.4], [0.5, 0.4]), run(1, "main", [0.9, 0.8], [0.9, 0.6])])
    costs, ours, theirs = searches.costs_until_target(runs, pilots, "grow_1")
    assert list(costs["bilinear"]) == pytest.approx([100 * np.log(40 / 10), 0.0]) and (ours, theirs) == (0.5, 0.5)


def test_without_records_there_are_no_runs():
    assert searches.judged(searches.read([])) == []  # as in a job of a batch, which makes records and reads none


def test_all_sizes_together_cost_what_their_searches_spend():
    def run(task, seed, group="main", **errors):
        return record(task, seed, {arm: trained(0.5, errors=found, spent=[10.0 * (i + 1) for i in range(len(found))]) for arm, found in errors.items()}, group)

    sizes = {"fixed_1": [0.9], "fixed_2": [0.9, 0.4], "fixed_4": [0.5, 0.4], "fixed_8": [0.9, 0.8, 0.7], "grow_1": [0.4]}
    pilots = searches.read([run(task, 100, "pilot", fixed_4=[0.5]) for task in ("bilinear", "setar")])
    found = searches.target_table(searches.read([run(task, 0, **sizes) for task in ("bilinear", "setar")]), pilots)
    assert found.loc["all four sizes, in full", "operations"].startswith("+700 %")  # 10 + 20 + 20 + 30 over 10
    assert found.loc["fixed backbone, 1 node", "operations"].startswith("+300 %") and found.loc["fixed backbone, 1 node", "never reach it"] == "100%"
    assert found.loc["all four sizes, in full", "never reach it"] == "-" and found.loc["fixed backbone, 4 nodes", ["operations", "never reach it"]].tolist() == ["-", "0%"]
    assert found.loc["growing from 1 node", "operations"].startswith("+0 %") and "growing from 2 nodes" not in found.index
    assert found["growing from 1 against it"].str.split(" %").str[0].tolist() == ["-", "-75", "-50", "+0", "-75", "-88"]  # 10 over 40, the limit, 20, 10, 40 and 80
    more = run("setar", 1, fixed_1=[0.4], fixed_4=[0.4])  # growing did not run on it
    found = searches.target_table(searches.read([*(run(task, 0, **sizes) for task in ("bilinear", "setar")), more]), pilots)
    assert found.loc["fixed backbone, 1 node", "operations"].startswith("+183 %") and found.loc["fixed backbone, 1 node", "growing from 1 against it"].startswith("-75 %")


def test_a_closed_form_is_chosen_on_validation():
    def run(task, seed, ridge):
        return record(task, seed, {"grow_1": trained(0.7), "random": trained(0.35), "lstm": trained(1.4)}) | {
            "closed_forms": {"mean": {"validation": 1.0, "test": 1.0}, "ridge": {"validation": ridge, "test": 0.7}, "har": {"validation": 0.9, "test": 0.1}}}

    runs = searches.read([run(task, seed, 0.8) for task in ("bilinear", "garch") for seed in range(3)] + [run("setar", 0, 2.0)])
    found = searches.closed_table(runs)
    assert list(found.index) == ["bilinear", "setar"] and list(found["closed form"]) == ["ridge on lags", "HAR"]
    assert [found.loc["bilinear", searches.NAMES[arm]] for arm in ("grow_1", "random", "lstm")] == [
        "+0.0 % (+0.0 to +0.0), equal within 2 %", "-50.0 % (-50.0 to -50.0), better", "+100.0 % (+100.0 to +100.0), worse"]


def test_arms_are_shown_as_searched_and_retrained_and_say_on_how_many_series():
    rows = lambda more: {"grow_1": trained(0.5, one_shot={"test": 0.25}), "lstm": {"retrained": {"test": 0.5, "validation": 0.5, "flops": 1.0, "parameters": 3}}, **more}  # noqa: E731
    runs = searches.read([record("bilinear", 0, rows({"grow_2": trained(1.0, one_shot={"test": 1.0})})), record("setar", 0, rows({})),
                          record("bilinear", 0, {"halving": trained(0.25, operations=["mul_tanh"])}, "elementary", ["mul_tanh"])])
    found = searches.arms_table(runs)
    assert found.loc["growing from 1 node", "as searched"].startswith("-50 %") and found.loc["growing from 1 node", "retrained"].startswith("+0 %")
    assert found.loc["growing from 2 nodes (1 series, 1 seeds)", "retrained"].startswith("+100 %") and found.loc["LSTM", "as searched"] == "-"
    assert found.loc["successive halving, same cost, elementary operations (1 series, 1 seeds)", ["as searched", "retrained"]].map(lambda text: text[:5]).tolist() == ["-", "-50 %"]


def test_log_ratios_are_read_as_percent():
    found = Interval(100 * np.log(0.5), 100 * np.log(0.25), 0.0, 3).percent()
    assert (found.mean, found.low, found.high) == pytest.approx((-50.0, -75.0, 0.0)) and found.text("+.0f") == "-50 % (-75 to +0)"


def test_seeds_on_one_series_must_agree_with_its_blocks_of_days():
    def run(seed, grown):
        rows = {"lstm": trained(1.0, blocks=None), "grow_1": trained(grown)}
        rows["lstm"]["retrained"]["blocks"], rows["grow_1"]["retrained"]["blocks"] = [1.0] * 8, [8 * grown - 7] + [1.0] * 7
        return record("santa_fe_laser", seed, rows, floor=None)

    runs = searches.read([run(seed, 0.9 + 0.001 * seed) for seed in range(6)])  # one lucky block makes all of the gain
    (row,) = searches.task_table(runs, "grow_1", "lstm").to_dict("records")
    assert row["outcome"] == "undecided" and row["error"].startswith("-9.")
    assert list(contrasts.by_task(searches.effects(runs, "grow_1", "lstm"))["outcome"]) == ["better"]


def test_errors_that_are_not_finite_count_as_the_mean():
    runs = searches.read([record("bilinear", 0, {"grow_1": trained(float("inf"), one_shot={"test": float("nan")})})])
    assert runs.loc[("bilinear", 0, "grow_1"), ["retrained", "one_shot"]].tolist() == [1.0, 1.0]


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
                          record("santa_fe_laser", 0, {"lstm": {"retrained": {"test": None, "flops": 1.0, "parameters": 3}}}, floor=None),
                          record("garch", 0, {"grow_1": trained(0.6)}, "controls")])
    assert runs.loc[("garch", 0, "mean"), "retrained"] == 1.0  # what a control is compared with
    assert runs.loc[("bilinear", 0, "lstm"), "share"] == 0.5
    assert runs.loc[("bilinear", 0, "grow_1"), "nodes"] == 1 and runs.loc[("bilinear", 0, "grow_1"), "flops"] == 3.0
    assert runs.loc[("bilinear", 0, "grow_1 (elementary)"), "retrained"] == 0.7
    assert runs.loc[("santa_fe_laser", 0, "lstm"), "retrained"] == 1.0  # diverged
    assert runs.loc[("santa_fe_laser", 0, "ridge"), "share"] == pytest.approx(1.0)
    assert searches.effects(runs, "grow_1", "lstm").loc[0, "bilinear"] == pytest.approx(100 * np.log(0.6 / 0.75))


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_the_chance_of_a_product_counts_the_cells_that_can_be_drawn(nodes):
    alive = [cell for cell in product(DEFAULT_TWO_INPUT, repeat=nodes) if any(TWO_INPUT[name].admits_input() for name in cell)]
    assert claims.chance_of_hadamard(nodes, DEFAULT_TWO_INPUT) == pytest.approx(np.mean(["hadamard" in cell for cell in alive]))


def test_products_are_judged_against_cells_of_as_many_nodes():
    many = [record("bilinear", seed, {"grow_2": trained(0.6, ("hadamard", "add_tanh") if seed else ("add_tanh",))},
                   operations=DEFAULT_TWO_INPUT) for seed in range(12)]
    found = claims.products(searches.read(many), ["bilinear"])
    assert found.verdict == "supported" and found.estimate.mean == pytest.approx(100 * (11 / 12 - 11 * (10 / 55) / 12))


def test_the_table_of_claims_has_every_claim_once_and_says_what_is_preliminary():
    verdicts = [claims.Verdict("C1", "error < LSTM", "supported", Interval(-9.0, -12.0, -6.0, 9), 3.0, 12),
                claims.Verdict("C4", "one-shot", "undecided", Interval(0.0, -5.0, 5.0, 3), 1.0, 12)]
    html = claims.claims_table(verdicts, {"C1": "page.html"})
    assert html.count("<tr>") == 1 + len(claims.CLAIMS) and html.count("so far") == 1
    assert "✓ supported<" in html and "error &lt; LSTM; 9 series, 12 seeds each" in html and '<a href="page.html">C1</a>' in html
    assert html.count("– not tested") == len(claims.CLAIMS) - 2


def test_the_table_of_verdicts_says_what_could_have_been_found():
    """Ten values with a deviation of 50: power is that of the noncentral t with 9 degrees of freedom."""
    half = 50 / np.sqrt(10) * stats.t.ppf(0.975, 9)
    table = claims.verdict_table([claims.Verdict(claim, "what", "undecided", Interval(0.0, -half, half, 10), 3.0, 12, unit="texts" * (claim == "C2"))
                                  for claim in ("C10", "C8", "C2")])
    assert list(table.index) == ["C2", "C8", "C10"] and table["detectable"].tolist() == ["-39 %", "+50 points", "-39 %"]
    assert table["estimate"].str.split(" \\(").str[0].tolist() == ["+0 %", "+0 points", "+0 %"]
    power = [stats.nct.sf(stats.t.ppf(0.975, 9), 9, effect / 50 * np.sqrt(10)) for effect in (50.0, -100 * np.log(0.61))]
    assert power == pytest.approx([0.8, 0.8], abs=0.01)
    assert table["on"].tolist() == ["10 texts", "10 series, 12 seeds each", "10 series, 12 seeds each"]


def test_the_plot_of_an_interval_is_to_scale():
    plot = claims.interval_plot(Interval(-10.0, -20.0, 0.0, 5), 3.0)
    (low, high), centre = re.search(r'class="range" x1="([\d.]+)" x2="([\d.]+)"', plot).groups(), re.search(r'cx="([\d.]+)"', plot)[1]
    assert float(high) == claims.WIDTH / 2 and float(centre) == pytest.approx((float(low) + float(high)) / 2, abs=0.1) and float(low) > 0


def test_a_remedy_is_chosen_on_three_series_by_validation_and_judged_on_the_others():
    """`long_1` is best but costs more than twice `grow_1`; `kept_2` is judged by the weights that it kept."""
    def rows(task, seed):
        tested = 0.9 if task in claims.CHOSEN_ON else 0.5 + 0.01 * seed
        return {"grow_1": trained(0.6), "grow_2": trained(0.55), "judged_1": trained(0.54), "judged_2": trained(0.58),
                "long_1": trained(0.3, flops=4.1), "kept_2": trained(0.7, kept={"validation": 0.5, "test": tested})}

    runs = searches.read([record(task, seed, rows(task, seed)) for task in (*claims.CHOSEN_ON, "setar", "santa_fe_laser", "nyc_weather")
                          for seed in range(4)])
    assert claims.chosen_remedy(runs) == "kept_2"
    (found,) = [one for one in claims.all_verdicts(runs, pd.DataFrame()) if one.claim == "C10"]
    assert found.estimate.n == 3 and found.estimate.mean == pytest.approx(100 * np.mean(np.log(np.arange(0.5, 0.535, 0.01) / 0.6)))
    assert found.preliminary()


def test_weights_in_the_order_of_the_errors_have_tau_one():
    cells = pd.DataFrame({0: [0.1, 0.2, 0.3, 0.9]}, ["add_tanh", "gate", "add_relu", "add_tanh+gate"])
    rivals = pd.DataFrame({0: [1.0, 0.5]}, ["mean", "lstm"])
    space = TaskSpace("bilinear", cells, cells, rivals, rivals, pd.Series({0: 0.05}), "known")
    weights = [{"add_tanh": 0.6, "gate": 0.3, "add_relu": 0.1, "carry": 0.0}]
    found = [record("bilinear", seed, {"grow_1": trained(0.2, weights=w)}) for seed, w in enumerate([weights, [dict(
        zip(weights[0], reversed(weights[0].values())))]])]
    assert ranks.rank_correlation(searches.read(found[:1]), [space])["bilinear"] == pytest.approx(1.0)
    assert ranks.rank_correlation(searches.read(found[1:]), [space])["bilinear"] == pytest.approx(-1.0)
    regret, rank = ranks.regret(searches.read(found), [space], ["grow_1"])["grow_1"]
    assert regret.mean == pytest.approx(100 * np.log(0.2 / 0.1)) and rank == [0.25]  # one of four cells is better


def test_the_order_of_searches_by_loss_is_compared_with_that_of_their_cells():
    def runs(*losses):
        rows = {arm: trained(test, errors=[1.0, loss]) for arm, test, loss in zip(("grow_1", "grow_2", "fixed_4"), (0.1, 0.2, 0.3), losses, strict=True)}
        return searches.read([record(task, 0, rows | {"lstm": trained(0.5)}) for task in ("bilinear", "setar", "garch")])

    assert ranks.order_by_loss(runs(0.4, 0.5, 0.6)).mean == 1 and ranks.order_by_loss(runs(0.6, 0.5, 0.4)).mean == -1
    assert ranks.order_by_loss(runs(0.4, 0.6, 0.5)).mean == pytest.approx(1 / 3) and ranks.order_by_loss(runs(0.4, 0.5, 0.6)).n == 2
    failed = pd.concat([runs(0.4, 0.5, 0.6), searches.read([record("bilinear", 1, {"grow_1": {"diverged": "in epoch 3"}, "grow_2": trained(0.1, errors=[1.0])})])])
    assert ranks.order_by_loss(failed).mean == 1  # one search is no order


def test_the_gap_of_a_stage_is_that_of_the_derived_cell_over_the_mixture():
    def run(task, seed, judged):  # the mixture's least errors are 0.4 in the first stage and 0.3 in the second
        def stages(found, errors):
            return trained(0.5, stage_errors=found, errors=errors, grown=[2] * (len(found) > 1), epochs=len(errors))

        return record(task, seed, {"judged_1": stages(judged, [0.9, 0.4, 0.5, 0.3, 0.35][:2 if len(judged) == 1 else 5]), "judged_2": stages([0.6], [0.4])})

    one, two = searches.NAMES["judged_1"], searches.NAMES["judged_2"]
    runs = searches.read([run("bilinear", 0, [0.8, 0.3]), run("bilinear", 1, [0.2]), run("setar", 0, [0.4, 0.6])])
    diverged = ranks.stage_gaps(searches.read([run("bilinear", 0, [None]), run("bilinear", 1, [1e9])]))  # counts as the mean, whose error is 1
    assert diverged.loc[one, "stage 1"].startswith("+150 %")
    gaps = ranks.stage_gaps(runs)
    assert gaps.loc[one, "stage 1"].startswith("+0 %") and gaps.loc[one, "stage 1"].endswith(", 3")
    assert gaps.loc[one, "stage 2"].startswith("+41 %") and gaps.loc[one, "stage 2"].endswith(", 2")
    assert gaps.loc[two, "stage 1"].startswith("+50 %")
    assert list(gaps.loc[two, ["stage 2", "stage 3"]]) == ["-", "-"] and gaps.loc[one, "stage 3"] == "-"


def test_a_claim_against_several_rivals_needs_all_of_them_and_one_worse_is_enough():
    def verdict(*means, p_values=None):
        found = [contrasts.contrast(table(mean, 1.0, 0.5, seed=i)) for i, mean in enumerate(means)]
        made = claims.of_all("C1", claims.PRIMARY["C1"], found, p_values or [one.p_value for one in found])
        assert made.estimate.mean == pytest.approx(max(one.over.mean for one in found))  # the least favourable is shown
        return made.verdict

    assert verdict(-10, -12, -9) == "supported" and verdict(-10, -12, 9) == "contradicted" and verdict(-10, 0, -9) == "undecided"
    assert verdict(-10, -12, 9, p_values=[0.01, 0.01, 0.2]) == "undecided"


def test_copies_are_judged_by_the_searched_network_against_the_wider_cell():
    def row(one_shot, retrained, flops, keys):
        return trained(retrained, one_shot={"test": one_shot}, network_flops=flops, weights=[{key: 0.5 if key == "gate" else 0.25 for key in keys}])

    rows = {name: lambda e: row(0.5 * e, 0.5 * e, 8.0, ["gate", "carry"]) for name in DUPLICATION}
    rows["copy_splitting"] = lambda e: row(0.47 * e**1.1, 0.55 * e**1.1, 12.0, ["gate", "gate#2", "carry"])
    runs = searches.read([record(f"task{task}", seed, {name: make(1 + 0.1 * ((3 * seed + task) % 7 - 3) / 3) for name, make in rows.items()})
                          for task in range(6) for seed in range(12)]
                         + [record("without", 0, {"grow_2": trained(0.6)}, operations=DEFAULT_TWO_INPUT)])
    (found,) = [one for one in claims.all_verdicts(runs, pd.DataFrame()) if one.claim == "C5"]
    assert found.verdict == "supported" and not found.preliminary() and "one-shot" in found.what and found.margin == 2.0
    assert found.estimate.percent().mean == pytest.approx(-6.0, abs=0.2)
    table = searches.duplication_table(runs)
    assert table.loc["splitting", "one-shot error"].startswith("-6.") and table.loc["splitting", "retrained error"].startswith("+10.0")
    assert list(table.loc["splitting", ["size", "copies, weight"]]) == ["1.50", "1.0, 75%"] and table.loc["a wider cell", "copies, weight"] == "0.0, 0%"
    assert not set(DUPLICATION) & set(searches.searched(runs))


def test_longer_trainings_are_compared_on_the_same_tasks_and_seeds():
    def runs(effect, seeds):
        return pd.DataFrame([{"task": task, "seed": seed, "arm": arm, "retrained": np.exp(effect / 100) if arm == "grow_1" else 1.0}
                             for task in ("setar", "narma10") for seed in seeds for arm in ("grow_1", "random")]).set_index(["task", "seed", "arm"])

    table = searches.longer_table(pd.concat([runs(10, [0, 1]), runs(90, [2])]), runs(-5, [0, 1]))
    assert table.loc["growing from 1 node against random cells, same cost"].str.split(" ").str[0].tolist() == ["+11", "-5"]  # exp(0.1)
    assert table.loc["growing from 1 node against LSTM"].tolist() == ["-", "-"]


def test_parts_of_the_search_are_compared_with_what_they_change():
    def run(task, seed, pruned, whole, fresh, morphism):
        rows = {arm: trained(9.0, one_shot={"test": error}) for arm, error in (
            ("grow_2", pruned), ("prune_none", whole), ("forced_fresh", fresh), ("forced_morphism", morphism))}
        return record(task, seed, rows)

    tasks = ("bilinear", "setar", "narma10", "log_range", "henon_lattice")
    runs = searches.read([run(task, seed, 0.2, 0.1 + 0.001 * i, 0.30, 0.30) for i, task in enumerate(tasks) for seed in range(3)])
    changes = ablations.found(runs)
    assert [part.arm for part, _ in changes] == ["forced_fresh", "prune_none"]
    shown = ablations.table(changes)
    assert list(shown["outcome"]) == ["equal within 1 %", "better"] and shown.loc["no pruning", "changes by"].startswith("-49")
    assert list(shown["series"]) == [5, 5] and list(shown["seeds"]) == [3, 3] and set(shown["error"]) == {"as searched"}
    assert len(ablations.figure(changes).axes[0].get_yticklabels()) == 2
    plt.close()


def test_parts_of_another_group_are_compared_with_the_arm_of_their_own():
    def runs(splitting, more):
        return searches.read([record(task, seed, {arm: trained(9.0, one_shot={"test": error}) for arm, error in (("copy_splitting", splitting), (name, more))})
                              for task in ("bilinear", "setar") for seed in (0, 1) for name in ("copy_none" if more > 1 else "copy_random_more",)])

    changes = {part.arm: one.over.percent().mean for part, one in ablations.found(runs(1.0, 2.0), runs(0.5, 0.25))}
    assert changes == {"copy_splitting": pytest.approx(-50), "copy_random_more": pytest.approx(-50)}


def test_what_a_morphism_is_worth_one_epoch_later():
    def run(task, seed):
        return record(task, seed, {arm: trained(0.5, grown=[2, 4], errors=[0.9, 0.8, error, 0.1, 0.1]) for arm, error in (
            ("forced_morphism", 0.6 + 0.01 * seed), ("forced_fresh", 0.4 + 0.01 * seed))})

    found = ablations.epoch_later(searches.read([run(task, seed) for task in ("bilinear", "setar") for seed in (0, 1)]))
    assert found.n == 2 and found.mean == pytest.approx(50 * np.log(0.6 / 0.4) + 50 * np.log(0.61 / 0.41))


def test_parts_are_arms_of_the_protocol_each_changed_once():
    assert {part.arm for part in ablations.PARTS} | {part.base for part in ablations.PARTS} <= set(searches.NAMES)
    assert len({part.arm for part in ablations.PARTS}) == len(ablations.PARTS)


def test_a_switch_is_compared_with_its_first_value():
    def runs(test, flops):
        return searches.read([record("bilinear", seed, {"grow_2": trained(test, one_shot={"test": 0.5 * test}) | {"search_flops": flops}}) for seed in (0, 1)])

    shown = ablations.switch_table({"order = 1": runs(0.4, 1.0), "order = 2": runs(0.2, 3.0)})
    assert shown.loc["order = 1"].tolist() == ["grow_2", "+0.0", "+0.0", "1.00", "1.0"]
    assert shown.loc["order = 2"].tolist() == ["grow_2", "-50.0", "-50.0", "3.00", "1.0"]


def test_what_deriving_costs_is_told_of_arms_that_ran_on_some_series_only():
    row = trained(0.4, one_shot={"test": 0.2}, grown=[], epochs=3)
    runs = searches.read([record("bilinear", 0, {"grow_1": row, "graph_grow": row}), record("setar", 0, {"grow_1": row}), record("garch", 0, {"grow_1": row})])
    assert searches.gap(runs, "graph_grow").n == 1 and searches.gap(runs, "grow_1").n == 2
    shown = searches.growth_table(runs)["retrained against one-shot"]
    assert len(shown) == 2 and shown.str.startswith("+100").all()


def test_epochs_are_means_of_searches_that_ended():
    row = trained(0.4, one_shot={"test": 0.2}, grown=[], epochs=3)
    runs = searches.read([record("bilinear", 0, {"grow_1": row}), record("bilinear", 1, {"grow_1": {"diverged": "training diverged in epoch 3"}})])
    assert searches.growth_table(runs).loc["growing from 1 node", "epochs before"] == "3"
