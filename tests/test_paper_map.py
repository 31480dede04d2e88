"""The paper map cannot rot: functions, tags and tests exist, and every tag in the library has a row."""

import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [[cell.strip() for cell in line.strip("| \n").split("|")]
        for line in (ROOT / "book" / "paper_map.md").read_text().splitlines()
        if line.startswith("|") and "`" in line]
TAG = re.compile(r"\[((?:JG|DARTS|Net2Net|Diebold)[^\]]*)\]")


def resolve(name):
    """`growdarts.search.Search.run` -> the object."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            known = hasattr(found, part) or part not in getattr(found, "__annotations__", ())
            found = getattr(found, part) if known else found.__annotations__[part]  # a field without a default
        return found
    raise AssertionError(f"no module behind {name}")


def test_the_table_is_read():
    assert len(ROWS) >= 15 and all(len(row) == 5 for row in ROWS)


@pytest.mark.parametrize("source, what, function, test, shown", ROWS, ids=[f"{r[0]}: {r[1]}" for r in ROWS])
def test_row(source, what, function, test, shown):
    assert f"[{source}]" in resolve(function.strip("`")).__doc__
    module, name = test.strip("`").split("::")
    assert re.search(rf"^def {name}\(", (ROOT / "tests" / f"{module}.py").read_text(), re.MULTILINE)
    page = re.search(r"{doc}`.+<(.+)>`", shown).group(1)
    assert list((ROOT / "book").glob(f"{page}.*")) or list((ROOT / "book" / page).parent.resolve().glob(
        f"{Path(page).name}.*"))


def test_every_name_of_the_library_in_text_exists():
    """In docstrings, comments, pages and notebooks; with the package's name in front."""
    files = [*(ROOT / "lib").rglob("*.py"), *(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb"),
             ROOT / "README.md", *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    named = {(name, file.name) for file in files for name in re.findall(r"`(growdarts[\w.]+)", file.read_text())}
    assert len(named) > 50
    unknown = []
    for name, file in sorted(named):
        if name.startswith("growdarts_fast") and os.environ.get("WITHOUT_FAST"):
            continue
        try:
            resolve(name)
        except (AssertionError, AttributeError):
            unknown.append(f"{file}: {name}")
    assert not unknown


def test_every_tag_of_the_library_has_a_row():
    mapped = {row[0] for row in ROWS}
    found = {tag for file in (ROOT / "lib").rglob("*.py") for tag in TAG.findall(file.read_text())}
    assert found - {"DARTS xi = 0"} <= mapped, found - mapped
    assert mapped <= found, mapped - found
