"""Benchmarks measure the same function on both sides, at any size; tables and verdicts follow from their records."""

import json
from contextlib import nullcontext

import pytest
import torch
from reference_two_input import search_cell

from benchmarks import again, gpu, hours, sizes
from benchmarks.conftest import Measured
from benchmarks.floors import derived_floor, floor
from benchmarks.launches import launches
from benchmarks.process import main
from benchmarks.sizes import BASES, STEPS, TOY, TOY_VALUES, VALUES, sweeps
from benchmarks.splitting import selection_seconds
from benchmarks.steps import (lstm_step, reference_step, reference_weight_step, search_step, subject, two_input_nodes,
                              weight_step, weights_of)
from growdarts_study import grids, records
from growdarts_study.report import performance
from growdarts_study.report.performance import (DERIVED, GROWTH, LAUNCHES, MEMORY, SCALING, STEPS as STEP_COLUMNS, TARGETS, growth, load,
                                                scaling, step_figure, steps, table, targets)
from growdarts.bilevel import alpha_gradient
from growdarts.spaces.two_input.network import two_input_layers
from growdarts.bilevel import gradient
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts.settings import ConfigError
from growdarts_study.records import RecordError

SPACES = list(TOY)


# ---- what is measured --------------------------------------------------------------------------


def test_the_two_input_reference_is_the_cell():
    cell = two_input_layers(5, 1, 3, DEFAULT_TWO_INPUT).double()
    nodes = two_input_nodes(cell)
    x = torch.randn(6, 4, 5, dtype=torch.float64, requires_grad=True)
    h = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    ours, theirs = cell(x, (h,))[0], search_cell(nodes, x, h)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    logits = [logit for node in nodes for *_, logit in node]
    back = torch.randn_like(ours)
    shared = [x, h, *(p for c in cell.cells for p in c.theta_parameters())]
    found = torch.autograd.grad(ours, [*shared, *cell.alpha_parameters()], back)
    expected = torch.autograd.grad(theirs, [*shared, *logits], back)
    for a, b in zip(found[:len(shared)], expected, strict=False):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.cat(found[len(shared):]), torch.stack(expected[len(shared):]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("space", SPACES)
def test_both_sides_compute_the_same(space):
    made = subject(TOY[space])
    task, batch = made.task("float32"), made.batch(True)
    value, gradients = gradient(made.network, task.loss, batch, made.network.theta_parameters())
    theirs = made.reference.loss(*batch[:2])
    torch.testing.assert_close(theirs.item(), value.item(), rtol=1e-5, atol=0)
    norm, expected = torch.nn.utils.get_total_norm, torch.autograd.grad(theirs, made.reference.theta)
    torch.testing.assert_close(norm(expected), norm(gradients), rtol=1e-4, atol=0)
    alpha = alpha_gradient(made.network, task.loss, None, made.batch(False), order=1, step=None, radius=0.01)
    expected = torch.autograd.grad(made.reference.loss(*made.batch(False)[:2]), made.reference.alpha)
    torch.testing.assert_close(norm(expected), norm(alpha), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("space", SPACES)
def test_both_sides_compute_the_same_derived_cell(space):
    made = subject(TOY[space])
    network, reference = made.fixed()
    batch, parameters = made.batch(True), weights_of(network)
    value, gradients = gradient(network, made.task("float32").loss, batch, parameters)
    theirs = reference.loss(*batch[:2])
    torch.testing.assert_close(theirs.item(), value.item(), rtol=1e-5, atol=0)
    expected = torch.autograd.grad(theirs, reference.theta)
    for found, wanted in zip(sorted(g.norm().item() for g in gradients), sorted(g.norm().item() for g in expected), strict=True):
        assert found == pytest.approx(wanted, rel=1e-3, abs=1e-6)
    before = [p.detach().clone() for p in reference.theta]
    reference_weight_step(reference, made)()
    assert any(not torch.equal(a, b) for a, b in zip(before, reference.theta, strict=True))


@pytest.mark.parametrize("space", SPACES)
def test_the_floor_of_a_derived_cell(space):
    """Of a pass with gradients by weights, inputs and outputs: three times the forward pass, but for what needs none."""
    made = subject(TOY[space])
    network, _ = made.fixed()
    found, size = derived_floor(made, network), made.size
    forward = network.flops() * size.batch * max(1, size.length)
    assert 3 * (0.75 if size.length else 0.5) * forward <= found.flops <= 3 * forward
    found.run()


@pytest.mark.parametrize("space", SPACES)
def test_every_step_runs(space):
    made = subject(TOY[space])
    before = [p.detach().clone() for p in made.network.theta_parameters()]
    runs = [make(made, order) for make in (search_step, reference_step) for order in (1, 2)]
    runs += [weight_step(made.network, made), weight_step(made.fixed()[0], made)]
    runs += [] if space == "convolutional" else [lstm_step(made), search_step(made, 1, "bfloat16")]
    for run in runs:
        run()
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before, made.network.theta_parameters(), strict=True))
    assert selection_seconds(made, 2)["sampled"] == 2


