"""Kernels on torch's threads: every row once, whatever the number of threads, and next to torch's own operations."""

import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from growdarts_fast.team import SHARED, in_team, lanes, part


@numba.njit
def _mark(lane, of, x, names, factor):
    first, stop = part(len(x), lane, of)
    for i in range(first, stop):
        x[i] += factor * i
        names[i] = lane


@numba.njit
def mark(x, names, factor, n):
    in_team(_mark, (x, names, factor), n)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 7, 64])
def test_every_row_is_computed_once(n, rows):
    torch.set_num_threads(n)
    for _ in range(20):
        torch.mm(torch.ones(200, 200), torch.ones(200, 200))  # whose threads wait for the next operation
        x, names = np.ones(rows), np.full(rows, -1)
        mark(x, names, 2.0, lanes(rows))
        np.testing.assert_array_equal(x, 1 + 2.0 * np.arange(rows))
        of = max(1, min(n, rows)) if SHARED else 1
        assert list(names) == sorted(names) and set(names) == set(range(of if rows else 0))


@numba.njit
def _fail_at(lane, of, x):
    first, stop = part(len(x), lane, of)
    for i in range(first, stop):
        if x[i] < 0:
            raise ValueError("negative")


@numba.njit
def fail_at(x, n):
    in_team(_fail_at, (x,), n)


@pytest.mark.parametrize("row", [0, 7])
def test_a_lane_that_fails_is_an_error(row):
    torch.set_num_threads(2)
    x = np.ones(8)
    fail_at(x, 2)
    x[row] = -1
    with pytest.raises(RuntimeError, match="_fail_at failed"):
        fail_at(x, 2)
    fail_at(np.ones(8), 2)


def test_torch_shares_its_threads_on_linux():
    assert SHARED or not sys.platform.startswith("linux") or not torch.backends.openmp.is_available()


def test_without_torchs_openmp_a_kernel_stays_on_its_thread():
    done = subprocess.run([sys.executable, "-c", """
import ctypes
import llvmlite.binding, numba, numpy as np, torch
def missing(path):
    raise OSError(path)
llvmlite.binding.initialize_native_target()
ctypes.CDLL = missing
from growdarts_fast import team
assert not team.SHARED and team.lanes(8) == 1
@numba.njit
def fill(lane, of, x):
    x[:] = 10 * lane + of
@numba.njit
def run(x, n):
    team.in_team(fill, (x,), n)
x = np.zeros(3)
run(x, 2)
print(x)
"""], capture_output=True, text=True, check=False)
    assert done.stdout == "[1. 1. 1.]\n", done.stderr
