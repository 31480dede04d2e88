"""Accuracies of several seeds and what growing gains."""

import numpy as np
import pytest
from scipy import stats

from growdarts_study.report import images


def record(method, seed, error):
    return {"config": {"method": method, "seed": seed}, "result": {"test_error": error}}


def test_gains_are_paired_by_seed():
    errors = {"grow": [0.30, 0.34, 0.32], "darts_v2": [0.31, 0.36, 0.36]}
    records = [record(method, seed, error) for method, own in errors.items() for seed, error in enumerate(own)]
    table = images.table(records)
    gains = 100 * (np.array(errors["darts_v2"]) - errors["grow"])
    low, high = stats.t.interval(0.95, 2, gains.mean(), stats.sem(gains))
    assert table.loc["DARTS V2 cell"].iloc[1] == f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"
    assert table.loc["growing (morphism)"].iloc[0].startswith("68.0 (") and table.loc["growing (morphism)"].iloc[1] == "-"
    assert table["seeds"].tolist() == ["3", "3"]


def test_one_seed_has_no_interval():
    table = images.table([record("grow", 0, 0.3), record("random", 0, 0.4)])
    assert table.loc["random cell"].tolist() == ["60.0 (-)", "+10.0 (-)", "-", "1"]
    assert images.accuracies([]).empty
    assert images.accuracies([record("grow", 3, 0.25)]).loc[3, "grow"] == pytest.approx(75)


def test_the_picture_has_the_best_first():
    figure = images.picture([record(method, seed, error) for method, error in (("grow", 0.4), ("random", 0.3)) for seed in range(3)])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["random cell", "growing (morphism)"]
    images.figures.plt.close(figure)
