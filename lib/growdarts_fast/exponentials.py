r"""e^x - 1 for numba's kernels, made of what vector instructions can do:

$$ e^x - 1 = 2^n (e^r - 1) + 2^n - 1, \qquad x = n \ln 2 + r, \quad |r| \le \tfrac12 \ln 2, $$

with the Taylor series of $e^r - 1$ as far as the type has digits. The C library computes it one number at a time: with
that an epoch of a search of two-input cells takes 1.2 to 1.4 times as long.
"""

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

LIMIT = 40  # larger x count as this, smaller ones as its negative, where e^x is 4e-18; the square of e^LIMIT is still finite
HIGH = 355 / 512  # of ln 2, so few digits that n HIGH is exact
LOW = float(Decimal(2).ln() - Decimal(HIGH))
OPTIONS = {"error_model": "numpy", "fastmath": {"contract"}}


def expm1(x: Any) -> Any:
    """e^x - 1 of a number with all its digits, for x between -LIMIT and LIMIT; NaN for NaN."""
    return np.expm1(np.clip(x, -LIMIT, LIMIT))  # outside of compiled functions


def _parts(real: Any, whole: Any, digits: int, bias: int, terms: int) -> Callable[[Any], tuple[Any, Any]]:
    """2^n and e^r - 1 of a number of the type `real`. Within the integer `whole` of as many bits, an exponent stands
    `digits` from the right, with `bias` added."""
    inverse, high, low, limit, half, zero = (real(c) for c in (1 / math.log(2), HIGH, LOW, LIMIT, 0.5, 0))
    last, *others = (real(1 / math.factorial(k)) for k in range(terms, 0, -1))
    coefficients = tuple(others)

    @numba.njit(**OPTIONS)
    def parts(x: Any) -> tuple[Any, Any]:
        x = -limit if x < -limit else x
        x = limit if x > limit else x
        n = np.floor(x * inverse + half)
        r = x - n * high - n * low
        n = n if n == n else zero  # there is no whole number for NaN, which r has
        series = last
        for c in coefficients:
            series = series * r + c
        return whole((whole(n) + whole(bias)) << whole(digits)).view(real), series * r

    return parts


_PARTS = {types.float32: (_parts(np.float32, np.int32, 23, 127, 7), np.float32(1)),
          types.float64: (_parts(np.float64, np.int64, 52, 1023, 13), np.float64(1))}


@overload(expm1, jit_options=OPTIONS)
def _expm1(x: Any) -> Callable[[Any], Any] | None:
    if x not in _PARTS:
        return None  # numba says that there is none for this type
    parts, one = _PARTS[x]

    def compute(x: Any) -> Any:
        power, rest = parts(x)
        return power * rest + (power - one)

    return compute