@pytest.mark.parametrize("space", SPACES)
def test_a_floor_counts_the_operations_of_a_pass_and_no_more(space):
    size = TOY[space]
    made = subject(size)
    forward = made.network.flops() * size.batch * max(1, size.length)
    found = {weights: floor(made, weights=weights) for weights in (False, True)}
    # what no gradient runs through (images, the first time step) is left out, and so is an image network's linear layer
    slack = 0.75 if size.length else 0.5
    assert 2 * slack * forward <= found[False].flops <= 2 * forward
    assert 3 * slack * forward <= found[True].flops <= 3 * forward
    for part in found.values():
        part.run()


def test_a_process_says_how_far_its_memory_rose():
    done = main({"size": TOY["two_input"].as_dict(), "what": "float32", "order": 1, "rounds": 2})
    assert done["peak_mib"] >= 0 and len(done["seconds"]) == 2 and done["forward_flops"] > 0


def test_sizes_are_those_that_the_targets_ask_about():
    assert {(s.space, s.width, s.batch) for s in STEPS} >= {
        ("recurrent", 128, 32), ("recurrent", 300, 64), ("two_input", 128, 32), ("two_input", 300, 64)}
    assert all(set(fields) == {"nodes", "width", "batch", "operations"} for fields in sweeps(BASES, VALUES).values())
    assert [size.nodes for size in sweeps(TOY, TOY_VALUES)["recurrent"]["nodes"]] == [1, 2]
    assert TOY["recurrent"].candidates()[0] == "none"  # in the order of the library


@pytest.mark.parametrize("minutes, ended, fails", [("10", "by itself", False), ("0", "time was up", True)])
def test_what_a_gpu_will_do_runs_on_a_cpu(minutes, ended, fails, monkeypatch):
    """Its tests skip themselves. What fails ends nothing of the rest, and is told."""
    written, measured = [], gpu.measured

    def out_of_memory(size, order, *rest):
        if order == 1:
            raise RuntimeError("CUDA out of memory")
        return measured(size, order, *rest)

    monkeypatch.setattr(gpu.records, "write", lambda record, file: written.append((record, file)))
    monkeypatch.setattr(gpu, "TOY", {"two_input": TOY["two_input"]})
    monkeypatch.setattr(gpu.files, "RETRIES", 0)
    if fails:
        monkeypatch.setattr(gpu, "tested", lambda: {"passed": False, "seconds": 1.0})
        monkeypatch.setattr(gpu, "measured", out_of_memory)
    with pytest.raises(SystemExit) if fails else nullcontext() as left:
        gpu.main(["--dry", "--minutes", minutes])
    (without, _), (record, file) = written  # before and after the search
    assert file.parts[-3:] == ("_build", "benchmarks", "gpu.json") and without["steps"] == record["steps"]
    assert [(case["order"], sorted(case["seconds"])) for case in record["steps"]] == [
        (order, ["captured", "eager", "lstm", "reference"]) for order in ((2,) if fails else (1, 2))]
    assert record["tests"]["passed"] != fails and len(record["failed"]) == 2 * fails
    assert not fails or "test_gpu.py" in str(left.value) and "order 1: CUDA out of memory" in str(left.value)
    search = record["search"]
    assert search["ended"] == ended and search["epochs"] == len(search["history"]) == (1 if minutes == "0" else 2)
    assert search["genotype"]["space"] == "darts_recurrent" and record["provenance"]["hardware"]["memory_gib"] > 0


