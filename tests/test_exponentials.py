"""Exponentials for kernels against numpy's in a wider type."""

import numba
import numpy as np
import pytest

from growdarts.exponentials import LIMIT, exp, expm1


@numba.njit
def of_all(x, raised, less_one):
    for i in range(len(x)):
        raised[i], less_one[i] = exp(x[i]), expm1(x[i])


def both(x):
    found = np.empty_like(x), np.empty_like(x)
    of_all(x, *found)
    return found


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 1.5), (np.float64, 10)])
def test_they_have_all_their_digits(dtype, digits):
    small = np.logspace(-30, 0, 1000)
    x = np.concatenate([np.linspace(-LIMIT, LIMIT, 100_001), small, -small]).astype(dtype)
    x = x[x != 0]
    exact = np.exp(x.astype(np.longdouble)), np.expm1(x.astype(np.longdouble))
    for found, expected in zip(both(x), exact, strict=True):
        assert np.max(np.abs(found - expected) / np.abs(expected)) < digits * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_beyond_the_limit_they_stay_where_they_are(dtype):
    raised, less_one = both(np.array([LIMIT, 2 * LIMIT, np.inf, -LIMIT, -np.inf, 0.0, np.nan], dtype))
    assert raised[0] == raised[1] == raised[2] and less_one[0] == less_one[1] == less_one[2]
    assert raised[3] == raised[4] > 0 and less_one[3] == less_one[4] == -1
    assert raised[5] == 1 and less_one[5] == 0
    assert np.isnan(raised[6]) and np.isnan(less_one[6])
