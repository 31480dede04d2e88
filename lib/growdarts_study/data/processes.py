"""Generated series whose least possible error is known, each made to need one thing.

A row of a series holds what is known on a day; y' is the next day's value, e is noise of mean 0 and variance 1, drawn
anew every day, and u is an input that nothing foretells: a feature, but no target. The floor is the expected squared
error of the conditional mean, the best that any forecast can do. A window of `memory` days reaches it; for a shorter
one it is a bound. Noise of the processes that amplify rounding is uniform: every machine draws the same bits of it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

LENGTH, BURN_IN, SEED = 6000, 500, 2021


@dataclass(frozen=True)
class Process:
    """simulate: random numbers, n -> ``(n, F)``; features: F names, the F_out targets first; floors: of the targets,
    squared raw units; memory: days of a window that suffice; horizon: days from a window's last to its target;
    changes: days from which on another law holds in full."""

    simulate: Callable[[Generator, int], np.ndarray]
    features: tuple[str, ...]
    floors: tuple[float, ...]
    memory: int
    horizon: int = 1
    changes: tuple[int, ...] = ()

    def generate(self, length: int = LENGTH, seed: int = SEED) -> np.ndarray:
        """`length` days after the burn-in, ``(length, F)`` float64, rounded to hide a machine's last bits."""
        return np.round(self.simulate(np.random.default_rng(seed), BURN_IN + length)[BURN_IN:], 10)


def uniform(random: Generator, *shape: int) -> np.ndarray:
    """Uniform noise of mean 0 and variance 1."""
    return random.uniform(-(3**0.5), 3**0.5, shape)


VAR_MATRIX = np.array(  # spectral radius 0.798
    [[0.55, 0.33, 0.0, 0.0], [-0.22, 0.55, 0.33, 0.0], [0.0, 0.22, 0.44, -0.33], [0.33, 0.0, 0.22, 0.55]])
VAR_FACTOR = 0.01 * np.array(  # lower Cholesky factor of the innovations' covariance
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.8, 0.0, 0.0], [0.3, 0.2, 0.9, 0.0], [0.2, 0.1, 0.3, 0.7]])


def linear_var(random: Generator, n: int) -> np.ndarray:
    """Needs nothing nonlinear: z' = A z + L e, Gaussian VAR(1) [Luetkepohl 2005, ch. 2]. Floor: diagonal of L L'."""
    # Products are written as sums, so that no linear algebra kernel can move a bit of them.
    state, states = np.zeros(len(VAR_MATRIX)), []
    for e in random.standard_normal((n, len(VAR_MATRIX))):
        state = (VAR_MATRIX * state).sum(axis=1) + (VAR_FACTOR * e).sum(axis=1)
        states.append(state)
    return np.array(states)


def garch(random: Generator, n: int) -> np.ndarray:
    """Nothing helps: r = sqrt(h) e with h' = 0.05 + 0.1 r^2 + 0.85 h, four times over [Bollerslev 1986].

    The size of r can be forecast, r itself cannot. Floor: E r^2 = 0.05 / (1 - 0.1 - 0.85) = 1.
    """
    h, returns = np.ones(4), []
    for e in random.standard_normal((n, 4)):
        returns.append(np.sqrt(h) * e)
        h = 0.05 + 0.1 * returns[-1] ** 2 + 0.85 * h
    return np.array(returns)


def bilinear(random: Generator, n: int) -> np.ndarray:
    """Needs a product: y' = 0.2 y + 0.6 y u + 0.5 u + 0.2 e, u uniform of variance 1 [Mohler 1973]. Floor: 0.2^2."""
    u, e, y = uniform(random, n), random.standard_normal(n), np.zeros(n)
    for t in range(n - 1):
        y[t + 1] = 0.2 * y[t] + 0.6 * y[t] * u[t] + 0.5 * u[t] + 0.2 * e[t]
    return np.stack([y, u], axis=1)


