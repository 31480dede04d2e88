"""Records are whole, small, complete and read back as they were written."""

import json

import pytest
import yaml

from growdarts import checkpoints
from growdarts_study import experiments, grids, records
from growdarts_study.config import TimeSeriesConfig, TimeSeriesRun, TimeSeriesSettings
from growdarts.spaces.genotype import GenotypeError
from growdarts.spaces.two_input.genotype import Genotype


@pytest.fixture
def notebook_config(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(records, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.setattr(records.path, "__defaults__", (tmp_path / "results",))
    shared = {name: value for name, value in settings.items() if name in TimeSeriesSettings.model_fields}
    return TimeSeriesConfig.of(shared | dict(
        methods=["mean", "grow"], origins=[None], tier="smoke", progress=False, keep_records=True,
        search_epochs=3))


def test_a_run_leaves_one_complete_record_and_no_checkpoint(notebook_config, tmp_path):
    made = experiments.run_all(notebook_config)
    assert [r["config"]["method"] for r in made] == ["mean", "grow"]
    files = sorted(tmp_path.rglob("*.json"))
    assert len(files) == 2 and not list((tmp_path / "checkpoints").glob("*"))
    record = records.load(files[0])
    provenance = record["provenance"]
    assert {"made", "commit", "modified", "python", "packages", "data_sha256", "hardware"} == set(provenance)
    assert set(provenance["packages"]) == set(records.PACKAGES) and len(provenance["data_sha256"]["synthetic_var"]) == 64
    assert record["cost"]["peak_memory_mib"] > 50 and record["cost"]["search_seconds"] > 0
    assert TimeSeriesRun.of(record["config"]).hash() == record["config_hash"]
    assert Genotype.from_dict(record["result"]["genotype"]).n_nodes >= 1
    assert files[0].stat().st_size < 60_000
    searched = records.load(files[1] if "grow" in files[1].name else files[0])["search"]
    assert all(event["validation_before"] > 0 for event in searched["events"])  # unrounded: growth changes the 7th digit


def test_records_that_are_there_are_not_made_again(notebook_config, tmp_path, monkeypatch):
    first = experiments.run_all(notebook_config)
    monkeypatch.setattr(experiments, "run", lambda *_, **__: pytest.fail("ran again"))
    assert experiments.run_all(notebook_config) == [json.loads(json.dumps(record)) for record in first]
    next(tmp_path.rglob("mean*.json")).unlink()
    with pytest.raises(pytest.fail.Exception):
        experiments.run_all(notebook_config)


def test_one_failed_run_does_not_stop_the_others(notebook_config, tmp_path, monkeypatch):
    real = experiments.run
    monkeypatch.setattr(experiments, "run", lambda config, **rest: (
        real(config, **rest) if config.method == "grow" else (_ for _ in ()).throw(ArithmeticError("no mean today"))))
    with pytest.raises(experiments.RunsFailed, match="1 of 2 runs failed:\nmean-seed3-last-fifth: ArithmeticError: no mean today"):
        experiments.run_all(notebook_config)
    assert [file.name.split("-")[0] for file in tmp_path.rglob("*.json")] == ["grow"]


def test_a_tier_is_complete_and_holds_nothing_else(notebook_config, tmp_path):
    grid = {"time_series": {"smoke": {"seeds": [3], "methods": ["mean"], "deterministic": ["mean"], "parameters": {}}}}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    with pytest.raises(records.RecordError, match="1 of 1 records are missing, .*`make batch EXPERIMENT=time_series TIER=smoke` makes them"):
        grids.load_records("time_series", "smoke", tmp_path / "grid.yml")
    (job,) = grids.jobs("time_series", "smoke", tmp_path / "grid.yml")
    experiments.run_all(job.config)
    (record,) = grids.load_records("time_series", "smoke", tmp_path / "grid.yml")
    assert record["config"]["method"] == "mean" and job.is_done()
    job.files()[0].with_name("mean-by-hand.json").write_text("{}")
    with pytest.raises(records.RecordError, match="1 records are not of the present grid, .*mean-by-hand.json"):
        grids.load_records("time_series", "smoke", tmp_path / "grid.yml")


def test_a_changed_configuration_is_another_file(settings):
    one, other = TimeSeriesRun.of(settings), TimeSeriesRun.of(settings | {"noise": 0.2})
    assert records.path(one, "smoke", "time_series") != records.path(other, "smoke", "time_series")
    assert records.path(one, "smoke", "time_series").name.startswith("grow-seed3-last-fifth-")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"config": ')
    with pytest.raises(records.RecordError, match="x.json is not a record .*delete it"):
        records.load(file)
    file.write_text('{"config": {}}')
    with pytest.raises(records.RecordError, match="lacks config_hash, cost, provenance, result"):
        records.load(file)


def test_nothing_is_half_written(tmp_path):
    file = tmp_path / "a" / "x.json"
    records.write({"a": 1, "b": [1.5, None]}, file)
    assert json.loads(file.read_text()) == {"a": 1, "b": [1.5, None]}
    with pytest.raises(ValueError):  # NaN is no JSON
        records.write({"a": float("nan")}, file)
    with pytest.raises(KeyboardInterrupt), checkpoints.replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(file.read_text())["a"] == 1
    assert [f.name for f in file.parent.iterdir()] == ["x.json"]


def test_significant_digits_and_without_timing():
    assert records.significant({"a": [0.123456, 12345.6], "b": "x", "c": 3}, 3) == {"a": [0.123, 12300.0], "b": "x", "c": 3}
    assert records.without_timing({"cost": 1, "x": [{"seconds_spent": 2, "y": 3}]}) == {"x": [{"y": 3}]}


def test_genotype_json_round_trip_and_errors():
    genotype = Genotype(((("add_tanh",), ("gate", "gate")), (("carry",),)))
    assert Genotype.from_json(genotype.to_json()) == genotype and genotype.n_nodes == 2
    for text, message in [("{", "not a genotype"), ('{"space": "two_input"}', "not a genotype"),
                          ('{"space": "two_input", "layers": [[["add_tan"]]]}', r"unknown operations \['add_tan'\]"),
                          ('{"space": "two_input", "layers": [[]]}', "every layer needs a node"),
                          ('{"space": "darts_conv", "layers": [[["carry"]]]}', "'darts_conv'")]:
        with pytest.raises(GenotypeError, match=message):
            Genotype.from_json(text)
