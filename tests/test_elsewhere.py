"""An installation that is no checkout: nothing is written into it, and what it lacks is named.

Copies of the packages stand for it, run by a Python of their own. Where a folder must not be writable, something that
is no folder stands in its place: that stops the administrator too, whom permissions do not.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

import growdarts
from growdarts_study import ROOT, records
from test_packages import MODULES, imported_roots

LIB = Path(__file__).parents[1] / "lib"


@pytest.fixture
def installed(tmp_path):
    """The packages in a folder `site`, and an empty folder `work` to start Python in."""
    shutil.copytree(LIB, tmp_path / "site", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (tmp_path / "work").mkdir()
    return tmp_path


def python(installed, code, folder="work", **environment):
    given = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    run = subprocess.run([sys.executable, "-B", "-c", code], cwd=installed / folder, text=True, timeout=300,
                         capture_output=True, env=given | {"PYTHONPATH": str(installed / "site")} | environment)
    return run.returncode, run.stdout, run.stderr


def test_the_study_says_what_there_is_to_run(installed):
    (installed / "clone").mkdir()
    shutil.copytree(ROOT / "notebooks", installed / "clone" / "notebooks")
    list_it = "import runpy; runpy.run_module('growdarts_study', run_name='__main__')"
    code, output, errors = python(installed, list_it, "clone")
    assert code == 0, errors
    rows = {tuple(row.split()[:2]): row.split()[2:] for row in output.splitlines()}
    # seven methods and ten seeds, two methods that draw nothing; the clone has no records
    assert rows["time_series", "reduced"] == "72 72 cpu, about 0.5 hours of one core in all".split()
    assert rows["images", "full"] == "20 20 cuda, about 5 hours of a GPU a job".split()
    code, output, errors = python(installed, list_it)
    assert code == 1 and "grids.yml cannot be read" in errors and "Traceback" not in errors


def test_without_its_extra_the_study_says_so(installed):
    """After `pip install .`, which brings what the method needs."""
    code = "import runpy, sys; sys.modules['yaml'] = None; sys.argv[1:] = {}; runpy.run_module('growdarts_study', run_name='__main__')"
    status, output, errors = python(installed, code.format(["--help"]))
    assert status == 0 and "usage: python -m growdarts_study" in output, errors
    status, _, errors = python(installed, code.format([]))
    assert status == 1 and errors == ("There is no module yaml, which the study needs: pip install 'growdarts[study]', or "
                                      "'.[study]' in a clone\n")


FOLDERS = """
import json
from growdarts_study import ROOT, grids, records
from growdarts_study.data import files
print(json.dumps([str(x) for x in (ROOT, records.RESULTS, records.CHECKPOINTS, files.DATA, grids.GRIDS)]))
"""


def test_folders_are_those_of_a_clone_or_of_the_present_folder(installed):
    def folders(start):
        code, output, errors = python(installed, FOLDERS, start)
        assert code == 0, errors
        return json.loads(output)

    inside = ("data/results", "_build/checkpoints", "data", "notebooks/grids.yml")
    work = installed / "work"
    assert folders("work") == [str(work), *(str(work / name) for name in inside)]
    clone = installed / "clone"
    (clone / "notebooks").mkdir(parents=True)
    (clone / "notebooks" / "grids.yml").write_text("{}")
    for start in ("clone", "clone/notebooks"):
        assert folders(start) == [str(clone), *(str(clone / name) for name in inside)]
    assert ROOT == LIB.parent  # of this checkout, wherever Python was started


def test_what_an_installation_lacks_is_named(installed):
    code, _, errors = python(installed, "from growdarts_study import grids; grids.all_jobs('reduced')")
    assert code and f"ConfigError: {installed / 'work' / 'notebooks' / 'grids.yml'} cannot be read" in errors
    assert "start Python there" in errors
    code, _, errors = python(installed, "from growdarts_study.data.files import fetch; fetch('ptb/ptb.test.txt')")
    assert code and f"DataError: {installed / 'work' / 'data' / 'registry.txt'} is missing" in errors


def test_records_of_an_installation_go_to_the_present_folder(installed):
    code = """
from growdarts_study import experiments, records
from growdarts_study.config import TimeSeriesConfig, TimeSeriesSettings
config = TimeSeriesConfig.usual(dataset="synthetic_var", window=3, batch_size=128, hidden=4, sizes=[4], n_layers=1,
                                methods=["mean"], origins=[None], tier="smoke", progress=False, keep_records=True)
experiments.run_all(config)
assert len(experiments.run_all(config)) == 1
"""
    before = sorted(installed.glob("site/**/*"))
    (installed / "work" / ".git").mkdir()
    subprocess.run(["git", "init", "-q", installed], check=True)  # somebody else's repository: not the library's commit
    code, _, errors = python(installed, code, NUMBA_CACHE_DIR=str(installed / "cache"))
    assert code == 0, errors
    (file,) = (installed / "work" / "data" / "results").rglob("*.json")
    assert sorted(installed.glob("site/**/*")) == before
    provenance = records.load(file)["provenance"]
    assert (provenance["commit"], provenance["modified"]) == (None, None)


STEP = """
import os, torch
from growdarts.spaces.two_input.cell import TwoInputCell
import growdarts_fast
cell = TwoInputCell(3, 4, [["add_tanh", "gate"]])
cell(torch.randn(5, 2, 3)).sum().backward()
print(growdarts_fast.numba.config.CACHE_DIR)
"""


def test_without_a_place_for_compiled_code_it_is_kept_until_python_ends(installed):
    for folder in {path.parent for path in (installed / "site" / "growdarts_fast").rglob("*.py")}:
        (folder / "__pycache__").write_text("in the way of a folder of that name")
    nowhere = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/cache", "TMPDIR": str(installed / "work")}
    code, output, errors = python(installed, STEP, **nowhere)
    assert code == 0, errors
    assert output.startswith(str(installed / "work" / "growdarts-")) and not list((installed / "work").iterdir())
    code, output, errors = python(installed, STEP, **nowhere | {"NUMBA_CACHE_DIR": str(installed / "kept")})
    assert code == 0 and output.strip() == str(installed / "kept") and list((installed / "kept").rglob("*.nbi")), errors


def test_where_there_is_a_place_numba_chooses_it(installed):
    code, output, errors = python(installed, STEP)
    assert (code, output.strip()) == (0, ""), errors
    assert list((installed / "site" / "growdarts_fast" / "__pycache__").glob("*.nbi"))


def test_the_version_is_that_of_the_project(installed):
    project = tomllib.loads((LIB.parent / "pyproject.toml").read_text())["project"]
    assert growdarts.__version__ == version("growdarts") == project["version"]
    code, output, errors = python(installed, "import torch, importlib.metadata as m; m.distributions = lambda **_: []; "
                                             "import growdarts; print(growdarts.__version__)")
    assert (code, output.strip()) == (0, "not installed"), errors  # an unpacked archive works all the same


def test_the_study_needs_what_its_extra_brings():
    project = tomllib.loads((LIB.parent / "pyproject.toml").read_text())["project"]
    extras, distributions = project["optional-dependencies"], packages_distributions()
    required = sum((extras[name] for name in ("fast", "draw", "study")), project["dependencies"])
    brought = {re.match(r"[\w-]+", requirement)[0].lower() for requirement in required}
    for name, path in MODULES.items():
        if name.split(".")[0] == "growdarts_study":
            for root in imported_roots(path) - sys.stdlib_module_names:
                assert {found.lower() for found in distributions[root]} & brought, f"{name} imports {root}"
