"""Statistics against scipy, formulas written out and made-up records."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from growdarts_study.report.comparison import (Difference, Interval, compare_all, detectable, diebold_mariano, errors,
                                               holm, interval, outcome, relative_difference)


def test_interval_is_that_of_scipy():
    values = [1.0, 2.5, 3.0, 7.0]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    found = interval(values)
    assert (found.mean, found.low, found.high, found.n) == pytest.approx((3.375, low, high, 4))
    assert found.sign() == 0 and interval([1.0, 1.1, 1.2]).sign() == 1 and interval([-1.0, -1.1]).sign() == -1
    assert interval([2.0]).sign() == 0 and interval([2.0]).ends() == "-"
    assert Interval(0.0, -1.234, 5.0, 2).ends() == "-1.23 to +5.00" and Interval(1.0, 0.5, 2.0, 2).ends(".1f") == "0.5 to 2.0"


def test_p_value_is_that_of_scipy():
    for values in ([1.0, 2.5, 3.0, 7.0], [-0.3, 0.1], [-5.0, -5.1, -4.9, -5.05]):
        assert interval(values).p_value() == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-12)
    assert interval([0.0, 0.0, 0.0]).p_value() == 1.0 and interval([3.0]).p_value() == 1.0
    assert interval([3.0, 3.0]).p_value() == 0.0


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03, 0.005], [0.5, 0.5, 0.01], [1.0, 1.0, 0.3], [0.02], [0.4, 0.3, 0.03]])
def test_holm_is_that_of_statsmodels(p_values):
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], rel=1e-12)


def test_equality_is_two_one_sided_tests():
    """Values around 0.2: what the 90 % interval says is what the larger p-value of scipy's two tests says."""
    values = np.array([-0.3, 0.1, 0.2, 0.4, 0.6])
    low, high = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    found = interval(values)
    assert (found.at_90().low, found.at_90().high) == pytest.approx((low, high))
    for margin in (0.3, 0.5, 0.52, 0.6, 1.0):
        both = max(stats.ttest_1samp(values, -margin, alternative="greater").pvalue,
                   stats.ttest_1samp(values, margin, alternative="less").pvalue)
        assert found.within(margin) == (both < 0.05)


def test_what_could_be_found_is_found_with_a_power_of_80_percent():
    """The noncentral t distribution: n = 5 and n = 10 need 1.68 and 1.00 standard deviations."""
    for values in ([-0.3, 0.1, 0.2, 0.4, 0.6], range(10)):
        n, deviation = len(values), np.std(values, ddof=1)
        centre, limit = interval(values).detectable() / deviation * np.sqrt(n), stats.t.ppf(0.975, n - 1)
        assert stats.nct.sf(limit, n - 1, centre) + stats.nct.cdf(-limit, n - 1, centre) == pytest.approx(0.8, abs=1e-6)
    few, many = interval([-1.0, 1.0]), interval([0.9, 1.0, 1.1])
    assert detectable([few, many, interval([1.0])]) == few.detectable() > many.detectable()


def test_without_an_interval_nothing_is_decided():
    assert outcome([]) == outcome([interval([-50.0])]) == outcome([interval([-50.0])], told=-1) == "undecided"


@pytest.mark.parametrize("intervals, told, expected", [
    ([(0.0, 0.5), (0.1, 0.4)], None, "equal within 1 %"), ([(0.0, 1.3), (0.1, 0.4)], None, "undecided"),
    ([(0.0, 1.1), (0.0, 1.1)], None, "equal within 1 %"),  # those of 95 % are wider than the margin
    ([(-2.0, 0.9), (-2.0, 0.5)], None, "better"), ([(2.0, 0.9), (2.0, 0.5)], None, "worse"),
    ([(-2.0, 0.9), (-2.0, 2.5)], None, "undecided"), ([(-2.0, 0.9), (2.0, 0.5)], None, "undecided"),
    ([(-2.0, 0.9)], 0, "undecided"),  # days do not tell
    ([(-0.9, 0.8)], None, "undecided"),  # told from zero, but perhaps too small to matter
    ([(-0.5, 0.4)], None, "equal within 1 %")])  # told from zero, and too small to matter
def test_three_outcomes(intervals, told, expected):
    found = [Interval(mean, mean - half, mean + half, 10) for mean, half in intervals]
    assert outcome([*found, interval([5.0])], told=told) == expected  # a single value says nothing


def test_diebold_mariano_is_the_formula_written_out():
    rng = np.random.default_rng(0)
    a, b = rng.gamma(2, size=300), rng.gamma(2, size=300)
    d = a - b
    n, lags = len(d), 5  # 4 * 3 ** (2 / 9) = 5.1
    centred = d - d.mean()
    variance = centred @ centred / n
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * (centred[lag:] @ centred[:-lag]) / n
    statistic = d.mean() / np.sqrt(variance / (n - 1))
    found = diebold_mariano(a, b)
    assert found[0] == pytest.approx(statistic)
    assert found[1] == pytest.approx(2 * stats.t.sf(abs(statistic), n - 1))
    assert diebold_mariano(b, a)[0] == pytest.approx(-statistic)
    assert diebold_mariano(a, a) == (0.0, 1.0)


