"""Records -> evidence: skills, paired differences, intervals, Diebold-Mariano tests.

Two sources of chance are kept apart: the seed of a run and the year it is tested on. An interval over
*seeds* averages every seed over the origins, one over *origins* every origin over the seeds; a difference
counts only if it is told from zero by both, and by a test over days. Two methods are equal only if both 90 % intervals
say that they differ by less than a margin: two one-sided tests at 5 %. All else is undecided, and it is said which
difference could have been found.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit  # Student's t. scipy.stats and statsmodels are slow to import: where they are used

LEVEL = 0.95
POWER = 0.8
MARGIN = 1.0  # percent of the error: no smaller difference is of interest on the index returns


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval over `n` values, by Student's t or by a bootstrap. One by a bootstrap keeps its own 90 % interval,
    and Student's interval, which the t test needs."""

    mean: float
    low: float
    high: float
    n: int
    student: "Interval | None" = None  # of a bootstrap: Student's interval of the same values
    inner: tuple[float, float] | None = None  # of a bootstrap: its 90 % interval

    def ends(self, form: str = "+.2f") -> str:
        """Both ends for reading, a dash without an interval."""
        return f"{self.low:{form}} to {self.high:{form}}" if self.n > 1 else "-"

    def text(self, form: str = "+.1f") -> str:
        """Mean and ends for reading."""
        return f"{self.mean:{form}} % ({self.ends(form)})"

    def sign(self) -> int:
        """-1 or +1 where the interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0) if self.n > 1 else 0

    def at_90(self) -> "Interval":
        """The 90 % interval over the same values."""
        if self.inner:
            return Interval(self.mean, *self.inner, self.n)
        half = (self.high - self.mean) * float(np.divide(*stdtrit(self.n - 1, [0.5 + (2 * LEVEL - 1) / 2, 0.5 + LEVEL / 2])))
        return Interval(self.mean, self.mean - half, self.mean + half, self.n)

    def within(self, margin: float) -> bool:
        """Two one-sided tests at 5 %: whether the 90 % interval lies between minus and plus `margin`."""
        found = self.at_90()
        return -margin < found.low and found.high < margin

    def percent(self) -> "Interval":
        """Of 100 times the logarithm of a ratio: the same as a change in percent, for reading only."""
        return Interval(*(float(100 * np.expm1(value / 100)) for value in (self.mean, self.low, self.high)), self.n)

    def p_value(self) -> float:
        """Two-sided, of Student's t test that the mean is zero; 1 where all values are zero or there is one only."""
        if self.n < 2 or np.allclose([self.low, self.high], 0):
            return 1.0
        with np.errstate(divide="ignore"):  # equal values: t is infinite
            t = np.divide(self.mean, self._half()) * stdtrit(self.n - 1, 0.5 + LEVEL / 2)
        return float(2 * stdtr(self.n - 1, -abs(t)))

    def _half(self) -> float:
        """Half the width of Student's interval."""
        student = self.student or self
        return student.high - student.mean

    def detectable(self) -> float:
        """The true mean that a t test at 5 % on so many values, as scattered as these, finds with a power of 80 %."""
        from statsmodels.stats.power import TTestPower

        deviation = self._half() / float(stdtrit(self.n - 1, 0.5 + LEVEL / 2)) * np.sqrt(self.n)
        return float(TTestPower().solve_power(nobs=self.n, alpha=1 - LEVEL, power=POWER) * deviation)

    def detectable_fall(self) -> str:
        """Of 100 times the logarithm of a ratio: the true fall that 80 % power would have found, a dash for a single value."""
        return f"{100 * np.expm1(-self.detectable() / 100):+.0f} %" if self.n > 1 else "-"


def interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % interval of independent values; no interval for a single one."""
    values = np.asarray(list(values), dtype=float)
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return Interval(mean, np.nan, np.nan, n)
    half = float(stdtrit(n - 1, 0.5 + LEVEL / 2) * values.std(ddof=1) / np.sqrt(n))
    return Interval(mean, mean - half, mean + half, n)


def outcome(found: Iterable[Interval], margin: float = MARGIN, told: int | None = None) -> str:
    """"equal within ...", "better", "worse" or "undecided", from the intervals over all sources of chance.

    Better or worse needs a mean of at least `margin` besides `told`, the sign of what is told from chance: where it is
    not given, that of all the intervals.
    """
    known = [i for i in found if i.n > 1]
    if not known:
        return "undecided"
    if all(i.within(margin) for i in known):
        return f"equal within {margin:g} %"
    signs = {i.sign() for i in known} if told is None else {told}
    if len(signs) != 1 or min(abs(i.mean) for i in known) < margin:
        return "undecided"
    return {-1: "better", 0: "undecided", 1: "worse"}[signs.pop()]


def detectable(found: Iterable[Interval]) -> float:
    """The difference that all sources of chance would have let us find, see `Interval.detectable`."""
    return max(i.detectable() for i in found if i.n > 1)


@dataclass(frozen=True)
class Difference:
    """Relative difference of test errors in percent, method minus rival: negative is better."""

    method: str
    rival: str
    over_origins: Interval
    over_seeds: Interval
    statistic: float
    p_value: float

    def decided(self) -> int:
        """-1: the method is better beyond chance, +1: worse, 0: not told apart.

        Both intervals must lie on the same side of zero (a method without random draws has no interval
        over seeds) and the test over days must reject equality at 5 %, on that side.
        """
        signs = {i.sign() for i in (self.over_origins, self.over_seeds) if i.n > 1} | {int(np.sign(self.statistic))}
        return signs.pop() if len(signs) == 1 and self.p_value < 1 - LEVEL else 0

    def outcome(self) -> str:
        """What both intervals and the test over days say together."""
        return outcome((self.over_origins, self.over_seeds), told=self.decided())


def errors(runs: pd.DataFrame, method: str) -> pd.DataFrame:
    """Test errors of `method`, seeds by origins."""
    chosen = runs[runs.method == method]
    if chosen.empty:
        raise ValueError(f"no run of method {method!r}: there are {', '.join(runs.method.unique())}")
    return chosen.pivot(index="seed", columns="origin", values="test")


def relative_difference(runs: pd.DataFrame, method: str, rival: str) -> pd.DataFrame:
    """100 * (method / rival - 1), seeds by origins, paired where both have the seed.

    A method without random draws has one seed, which is compared with every seed of the other.
    """
    ours, theirs = errors(runs, method), errors(runs, rival)
    if len(theirs) == 1:
        return 100 * (ours / theirs.iloc[0] - 1)
    if len(ours) == 1:
        return 100 * (ours.iloc[0] / theirs - 1)
    return (100 * (ours / theirs - 1)).dropna(how="all")


def daily_errors(records: Iterable[dict[str, Any]], method: str) -> np.ndarray:
    """(days, F) squared errors of every test day, averaged over the seeds, origins one after the other."""
    found: dict[int, list[Any]] = {}
    for record in records:
        if record["config"]["method"] == method:
            found.setdefault(record["config"]["origin"], []).append(record["result"]["daily_errors"])
    return np.concatenate([np.mean(found[origin], axis=0) for origin in sorted(found)])


def diebold_mariano(loss: Sequence[float], rival: Sequence[float]) -> tuple[float, float]:
    """Test that two forecasts are equally good, from their losses day by day [Diebold & Mariano 1995].

    The variance of the mean difference is Newey and West's with `floor(4 (n / 100)^(2/9))` lags, since calm
    and wild weeks cluster; Student's t with n - 1 degrees [Harvey, Leybourne & Newbold 1997].

    Returns
    -------
    statistic (negative: the first is better) and two-sided p-value.
    """
    from statsmodels.regression.linear_model import OLS

    difference = np.asarray(loss, dtype=float) - np.asarray(rival, dtype=float)
    n = len(difference)
    if np.abs(difference).max() <= 1e-12 * np.abs(loss).max():  # equal up to the rounding of a mean over seeds
        return 0.0, 1.0
    lags = int(4 * (n / 100) ** (2 / 9))
    fitted = OLS(difference, np.ones(n)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True},
                                             use_t=True)
    return float(fitted.tvalues[0]), float(fitted.pvalues[0])


def holm(p_values: Iterable[float]) -> np.ndarray:
    """p-values adjusted for their number [Holm 1979]."""
    p = pd.Series(list(p_values), dtype=float).sort_values()
    return (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1).sort_index().to_numpy()


def compare(records: Sequence[dict[str, Any]], runs: pd.DataFrame, method: str, rival: str) -> Difference:
    """Everything about one pair."""
    difference = relative_difference(runs, method, rival)
    statistic, p_value = diebold_mariano(
        daily_errors(records, method).mean(axis=1), daily_errors(records, rival).mean(axis=1))
    return Difference(method, rival, interval(difference.mean(axis=0)), interval(difference.mean(axis=1)),
                      statistic, p_value)


def compare_all(records: Sequence[dict[str, Any]], runs: pd.DataFrame, other: str) -> list[Difference]:
    """Every method against `other`; the p-values are adjusted for the number of comparisons [Holm 1979]."""
    found = [compare(records, runs, name, other) for name in runs.method.unique() if name != other]
    adjusted = holm(difference.p_value for difference in found)
    return [replace(difference, p_value=float(p)) for difference, p in zip(found, adjusted, strict=True)]
