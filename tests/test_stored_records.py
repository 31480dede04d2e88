"""Committed records keep their names: the hash of a record's configuration is the one it is stored under."""

import json
from pathlib import Path

import pytest

from growdarts_study import records
from growdarts_study.config import ImageRun, LanguageRun, TimeSeriesRun

STORED = sorted(file for folder in ("time_series", "language", "images", "ablations")
                for file in (records.RESULTS / folder).rglob("*.json"))


def run_of(file):
    """The configuration of a stored record, read by the class of its experiment."""
    values = json.loads(file.read_text())["config"]
    kind = LanguageRun if "length" in values else ImageRun if "channels" in values else TimeSeriesRun
    return kind.of(values)


def test_they_are_found():
    assert len(STORED) > 400


@pytest.mark.parametrize("folder", ["time_series", "language", "images", "ablations"])
def test_every_hash_is_the_one_it_is_stored_under(folder):
    for file in (file for file in STORED if file.relative_to(records.RESULTS).parts[0] == folder):
        assert run_of(file).hash() == json.loads(file.read_text())["config_hash"], file.name
        assert Path(file).stem.endswith(run_of(file).hash()), file.name
