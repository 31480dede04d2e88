"""The README's code runs, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

import growdarts
from growdarts.spaces.two_input.cell import fixed_cell
from growdarts.spaces.two_input.operations import TWO_INPUT

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def registry():
    kept = dict(TWO_INPUT)
    yield
    TWO_INPUT.clear()
    TWO_INPUT.update(kept)


def test_code_runs(registry, capsys, tmp_path):
    search, text, operation = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(search, {})
    assert '"space": "two_input"' in capsys.readouterr().out
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text("the cat sat on the mat\na dog lay by the door\n" * 40)
    exec(text, {"FOLDER": tmp_path})
    assert '"space": "darts_recurrent"' in capsys.readouterr().out
    exec(operation, {})
    assert fixed_cell(3, 4, [["add_sine"]])(torch.randn(2, 5, 3)).shape == (2, 5, 4)


def test_the_examples_are_short():
    """At most 12 lines and 2 imports grow a cell on own data, as the package's own example does."""
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL)[:2]:
        lines = [line for line in code.splitlines() if line.strip()]
        imports = [line for line in lines if line.startswith(("import", "from"))]
        assert len(imports) <= 2 and len(lines) - len(imports) <= 12
    first = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    calls = re.compile(r"growdarts\.(\w+)")
    assert calls.findall(first) == [n for n in calls.findall(growdarts.__doc__.split("`Search` needs")[0])]
    assert all(hasattr(growdarts, name) for name in growdarts.__all__) and len(growdarts.__all__) < 20


def test_it_says_what_the_verdicts_are():
    """By the table that the front page shows, which is made from the records."""
    verdicts = re.findall(r'class=\\"verdict (\w+)\\"', (ROOT / "notebooks" / "10_searches.ipynb").read_text())
    assert len(verdicts) == 10 and (verdicts.count("contradicted"), verdicts.count("undecided")) == (2, 8)
    assert "contradicts one claim; another is contradicted by an exact test, and eight\nare undecided" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
