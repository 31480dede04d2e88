"""What growing spends until a given validation loss: hand-made histories with hand-computed answers."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from growdarts_study.report import growing_cost
from growdarts_study.report.growing_cost import BOTH, FIXED, HALF


def searched(method, seed, losses, flops, *, start=1, origin=2019, pace=0.5):
    """A record of a search; an operation takes `pace` seconds."""
    history = [{"validation_error": loss, "flops_spent": spent, "seconds_spent": pace * spent}
               for loss, spent in zip(losses, flops, strict=True)]
    return {"config": {"method": method, "seed": seed, "initial_nodes": start, "origin": origin},
            "config_hash": f"{method}{seed}{start}{origin}", "search": {"history": history}}


@pytest.fixture
def groups():
    """Two seeds. Both reach 3 (after 2 against 20 operations) and 2 (after 4 against 10)."""
    return growing_cost.searches([
        searched("grow", 0, [5, 3, 4, 2], [1, 2, 3, 4]), searched("fixed", 0, [4, 3], [10, 20], pace=1),
        searched("grow", 1, [5, 4, 3, 2], [1, 2, 3, 4]), searched("fixed", 1, [2, 1], [10, 20], pace=1)])


def test_a_loss_is_reached_by_the_first_epoch_at_or_below_it(groups):
    (first, _) = groups[1]
    assert growing_cost.best_loss(first) == 2
    assert [growing_cost.spent_until(first, loss, "flops_spent") for loss in (6, 3, 2, 1)] == [1, 2, 4, math.inf]
    assert growing_cost.spent_until(first, 3, "seconds_spent") == 1.0
    spent, best = growing_cost.curve(first, "flops_spent")
    assert spent.tolist() == [1, 2, 3, 4] and best.tolist() == [5, 3, 3, 2]


def test_given_losses_are_those_that_both_or_a_share_of_all_reach(groups):
    pairs = list(zip(groups[1], groups[FIXED], strict=True))
    # best losses: growing 2 and 2, fixed 3 and 1; in order 1, 2, 2, 3
    assert growing_cost.given_losses(pairs) == {
        BOTH: [3, 2], "all runs reach": [3, 3], "three quarters reach": [2, 2], HALF: [2, 2]}
    assert growing_cost.given_losses(pairs[:1]) == {BOTH: [3]}
    swapped = [pair[::-1] for pair in pairs]
    assert growing_cost.given_losses(swapped) == growing_cost.given_losses(pairs)  # favours no side


def test_ratios_are_paired_by_seed_with_a_geometric_mean(groups):
    found = {c.given: c for c in growing_cost.compare(groups)}
    both = found[BOTH]
    assert both.losses == (2, 3) and both.reached == (2, 2) and both.n == 2
    assert both.ratio["flops_spent"].mean == pytest.approx(math.sqrt(2 / 20 * 4 / 10))
    assert both.ratio["seconds_spent"].mean == pytest.approx(math.sqrt(1 / 20 * 2 / 10))
    logs = np.log([0.1, 0.4])  # Student's t with 1 degree of freedom: 12.706 deviations over sqrt(2)
    high = math.exp(logs.mean() + 12.7062 * logs.std(ddof=1) / math.sqrt(2))
    assert both.ratio["flops_spent"].high == pytest.approx(high, rel=1e-3)
    half = found[HALF]  # seed 0's fixed search never comes to 2: seed 1 alone has a ratio, 4 / 10
    assert half.reached == (2, 1) and half.ratio["flops_spent"].n == 1
    assert half.ratio["flops_spent"].mean == pytest.approx(0.4)


def test_a_seed_is_averaged_over_its_test_years():
    groups = growing_cost.searches([searched(method, 0, [1], [spent], origin=year) for method, year, spent in (
        ("grow", 2018, 1), ("fixed", 2018, 2), ("grow", 2019, 8), ("fixed", 2019, 1))])
    (both, *_) = growing_cost.compare(groups)
    assert both.ratio["flops_spent"].n == 1 and both.ratio["flops_spent"].mean == pytest.approx(2)


def test_without_a_common_seed_there_is_no_ratio():
    groups = {1: [searched("grow", 0, [2], [1]), searched("grow", 1, [1], [1])],
              FIXED: [searched("fixed", 0, [3], [1]), searched("fixed", 1, [3], [1])]}
    found = {c.given: c for c in growing_cost.compare(groups)}
    assert found[HALF].reached == (2, 0) and found[HALF].ratio["flops_spent"] is None
    shown = growing_cost.table({"series": groups})
    assert shown[["reached by growing, fixed", "operations"]].iloc[-1].tolist() == ["2, 0 of 2", "-"]


def test_searches_are_grouped_by_start_once_each():
    twice = searched("grow", 0, [1], [1])
    groups = growing_cost.searches([
        twice, searched("grow_fresh", 0, [1], [1]), searched("grow", 0, [1], [1], start=2), twice,
        searched("grow", 0, [1], [1], start=3), searched("fixed", 0, [1], [1])])
    assert {start: len(group) for start, group in groups.items()} == {FIXED: 1, 1: 1, 2: 1}


def test_the_median_waits_for_most_searches_and_keeps_those_that_are_over():
    group = [searched("grow", 0, [4, 2], [1, 2]), searched("grow", 1, [3], [2]), searched("grow", 2, [5, 1], [3, 4])]
    spent, best = growing_cost.median_curve(group, "flops_spent")
    assert spent.tolist() == [2, 3, 4] and best.tolist() == [3, 3, 2]


def test_the_figure_shows_every_search_and_the_median(groups):
    one = {start: group[:1] for start, group in groups.items()}
    drawn = growing_cost.figure({"series": groups, "text": one})
    lines = [len(ax.lines) for ax in drawn.axes]
    assert lines == [6, 2]  # two searches and a median of each of two kinds; one search of each
    assert {text.get_text() for text in drawn.legends[0].get_texts()} == {"fixed backbone", "growing from 1 node"}
    assert len({line.get_linestyle() for line in drawn.axes[1].lines}) == 2
    plt.close(drawn)
