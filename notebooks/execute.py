"""Execute a notebook for the book, or, where only its text has changed since, keep the outputs: `python execute.py --help`."""

import argparse
from pathlib import Path

import nbformat
import papermill


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


parser = argparse.ArgumentParser()
parser.add_argument("source", type=Path)
parser.add_argument("executed", type=Path, help="is written when all cells have run")
parser.add_argument("run", type=Path, help="written also when a cell fails, to look at")
parser.add_argument("--same", action="store_true", help="nothing but `source` is newer than `executed`")
options = parser.parse_args()

new = nbformat.read(options.source, as_version=4)
kept = code_cells(nbformat.read(options.executed, as_version=4)) if options.same and options.executed.exists() else []
if kept and [cell.source for cell in kept] == [cell.source for cell in code_cells(new)]:
    for cell, before in zip(code_cells(new), kept, strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    nbformat.write(new, options.run)
    print(f"{options.source}: same code, outputs kept")
else:
    print(f"{options.source}: running", flush=True)
    papermill.execute_notebook(options.source, options.run, cwd=options.source.parent, progress_bar=False)
options.run.replace(options.executed)
