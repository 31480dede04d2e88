"""Paired differences over tasks and seeds, and what the protocol makes of them.

An effect is a log ratio of test errors in percent: negative, the first is better. A table of effects has seeds as rows and
tasks as columns; the unit within a task is a seed, over tasks a task.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from growdarts_study.report.comparison import Interval, holm, interval, outcome

OVER_TASKS, WITHIN_TASK = 3.0, 2.0  # percent, the smallest differences of interest
DRAWS = 10_000
VERDICTS = {"better": "supported", "worse": "contradicted", "undecided": "undecided"}


@dataclass(frozen=True)
class Contrast:
    """One arm against another: effects by seed and task, their mean over tasks with its interval, the p-value of that mean."""

    effects: pd.DataFrame
    over: Interval
    p_value: float
    margin: float = OVER_TASKS

    def text(self, digits: int = 0) -> str:
        """The mean over tasks with its interval, for reading."""
        return f"{self.over.mean:+.{digits}f} % ({self.over.ends(f'+.{digits}f')})"

    def outcome(self, p_value: float | None = None) -> str:
        """"better", "worse", "equal within ..." or "undecided"; `p_value` is the corrected one, None: its own."""
        p_value = self.p_value if p_value is None else p_value
        return outcome([self.over], self.margin, self.over.sign() if p_value < 0.05 else 0)

    def verdict(self, p_value: float | None = None) -> str:
        """The outcome in the words of the protocol."""
        return VERDICTS.get(self.outcome(p_value), "no difference worth having")


def contrast(effects: pd.DataFrame, margin: float = OVER_TASKS) -> Contrast:
    """What the `effects` say over tasks: Student's t over the tasks' means, and a bootstrap of tasks and of seeds within them.

    The wider interval of the two counts.
    """
    means = effects.mean()
    found = interval(means)
    if len(means) < 2:
        return Contrast(effects, found, 1.0, margin)
    low, high = np.percentile(_bootstrap(effects), [2.5, 97.5])
    half = max(found.high - found.mean, found.mean - low, high - found.mean)
    p_value = 1.0 if np.allclose(means, 0) else float(stats.ttest_1samp(means, 0).pvalue)
    return Contrast(effects, Interval(found.mean, found.mean - half, found.mean + half, found.n), p_value, margin)


def _bootstrap(effects: pd.DataFrame) -> np.ndarray:
    """Means of drawn tasks, each the mean of drawn seeds, (DRAWS,)."""
    random, values = np.random.default_rng(0), [column.dropna().to_numpy() for _, column in effects.items()]
    # the mean of a task's drawn seeds, for every draw and every place that the task may take
    seeds = [random.choice(one, (DRAWS, len(values), len(one))).mean(axis=2) for one in values]
    tasks = random.integers(len(values), size=(DRAWS, len(values)))
    places = np.arange(len(values))
    return np.stack(seeds)[tasks, np.arange(DRAWS)[:, None], places].mean(axis=1)


def by_task(effects: pd.DataFrame, margin: float = WITHIN_TASK) -> pd.DataFrame:
    """A row a task: mean effect with its interval over seeds, p-value after Holm over tasks, outcome."""
    found = {task: interval(column.dropna()) for task, column in effects.items()}
    raw = [1.0 if np.allclose(column.dropna(), 0) or found[task].n < 2 else float(stats.ttest_1samp(column.dropna(), 0).pvalue)
           for task, column in effects.items()]
    return pd.DataFrame({task: {"mean": one.mean, "low": one.low, "high": one.high, "seeds": one.n, "p": p,
                                "outcome": outcome([one], margin, one.sign() if p < 0.05 else 0)}
                         for (task, one), p in zip(found.items(), holm(raw), strict=True)}).T


def block_interval(ours: np.ndarray, theirs: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the effect on a series of which there is one draw: seeds and blocks of test days are resampled.

    Parameters
    ----------
    ours, theirs : mean errors of blocks of test days, (seeds, blocks), the same seeds.
    """
    random, (seeds, blocks) = np.random.default_rng(0), ours.shape
    drawn = []
    for _ in range(draws):
        rows, columns = random.integers(seeds, size=seeds), random.integers(blocks, size=blocks)
        ratio = ours[rows][:, columns].mean(axis=1) / theirs[rows][:, columns].mean(axis=1)
        drawn.append(100 * np.log(ratio).mean())
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def simulate(effects: pd.DataFrame, added: float, margin: float = OVER_TASKS, draws: int = 1000) -> dict[str, float]:
    """How often the rule says what, if the truth were a difference of `added` percent.

    The arms' labels are exchanged at random: with the deviations of seeds within tasks, which turns the sign of every pair, and
    with those of tasks from the mean of all, which turns the sign of a task.
    """
    random, means = np.random.default_rng(0), effects.mean()
    within, between = effects - means, means - means.mean()
    said: dict[str, int] = {}
    for _ in range(draws):
        signs = random.choice([-1, 1], effects.shape)
        table = within * signs + between * random.choice([-1, 1], len(means)) + added
        found = interval(table.mean())
        p_value = float(stats.ttest_1samp(table.mean(), 0).pvalue)
        name = outcome([found], margin, found.sign() if p_value < 0.05 else 0)
        said[name] = said.get(name, 0) + 1
    return {name: count / draws for name, count in said.items()}