def test_without_a_gpu_the_script_says_so():
    with pytest.raises(ConfigError, match="device = 'cuda': allowed are 'auto'"):
        gpu.main([])


def test_captured_steps_launch_less():
    """Every pass is one launch; what is left is optimisers and copies. Nothing waits for a number."""
    found = [launches(TOY["recurrent"], order) for order in (1, 2)]
    assert [counts["replays"] for counts in found] == [2, 5] and not any(counts["transfers"] for counts in found)
    assert all(counts["captured"] < counts["eager"] / 5 and counts["eager"] < counts["reference"] for counts in found)


@pytest.mark.parametrize("experiment, tier", [("language", "workstation"), ("language", "full"), ("images", "workstation"),
                                              ("images", "full")])
def test_hours_of_the_grids_are_the_computed_ones(experiment, tier):
    assert grids.tier_of(experiment, tier)["gpu_hours"] == pytest.approx(hours.hours(experiment, tier), rel=0.15)


def test_every_tier_of_a_gpu_says_how_long_it_takes():
    for tiers in grids.read().values():
        assert all("gpu_hours" in tier for tier in tiers.values() if tier["parameters"].get("device") == "cuda")
    # by hand, of the numbers that the record has: 362 kernels launched, the others of 26,327 replayed
    assert hours.search_step(sizes.recurrent(300, 256), 1) == pytest.approx(362 * 8e-6 + 25_965 * 3e-6)


# ---- records -----------------------------------------------------------------------------------


def hand_made(**changes):
    """A record in which every target is met by far, but for `changes` of its cases' ratios to the reference."""
    ratios = {"float32": 0.1, "bfloat16": 0.05, "floor": 0.08, "share": 0.25, "eigenpairs": 1.0, "mib": 900.0,
              "batches": 0.001, "derived": 0.1} | changes
    cases, grown = [], []
    for size in STEPS:
        for order in (1, 2):
            seconds = {"reference": [10.0, 11.0, 90.0]}  # of which the median is 11
            seconds |= {name: [11 * ratios[name]] * 3 for name in ("float32", "floor")}
            if size.length:
                seconds |= {"lstm": [0.5] * 3}
                if ratios["bfloat16"]:
                    seconds |= {"bfloat16": [11 * ratios["bfloat16"]] * 3}
            cases.append({"size": size.as_dict(), "order": order, "seconds": seconds, "floor_flops": 1,
                          "peak_mib": {"reference": 1000.0, "float32": 1000.0 * ratios["share"]}})
        grown.append({"size": size.as_dict(), "seconds": {"mixed": [0.5] * 3, "derived": [ratios["derived"]] * 3,
                                                        "reference": [0.2] * 3, "floor": [0.05] * 3},
                      "grow_node": [0.01], "batches": [ratios["batches"]] * 3,
                      "selection": {"traces": 2.0, "eigenpairs": ratios["eigenpairs"], "places": 100, "sampled": 5,
                                    "peak_mib": ratios["mib"]}})
    return {"steps": cases, "growth": grown, "provenance": {}}


def test_every_target_is_met_where_the_numbers_say_so():
    record = hand_made()
    found = steps(record)
    assert found.speedup.round(6).eq(10).all() and found.floors.round(6).eq(1.25).all() and found.share.eq(0.25).all()
    assert growth(record).selection.eq(2 + 20).all()
    assert list(targets(record).met) == ["yes"] * len(TARGETS)