def setar(random: Generator, n: int) -> np.ndarray:
    """Needs a threshold: y' = 1 + 0.6 y + 0.4 e if y of the day before is below 0, else -1 - 0.6 y + 0.4 e.

    A self-exciting threshold autoregression of delay 2 [Tong & Lim 1980]. Floor: 0.4^2.
    """
    e, y = random.standard_normal(n), np.zeros(n)
    for t in range(1, n - 1):
        y[t + 1] = (1 + 0.6 * y[t] if y[t - 1] < 0 else -1 - 0.6 * y[t]) + 0.4 * e[t]
    return y[:, None]


def narma10(random: Generator, n: int) -> np.ndarray:
    """Needs ten days of memory and a product: NARMA-10, seen with noise that is not fed back [Atiya & Parlos 2000].

    s' = min(0.9, 0.3 s + 0.05 s (s + .. + s 9 days ago) + 1.5 u (u 9 days ago) + 0.1), y = s + 0.02 e, 0 <= u <= 0.5.
    Without the bound, which acts on one day in 7,000, three of twenty draws of 60,000 days run away.
    Floor: 0.02^2, since s follows from all u of the past; a window of 30 days leaves 0.1 % more, of 20 days 0.7 %.
    """
    u, e, s = random.uniform(0, 0.5, n), random.standard_normal(n), np.zeros(n)
    for t in range(9, n - 1):
        s[t + 1] = min(0.3 * s[t] + 0.05 * s[t] * s[t - 9 : t + 1].sum() + 1.5 * u[t] * u[t - 9] + 0.1, 0.9)
    return np.stack([s + 0.02 * e, u], axis=1)


def mackey_glass(random: Generator, n: int) -> np.ndarray:
    """Needs 18 days of memory and a hump: x' = 0.9 x + 0.2 d / (1 + d^10) + 0.02 e, d = x of 17 days ago. 6 days ahead.

    The delay equation [Mackey & Glass 1977] with tau = 17 in steps of 1, and noise that is fed back. As 6 < 17, every d
    on the way to the sixth day is known today, and only 0.02 times the sum of 0.9^j e over j = 0..5 is not.
    Floor: 0.02^2 times the sum of 0.9^(2 j).
    """
    e, x = uniform(random, n), np.full(n, 1.2)
    for t in range(17, n - 1):
        square = x[t - 17] * x[t - 17]
        fourth = square * square
        x[t + 1] = 0.9 * x[t] + 0.2 * x[t - 17] / (1 + fourth * fourth * square) + 0.02 * e[t]
    return x[:, None]


def henon_lattice(random: Generator, n: int) -> np.ndarray:
    """Needs squares of sums: twelve coupled Henon maps on a ring [Politi & Torcini 1992], with noise that is fed back.

    x' = max(1.4 - m^2 + 0.3 (x of the day before), -1.8) + 0.2 e, where m = 0.8 x + 0.1 (left + right neighbour).
    The bound keeps noise from throwing the lattice out; it acts on one value in forty. Floor: 0.2^2.
    """
    e, x = uniform(random, n, 12), np.zeros((n, 12))
    for t in range(1, n - 1):
        m = 0.8 * x[t] + 0.1 * (np.roll(x[t], 1) + np.roll(x[t], -1))
        x[t + 1] = np.maximum(1.4 - m * m + 0.3 * x[t - 1], -1.8) + 0.2 * e[t]
    return x


def sample_and_hold(random: Generator, n: int) -> np.ndarray:
    """Needs a gate: s' = u when the trigger g is 1, else s, y = s + 0.2 e; 1 to 20 days between triggers.

    The latch [Bengio, Simard & Frasconi 1994; Sussillo & Barak 2013] of a uniform u of variance 1. Floor: 0.2^2.
    """
    u, e, g, s = uniform(random, n), random.standard_normal(n), np.zeros(n), np.zeros(n)
    triggers = np.cumsum(random.integers(1, 21, n))
    g[triggers[triggers < n]] = 1
    for t in range(n - 1):
        s[t + 1] = u[t] if g[t] else s[t]
    return np.stack([s + 0.2 * e, u, g], axis=1)


