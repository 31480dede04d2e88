"""The study of bfloat16 in a search: records that are found again and resumed, and the rule that decides."""

import matplotlib.pyplot as plt
import pytest
import yaml

from growdarts import checkpoints
from growdarts_study import grids, records
from growdarts_study.report import benchmark_results
from growdarts_study.studies import precision as precision_study
from growdarts_study.report.comparison import Interval
from growdarts.settings import ConfigError

TOY = {"dataset": "grammar", "search_tokens": 1500, "search_epochs": 2, "hidden": 6, "batch_size": 10, "learning_rate": 1.0}


def made(losses, *, flops=(2e12, 2e12), same=True):
    """Hand-made records: `losses` are pairs of float32's and bfloat16's, one a seed."""
    cells = [{"layers": [[["gate"]]]}, {"layers": [[["gate" if same else "carry"]]]}]
    return [{"config": {"seed": seed, "precision": precision},
             "result": {"validation_error": pair[i], "precision": precision, "genotype": cells[i]},
             "cost": {"search_flops": flops[i]}}
            for seed, pair in enumerate(losses) for i, precision in enumerate(precision_study.PRECISIONS)]


def test_a_search_becomes_a_record_that_is_found_again(tmp_path, monkeypatch):
    where = dict(changes=TOY, folder=tmp_path / "results", checkpoints=tmp_path / "states")
    monkeypatch.setattr(precision_study, "used_precision", lambda asked: asked)  # as on a processor with the units
    precision_study.main(["--seeds", "3"], **where)
    files = sorted((tmp_path / "results" / "precision" / "reduced" / "grammar").glob("*/*.json"))
    assert [file.parent.name for file in files] == ["bfloat16", "float32"]
    record = precision_study.run(3, "float32", **where)
    assert record == records.load(files[1]) and record["config"]["seed"] == 3
    assert record["result"]["validation_error"] == record["search"]["validation_error"] and not record["training"]
    assert record["cost"]["search_flops"] > 0 and record["result"]["genotype"]["space"] == "two_input"
    assert not list((tmp_path / "states").glob("*"))
    stamp = files[1].stat().st_mtime_ns
    precision_study.main(["--seeds", "3", "--precisions", "float32"], **where)
    assert files[1].stat().st_mtime_ns == stamp


def test_a_killed_search_goes_on_to_the_same_record(tmp_path, monkeypatch):
    where = dict(changes=TOY, folder=tmp_path / "results", checkpoints=tmp_path / "states")
    whole = precision_study.run(0, "float32", changes=TOY, folder=tmp_path / "whole", checkpoints=tmp_path / "other")
    save, saved = checkpoints.Checkpoint.save, []

    def save_and_die(self, state):
        save(self, state)
        saved.append(self.path)
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        precision_study.run(0, "float32", **where)
    monkeypatch.setattr(checkpoints.Checkpoint, "save", save)
    assert saved[0].exists()
    assert records.without_timing(precision_study.run(0, "float32", **where)) == records.without_timing(whole)


def test_a_processor_without_the_units_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(precision_study, "used_precision", lambda asked: "float32")
    with pytest.raises(ConfigError, match="'precision' = 'bfloat16': this processor has no units for it"):
        precision_study.run(0, "bfloat16", changes=TOY, folder=tmp_path, checkpoints=tmp_path)
    with pytest.raises(SystemExit, match="1 searches failed:\nseed 0, bfloat16: ConfigError"):
        precision_study.main(["--seeds", "0"], changes=TOY, folder=tmp_path, checkpoints=tmp_path)
    assert precision_study.path(precision_study.study_run(0, "float32", TOY), tmp_path).exists()


def test_the_base_is_the_reduced_tier_whatever_is_trained_later():
    tier = yaml.safe_load(grids.GRIDS.read_text())["language"]["reduced"]["parameters"]
    config = precision_study.study_run(1, "bfloat16").model_dump()
    assert config["method"] == "grow" and config["seed"] == 1 and config["precision"] == "bfloat16"
    assert all(config[name] == value for name, value in tier.items()
               if name not in precision_study.UNUSED and name != "precision")
    assert precision_study.study_run(0, "float32", {"precision": "bfloat16"}).precision == "float32"


def test_pairs_hold_the_hand_computed_ratios():
    rows = precision_study.pairs(made([(5.0, 5.05), (4.0, 3.96)], flops=(2e12, 4e12), same=False))
    assert rows.difference.tolist() == pytest.approx([1.0, -1.0]) and rows.operations.tolist() == [2.0, 2.0]
    assert not rows.same_cell.any()
    loss = precision_study.loss_difference(made([(5.0, 5.05), (4.0, 3.96)]))
    assert loss.mean == pytest.approx(0, abs=1e-9)  # Student's t with 1 degree of freedom: 12.706 * sqrt(2) / sqrt(2)
    assert loss.high == pytest.approx(12.706, abs=1e-3)
    assert precision_study.table(made([(5.0, 5.05)])).loc[0].tolist() == ["5.000", "5.050", "+1.00", "yes", "1.00 x"]


