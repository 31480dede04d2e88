"""The wheel, installed in an empty environment and used from another folder, as a user does who has no clone.

The environment borrows what the wheel depends on from the one that runs the tests: it is not downloaded again.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
EXTRAS = ("matplotlib", "graphviz", "pygraphviz", "papermill", "snakemake")
WITHOUT_EXTRAS = f"""
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, NotInstalled())
"""
pytestmark = pytest.mark.skipif(not all(map(find_spec, ("pip", "setuptools"))), reason="needs pip and setuptools")


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), text=True, capture_output=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder with an environment `env` that has the wheel, an empty folder `work`, and the installed `site`."""
    folder = tmp_path_factory.mktemp("grow ö")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / "source").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "source")
    shutil.copytree(ROOT / "lib", folder / "source" / "lib", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    (wheel,) = folder.glob("growdarts-*.whl")
    run(*pip, "--python", folder / "env/bin/python", "install", "--no-deps", "--no-index", "--no-compile", wheel)
    (site,) = folder.glob("env/lib/*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    (folder / "work").mkdir()
    (folder / "site").symlink_to(site)
    return folder


def python(installed, code):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "PYTHON"))}
    places = {"HOME": str(installed / "home"), "XDG_CACHE_HOME": str(installed / "home" / ".cache")}
    return run(installed / "env/bin/python", "-B", "-c", code, cwd=installed / "work", env=environment | places)


def test_a_cell_is_searched_without_the_extras_and_nothing_is_written_beside_the_packages(installed):
    for folder in {path.parent for path in (installed / "site" / "growdarts_fast").rglob("*.py")}:
        (folder / "__pycache__").write_text("in the way: nothing can be written here, by the administrator neither")
    before = sorted(str(path) for path in (installed / "site").resolve().rglob("*"))
    output = python(installed, WITHOUT_EXTRAS + EXAMPLES[0] + "print(growdarts.__file__)")
    assert '"space": "two_input"' in output and str(installed / "env") in output.splitlines()[-1]
    assert sorted(str(path) for path in (installed / "site").resolve().rglob("*")) == before
    assert not list((installed / "work").iterdir())
    if find_spec("numba"):
        assert list((installed / "home").rglob("*.nbi"))  # compiled code: in the user's cache


def test_the_wheel_holds_every_module_and_the_study_reads_a_users_text(installed):
    wanted = {path.relative_to(ROOT / "lib") for path in (ROOT / "lib").rglob("*.py")}
    found = {path.relative_to(package.parent) for package in (installed / "site").glob("growdarts*")
             for path in package.rglob("*.py")}
    assert found == wanted
    text = installed / "text"
    text.mkdir()
    for name in ("train", "valid", "test"):
        (text / f"{name}.txt").write_text("the cat sat on the mat\na dog lay by the door\n" * 40)
    assert '"space": "darts_recurrent"' in python(installed, f"FOLDER = {str(text)!r}\n{EXAMPLES[1]}")