def test_diebold_mariano_holds_its_size_and_has_power():
    """Losses whose level is remembered from day to day, as volatility is: without lags it would reject too often."""
    rng = np.random.default_rng(1)
    shocks = rng.gamma(2, size=(400, 2, 500))
    loss = np.zeros((400, 2, 500))
    for day in range(1, 500):
        loss[..., day] = 0.4 * loss[..., day - 1] + shocks[..., day]
    loss = loss[..., 50:]
    equal = np.mean([diebold_mariano(a, b)[1] < 0.05 for a, b in loss])
    better = np.mean([diebold_mariano(a, b + 0.5)[1] < 0.05 for a, b in loss])
    without_lags = np.mean([stats.ttest_1samp(a - b, 0).pvalue < 0.05 for a, b in loss])
    assert equal < 0.09 < without_lags
    assert better > 0.9


def record(method, seed, origin, features):
    return {"config": {"method": method, "seed": seed, "origin": origin},
            "result": {"daily_errors": np.outer(np.linspace(0.9, 1.1, 30), features).tolist(), "features": ["A", "B"],
                       "feature_errors": features, "test_error": float(np.mean(features))}}


@pytest.fixture
def made_up():
    """`good` saves 10 % on A and nothing on B, in both years, with little noise between seeds."""
    records = [record("mean", 0, origin, [2.0, 1.0]) for origin in (2020, 2021)]
    records += [record("good", seed, origin, [1.8 + 0.01 * seed, 1.0]) for seed in range(3) for origin in (2020, 2021)]
    runs = pd.DataFrame([{**r["config"], "test": r["result"]["test_error"]} for r in records])
    return records, runs


def test_relative_difference_pairs_seeds_and_origins(made_up):
    _, runs = made_up
    assert errors(runs, "good").shape == (3, 2)
    difference = relative_difference(runs, "good", "mean")
    assert difference.loc[0, 2020] == pytest.approx(100 * (1.4 / 1.5 - 1))
    assert relative_difference(runs, "mean", "good").loc[2, 2021] == pytest.approx(100 * (1.5 / 1.41 - 1))
    with pytest.raises(ValueError, match="no run of method 'lstm': there are mean, good"):
        errors(runs, "lstm")


def test_compare_all(made_up):
    records, runs = made_up
    (difference,) = compare_all(records, runs, "mean")
    assert difference.over_origins.mean == pytest.approx(100 * (1.405 / 1.5 - 1))
    assert difference.over_seeds.n == 3 and difference.over_origins.n == 2
    (turned,) = compare_all(records, runs, "good")
    assert turned.method == "mean" and turned.over_origins.mean > 0 and turned.statistic == -difference.statistic


@pytest.mark.parametrize("origins, seeds, p, outcome", [
    ((-2, -1), (-3, -1), 0.01, "better"), ((1, 2), (1, 3), 0.01, "worse"), ((-2, -1), (-3, -1), 0.2, "undecided"),
    ((-0.6, -0.2), (-0.6, -0.2), 0.01, "equal within 1 %"), ((-2, 2), (-0.1, 0.1), 0.9, "undecided"),  # no wide interval is taken for equality
    ((-1.4, -0.2), (-1.4, -0.2), 0.01, "undecided")])  # told from chance, but too small to matter, and not shown to be equal
def test_an_outcome_needs_both_intervals_the_days_and_a_margin(origins, seeds, p, outcome):
    intervals = [Interval(sum(pair) / 2, *pair, 5) for pair in (origins, seeds)]
    assert Difference("a", "b", *intervals, statistic=1.0 if origins[0] > 0 else -1.0, p_value=p).outcome() == outcome


@pytest.mark.parametrize("origins, seeds, p, decided", [
    ((-2, -1), (-3, -1), 0.01, -1), ((1, 2), (1, 3), 0.01, 1), ((-2, 1), (-3, -1), 0.01, 0),
    ((-2, -1), (1, 2), 0.01, 0), ((-2, -1), (-3, -1), 0.2, 0)])
def test_a_difference_counts_only_if_everything_agrees(origins, seeds, p, decided):
    intervals = [Interval(sum(pair) / 2, *pair, 5) for pair in (origins, seeds)]
    sign = 1.0 if origins[0] > 0 else -1.0
    assert Difference("a", "b", *intervals, statistic=sign, p_value=p).decided() == decided
    assert Difference("a", "b", *intervals, statistic=-sign, p_value=p).decided() == 0  # days say the opposite