def test_the_pace_is_that_of_a_step_at_the_sizes_of_the_tier():
    tier = precision_study.study_run(0, "float32")
    size = {"space": tier.space, "width": tier.hidden, "batch": tier.batch_size, "nodes": tier.max_nodes}
    cases = [{"size": size, "order": tier.order, "seconds": {"float32": [1.0, 2.0], "bfloat16": [0.5, 1.0]}},
             {"size": size, "order": 3 - tier.order, "seconds": {}},
             {"size": size | {"width": 2 * tier.hidden}, "order": tier.order, "seconds": {}}]
    found = precision_study.pace_ratio({"steps": cases})
    assert (found.mean, found.n) == (pytest.approx(0.5), 2) and found.low == pytest.approx(found.high)


@pytest.mark.parametrize("losses, pace, chosen, reason", [
    ([(5.0, 5.01), (5.0, 5.02), (5.0, 5.0)], 0.8, "bfloat16", "shown to be less than 1 % worse and the step"),
    ([(5.0, 5.20), (5.0, 5.21), (5.0, 5.2)], 0.8, "float32", "a loss that is 1 % worse is not excluded."),
    ([(5.0, 5.00), (5.0, 5.20), (5.0, 4.8)], 0.8, "float32", "a loss that is 1 % worse is not excluded."),
    ([(5.0, 5.01), (5.0, 5.02), (5.0, 5.0)], 1.1, "float32", "float32: it is not faster beyond chance."),
    ([(5.0, 4.00), (5.0, 4.02), (5.0, 4.0)], 0.8, "bfloat16", "a step takes 0.70 times the seconds"),
    ([(5.0, 5.20), (5.0, 5.21), (5.0, 5.2)], 1.1, "float32", "excluded and it is not faster beyond chance")])
def test_the_decision_needs_harmless_and_faster(losses, pace, chosen, reason):
    found, sentence = precision_study.decision(made(losses), Interval(0.7, 0.6, pace, 20))
    assert found == chosen and reason in sentence and f"computes in {chosen}" in sentence


def test_one_seed_decides_nothing():
    assert precision_study.decision(made([(5.0, 4.0)]), Interval(0.5, 0.4, 0.6, 20))[0] == "float32"


def test_the_figure_shows_every_seed():
    drawn = precision_study.figure(made([(5.0, 5.1), (4.0, 4.2)]))
    dots = [line.get_ydata()[0] for line in drawn.axes[0].lines if line.get_marker() in "os"]
    assert dots == [4.0, 4.2, 5.0, 5.1]  # by the loss in bfloat16
    plt.close(drawn)


def test_missing_records_are_named_with_what_makes_them(tmp_path):
    with pytest.raises(records.RecordError, match="10 of 10 records are missing.*`make precision` makes them"):
        precision_study.load(tmp_path)


def test_the_grid_computes_in_what_the_records_decide():
    tier = yaml.safe_load(grids.GRIDS.read_text())["language"]["reduced"]["parameters"]
    before = benchmark_results.load("steps", precision_study.BENCHMARK)
    chosen, _ = precision_study.decision(precision_study.load(), precision_study.pace_ratio(before))
    assert tier.get("precision", "float32") == chosen


def benchmark(commit, pace):
    tier = precision_study.study_run(0, "float32")
    size = {"space": tier.space, "width": tier.hidden, "batch": tier.batch_size, "nodes": tier.max_nodes}
    case = {"size": size, "order": tier.order, "seconds": {"float32": [1.0, 1.0], "bfloat16": [pace, pace + 1e-3]}}
    return {"steps": [case], "provenance": {"commit": commit, "hardware": {"processor": "some CPU"}}}


@pytest.mark.parametrize("pace, said", [(0.8, "choose bfloat16 again."), (1.2, "choose float32; the tier's runs have not been")])
def test_a_newer_benchmark_is_reported_beside_the_one_that_the_tier_goes_by(pace, said):
    found = made([(5.0, 5.01), (5.0, 5.02), (5.0, 5.0)])
    sentence = precision_study.reconsidered(found, benchmark("aaaaaaaaaa", 0.7), benchmark("bbbbbbbbbb", pace))
    assert said in sentence and "aaaaaaa on some CPU. By the newer one of commit bbbbbbb" in sentence and f"takes {pace:.2f}" in sentence
