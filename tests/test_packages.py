"""The packages depend on each other in one direction only: study -> method, fast -> method, never back."""

import ast
import re
import subprocess
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

LIB = Path(__file__).parents[1] / "lib"
ALLOWED = {"growdarts": {"growdarts"}, "growdarts_fast": {"growdarts", "growdarts_fast"},
           "growdarts_study": {"growdarts", "growdarts_study"}}
LOOKS_FOR_THE_FAST_PACKAGE = "growdarts.forms"
# Most lines of a folder with all below it, and of the engine, the files directly in lib/growdarts: what they had when this was
# written, rounded up. A change that needs more says why; one that deletes lowers them.
LINES = {"growdarts": 5150, "growdarts/*.py": 1800, "growdarts_fast": 2200, "growdarts_study": 7373}
LINES_OF_A_MODULE = 300
ENGINE = {path.stem for path in (LIB / "growdarts").glob("*.py")} - {"__init__"}


def name_of(path):
    return ".".join(path.relative_to(LIB).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in LIB.rglob("*.py")}


def imported(path):
    """The modules of this project that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" if f"{node.module}.{alias.name}" in MODULES else node.module
                      for alias in node.names}
    return {name for name in found if name.split(".")[0] in ALLOWED}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def test_the_imports_are_read():
    assert "growdarts.forms" in IMPORTS["growdarts.spaces.precision"] and len(ENGINE) > 10


@pytest.mark.parametrize("package", ALLOWED)
def test_no_package_imports_one_above_it(package):
    wrong = {(name, other) for name, others in IMPORTS.items() if name.split(".")[0] == package
             for other in others if other.split(".")[0] not in ALLOWED[package]}
    assert wrong <= {(LOOKS_FOR_THE_FAST_PACKAGE, "growdarts_fast")}


def imported_roots(path):
    """The packages that a file imports, anybody's, anywhere in it."""
    return {root.split(".")[0] for node in ast.walk(ast.parse(path.read_text())) for root in (
        [alias.name for alias in node.names] if isinstance(node, ast.Import) else
        [node.module] if isinstance(node, ast.ImportFrom) else [])}


def test_the_method_needs_what_its_installation_brings():
    """The base dependencies of pyproject.toml; only drawings need one of the extras."""
    project = tomllib.loads((LIB.parent / "pyproject.toml").read_text())["project"]
    base = {re.match(r"[\w-]+", dependency)[0] for dependency in project["dependencies"]}
    for name, path in MODULES.items():
        if name.split(".")[0] == "growdarts":
            roots = imported_roots(path)
            extra = {"pygraphviz"} if name.startswith("growdarts.drawing") else set()
            assert roots <= base | extra | {"growdarts", "growdarts_fast"} | sys.stdlib_module_names, name


def test_no_modules_import_each_other_in_a_circle():
    graph = {name: others - {name, "growdarts_fast"} for name, others in IMPORTS.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_the_engine_imports_no_space_and_no_task():
    wrong = {(name, other) for name in map("growdarts.{}".format, ENGINE) for other in IMPORTS[name]
             if other.startswith(("growdarts.spaces", "growdarts.tasks", "growdarts.drawing"))}
    assert not wrong


def lines(path):
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("place, most", LINES.items())
def test_no_package_grows_unnoticed(place, most):
    files = list(LIB.glob(place if place.endswith(".py") else f"{place}/**/*.py"))
    assert most - 200 < sum(map(lines, files)) <= most


def test_no_module_is_long():
    assert not {name: lines(path) for name, path in MODULES.items() if lines(path) > LINES_OF_A_MODULE}


def test_without_the_fast_package_the_method_computes_in_its_plain_forms():
    """A finder refuses the package, as if it were not installed; a search cell then runs forward and twice back."""
    code = """
import sys

class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("growdarts_fast", "numba", "llvmlite"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])

sys.meta_path.insert(0, Refuses())
import torch
from growdarts.spaces.two_input.cell import TwoInputCell
cell = TwoInputCell(3, 4, [["add_tanh", "gate"]])
states = cell(torch.randn(5, 2, 3))
first, = torch.autograd.grad(states.sum(), [cell.nodes[0].mixture.alpha], create_graph=True)
torch.autograd.grad(first[0], [cell.nodes[0].mixture.alpha])
assert "numba" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
