"""Every parameter is checked, also one that papermill injects; the grid file fits the notebook."""

from pathlib import Path
from typing import get_args

import papermill
import pytest
import yaml

from growdarts_study import grids
from growdarts_study import settings as settings_module
from growdarts_study.config import (ImageConfig, ImageRun, LanguageConfig, LanguageRun, TimeSeriesConfig, TimeSeriesRun,
                              TimeSeriesSettings)
from growdarts_study.report.figures import LABELS
from growdarts_study.data.images import IMAGE_SETS
from growdarts_study.arms import AblationConfig, SearchesConfig
from growdarts_study.page_settings import MorphismConfig, ReportConfig
from growdarts_study.data.series import SERIES
from growdarts.settings import ConfigError
from growdarts_study.data.text import TEXTS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.mark.parametrize("change, message", [
    ({"sead": 3}, r"unknown parameter 'sead' = 3: allowed are alpha_learning_rate, .*window"),
    ({"seed": "3"}, r"parameter 'seed' = '3': .*valid integer"),
    ({"seed": True}, r"parameter 'seed' = True: .*valid integer"),
    ({"seed": -1}, r"parameter 'seed' = -1: .*greater than or equal to 0"),
    ({"window": 0}, r"parameter 'window' = 0: .*greater than or equal to 1"),
    ({"epsilon": 1.0}, r"parameter 'epsilon' = 1.0: .*less than 1"),
    ({"learning_rate": float("nan")}, r"parameter 'learning_rate' = nan: .*finite"),
    ({"prune": "sometimes"}, r"parameter 'prune' = 'sometimes': .*'stage', 'end' or 'none'"),
    ({"method": "magic"}, r"parameter 'method' = 'magic': .*'mean'.*'grow_fresh'"),
    ({"dataset": "nasdaq"}, r"parameter 'dataset' = 'nasdaq': .*g7_brics"),
    ({"operations": ["add_tan"]}, r"parameter 'operations' = \['add_tan'\]: allowed are add_tanh"),
    ({"operations": ["add_tanh"]}, r"'add_identity' must be among them"),
    ({"initial_nodes": 9}, r"parameter 'initial_nodes' = 9: allowed is at most max_nodes = 3"),
    ({"sizes": [8, 0]}, r"parameter 'sizes' = \[8, 0\]: every size must be from 1 to 4096"),
    ({"sizes": [8, 5000]}, r"every size must be from 1 to 4096"),
    ({"sizes": [8, 8]}, r"parameter 'sizes' = \[8, 8\]: no value may stand twice"),
    ({"operations": ["carry", "gate"]}, r"'add_identity' must be among them"),
    ({"operations": ["carry", "carry"]}, r"parameter 'operations' = .*no value may stand twice"),
    ({"noise": 0.0}, r"parameter 'noise' = 0.0: .*greater than 0"),
    ({"epsilon": 1e-7}, r"parameter 'epsilon' = 1e-07: .*greater than or equal to 0.00001"),
    ({"sizes": []}, r"parameter 'sizes' = \[\]: .*at least 1 item")])
def test_bad_values_name_the_parameter_the_value_and_what_is_allowed(settings, change, message):
    with pytest.raises(ConfigError, match=message):
        TimeSeriesRun.of(settings | change)


def parameters(experiment, **changes):
    config = grids.EXPERIMENTS[experiment]
    return config, grids.defaults(experiment) | changes


@pytest.mark.parametrize("experiment, changes, message", [
    ("language", dict(methods=["lstm", "grow"], dropout_hidden=0.1), "'dropout_hidden' = 0.1: allowed is 0"),
    ("language", dict(methods=["fixed"], dropout_hidden=0.1), "'dropout_hidden' = 0.1: allowed is 0"),
    ("language", dict(methods=["lstm", "darts_v2"], dropout_hidden=0.1), None),
    ("language", dict(space="darts_recurrent", operations=["tanh", "identity"], dropout_hidden=0.1), None),
    ("images", dict(auxiliary=True), "'auxiliary' = True: allowed is False for digits"),
    ("images", dict(auxiliary=True, dataset="cifar10"), None),
    ("images", dict(search_images=20, search_portion=0.96),
     "'search_portion' = 0.96: with 'search_images' = 20 it must leave at least 2"),
    ("images", dict(train_images=20, train_portion=0.99),
     "'train_portion' = 0.99: with 'train_images' = 20 it must leave at least 1"),
    ("images", dict(train_images=20, train_portion=1.0, search_images=20, search_portion=0.9), None)])
