r"""Exponentials for numba's kernels, made of what vector instructions can do:

$$ e^x - 1 = 2^n (e^r - 1) + 2^n - 1, \qquad x = n \ln 2 + r, \quad |r| \le \tfrac12 \ln 2, $$

with the Taylor series of $e^r - 1$ as far as the type has digits. The functions take and return one number. After a change
here, empty numba's cache, see `growdarts.team`.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

LIMIT = 40  # larger x count as this, smaller ones as its negative: there e^x is below 5e-18
HIGH = 355 / 512  # of ln 2, so few digits that n HIGH is exact
LOW = math.log(2) - HIGH
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


def exp(x: Any) -> Any:
    """e^x, for x between -LIMIT and LIMIT; NaN for NaN."""
    raise NotImplementedError("compiled functions only")


def expm1(x: Any) -> Any:
    """e^x - 1 with all its digits, for x between -LIMIT and LIMIT; NaN for NaN."""
    raise NotImplementedError("compiled functions only")


def _parts(real: Any, whole: Any, digits: int, bias: int, terms: int) -> Callable[[Any], tuple[Any, Any]]:
    """2^n and e^r - 1 of a number of the type `real`. Within the integer `whole` of as many bits, an exponent stands
    `digits` from the right, with `bias` added."""
    inverse, high, low, limit, half = (real(c) for c in (1 / math.log(2), HIGH, LOW, LIMIT, 0.5))
    last, *others = (real(1 / math.factorial(k)) for k in range(terms, 0, -1))
    coefficients = tuple(others)

    @numba.njit(**OPTIONS)
    def parts(x: Any) -> tuple[Any, Any]:
        x = -limit if x < -limit else x
        x = limit if x > limit else x
        n = np.floor(x * inverse + half)
        r = x - n * high - n * low
        series = last
        for c in coefficients:
            series = series * r + c
        return whole((whole(n) + whole(bias)) << whole(digits)).view(real), series * r

    return parts


_PARTS = {types.float32: _parts(np.float32, np.int32, 23, 127, 7), types.float64: _parts(np.float64, np.int64, 52, 1023, 13)}


@overload(exp, jit_options=OPTIONS)
def _exp(x: Any) -> Callable[[Any], Any]:
    parts = _PARTS[x]

    def compute(x: Any) -> Any:
        power, rest = parts(x)
        return power * rest + power

    return compute


@overload(expm1, jit_options=OPTIONS)
def _expm1(x: Any) -> Callable[[Any], Any]:
    parts, real = _PARTS[x], {types.float32: np.float32, types.float64: np.float64}[x]

    def compute(x: Any) -> Any:
        power, rest = parts(x)
        return power * rest + (power - real(1))

    return compute
