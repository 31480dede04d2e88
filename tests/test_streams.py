"""Forecasts day by day: nothing is known before its day, arms share all draws, a killed run goes on, and the floor is the floor."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from growdarts.settings import ConfigError, DataError
from growdarts_study.data.processes import STREAM, STREAMS
from growdarts_study.data.series import load_series, load_stream
from growdarts_study.experiments import streams
from growdarts.pruning import held_operations
from growdarts_study.experiments.recursive import PageHinkley, recursive_least_squares
from growdarts_study.grids import defaults
from growdarts_study.report import streams as report
from growdarts_study.stream_settings import NETWORKS, STREAM_ARMS, StreamRun

CPU = torch.device("cpu")


def config(**changes):
    values = {name: value for name, value in defaults("streams").items() if name in StreamRun.model_fields}
    return StreamRun.of({**values, "seed": 0, "dataset": "abrupt", "window": 3, "first": 200, "month": 20, **changes})


def short(settings, days, changed=None):
    """The first days of a stream, all of them other from day `changed` on."""
    values = load_stream(settings.dataset, settings.draw()).values[:days].copy()
    if changed is not None:
        values[changed:] = 5 - 3 * values[changed:]
    return streams.Stream.load(settings, values)


def forecasts(name, stream):
    if name == "linear":
        return streams.linear_arm(stream)
    return streams.network_arm(stream, NETWORKS[name], CPU)


# ---- the streams -------------------------------------------------------------------------------


def expected(name, t, y, before, u):
    """The conditional mean of day t, written anew."""
    first, second = 0.2 * y + 0.6 * y * u + 0.5 * u, 0.4 * u + (0.5 + 0.4 * y if before < 0 else -0.5 - 0.4 * y)
    third = -0.3 * y + 0.6 * before * u - 0.5 * u
    if name == "no_change" or t < 950:
        return first
    if name == "abrupt":
        return first if t < 1250 else second if t < 1950 else third
    if name == "gradual":
        return np.interp(t, [1050, 1850], [first, second])
    return second if (950 <= t < 1350 or 1750 <= t < 2150) else first


@pytest.mark.parametrize("name", STREAMS)
def test_who_knows_the_laws_reaches_the_floor_all_the_way(name):
    squared = []
    for seed in range(8):
        values = load_stream(name, seed).values
        assert values.shape == (STREAM, 2) and abs(values).max() < 15
        y, u = values.T
        squared.append([(y[t] - expected(name, t, y[t - 1], y[t - 2], u[t - 1])) ** 2 for t in range(2, STREAM)])
    parts = np.array(squared).mean(0)[48:].reshape(25, 100).mean(1)  # 800 days each: deviation 5 % of the floor
    np.testing.assert_allclose(parts, 0.04, rtol=0.2)
    assert np.mean(squared) == pytest.approx(0.04, rel=0.03)


def test_a_law_that_is_out_of_date_costs_much():
    y, u = load_stream("abrupt", 0).values.T
    old = [(y[t] - expected("no_change", t, y[t - 1], y[t - 2], u[t - 1])) ** 2 for t in range(1250, STREAM)]
    assert np.mean(old) > 10 * 0.04


@pytest.mark.parametrize("name", STREAMS)
def test_the_change_is_not_to_be_seen_in_the_spread(name):
    values = np.concatenate([load_stream(name, seed).values for seed in range(8)]).reshape(8, STREAM, 2)
    spread = values[:, :2500, 0].reshape(8, 5, 500).std((0, 2))
    assert spread.max() < 1.25 * spread.min()


def test_streams_are_drawn_anew_for_every_seed_and_start_alike():
    drawn = {(name, seed): load_stream(name, seed) for name in STREAMS for seed in (0, 1)}
    first = drawn["no_change", 0].values
    assert all(np.array_equal(drawn[name, 0].values[:950], first[:950]) for name in STREAMS)
    assert not any((drawn[name, 1].values[1:, 0] == drawn[name, 0].values[1:, 0]).any() for name in STREAMS)
    assert len({tuple(one.hashes.values()) for one in drawn.values()}) == len(drawn)
    assert drawn["recurring", 0].changes == (950, 1350, 1750, 2150)


def test_streams_are_no_series_and_the_real_one_has_one_draw():
    with pytest.raises(DataError, match="abrupt"):
        load_series("abrupt", 3)
    with pytest.raises(DataError, match="draw"):
        load_stream("log_range", 1)


# ---- estimates day by day ----------------------------------------------------------------------


def alarms(values, tolerance, threshold):
    """Page and Hinkley's test by its definition, all sums anew for every value."""
    found, start = [], 0
    for n in range(1, len(values) + 1):
        sums = [sum(values[j] - np.mean(values[start:j + 1]) - tolerance for j in range(start, i + 1)) for i in range(start, n)]
        least = min([0.0, *sums])
        if sums[-1] - least > threshold:
            began = max(i for i, total in enumerate([0.0, *sums]) if total == least)
            found.append((n - 1, n - start - began))
            start = n
    return found


