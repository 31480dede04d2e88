"""Runs that are killed, whose files are damaged or find no room: the same record bit for bit, or one clear error.

SOAK=20 does each of it twenty times in every experiment.
"""

import multiprocessing
import os
import random
import resource
import time
from functools import partial

import pytest
import torch

from growdarts.checkpoints import CheckpointError
from growdarts_study import experiments, grids, records
from growdarts_study.experiments import RunsFailed

COUNT = int(os.environ.get("SOAK", "2"))
SMALL = {"time_series": dict(search_epochs=6, patience=1, train_epochs=4, sizes=[4]),
         "language": dict(search_tokens=1500, search_epochs=3, patience=1, min_gain=0.0, train_epochs=2, hidden=6),
         "images": dict(search_images=80, search_epochs=2, patience=1, min_gain=0.0, train_images=200, train_epochs=2)}
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module", params=SMALL)
def job(request):
    """A configuration of one growing run, and the record of that run without a disturbance."""
    torch.set_num_threads(1)
    kind = grids.EXPERIMENTS[request.param]
    config = kind.of(grids.defaults(request.param) | SMALL[request.param] | dict(
        methods=["grow"], keep_records=True, progress=False))
    started = time.perf_counter()
    (run,) = config.runs()
    expected = {"tier": config.tier, **experiments.run(run)}
    return config, records.without_timing(expected), time.perf_counter() - started


@pytest.fixture
def chance(request):
    return random.Random(request.node.name)


def work(config, folder, results, most=None):
    """Makes the record under `folder`; puts it, or the error, into `results`. Files of at most `most` bytes."""
    if most:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    records.path, records.CHECKPOINTS = partial(records.path, folder=folder / "results"), folder / "checkpoints"
    try:
        results.put(records.without_timing(experiments.run_all(config)[0]))
    except Exception as error:
        results.put((type(error), type(error.__cause__), str(error)))


def start(config, folder, most=None):
    results = FORK.SimpleQueue()
    process = FORK.Process(target=work, args=(config, folder, results, most))
    process.start()
    return process, results


def outcome(config, folder, most=None):
    process, results = start(config, folder, most)
    found = results.get()
    process.join()
    return found


def killed(config, folder, seconds):
    """Whether the process still ran when it was killed after so many seconds."""
    process, results = start(config, folder)
    process.join(seconds)
    running = process.is_alive()
    process.kill()
    process.join()
    return running


def is_clear(found, folder):
    """An error of the library's own that names a file."""
    kind, cause, text = found
    return kind is RunsFailed and cause in (CheckpointError, records.RecordError) and str(folder) in text


def test_killed_again_and_again_it_ends_with_the_same_record(job, chance, tmp_path):
    config, expected, seconds = job
    kills = 0
    for attempt in range(100 * COUNT):
        folder = tmp_path / str(attempt)
        longest = seconds  # a forked process may be slower: it gets more and more time, so that it ends
        while killed(config, folder, chance.uniform(0, longest)):
            kills, longest = kills + 1, 1.2 * longest
        assert outcome(config, folder) == expected
        if kills >= COUNT:
            break
    assert kills >= COUNT


def test_with_a_damaged_file_it_ends_with_the_same_record_or_says_which(job, chance, tmp_path):
    config, expected, seconds = job
    damaged = clear = 0
    longest = seconds
    while damaged < COUNT:
        folder = tmp_path / str(damaged)
        killed(config, folder, chance.uniform(0.3, 1.3) * longest)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if not files:  # a forked process may be slower: it gets more and more time, so that it writes some
            longest = 1.2 * longest
            continue
        file = chance.choice(files)
        content = bytearray(file.read_bytes())
        if not content:
            continue
        if chance.random() < 0.5:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        else:
            del content[chance.randrange(len(content)):]
        file.write_bytes(content)
        damaged += 1
        found = outcome(config, folder)
        if found != expected:
            assert is_clear(found, folder), (file, found)
            clear += 1
            file.unlink()
            assert outcome(config, folder) == expected
    print(f"{damaged} damaged, {clear} refused")


@pytest.mark.parametrize("most", [100, 3000])
def test_without_room_it_says_so_and_goes_on_when_there_is_some(job, most, tmp_path):
    config, expected, _ = job
    found = outcome(config, tmp_path, most)
    assert is_clear(found, tmp_path), found
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]  # nothing half written
    assert outcome(config, tmp_path) == expected