def test_what_a_run_cannot_do_is_refused_beforehand(experiment, changes, message):
    config, values = parameters(experiment, **changes)
    if message is None:
        config.of(values)
        return
    with pytest.raises(ConfigError, match=f"parameter {message}"):
        config.of(values)
    with pytest.raises(ConfigError, match=f"parameter {message}"):
        config.run_class.of({name: value for name, value in values.items() if name in config.run_class.model_fields}
                            | {"method": "fixed"})


@pytest.mark.parametrize("operations, message", [
    (["add_tanh"], "'add_identity' must be among them"), (["carry", "gate"], "'add_identity' must be among them"),
    (["add_tan"], "allowed are add_tanh"), (["add_tanh", "add_identity"], None)])
def test_cells_of_the_first_notebook_can_grow(operations, message):
    values = dict(seed=0, window=3, hidden=4, operations=operations, epochs_before=1, epochs_after=1,
                  epsilons=[0.1, 0.2], noises=[0.1], draws=1)
    if message is None:
        MorphismConfig.of(values)
    else:
        with pytest.raises(ConfigError, match=message):
            MorphismConfig.of(values)


def test_a_grid_is_read_in_any_locale_and_an_unreadable_one_is_named(tmp_path):
    tier = {"seeds": [0], "methods": ["lstm"], "parameters": {"dataset": "folder", "folder": "ö"}}
    text = yaml.safe_dump({"language": {"smoke": tier}}, allow_unicode=True)
    (tmp_path / "grid.yml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert grids.jobs("language", "smoke", tmp_path / "grid.yml")[0].config.folder == "ö"
    (tmp_path / "grid.yml").write_bytes(b"\xff\xfe\x00")
    for name in ("grid.yml", "nothing.yml"):
        with pytest.raises(ConfigError, match=f"(?s){name} cannot be read .*in a clone of its repository"):
            grids.all_jobs("reduced", grids=tmp_path / name)
        with pytest.raises(ConfigError, match=f"{name} cannot be read"):
            grids.jobs("language", "reduced", tmp_path / name)


def test_jobs_of_one_task():
    found = grids.all_jobs("reduced", "searches", task="setar")
    assert found and all(run.dataset == "setar" for job in found for run in job.runs().values())
    assert len(found) == len([job for job in grids.all_jobs("reduced", "searches") if "setar" in job.config.series])
    with pytest.raises(ConfigError, match="task 'magic': allowed are bilinear, .*setar"):
        grids.all_jobs("reduced", "searches", task="magic")


def test_a_missing_parameter_is_named(settings):
    del settings["hidden"]
    with pytest.raises(ConfigError, match="parameter 'hidden' is missing"):
        TimeSeriesRun.of(settings)


def test_several_problems_are_all_told(settings):
    with pytest.raises(ConfigError, match=r"(?s)'seed'.*'window'"):
        TimeSeriesRun.of(settings | {"seed": -1, "window": 0})


def test_every_field_says_what_it_is():
    for config in (TimeSeriesRun, TimeSeriesConfig, LanguageRun, LanguageConfig, ImageRun, ImageConfig,
                   AblationConfig, MorphismConfig, ReportConfig):
        assert all(field.description for field in config.model_fields.values())


def test_hash_changes_with_every_field(settings):
    config = TimeSeriesRun.of(settings)
    assert config.hash() == TimeSeriesRun.of(dict(reversed(settings.items()))).hash()
    changed = {"dataset": "g7_brics", "operations": ["add_identity", "add_tanh"], "sizes": [4], "prune": "end", "select_on": "test",
               "method": "fixed", "origin": 2020, "order": 2, "keep_all_above": 0.6}
    for name, value in settings.items():
        new = changed.get(name, value * 2 if isinstance(value, int | float) else None)
        assert TimeSeriesRun.of(settings | {name: new}).hash() != config.hash(), name


@pytest.mark.parametrize("change", [{}, {"order": 2}, {"resample": True}])
def test_hash_changes_with_the_version_of_the_results(settings, change, monkeypatch):
    config = TimeSeriesRun.of(settings | change)
    before = config.hash()
    monkeypatch.setattr(settings_module, "RESULTS_VERSION", settings_module.RESULTS_VERSION + 1)
    assert config.hash() != before


def test_from_notebook_reads_cells_of_literals_only():
    source = "epsilons = [0.1, 0.2]\nseed: int = 4  # a comment\nx = -1.5"
    namespace = {"In": ["", source, "import os\nnot_mine = 3", "y = len('abc')", "%matplotlib inline", "z: int"],
                 "epsilons": [0.1, 0.2], "seed": 4, "x": -1.5, "not_mine": 3, "y": 3}
    with pytest.raises(ConfigError) as error:
        MorphismConfig.from_notebook(namespace)
    assert "unknown parameter 'x' = -1.5" in str(error.value)
    assert "not_mine" not in str(error.value) and "'y'" not in str(error.value)


def test_from_notebook_without_history_takes_the_plain_values(settings):
    namespace = settings | {"In": [], "Out": {}, "_dh": ["x"], "quit": print, "sead": 3}
    with pytest.raises(ConfigError, match="unknown parameter 'sead' = 3"):
        TimeSeriesRun.from_notebook(namespace)
    del namespace["sead"]
    assert TimeSeriesRun.from_notebook(namespace) == TimeSeriesRun.of(settings)


@pytest.mark.parametrize("injected, message", [
    ({"sead": 3}, "unknown parameter 'sead' = 3"),
    ({"progress": "false"}, "parameter 'progress' = 'false': Input should be a valid boolean"),
    ({"window": -2}, "parameter 'window' = -2")])
def test_papermill_cannot_inject_nonsense(tmp_path, injected, message):
    with pytest.raises(papermill.PapermillExecutionError) as error:
        papermill.execute_notebook(NOTEBOOKS / "02_time_series.ipynb", tmp_path / "out.ipynb", injected,
                                   cwd=NOTEBOOKS, progress_bar=False)
    assert "ConfigError" in str(error.value) and message in str(error.value)


@pytest.mark.parametrize("experiment", ["language", "images"])
@pytest.mark.parametrize("tier", ["reduced", "workstation", "full"])
def test_every_tier_of_language_and_images_is_valid(experiment, tier):
    jobs = grids.jobs(experiment, tier)
    grid = yaml.safe_load(grids.GRIDS.read_text())[experiment][tier]
    groups = grid.get("groups", {"all": grid}).values()
    assert len(jobs) == sum(len(group["methods"]) * len(group["seeds"]) for group in groups)
    assert len({file for job in jobs for file in job.runs()}) == len(jobs)
    device = "cpu" if tier == "reduced" else "cuda"
    assert {job.config.device for job in jobs} == {device} and (grid.get("gpu_hours", 0) > 0) == (device == "cuda")


def test_a_workstation_needs_one_night():
    """14 hours of a GPU at most, both experiments together, if the hours that the grid gives for each job are right."""
    entries = [tier["workstation"] for tier in yaml.safe_load(grids.GRIDS.read_text()).values() if "workstation" in tier]
    assert len(entries) == 2
    assert sum(len(entry["methods"]) * len(entry["seeds"]) * entry["gpu_hours"] for entry in entries) <= 14


def test_an_ablation_varies_one_thing():
    base = notebook_05()
    config = AblationConfig.of(base | {"switch": "order", "values": [1, 2]})
    first, second = config.switched().values()
    assert list(config.switched()) == ["order = 1", "order = 2"]
    differs = {name for name in first.runs()[0].model_dump() if getattr(first.runs()[0], name) != getattr(second.runs()[0], name)}
    assert differs == {"order"} and first == SearchesConfig.of({name: value for name, value in base.items() if name not in ("switch", "values")})


def test_an_ablation_of_nothing_is_refused():
    for name in ("prunes", "arms", "seeds", "tier"):
        with pytest.raises(ConfigError, match=f"parameter 'switch' = '{name}': allowed are .*prune,"):
            AblationConfig.of(notebook_05() | {"switch": name})
    with pytest.raises(ConfigError, match="'switch' = 'initial_nodes': the arm 'grow_2' has a value of its own"):
        AblationConfig.of(notebook_05() | {"switch": "initial_nodes"})
    with pytest.raises(ConfigError, match="parameter 'prune' = 'x': .*'stage', 'end' or 'none'"):
        AblationConfig.of(notebook_05() | {"switch": "prune", "values": ["x"]}).switched()


def notebook_05():
    """Parameters of the notebook of ablations as it stands."""
    return dict(grids._parameters((grids.GRIDS.parent / "05_ablations.ipynb").read_bytes()))


@pytest.mark.parametrize("tier", ["reduced", "full"])
def test_every_tier_of_the_grid_is_valid(tier):
    jobs = grids.jobs("time_series", tier)
    grid = yaml.safe_load(grids.GRIDS.read_text())["time_series"][tier]
    random_methods = len(grid["methods"]) - len(grid["deterministic"])
    assert len(jobs) == len({job.name for job in jobs})
    assert len(jobs) == len(grid["deterministic"]) + random_methods * len(grid["seeds"])
    assert all(set(grid["parameters"]["origins"]) == {run.origin for run in job.config.runs()} for job in jobs)


def test_the_reduced_tier_is_what_the_book_says():
    grid = yaml.safe_load(grids.GRIDS.read_text())["time_series"]["reduced"]
    assert len(grid["seeds"]) == 10 and grid["parameters"]["origins"] == [2017, 2018, 2019, 2020, 2021]


@pytest.mark.parametrize("change, message", [
    ({"sead": 1}, "unknown parameter 'sead' = 1"), ({"window": 0}, "parameter 'window' = 0")])
def test_bad_grid_is_refused(tmp_path, change, message):
    grid = yaml.safe_load(grids.GRIDS.read_text())
    grid["time_series"]["reduced"]["parameters"] |= change
    (tmp_path / "grid.yml").write_text(yaml.safe_dump(grid))
    with pytest.raises(ConfigError, match=message):
        grids.jobs("time_series", "reduced", tmp_path / "grid.yml")
    with pytest.raises(ConfigError, match="tier 'huge' of time_series: allowed are reduced, full"):
        grids.jobs("time_series", "huge")
    with pytest.raises(ConfigError, match="experiment 'tea': allowed are time_series"):
        grids.jobs("tea", "reduced")


def test_runs_are_the_product_of_methods_and_origins(settings):
    shared = {name: value for name, value in settings.items() if name in TimeSeriesSettings.model_fields}
    config = TimeSeriesConfig.of(shared | dict(methods=["mean", "grow"], origins=[2019, 2020], tier="smoke",
                                               progress=False, keep_records=False))
    assert [(run.method, run.origin) for run in config.runs()] == [
        ("mean", 2019), ("grow", 2019), ("mean", 2020), ("grow", 2020)]
    with pytest.raises(ConfigError, match="'methods' = .*no value may stand twice"):
        TimeSeriesConfig.of(config.model_dump() | dict(methods=["mean", "mean"]))


def test_what_a_job_injects_is_read_back_as_it_was():
    """YAML reads 1e-05, as JSON writes it, as a string."""
    job = grids.jobs("time_series", "reduced")[3]
    job = grids.Job(job.config, job.overrides | {"epsilon": 1e-5, "learning_rate": 3e-07})
    assert yaml.safe_load(job.parameters_yaml()) == job.overrides and "\n" not in job.parameters_yaml()


def test_corrected_parameters_replace_what_was_there(settings):
    source = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
    namespace = settings | {"sead": 3, "In": ["", "sead = 3\n" + source, "TimeSeriesRun.from_notebook(globals())", source,
                                              "seed = 3", "TimeSeriesRun.from_notebook(globals())"]}
    assert TimeSeriesRun.from_notebook(namespace) == TimeSeriesRun.of(settings)


def test_the_data_sets_of_a_configuration_are_those_that_load():
    def choices(config, field):
        return get_args(config.model_fields[field].annotation)

    assert choices(TimeSeriesRun, "dataset") == SERIES
    assert choices(LanguageRun, "dataset") == TEXTS
    assert choices(ImageRun, "dataset") == IMAGE_SETS


def test_every_method_has_a_name_in_the_figures():
    methods = {name for run in (TimeSeriesRun, LanguageRun, ImageRun)
               for name in get_args(run.model_fields["method"].annotation)}
    assert methods == set(LABELS)


def test_a_field_that_came_later_stays_out_of_the_hash_at_its_default(settings):
    later = {name for name, field in TimeSeriesRun.model_fields.items() if not field.is_required()}
    assert later and not later & set(settings)
    before = TimeSeriesRun.of(settings)
    defaults = {name: TimeSeriesRun.model_fields[name].default for name in later}
    assert TimeSeriesRun.of(settings | defaults).hash() == before.hash()
    changed = {"radius": 2e-2, "virtual_clip": False, "resample": True, "grow_operations": "morphism",
               "duplicate_above": 0.4, "max_copies": 3, "optimizer": "sgd", "schedule": "cosine", "train_patience": 9,
               "stage_epochs": 3, "judge_epochs": 2, "duplicate_epochs": 4}
    hashes = {TimeSeriesRun.of(settings | {name: value}).hash() for name, value in changed.items()}
    hashes.add(TimeSeriesRun.of(settings | {"optimizer": "sgd", "momentum": 0.9}).hash())
    assert set(changed) | {"momentum"} == later
    assert len(hashes | {before.hash()}) == len(changed) + 2
