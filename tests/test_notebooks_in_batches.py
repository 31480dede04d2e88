"""A page in another tier than its own, as in a job of a batch: it runs, and leaves out what it reads from records."""

import json
from pathlib import Path

import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
READING = [file.stem for file in sorted(NOTEBOOKS.glob("*.ipynb")) if r"config.tier == \"smoke\"" in file.read_text()]


def test_the_pages_that_read_records_are_found():
    assert {"03_penn_treebank", "10_searches", "11_streams"} <= set(READING)


@pytest.mark.parametrize("name", READING)
def test_a_notebook_runs_in_a_tier_without_records(name, tmp_path):
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", {"tier": "workstation"}, cwd=NOTEBOOKS, progress_bar=False)


@pytest.mark.parametrize("name", ["02_time_series", "03_penn_treebank", "04_cifar10"])
def test_a_job_whose_run_diverged_has_a_page(name):
    """Its record says so, and `run_all` gives none that can be shown. Records of runs with several arms have entries for those that diverged."""
    cells = [cell for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]
    sources = ["".join(cell["source"]).replace("run_all(config)", "[]") for cell in cells]
    assert sum("results = []" in source for source in sources) == 1
    shell = InteractiveShell()
    for source in (sources[0], "tier = 'reduced'", *sources[1:]):
        shell.run_cell(source, silent=True).raise_error()
