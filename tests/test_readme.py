"""The README's code runs, and what it names exists."""

import re
from pathlib import Path

import pytest
import torch

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


def test_code_runs(registry, capsys):
    search, operation = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(search, {})
    assert '"space": "two_input"' in capsys.readouterr().out
    exec(operation, {})
    assert fixed_cell(3, 4, [["add_sine"]])(torch.randn(2, 5, 3)).shape == (2, 5, 4)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
