# The batch: every job of a tier through papermill. `make batch TIER=reduced`, or on a cluster
# `snakemake --profile profiles/slurm --config tier=full`.
#
# A job is one method and one seed, at all origins. Jobs whose records are all there are not planned, so
# that a rerun makes only what is missing or changed (a record's name holds the hash of its configuration),
# also in a fresh clone. A job that was killed goes on from its checkpoints in _build/checkpoints.
from pathlib import Path

from growdarts.grids import jobs

TIER = config.get("tier", "reduced")
JOBS = {job.name: job for job in jobs("time_series", TIER) if not job.is_done()}
EXECUTED = Path("_build/batch") / TIER

for name in JOBS:  # an executed notebook without its records is no result
    (EXECUTED / f"{name}.ipynb").unlink(missing_ok=True)


rule all:
    input:
        [str(EXECUTED / f"{name}.ipynb") for name in JOBS],


rule run:
    output:
        str(EXECUTED / "{name}.ipynb"),
    log:
        str(EXECUTED / "{name}.log"),
    params:
        notebook="notebooks/02_time_series.ipynb",
        values=lambda wildcards: JOBS[wildcards.name].parameters_json(),
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
    shell:
        "OMP_NUM_THREADS=1 papermill {params.notebook} {output} --cwd notebooks --log-output"
        " --no-progress-bar -y {params.values:q} > {log} 2>&1"