@pytest.mark.parametrize("changes, missed", [
    ({"float32": 1.25}, 6),  # four speeds, "every step" and the floor
    ({"floor": 0.04}, 1), ({"share": 0.6}, 1), ({"bfloat16": 0.5}, 1), ({"eigenpairs": 1000.0}, 1),
    ({"mib": 3000.0}, 1), ({"batches": 0.1}, 1), ({"derived": 0.25}, 1)])
def test_a_missed_target_is_told(changes, missed):
    met = list(targets(hand_made(**changes)).met)
    assert met.count("no") == missed and met.count("yes") == len(TARGETS) - missed


def test_the_worst_case_decides():
    record = hand_made()
    (slow,) = [c for c in record["steps"] if c["order"] == 2 and c["size"]["width"] == 16]
    slow["seconds"]["float32"] = [7.0, 7.0, 0.1]
    row = targets(record).loc["convolutional, C >= 8: speed-up"]
    assert row.met == "no" and row.value == "1.57" and row.bound == ">= 2"
    assert row["where"] == "convolutional cells, C = 16, 8 cells, B = 16, order 2"


def test_what_was_not_measured_is_neither_met_nor_missed():
    record = hand_made(bfloat16=None)
    found = targets(record)
    assert list(found.index[found.met == "-"]) == ["recurrent, order 1, H = 300, B = 64, bfloat16: speed-up"]
    assert set(table(steps(record), STEP_COLUMNS)["bfloat16, s"]) == {"-"}


def test_tables_and_figure_show_the_spaces_that_are_asked_for():
    record = hand_made()
    for rows, columns in ((steps(record), STEP_COLUMNS), (steps(record), MEMORY), (growth(record), DERIVED), (growth(record), GROWTH)):
        assert len(table(rows, columns)) == len(rows)
        shown = table(rows, columns, ["recurrent"])
        assert all(name.startswith("recurrent: H = ") for name in shown.index) and shown.shape[1] <= 6  # and the index: seven
    assert "recurrent: H = 128, B = 32, order 1" in table(steps(record), MEMORY).index
    assert list(table(growth(record), GROWTH).iloc[0]) == ["0.2%", "0.01", "22", "100", "0.05", "900"]
    assert [len(step_figure(record, spaces).axes) for spaces in (SPACES, ["two_input"])] == [3, 1]


def test_scaling_is_told_as_factors_from_the_first_point_to_the_last():
    def points(seconds):
        return [{"value": n, "seconds": [s], "peak_mib": 10.0 * n, "forward_flops": 10**9 * n}
                for n, s in zip((1, 2, 4), seconds, strict=True)]

    record = {"sweeps": {"recurrent": {"nodes": points((1, 2, 4)), "width": points((1, 3, 9))}}}
    shown = table(scaling(record), SCALING)
    assert list(shown.index) == ["recurrent: nodes, 1 to 4", "recurrent: hidden units, 1 to 4"]
    assert list(shown.iloc[1]) == ["4.00", "9.00", "4.00", "20", "9", "40"]


def test_a_record_that_is_missing_or_damaged_is_one_clear_error(tmp_path):
    with pytest.raises(RecordError, match="make benchmark"):
        load("steps", tmp_path)
    (tmp_path / "steps.json").write_text('{"provenance": {}')
    with pytest.raises(RecordError, match="not a record"):
        load("steps", tmp_path)
    (tmp_path / "steps.json").write_text('{"provenance": {}, "steps": []}')
    with pytest.raises(RecordError, match="lacks growth"):
        load("steps", tmp_path)


