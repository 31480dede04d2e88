# The batch: every job of a tier through papermill. `make batch TIER=reduced EXPERIMENT=language`, or on a cluster
# `snakemake --workflow-profile profiles/slurm --config tier=full`. Without an experiment, all that have the tier run;
# `task=bilinear` asks for the jobs on these data only, `device=cuda`, or cpu, replaces that of the tier (TASK=, DEVICE= with make).
#
# A job is one method and one seed of an experiment. Only jobs that lack a record are asked for: a record's
# name holds the hash of its configuration, so a rerun makes what is missing or changed, also in a fresh
# clone. A job that was killed goes on from its checkpoints in _build/checkpoints. Executed notebooks and
# logs stay in _build/batch to be looked at; what Snakemake waits for are flags beside them.
from pathlib import Path

import torch

from growdarts_study.grids import all_jobs

TIER = config.get("tier", "reduced")
JOBS = {job.name: job for job in all_jobs(TIER, config.get("experiment"), device=config.get("device"), task=config.get("task"))}
GPUS = torch.cuda.device_count()
MISSING = [name for name, job in JOBS.items() if not job.is_done()]
EXECUTED = f"_build/batch/{TIER}"

for name in MISSING:  # a flag whose records have gone says nothing
    Path(f"{EXECUTED}/{name}.done").unlink(missing_ok=True)


rule all:
    input:
        [f"{EXECUTED}/{name}.done" for name in MISSING],


rule run:
    output:
        touch(EXECUTED + "/{name}.done"),
    log:
        EXECUTED + "/{name}.log",
    params:
        notebook=lambda wildcards: JOBS[wildcards.name].notebook,
        executed=EXECUTED + "/{name}.ipynb",
        values=lambda wildcards: JOBS[wildcards.name].parameters_yaml(),
    resources:
        gpu=lambda wildcards: int(JOBS[wildcards.name].config.device in (("cuda", "auto") if GPUS else ("cuda",))),
    shell:
        # the first GPU that no other job has, unless the cluster has chosen one
        "if [ {resources.gpu} = 1 ] && [ -z \"${{CUDA_VISIBLE_DEVICES-}}\" ]; then for gpu in $(seq 0 $(({GPUS} - 1))); do"
        " export CUDA_VISIBLE_DEVICES=$gpu; exec 9> _build/gpu$gpu; if flock -n 9; then break; fi; done; fi;"
        " OMP_NUM_THREADS=1 JUPYTER_DEFAULT_PROVISIONER_NAME=growdarts-sockets"
        " papermill {params.notebook:q} {params.executed:q} --cwd notebooks --log-output"
        " --no-progress-bar -y {params.values:q} > {log:q} 2>&1"
