"""Records are whole, small, complete and read back as they were written."""

import hashlib
import json
import resource
from functools import partial

import pytest
import yaml

from growdarts import checkpoints
from growdarts.training import DivergenceError
from growdarts_study import experiments, grids, records
from growdarts_study.config import LanguageConfig, TimeSeriesConfig, TimeSeriesRun, TimeSeriesSettings
from growdarts_study.report import all_runs
from growdarts_study.stream_settings import StreamRun, StreamsConfig
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


def test_where_the_library_is_not_installed_the_record_says_so(monkeypatch):
    """As by `make gpu PYTHON=python3`: one that could not be written would have cost ten minutes of a GPU."""
    def version(name):
        if name in ("growdarts", "papermill"):
            raise records.PackageNotFoundError(name)
        return "2.0"

    monkeypatch.setattr(records, "version", version)
    assert records.provenance({})["packages"] == dict.fromkeys(records.PACKAGES, "2.0") | {"growdarts": None, "papermill": None}


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


def diverge(*_, **__):
    raise DivergenceError(3, float("nan"), checkpoints.Checkpoint(None, ""))


def test_a_run_that_diverges_for_good_leaves_a_record_that_says_so(notebook_config, tmp_path, monkeypatch, capsys):
    grid = {"time_series": {"smoke": {"seeds": [3], "methods": ["grow", "mean"], "parameters": {}}}}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    grow, mean = grids.jobs("time_series", "smoke", tmp_path / "grid.yml")
    with monkeypatch.context() as patch:
        patch.setitem(experiments.RUNNERS, TimeSeriesRun, diverge)
        assert experiments.run_all(grow.config) == [] and grow.is_done()
    said = "grow-seed3-last-fifth: training diverged in epoch 3: loss = nan"
    assert said in capsys.readouterr().out
    assert experiments.run_all(grow.config) == [] and said in capsys.readouterr().out  # read, not made again
    experiments.run_all(mean.config)
    load = partial(grids.load_records, "time_series", "smoke", tmp_path / "grid.yml")
    assert [record["config"]["method"] for record in load()] == ["mean"]
    (diverged,) = load(diverged=True)
    assert diverged["diverged"] == "training diverged in epoch 3: loss = nan" and diverged["config"]["method"] == "grow"
    rows = all_runs.table(tmp_path / "results").set_index("method")
    assert rows["test_error"].isna().to_dict() == {"grow": True, "mean": False}
    assert set(all_runs.daily_errors(tmp_path / "results")["record"]) == set(rows.loc[["mean"], "record"])
    (file,) = grow.runs()
    file.write_text(json.dumps({key: value for key, value in diverged.items() if key != "provenance"}))
    with pytest.raises(records.RecordError, match="lacks provenance.data_sha256; delete it"):
        load()


def test_a_run_of_several_arms_that_diverges_has_failed(notebook_config, tmp_path, monkeypatch):
    """Its record has an entry for an arm that diverges; what ends the whole run is no result."""
    monkeypatch.setitem(experiments.RUNNERS, StreamRun, diverge)
    config = StreamsConfig.of(grids.defaults("streams") | {"keep_records": True})
    with pytest.raises(experiments.RunsFailed, match="DivergenceError: training diverged in epoch 3"):
        experiments.run_all(config)
    assert not list(tmp_path.rglob("*.json"))


def test_a_tier_is_complete_and_holds_nothing_else(notebook_config, tmp_path):
    grid = {"time_series": {"smoke": {"seeds": [3], "methods": ["mean"], "deterministic": ["mean"], "parameters": {}}}}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    with pytest.raises(records.RecordError, match="1 of 1 records are missing, .*`make batch EXPERIMENT=time_series TIER=smoke` makes them"):
        grids.load_records("time_series", "smoke", tmp_path / "grid.yml")
    assert grids.load_records("time_series", "smoke", tmp_path / "grid.yml", partial=True) == []
    (job,) = grids.jobs("time_series", "smoke", tmp_path / "grid.yml")
    experiments.run_all(job.config)
    (record,) = grids.load_records("time_series", "smoke", tmp_path / "grid.yml")
    assert record["config"]["method"] == "mean" and job.is_done()
    next(iter(job.runs())).with_name("mean-by-hand.json").write_text("{}")
    with pytest.raises(records.RecordError, match="1 records are not of the present grid, .*mean-by-hand.json"):
        grids.load_records("time_series", "smoke", tmp_path / "grid.yml")