def test_the_detector_does_what_its_definition_says():
    random = np.random.default_rng(0)
    values = np.concatenate([random.normal(size=60), random.normal(2, size=40), random.normal(0.5, size=60), random.normal(3, size=40)])
    detector, found = PageHinkley(0.5, 8.0), []
    for day, value in enumerate(values):
        if detector.alarm(value):
            found.append((day, detector.since))
    assert found == alarms(values, 0.5, 8.0) and len(found) >= 2
    assert 60 <= found[0][0] < 75 and abs(found[0][0] - found[0][1] + 1 - 60) <= 3  # it also says when the change began


def test_the_detector_is_quiet_where_nothing_rises():
    detector = PageHinkley(0.2, 8.0)
    assert not any(detector.alarm(value) for value in np.linspace(3, 0, 500))


@pytest.mark.parametrize("factor", [1.0, 0.95])
def test_recursive_least_squares_are_weighted_least_squares(factor):
    random = np.random.default_rng(0)
    x = random.normal(size=(80, 2))
    y = np.stack([x @ [1.0, -2.0] + 3, x @ [0.5, 0.0]], axis=1) + 0.1 * random.normal(size=(80, 2))
    found, _ = recursive_least_squares(x, y, factor)
    for day in (20, 79):
        design = np.column_stack([x, np.ones(80)])
        weights = factor ** np.arange(day - 1, -1, -1.0)
        gram = design[:day].T @ (weights[:, None] * design[:day]) + factor**day * np.eye(3) / 100  # what it starts from
        coefficients = np.linalg.solve(gram, design[:day].T @ (weights[:, None] * y[:day]))
        np.testing.assert_allclose(found[day], design[day] @ coefficients, rtol=1e-8)


# ---- the arms ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAM_ARMS)
def test_no_arm_looks_ahead(name):
    settings, changed = config(threshold=1.0), 273  # within a block, after months, growths and refits
    as_it_is, other = (forecasts(name, short(settings, 300, day)) for day in (None, changed))
    known = changed - settings.first + 1  # the forecast of the first other day is made without it
    assert torch.equal(as_it_is["forecasts"][:known], other["forecasts"][:known])
    assert torch.equal(as_it_is["errors"][:known - 1], other["errors"][:known - 1])
    assert not torch.equal(as_it_is["forecasts"][known + 20:], other["forecasts"][known + 20:])
    if name in ("refit", "refit_drift", "grow"):
        assert any(what != "drift" and day < changed for day, what in as_it_is["events"])


