"""A page in another tier than its own, as in a job of a batch: it runs, and leaves out what it reads from records."""

from pathlib import Path

import papermill
import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
READING = [file.stem for file in sorted(NOTEBOOKS.glob("*.ipynb")) if r"config.tier == \"smoke\"" in file.read_text()]


def test_the_pages_that_read_records_are_found():
    assert {"03_penn_treebank", "10_searches", "11_streams"} <= set(READING)


@pytest.mark.parametrize("name", READING)
def test_a_notebook_runs_in_a_tier_without_records(name, tmp_path):
    papermill.execute_notebook(NOTEBOOKS / f"{name}.ipynb", tmp_path / "out.ipynb", {"tier": "workstation"}, cwd=NOTEBOOKS, progress_bar=False)