def test_a_group_of_methods_has_parameters_of_its_own(tmp_path):
    grid = {"language": {"smoke": {"parameters": {"hidden": 5, "length": 9}, "groups": {
        "words": {"seeds": [0], "methods": ["lstm", "grow"]},
        "letters": {"seeds": [0, 1], "methods": ["lstm"], "parameters": {"hidden": 7, "dataset": "penn_treebank_characters"}}}}}}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid, sort_keys=False))
    jobs = [job.config for job in grids.jobs("language", "smoke", tmp_path / "grid.yml")]
    assert [(job.dataset, job.methods, job.seed, job.hidden, job.length) for job in jobs] == [
        ("grammar", ["lstm"], 0, 5, 9), ("grammar", ["grow"], 0, 5, 9),
        ("penn_treebank_characters", ["lstm"], 0, 7, 9), ("penn_treebank_characters", ["lstm"], 1, 7, 9)]
    for dataset, missing in ((None, 4), ("grammar", 2)):
        with pytest.raises(records.RecordError, match=f"{missing} of {missing} records are missing"):
            grids.load_records("language", "smoke", tmp_path / "grid.yml", dataset=dataset)


def test_a_changed_configuration_is_another_file(settings):
    one, other = TimeSeriesRun.of(settings), TimeSeriesRun.of(settings | {"noise": 0.2})
    assert records.path(one, "smoke", "time_series") != records.path(other, "smoke", "time_series")
    assert records.path(one, "smoke", "time_series").name.startswith("grow-seed3-last-fifth-")


STORED = records.load(next((records.RESULTS / "language" / "reduced" / "penn_treebank").rglob("grow-*.json")))


@pytest.mark.parametrize("content, problem", [
    (b'{"config": ', r"is not a record \(.*Expecting value"), (b"", r"is not a record \(.*Expecting value"),
    (b"\x93\x00\xff\xfe", r"is not a record \(.*decode"),
    (b"[" * 100_000, r"is not a record \(.*recursion"),
    (b"null", "lacks config.method, config.seed, .* search;"), (b"3", "lacks config.method"), (b"[]", "lacks config"),
    (b'"config.method"', "lacks config.method"), (b'{"config": {}}', "lacks config.method, config.seed, config_hash, "),
    ({"result": {}}, "lacks result.test_error, result.validation_error, .*result.genotype;"),
    ({"result": 3}, "lacks result.test_error, "), ({"provenance": {}}, "lacks provenance.data_sha256;"),
    ({"result": {**STORED["result"], "test_error": float("nan")}}, r"is not a record \(NaN is no JSON\)"),
    ({"training": {"8": [float("-inf")]}}, r"is not a record \(-Infinity is no JSON\)")])
def test_a_file_that_is_no_record_is_named_with_what_is_wrong(tmp_path, content, problem):
    file = tmp_path / f"grow-seed0-{STORED['config_hash']}.json"
    file.write_text(json.dumps(STORED))
    assert records.load(file) == STORED
    file.write_bytes(content if isinstance(content, bytes) else json.dumps({**STORED, **content}).encode())
    with pytest.raises(records.RecordError, match=f"{file} {problem}.*delete it to have it made again"):
        records.load(file)
    with pytest.raises(records.RecordError, match=f"{tmp_path} is not a record"):
        records.load(tmp_path)


def test_a_record_under_another_name_is_refused(notebook_config, tmp_path):
    """Copied over another's file, given another's hash as well, or with contents that were changed by hand."""
    grid = {"time_series": {"smoke": {"seeds": [3, 4], "methods": ["mean"], "parameters": {}}}}
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    three, four = grids.jobs("time_series", "smoke", tmp_path / "grid.yml")
    for job in (three, four):
        experiments.run_all(job.config)
    (file,), (other,) = three.runs(), four.runs()
    good = records.load(file)
    assert len(grids.load_records("time_series", "smoke", tmp_path / "grid.yml")) == 2
    copied = records.load(other)
    for wrong in (copied, copied | {"config_hash": good["config_hash"]}, good | {"config_hash": copied["config_hash"]},
                  good | {"config": good["config"] | {"window": 4}}, good | {"config": good["config"] | {"windows": 4}},
                  good | {"config": good["config"] | {"method": 3}}):
        file.write_text(json.dumps(wrong))
        for read in (lambda: grids.load_records("time_series", "smoke", tmp_path / "grid.yml"),
                     lambda: experiments.run_all(three.config)):
            with pytest.raises((records.RecordError, experiments.RunsFailed), match=f"{file} holds .* another run"):
                read()