def test_windows_end_the_day_before():
    stream = short(config(), 300)
    values = load_stream("abrupt", 0).values[:300]
    z = (values - values[:200].mean(0)) / values[:200].std(0)
    np.testing.assert_allclose(stream.x[:, 250], z[247:250], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(stream.y[250], z[250, :1], rtol=1e-4)
    assert stream.floor == pytest.approx(0.04 / values[:200, 0].var())


def test_arms_share_all_draws_until_they_differ(monkeypatch):
    drawn = {}
    real = streams.theta_step

    def step(network, task, optimizer, batch, clip):
        drawn[name].append(batch[1].sum().item())
        return real(network, task, optimizer, batch, clip)

    monkeypatch.setattr(streams, "theta_step", step)
    found, stream = {}, short(config(prune="none", stall=100, threshold=1e9), 260)
    for name in ("grow", "fixed_1", "fixed_4", "frozen"):
        drawn[name] = []
        found[name] = forecasts(name, stream)
    assert found["grow"]["nodes"] == found["fixed_1"]["nodes"] == 1  # nothing was grown, so both are one
    assert torch.equal(found["grow"]["errors"], found["fixed_1"]["errors"]) and found["grow"]["flops"] == found["fixed_1"]["flops"]
    assert drawn["grow"] == drawn["fixed_1"] and drawn["frozen"] == []
    assert len(drawn["fixed_4"]) == 12 and set(drawn["fixed_4"]) <= set(drawn["grow"])  # the first step after every block
    assert torch.equal(found["frozen"]["errors"][:5], found["grow"]["errors"][:5])
    assert not torch.equal(found["frozen"]["errors"][5:], found["grow"]["errors"][5:])


def test_only_an_unpruned_cell_keeps_all_of_its_operations():
    stream = short(config(prune_below=0.124, keep_all_above=0.99, search_epochs=10), 240)
    held = {name: [len(node) for node in held_operations(streams.Learner(stream, NETWORKS[name], CPU).network).values()]
            for name in ("fixed_1", "whole_1")}
    assert held["fixed_1"][0] < 8 and held["whole_1"] == [8]


def test_steps_cost_what_they_are_allowed_to():
    settings = config(prune="none", stall=100, threshold=1e9)
    found = {name: forecasts(name, short(settings, 240)) for name in ("fixed_1", "fixed_4")}
    # a step of alpha and one of theta: 3 passes each over 8 windows of 3 days; H = 4, 2 features; 8 blocks of 5 days, each
    # forecast once. Rows of W and U: H of every operation, 2 H of gated_update, none of carry. Four steps of one node cost a
    # little more than one step of four nodes, by the head: so there are three and four in turn
    for nodes, steps in ((1, 4 * (3 + 4)), (4, 8)):
        window = 3 * nodes * 2 * 8 * 4 * (2 + 4) + 2 * 4
        assert found[f"fixed_{nodes}"]["flops"] == (8 * 5 + steps * 6 * 8) * window


def test_growing_follows_drift_and_stalls():
    found = forecasts("grow", short(config(threshold=1.0, stall=1, max_nodes=3), 400))
    events = found["events"]
    grown = [day for day, what in events if what.startswith("node")]
    assert found["nodes"] == 3 == found["started"] + len(grown)
    assert all([day, "drift"] in events or (day - 200) % 20 == 0 for day in grown)


def test_a_refit_on_drift_comes_a_month_later_and_again_when_the_memory_is_new():
    found = forecasts("refit_drift", short(config(threshold=4.0, memory=60), 500, 300))
    drifts = [day for day, what in found["events"] if what == "drift"]
    refits = [day for day, what in found["events"] if what == "refit"]
    assert 300 < drifts[0] < 330 and refits[0] == drifts[0] + 20
    if len(drifts) == 1:
        assert refits == [drifts[0] + 20, drifts[0] + 60]
    monthly = forecasts("refit", short(config(), 300))
    assert [day for day, what in monthly["events"] if what == "refit"] == [220, 240, 260, 280, 300]
    assert monthly["flops"] > found["flops"]


def test_a_run_keeps_blocks_of_errors_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    settings = config(arms=["frozen", "fixed_1", "linear"])
    stream = short(settings, 290)
    monkeypatch.setattr(streams.Stream, "load", classmethod(lambda kind, config: stream))
    whole, made = streams.run(settings, device=CPU), []
    assert len(whole["rows"]["frozen"]["blocks"]) == len(whole["mean"]) == 90 // streams.KEPT
    assert np.mean(whole["rows"]["frozen"]["blocks"]) == pytest.approx(whole["rows"]["frozen"]["error"], rel=1e-3)
    json.dumps(whole, allow_nan=False)
    real = streams.network_arm

    def arm(stream, kind, device):
        made.append(kind)
        if len(made) == 2:
            raise KeyboardInterrupt
        return real(stream, kind, device)

    monkeypatch.setattr(streams, "network_arm", arm)
    with pytest.raises(KeyboardInterrupt):
        streams.run(settings, device=CPU, checkpoints=tmp_path)
    stream.starts.clear()
    assert streams.run(settings, device=CPU, checkpoints=tmp_path)["rows"] == whole["rows"]
    assert made == [NETWORKS["frozen"], NETWORKS["fixed_1"], NETWORKS["fixed_1"]]
    (tmp_path / "rows.json").write_text(json.dumps({"data": {"abrupt": "other"}, "rows": {"frozen": "stale"}}))
    monkeypatch.undo()


@pytest.mark.parametrize("changes, message", [
    ({"arms": ["lstm"]}, "arms"), ({"arms": ["grow", "grow"]}, "twice"), ({"operations": ["add_tanh"]}, "add_identity"),
    ({"month": 21}, "month"), ({"days": 200}, "days"), ({"dataset": "bilinear"}, "dataset"), ({"threshold": 0.0}, "threshold")])
def test_bad_arms_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


# ---- the report --------------------------------------------------------------------------------


def record(seed, blocks, stream="abrupt", flops=1.0, refit_flops=10.0, **more):
    """A record whose arms have these errors, a mean a block; they forecast from day 600 on."""
    rows = {arm: {"error": float(np.mean(values)), "blocks": list(values), "flops": refit_flops if arm == "refit" else flops,
                  "first_flops": 1.0, "nodes": 2, "events": []} for arm, values in blocks.items()}
    return {"config": {"dataset": stream, "seed": seed, "first": 600, "month": 100}, "rows": rows, "floor": 0.1, "changes": [700],
            "mean": [1.0] * len(next(iter(blocks.values()))), "labels": None} | more


def runs_of(ratio_fixed, ratio_refit, spread=0.01, streams=report.JUDGED, **more):
    random = np.random.default_rng(0)
    return report.read(
        record(seed, {name: [0.5 * np.exp(factor + spread * random.normal())] * 20 for name, factor in
                      (("grow", 0.0), ("fixed_1", ratio_fixed), ("fixed_4", ratio_fixed + 0.1), ("refit", ratio_refit),
                       *((other, 0.3) for other in ("grow_fresh", "frozen", "refit_drift", "linear")))}
               | {name: [0.7] * 20 for name in ("whole_1", "whole_4")}, stream, **more)
        for stream in streams for seed in range(12))


@pytest.mark.parametrize("fixed, refit, cost, verdict", [
    (0.1, 0.0, 10.0, "supported"), (0.1, 0.0, 1.5, "undecided"), (0.1, -0.05, 10.0, "contradicted"), (-0.1, 0.0, 10.0, "contradicted"),
    (0.01, 0.0, 10.0, "undecided"), (0.1, -0.02, 10.0, "undecided")])
def test_verdicts_on_growing(fixed, refit, cost, verdict):
    found = report.c9(runs_of(fixed, refit, refit_flops=cost))
    assert found.verdict == verdict and found.seeds == 12 and not found.preliminary()
    assert found.estimate.mean == pytest.approx(-100 * fixed, abs=1)  # the less favourable of both
    assert found.estimate.low < -100 * fixed < found.estimate.high


def test_the_unit_is_a_seed():
    runs = runs_of(0.1, 0.0)
    one = report.over_seeds(runs, "grow", "fixed_1")
    means = report.effects(runs, "grow", "fixed_1").mean(axis=1)
    low, high = stats.t.interval(0.95, 11, means.mean(), stats.sem(means))
    assert one.over.n == 12 and one.over.high - one.over.low >= high - low - 1e-9
    assert report.c9(runs_of(0.1, 0.0, streams=report.JUDGED[:2])).preliminary()


def test_a_real_series_that_disagrees_takes_support_away():
    agreed = runs_of(0.1, 0.0)
    days = [f"2020-{month:02}-01" for month in range(1, 11)] * 2
    real = report.read(record(seed, {name: [error] * 20 for name, error in (
        ("grow", 0.6), ("fixed_1", 0.5), ("fixed_4", 0.7), ("refit", 0.6), ("frozen", 1.2))}, "log_range", floor=None, changes=[],
        labels=days) for seed in range(3))
    both = pd.concat([agreed, real]).sort_index()
    assert report.c9(both).verdict == "undecided" and report.c9(agreed).verdict == "supported"
    assert report.real_table(both).loc["growing", "all days"].startswith("-50 %")


def test_the_spring_of_2020_is_the_blocks_that_reach_into_it():
    days = ["2020-01-31", "2020-02-12", "2020-02-28", "2020-04-30", "2020-05-15"]
    errors = {"grow": [1.0, 0.5, 0.5, 0.5, 1.0], "frozen": [1.0] * 5}
    real = report.read([record(0, {name: [1.0] * 5 for name in errors}, "log_range", floor=None, changes=[], labels=days)])
    for name, blocks in errors.items():
        real.at[("log_range", 0, name), "blocks"] = blocks
    assert report.real_table(real).loc["growing", "spring of 2020"] == "-50 %"
    for entry in real["labels"]:
        entry[1] = "2020-02-20"  # then the first block ends the day before
    assert report.real_table(real).loc["growing", "spring of 2020"] == "-50 %"


def test_days_to_recover_are_counted_by_hand():
    # mean 1 and floor 0.1: back at 0.1 + 0.25 * 0.9 = 0.325. Days 600 to 800 in blocks of 10; the law changes on day 700
    before, after = [0.12] * 10, [1.0] * 4 + [0.2] * 6
    row = {"blocks": before + after, "mean": [1.0] * 20, "floor": 0.1, "changes": [700], "first": 600}
    # means of five blocks: with three of 1.0 it is 0.68, with one 0.36, with none 0.2, after nine blocks
    assert report.recovery(row) == [(90, True)]
    assert report.recovery(row | {"blocks": before + [1.0] * 10}) == [(100, False)]
    assert report.recovery(row | {"changes": [700, 750]}) == [(50, False), (50, True)]


def test_the_median_seed_is_not_moved_by_one_that_fails():
    runs = runs_of(0.1, 0.0)
    before = report.contrast_table(runs).loc["fixed, 1 node"]
    runs.loc[(slice(None), 3, "fixed_1"), "error"] *= 10
    after = report.contrast_table(runs).loc["fixed, 1 node"]
    ratios = (runs["error"].xs("grow", level="arm") / runs["error"].xs("fixed_1", level="arm")).unstack("stream")
    assert after["median"] == f"{100 * (np.exp(np.median(np.log(ratios).mean(axis=1))) - 1):+.0f} %"
    assert before["median"] in ("-10 %", "-9 %") and after["error"].startswith("-25 %")  # 0.1 and a twelfth of the logarithm of 10


def test_tables_and_picture_have_every_arm_and_stream():
    runs = runs_of(0.1, 0.0)
    assert list(report.arms_table(runs).index) == list(report.recovery_table(runs).index) == list(report.NAMES.values())
    dear = runs.assign(flops=runs["flops"].where(runs.index.get_level_values("stream") != "no_change", 1e9))  # not judged, so it does not count
    assert (report.arms_table(dear)["operations"] == report.arms_table(runs)["operations"]).all()
    assert report.arms_table(runs_of(0.1, 0.0, spread=0.0)).loc["growing", "abrupt"] == "5.00"  # 0.5 over the floor of 0.1
    assert report.contrast_table(runs).loc["fixed, 1 node", "outcome"] == "better"
    assert [ax.get_title() for ax in report.picture(runs).axes] == ["abrupt", "gradual", "recurring"]


def test_one_seed_decides_nothing():
    runs = runs_of(0.3, 0.3)
    one = runs[runs.index.get_level_values("seed") == 0]
    assert report.c9(one).verdict == "undecided" and report.c9(one).seeds == 1 and report.c9(one).preliminary()
    assert set(report.contrast_table(one)["outcome"]) == {"undecided"}


def test_equal_to_both_fixed_cells_is_no_difference_worth_having():
    runs = runs_of(0.0, 0.0)
    runs.loc[(slice(None), slice(None), "fixed_4"), "error"] *= np.exp(-0.1)
    assert report.c9(runs).verdict == "no difference worth having"