def test_only_a_complete_run_is_written_and_can_be_read(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.conftest.TOY_RECORDS", tmp_path)
    measured, made = Measured(quick=True), hand_made()
    for size in measured.sizes:
        for order in (1, 2):
            assert not measured.contents()
            measured.add("steps", (size, order), **{k: made["steps"][0][k] for k in ("seconds", "peak_mib")})
        grown = made["growth"][0]
        measured.add("growth", size, **{k: grown[k] for k in ("seconds", "batches", "grow_node", "selection")})
    for size in measured.points():
        assert not measured.contents()
        measured.add("scaling", size, seconds=[1.0], peak_mib=1.0, forward_flops=1)
    assert [file.name for file in measured.write()] == ["steps.json", "scaling.json"]
    assert len(steps(load("steps", tmp_path))) == 6 and len(scaling(load("scaling", tmp_path))) == 3


def test_launches_are_counted_alone_and_shown_once_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.conftest.TOY_RECORDS", tmp_path)
    measured = Measured(quick=True)
    for size in measured.counted:
        assert not measured.contents()
        for order in (1, 2):
            measured.add("launches", (size, order), reference=9000, eager=800, captured=70, replays=2, transfers=0)
    assert [file.name for file in measured.write()] == ["launches.json"]
    shown = table(found := performance.launches(load("launches", tmp_path)), LAUNCHES)
    assert len(found) == 2 * len(SPACES) and len(Measured(quick=False).counted) == len(SPACES)  # of five sizes
    assert shown.index[0].endswith(": 2 nodes, 5 operations, 4 words, order 1")
    assert list(shown.iloc[0]) == ["9,000", "800", "70", "2", "0"]


def test_no_record_of_toy_size_is_kept():
    kept = records.RESULTS / "benchmarks"
    sizes = [case["size"] for file in kept.glob("steps.json") for case in json.loads(file.read_text())["steps"]]
    assert not sizes or {tuple(s.items()) for s in sizes} == {tuple(s.as_dict().items()) for s in STEPS}


def test_what_differs_between_two_records_is_counted():
    def record(**changes):
        return {"config": {"seed": 1}, "config_hash": "a", "cost": {"search_seconds": 1.0}, "result": {
            "test_error": 2.0, "validation_error": 1.0, "days": [1.0, 2.0], "genotype": {"layers": [[["gate"]]]}, **changes}}

    same = {"numbers": 4, "differing": 0, "test_percent": 0.0, "cells_differ": False}
    assert again.compare(record(), record() | {"cost": {"search_seconds": 9.0}, "config": {"seed": 2}}) == same
    assert again.compare(record(), record(days=[1.0, 2.0000001])) == same  # rounding
    assert again.compare(record(), record(days=[1.0, 2.1])) == same | {"differing": 1}
    assert again.compare(record(), record(test_error=2.5)) == same | {"differing": 1, "test_percent": 25.0}
    assert again.compare(record(), record(genotype={"layers": [[["carry"]]]})) == same | {"cells_differ": True}
    assert again.compare(record(), record(genotype=None))["cells_differ"]
    assert again.compare(record(), record(days=[1.0]))["cells_differ"]  # other events, other lengths


def test_records_to_make_again_are_drawn_by_the_seed():
    first, second = (again.drawn("time_series", "reduced", seed, 3) for seed in (0, 1))
    assert len({file for file, _ in first}) == 3 and first == again.drawn("time_series", "reduced", 0, 3) != second
    assert all(file.stem.endswith(run.hash()) for file, run in first)


def test_every_record_that_was_made_again_is_a_row(monkeypatch, tmp_path, capsys):
    (file, run), *_ = again.drawn("time_series", "reduced", 0, 1)
    stored = records.load_run(file, run)
    made = stored | {"result": stored["result"] | {"test_error": 1.5 * stored["result"]["test_error"]}}
    monkeypatch.setattr(again, "FILE", tmp_path / "again.json")
    monkeypatch.setattr(again.experiments, "run", lambda config, device: made if config == run else None)
    for _ in range(2):  # the second time the row is there
        monkeypatch.setattr("sys.argv", ["again", "time_series", "--number", "1"])
        again.main()
    (row,) = json.loads(again.FILE.read_text())["rows"]
    assert capsys.readouterr().out.splitlines() == [row["record"]] and row["record"].endswith(file.name)
    assert (row["test_percent"], row["differing"], row["cells_differ"]) == (50.0, 1, False)
    assert row["stored"] == row["again"] and row["stored"]["commit"] == stored["provenance"]["commit"]