def test_a_record_without_a_later_field_is_still_its_own():
    """Committed ones were made before some fields came; their names say so."""
    file = next((records.RESULTS / "time_series").rglob("grow-*.json"))
    config = TimeSeriesRun.of(json.loads(file.read_text())["config"])
    assert records.load_run(file, config)["config_hash"] == config.hash()


def words(folder, *changes):
    for part in ("train", "valid", "test"):
        (folder / f"{part}.txt").write_text(f"{part if part in changes else 'a'} <unk> c\n" * 60)


def test_a_record_belongs_to_its_data(tmp_path, notebook_config, monkeypatch):
    """Files of a user that change make other work; with the old ones back, the record is found again."""
    words(tmp_path)
    config = LanguageConfig.of(grids.defaults("language") | {
        "dataset": "folder", "folder": str(tmp_path), "methods": ["lstm"], "train_epochs": 1, "parameters": 2000,
        "train_batch_size": 4, "keep_records": True})
    (made,) = experiments.run_all(config)
    assert made["provenance"]["data_sha256"] == {
        f"{part}.txt": hashlib.sha256(b"a <unk> c\n" * 60).hexdigest() for part in ("train", "valid", "test")}
    assert experiments.run_all(config)[0]["provenance"] == made["provenance"]
    words(tmp_path, "valid")
    with pytest.raises(experiments.RunsFailed, match="json was made from other data .*: valid.txt differ; bring those "
                                                     "back, or move the record away to have it made anew"):
        experiments.run_all(config)
    words(tmp_path)
    monkeypatch.setattr(experiments, "run", lambda *_, **__: pytest.fail("ran again"))
    experiments.run_all(config)
    assert not grids.Job(config, {}).is_done()  # by its files: only the job itself compares them


def test_an_interrupted_run_does_not_go_on_with_other_data(tmp_path, notebook_config, monkeypatch):
    words(tmp_path)
    config = LanguageConfig.of(grids.defaults("language") | {
        "dataset": "folder", "folder": str(tmp_path), "methods": ["lstm"], "train_epochs": 2, "parameters": 2000,
        "train_batch_size": 4, "keep_records": True})
    with monkeypatch.context() as patch:
        patch.setattr(records, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            experiments.run_all(config)
    words(tmp_path, "train")
    with pytest.raises(experiments.RunsFailed, match="CheckpointError: .*train.pt was written by another run: its data is"):
        experiments.run_all(config)


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    """The system itself refuses bytes past a limit."""
    file, limits = tmp_path / "x.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    records.write({"a": 1}, file)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(records.RecordError, match=rf"{file} cannot be written \(.*too large.*\): nothing"):
            records.write({"a": "0" * 10_000}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records.load(file, ()) == {"a": 1} and [f.name for f in tmp_path.iterdir()] == ["x.json"]
    (tmp_path / "no folder").write_text("")
    with pytest.raises(records.RecordError, match="no folder/x.json cannot be written"):
        records.write({}, tmp_path / "no folder" / "x.json")


def test_nothing_is_half_written(tmp_path):
    file = tmp_path / "a" / "x.json"
    records.write({"a": 1, "b": [1.5, None]}, file)
    assert records.load(file, ()) == {"a": 1, "b": [1.5, None]}
    with pytest.raises(ValueError):  # NaN is no JSON
        records.write({"a": float("nan")}, file)
    with pytest.raises(KeyboardInterrupt), checkpoints.replacing(file) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert json.loads(file.read_text())["a"] == 1
    assert [f.name for f in file.parent.iterdir()] == ["x.json"]


def test_significant_digits_and_without_timing():
    assert records.significant({"a": [0.123456, 12345.6], "b": "x", "c": 3}, 3) == {"a": [0.123, 12300.0], "b": "x", "c": 3}
    assert records.significant([float("inf"), -float("inf"), float("nan"), 0.0], 3) == [None, None, None, 0.0]
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
