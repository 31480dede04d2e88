"""The exponential for kernels against numpy's in the widest type."""

import numba
import numpy as np
import pytest

from growdarts_fast.exponentials import LIMIT, expm1


@numba.njit
def of_all(x, found):
    for i in range(len(x)):
        found[i] = expm1(x[i])


def expm1_of(x):
    found = np.empty_like(x)
    of_all(x, found)
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_has_all_its_digits(dtype):
    small = np.logspace(-30, 0, 1000)
    x = np.concatenate([np.linspace(-LIMIT, LIMIT, 100_001), small, -small]).astype(dtype)
    x = x[x != 0]
    exact = np.expm1(x.astype(np.longdouble))
    assert np.max(np.abs(expm1_of(x) - exact) / np.abs(exact)) < 2 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_the_limit_it_stays_where_it_is(dtype):
    found = expm1_of(np.array([LIMIT, 2 * LIMIT, np.inf, -LIMIT, -np.inf, 0.0, np.nan], dtype))
    assert found[0] == found[1] == found[2] and np.isfinite(found[0] ** 2)
    assert found[3] == found[4] == -1 and found[5] == 0
    assert np.isnan(found[6])


def test_outside_of_compiled_functions_it_is_the_same():
    x = np.array([-100.0, -1.0, 1e-20, 3.0, 100.0])
    np.testing.assert_allclose(expm1(x), expm1_of(x), rtol=1e-14)
