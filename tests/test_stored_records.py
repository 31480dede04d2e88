"""Committed records keep their names: the hash of a record's configuration is the one it is stored under."""

import json
from pathlib import Path

import pytest

from growdarts_study import experiments, records
from growdarts_study.config import ImageRun, LanguageRun, TimeSeriesRun
from growdarts_study.page_settings import WholeSpaceRun
from growdarts_study.data.files import cache_folder

FOLDERS = ("time_series", "language", "images", "whole_space")
STORED = sorted(file for folder in FOLDERS
                for file in (records.RESULTS / folder).rglob("*.json"))


def run_of(file):
    """The configuration of a stored record, read by the class of its experiment."""
    values = json.loads(file.read_text())["config"]
    kind = (LanguageRun if "length" in values else ImageRun if "channels" in values else
            WholeSpaceRun if "nodes" in values else TimeSeriesRun)
    return kind.of(values)


def test_they_belong_to_the_registered_data():
    """Their hashes are those that data/registry.txt has, where what they name is a registered file."""
    registry = dict(line.split()[:2] for line in (records.ROOT / "data" / "registry.txt").read_text().splitlines())
    registered = [file for file in STORED if file.relative_to(records.RESULTS).parts[0] not in ("images", "whole_space")]
    for file in registered:
        made_from = records.load(file)["provenance"]["data_sha256"]
        assert made_from == {name: registry[name].removeprefix("sha256:") for name in made_from}, file.name
    for file in registered[::40]:
        records.load_run(file, run_of(file), experiments.HASHES[type(run_of(file))](run_of(file)))


def test_they_belong_to_the_images_that_are_there():
    if not (cache_folder()[0] / "cifar10" / "cifar10_batch_50.png").is_file():
        pytest.skip(f"{cache_folder()[0]} holds no CIFAR-10: set GROWDARTS_DATA to a folder that does")
    for file in (records.RESULTS / "images").rglob("*.json"):
        records.load_run(file, run_of(file), experiments.HASHES[ImageRun](run_of(file)))


def test_they_belong_to_the_series_that_are_generated():
    """One of every process: the draws are made anew, their hashes compared."""
    generated = [file for file in STORED if "whole_space" in file.parts and "1-nodes" in file.name
                 and run_of(file).draw(0) is not None]
    assert len(generated) >= 4
    for file in generated:
        config = run_of(file)
        assert records.load_run(file, config, experiments.HASHES[WholeSpaceRun](config))["cells"] == config.operations


def test_they_are_found():
    assert len(STORED) > 400


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_hash_is_the_one_it_is_stored_under(folder):
    for file in (file for file in STORED if file.relative_to(records.RESULTS).parts[0] == folder):
        assert run_of(file).hash() == json.loads(file.read_text())["config_hash"], file.name
        assert Path(file).stem.endswith(run_of(file).hash()), file.name