PROCESSES = {
    "linear_var": Process(linear_var, ("z1", "z2", "z3", "z4"), tuple((VAR_FACTOR**2).sum(axis=1)), memory=1),
    "garch": Process(garch, ("r1", "r2", "r3", "r4"), (1.0,) * 4, memory=1),
    "bilinear": Process(bilinear, ("y", "u"), (0.2**2,), memory=1),
    "setar": Process(setar, ("y",), (0.4**2,), memory=2),
    "narma10": Process(narma10, ("y", "u"), (0.02**2,), memory=30),
    "mackey_glass": Process(mackey_glass, ("x",), (0.02**2 * sum(0.81**j for j in range(6)),), memory=18, horizon=6),
    "henon_lattice": Process(henon_lattice, tuple(f"x{i + 1}" for i in range(12)), (0.2**2,) * 12, memory=2),
    "sample_and_hold": Process(sample_and_hold, ("y", "u", "g"), (0.2**2,), memory=20),
}


# ---- streams: the law changes while the series runs [protocol E7] ----------------------------------

STREAM = 2550  # days of a stream, of which the first 950 always have the first law


def product_law(y: float, before: float, u: float) -> float:
    """Needs a product: the law of `bilinear`."""
    return 0.2 * y + 0.6 * y * u + 0.5 * u


def threshold_law(y: float, before: float, u: float) -> float:
    """Needs a threshold, of the value a day before."""
    return 0.5 + 0.4 * y + 0.4 * u if before < 0 else -0.5 - 0.4 * y + 0.4 * u


def delayed_law(y: float, before: float, u: float) -> float:
    """Needs a product with the value a day before."""
    return -0.3 * y + 0.6 * before * u - 0.5 * u


LAWS = (product_law, threshold_law, delayed_law)


def changing(shares: Callable[[int], tuple[float, float, float]]) -> Callable[[Generator, int], np.ndarray]:
    """y' = the laws of today's y, the y before it and u, by the `shares` of the day of y', + 0.2 e; u uniform of
    variance 1.

    Floor: 0.2^2, of a forecast that knows the shares.
    """

    def simulate(random: Generator, n: int) -> np.ndarray:
        u, e, y = uniform(random, n), random.standard_normal(n), np.zeros(n)
        for t in range(1, n - 1):
            parts = zip(shares(t + 1 - BURN_IN), LAWS, strict=True)
            y[t + 1] = sum(share * law(y[t], y[t - 1], u[t]) for share, law in parts if share) + 0.2 * e[t]
        return np.stack([y, u], axis=1)

    return simulate


def _abrupt(t: int) -> tuple[float, float, float]:
    return float(t < 1250), float(1250 <= t < 1950), float(t >= 1950)


def _gradual(t: int) -> tuple[float, float, float]:
    share = min(max((t - 1050) / 800, 0.0), 1.0)
    return 1 - share, share, 0.0


def _recurring(t: int) -> tuple[float, float, float]:
    other = t >= 950 and (t - 950) // 400 % 2 == 0
    return float(not other), float(other), 0.0


def _stream(shares: Callable[[int], tuple[float, float, float]], *changes: int) -> Process:
    return Process(changing(shares), ("y", "u"), (0.2**2,), memory=2, changes=changes)


STREAMS = {
    "no_change": _stream(lambda t: (1.0, 0.0, 0.0)),
    "abrupt": _stream(_abrupt, 1250, 1950),
    "gradual": _stream(_gradual, 1850),  # by degrees from 1050 on
    "recurring": _stream(_recurring, 950, 1350, 1750, 2150),
}
