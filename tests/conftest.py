"""Shared fixtures: a small configuration and a small task.

With WITHOUT_FAST=1 the tests run as where neither the fast package nor numba is installed; tests of its parts are left out.
GPUs are seen with GPU_TESTS=1 only: the numbers of all tests but those of `test_gpu` are a CPU's.
"""

import os
import sys
from pathlib import Path

import pytest
import torch

if os.environ.get("GPU_TESTS") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


class NotInstalled:
    """Finder for which some packages do not exist."""

    packages = ("growdarts_fast", "numba", "llvmlite")

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name.split(".")[0])


if os.environ.get("WITHOUT_FAST"):
    sys.meta_path.insert(0, NotInstalled())
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py")
                      if "growdarts_fast" in path.read_text() or "benchmarks" in path.read_text()]

from growdarts_study.config import TimeSeriesRun
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts_study.data.series import load_series
from growdarts.tasks.series import ForecastTask


@pytest.fixture
def settings():
    """Toy values of every field; tests change what they are about."""
    return dict(
        dataset="synthetic_var", seed=3, window=3, batch_size=128, hidden=6, sizes=[4, 6], n_layers=1,
        operations=list(DEFAULT_TWO_INPUT), initial_nodes=1, max_nodes=3, order=1, search_epochs=12,
        patience=1, min_gain=0.01, epsilon=1e-3, noise=0.1, prune="stage", prune_below=0.1,
        keep_all_above=0.5, tune_epochs=1, select_on="validation", train_epochs=4, learning_rate=0.03,
        weight_decay=1e-3, alpha_learning_rate=0.05, alpha_weight_decay=1e-3, grad_clip=1.0,
        method="grow", origin=None)  # fmt: skip


@pytest.fixture
def config(settings):
    return TimeSeriesRun.of(settings)


@pytest.fixture
def task():
    return ForecastTask(load_series("synthetic_var", 3), batch_size=128)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(1)
