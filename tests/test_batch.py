"""The batch as a user runs it: a failed job stops no other, a killed one goes on, a rerun redoes what is missing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from snakemake.cli import parse_args

from growdarts_study.records import load, without_timing

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path):
    """A copy of what a batch needs, with a tiny tier, in a folder whose name a shell would take apart."""
    tmp_path = tmp_path / "grow ö darts's $HOME"
    for name in ("lib", "notebooks", "profiles", "Snakefile", "data/registry.txt"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, target)
    grid = {"seeds": [0], "methods": ["mean", "grow"], "deterministic": ["mean"],
            "parameters": {"search_epochs": 30, "patience": 30, "max_nodes": 1, "train_epochs": 2, "sizes": [4]}}
    (tmp_path / "notebooks" / "grids.yml").write_text(yaml.safe_dump({"time_series": {"smoke": grid}}))
    return tmp_path


def snakemake(project, *options, config=()):
    environment = os.environ | {"PYTHONPATH": str(project / "lib"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "snakemake", *(options or ("--cores", "1")), "--config", "tier=smoke",
                             *config],
                            cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                            start_new_session=True)


def record(project, method):
    (file,) = project.glob(f"data/results/time_series/smoke/synthetic_var/{method}/*.json")
    return without_timing(load(file))


def test_failed_killed_and_missing_jobs(project):
    first = snakemake(project)
    checkpoints = project / "_build" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("*/search.pt")):  # killed in the middle of the search
        assert time.monotonic() < deadline and first.poll() is None, first.communicate()[0]
        time.sleep(0.01)
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:  # all at once, as when the machine stops: no kernel may run on alone
        process.kill()
    psutil.wait_procs(family)
    (state,) = checkpoints.glob("*/search.pt")
    shutil.copy(state, project / "kept.pt")

    state.write_bytes(b"damaged")  # a job that fails must not stop the other
    second = snakemake(project)
    output = second.communicate(timeout=180)[0]
    assert second.returncode != 0 and record(project, "mean")
    assert output.count("Trying to restart job") == 2, output  # once would have done for a passing cause
    assert not list(project.glob("data/results/**/grow*.json")), output

    shutil.copy(project / "kept.pt", state)
    third = snakemake(project)
    output = third.communicate(timeout=180)[0]
    assert third.returncode == 0, output
    assert output.count("rule run:") == 1  # `mean` was not run again
    resumed = record(project, "grow")
    shutil.rmtree(project / "data" / "results" / "time_series" / "smoke" / "synthetic_var" / "grow")
    fourth = snakemake(project)  # from the start, in one go
    assert fourth.wait(timeout=180) == 0
    assert record(project, "grow") == resumed
    fifth = snakemake(project)
    output = fifth.communicate(timeout=60)[0]
    assert fifth.returncode == 0 and "rule run:" not in output


@pytest.mark.parametrize("options, retries", [([], 2), (["--workflow-profile", "profiles/slurm"], 5)])
def test_what_the_profiles_ask_for(monkeypatch, options, retries):
    """As Snakemake reads them: a job is tried again, on a cluster more often, watched by a command that is there."""
    monkeypatch.chdir(ROOT)
    _, given = parse_args(options)
    assert given.retries == retries and given.keep_going and given.rerun_incomplete and given.nolock
    if options:
        assert given.executor == "slurm" and given.slurm_status_command == "squeue"
