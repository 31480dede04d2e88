"""The table of all runs against the files that it is made from, and how to cite against CITATION.cff."""

import json
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

from growdarts_study.records import RESULTS, RecordError
from growdarts_study.report import all_runs

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs():
    return all_runs.table()


def test_every_record_is_in_it_with_its_numbers(runs):
    files = [file for file in RESULTS.rglob("*.json") if "benchmarks" not in file.parts]
    assert set(runs.record) == {file.relative_to(RESULTS).as_posix() for file in files}
    for file in files:
        record, own = json.loads(file.read_text()), runs[runs.record == file.relative_to(RESULTS).as_posix()]
        if "cells" in record:
            cells = own[own.method.isin(record["cells"])]
            assert cells.test_error.sum() == pytest.approx(sum(error for cell in record["test"] for error in cell if error is not None))
            assert len(cells) == len(record["cells"]) * len(record["config"]["seeds"])
        elif "changes" in record:
            assert dict(zip(own.method, own.test_error, strict=True)) == {arm: row["error"] for arm, row in record["rows"].items()}
        elif "rows" in record:
            names = {"retrained": "", "one_shot": ", one-shot", "kept": ", kept"}
            expected = {arm + name: row[of]["test"] for arm, row in record["rows"].items() for of, name in names.items() if of in row}
            expected |= {arm: None for arm, row in record["rows"].items() if "diverged" in row}
            assert dict(zip(own.method, own.test_error.astype(object).where(own.test_error.notna(), None), strict=True)) == expected
            nodes = own[~own.method.str.contains(",")].set_index("method").nodes.dropna()
            cells = {arm: row["cell"] for arm, row in record["rows"].items() if "cell" in row}
            assert nodes.to_dict() == {arm: len(cell["layers"][0] if "layers" in cell else cell["recurrent"]) for arm, cell in cells.items()}
        elif "diverged" in record:
            (row,) = own.to_dict("records")
            assert (row["method"], row["seed"]) == (record["config"]["method"], record["config"]["seed"]) and pd.isna(row["test_error"])
        else:
            (row,) = own.to_dict("records")
            assert (row["test_error"], row["weights"], row["method"]) == (
                record["result"]["test_error"], record["result"]["parameters"], record["config"]["method"])
    assert not runs.duplicated(["experiment", "data", "method", "changed", "seed", "year"]).any()


def test_what_differs_from_most_runs_is_said(runs):
    searches = runs[(runs.experiment == "searches") & (runs.data == "santa_fe_laser")]
    assert set(searches[searches.record.str.contains("longer")].changed) == {"train_epochs = 120"}
    assert set(searches[searches.record.str.contains("main")].changed) == {""} == set(runs[runs.experiment == "time_series"].changed)


def test_the_files_hold_the_table(runs, tmp_path):
    all_runs.write(runs, all_runs.daily_errors(), tmp_path)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "daily_errors.parquet"), all_runs.daily_errors())
    typed, text = pd.read_parquet(tmp_path / "runs.parquet"), pd.read_csv(tmp_path / "runs.csv")
    pd.testing.assert_frame_equal(typed, runs)
    assert list(text) == list(all_runs.COLUMNS) and text.test_error.tolist() == pytest.approx(runs.test_error.tolist(), nan_ok=True)
    page = json.loads((tmp_path / "runs-data.js").read_text().removeprefix("window.RUNS = ").removesuffix(";\n"))
    assert len(page["rows"]) == len(runs) and page["files"][page["rows"][-1][6]] == runs.record.iloc[-1]


def test_daily_errors_are_those_of_the_records():
    days = all_runs.daily_errors()
    for name, own in days.groupby("record"):
        found = json.loads((RESULTS / name).read_text())["result"]
        assert own.day.tolist() == list(range(found["days"][2])) and own.date.iloc[[0, -1]].tolist() == found["days"][:2]
        assert own.date.is_monotonic_increasing and own.date.is_unique
        assert own[found["features"]].mean().tolist() == pytest.approx(found["feature_errors"], rel=5e-3)  # three digits are kept
    assert days.record.nunique() == len(list((RESULTS / "time_series").rglob("*.json")))


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "x.json").write_text("{}")
    with pytest.raises(RecordError, match="x.json lacks config"):
        all_runs.table(tmp_path)


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == project["version"]
    assert json.loads((ROOT / ".zenodo.json").read_text())["version"] == project["version"]


def test_what_was_made_again_is_summed_up_by_kind(tmp_path):
    def row(kind, numbers, differing, percent, differ, processor, commit="0123456789"):
        return {"experiment": kind, "record": "x", "numbers": numbers, "differing": differing, "test_percent": percent, "cells_differ": differ,
                "stored": {"processor": processor}, "again": {"processor": "a", "commit": commit}}

    (tmp_path / "again.json").write_text(json.dumps({"rows": [
        row("images", 1000, 2, 0.0, False, "a"), row("images", 500, 1, 1.25, True, "b"), row("language", 7, 0, 0.0, False, "a"),
        row("language", 8, 8, 0.5, True, "a", "abcdefghij")]}))
    found = all_runs.made_again(tmp_path / "again.json")
    assert found.loc["images"].tolist() == ["0123456", "2", "3 of 1,500", "1.2 %", "1", "1"]
    assert found.loc["language"].values.tolist() == [["0123456", "1", "0 of 7", "0 %", "0", "0"], ["abcdefg", "1", "8 of 8", "0.5 %", "1", "0"]]
