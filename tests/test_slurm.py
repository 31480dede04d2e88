"""The batch on a Slurm of one node, which `ci/slurm` starts for this test. No other cluster is sent any job."""

import os
import shutil
import subprocess
import time

import psutil
import pytest

from test_batch import project, record, snakemake  # noqa: F401 (the fixture is taken by its name)

pytestmark = pytest.mark.skipif("ONE_NODE_SLURM" not in os.environ, reason="needs a Slurm to itself: ci/slurm")
PROFILE = ("--workflow-profile", "profiles/slurm", "--slurm-init-seconds-before-status-checks", "2")


@pytest.fixture
def folder(project):  # noqa: F811
    """The tiny project of the test of the batch. A `$` in its path is more than Slurm's plugin can quote."""
    return project.rename(project.with_name("grow ö"))


def job_ids():
    return subprocess.check_output(["squeue", "--noheader", "--format", "%A"], text=True).split()


def described(job):
    return subprocess.check_output(["scontrol", "show", "job", job], text=True)


def until(found, batch, seconds=600):
    """What `found` returns as soon as that is something; the batch has to run until then, on a busy machine for minutes."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline and batch.poll() is None, batch.communicate()[0]
        time.sleep(0.05)
    return value


def processes_of(job):
    """All that run in a job, the notebook's kernel with them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_JOB_ID") == job and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def test_a_job_killed_on_a_cluster_ends_with_the_numbers_of_this_machine(folder):
    local = snakemake(folder)
    output = local.communicate(timeout=300)[0]
    assert local.returncode == 0, output
    expected = {method: record(folder, method) for method in ("mean", "grow")}
    for name in ("data/results", "_build", ".snakemake"):
        shutil.rmtree(folder / name)

    checkpoints = folder / "_build" / "checkpoints"
    first = snakemake(folder, *PROFILE)
    until(lambda: list(checkpoints.glob("*/search.pt")), first)
    (job,) = [job for job in job_ids() if "-grow-" in described(job)]
    asked = described(job)
    assert "TimeLimit=1-00:00:00" in asked and "mem=4000M" in asked and "gpu" not in asked, asked
    assert processes_of(job)
    first.kill()  # the batch, and its job in the middle of the search
    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    first.wait()
    deadline = time.monotonic() + 60
    while job_ids() or processes_of(job):  # a kernel that went on alone would write the same checkpoints
        assert time.monotonic() < deadline, (job_ids(), processes_of(job))
        time.sleep(0.1)
    assert list(checkpoints.glob("*/search.pt")) and not list(folder.glob("data/results/**/grow/*.json"))

    second = snakemake(folder, *PROFILE)
    output = second.communicate(timeout=300)[0]
    assert second.returncode == 0, output
    assert {method: record(folder, method) for method in expected} == expected
    third = snakemake(folder, *PROFILE)
    output = third.communicate(timeout=60)[0]
    assert third.returncode == 0 and "rule run:" not in output


def test_a_job_asks_for_a_gpu_where_the_device_is_one(folder):
    batch = snakemake(folder, *PROFILE, config=["device=cuda"])
    try:
        assert "gpu:1" in described(until(job_ids, batch)[0])
    finally:
        batch.kill()
        subprocess.run(["scancel", *job_ids()], check=True)
        batch.wait()
