"""Paired differences over tasks and seeds, and what the protocol makes of them.

An effect is 100 times the logarithm of a ratio of test errors: negative, the first is better. A table of effects has seeds as rows and
tasks as columns; the unit within a task is a seed, over tasks a task.
"""

from collections import Counter
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from growdarts_study.report.comparison import Interval, holm, interval, outcome

OVER_TASKS, WITHIN_TASK = 3.0, 2.0  # percent, the smallest differences of interest
DRAWS = 10_000
SEEDS = 12  # of the protocol, for every arm that a claim rests on
TASKS = {"C1": 9, "C2": 12, "C3": 9, "C4": 6, "C5": 6, "C6": 6, "C7": 9, "C8": 9, "C9": 12, "C10": 6}  # that a claim rests on; C2 and C9: seeds
VERDICTS = {"better": "supported", "worse": "contradicted", "undecided": "undecided"}


@dataclass(frozen=True)
class Contrast:
    """One arm against another: effects by seed and task, their mean over tasks with its interval, the p-value of that mean."""

    effects: pd.DataFrame
    over: Interval
    p_value: float
    margin: float = OVER_TASKS

    def outcome(self, p_value: float | None = None) -> str:
        """"better", "worse", "equal within ..." or "undecided"; `p_value` is the corrected one, None: its own."""
        p_value = self.p_value if p_value is None else p_value
        return outcome([self.over], self.margin, self.over.sign() if p_value < 0.05 else 0)

    def verdict(self, p_value: float | None = None) -> str:
        """The outcome in the words of the protocol."""
        return VERDICTS.get(self.outcome(p_value), "no difference worth having")


@dataclass(frozen=True)
class Verdict:
    """What a claim comes to: the verdict, the estimate over tasks that it rests on (100 times a log ratio; of C8 percentage points) and
    the smallest difference of interest; `seeds` of every task, at least, and the `unit` of the estimate where that is no series."""

    claim: str
    what: str
    verdict: str
    estimate: Interval
    margin: float
    seeds: int
    complete: bool = True  # whether all else that the protocol asks for is there
    unit: str = ""

    def preliminary(self) -> bool:
        """Whether it rests on fewer seeds or tasks than the protocol asks for."""
        return self.seeds < SEEDS or self.estimate.n < TASKS[self.claim] or not self.complete

    def data(self) -> str:
        """What it rests on."""
        return f"{self.estimate.n} {self.unit or f'series, {self.seeds} seeds each'}"

    def detectable(self) -> str:
        """What 80 % power would have found on values as scattered as these: a fall, of C8 a rise."""
        return f"{self.estimate.detectable():+.0f} points" if self.claim == "C8" else self.estimate.detectable_fall()

    def text(self) -> str:
        """The estimate as a change in percent, of C8 as a difference in percentage points."""
        return self.estimate.text("+.0f").replace("%", "points") if self.claim == "C8" else self.estimate.percent().text("+.0f")


def contrast(effects: pd.DataFrame, margin: float = OVER_TASKS) -> Contrast:
    """What the `effects` say over tasks: Student's t over the tasks' means, and a bootstrap of tasks and of seeds within them.

    The wider interval of the two counts.
    """
    if effects.shape[1] < 2:
        return Contrast(effects, interval(effects.mean()), 1.0, margin)
    return Contrast(effects, *_over(effects.mean().to_numpy(), _bootstrap(effects, DRAWS)[1]), margin)


def _over(means: np.ndarray, drawn: np.ndarray) -> tuple[Interval, float]:
    """The mean of the tasks' `means` with the wider interval, and its p-value; `drawn` (draws, tasks) are the means of drawn tasks."""
    found = interval(means)
    low, low_90, high_90, high = np.percentile(drawn.mean(axis=1), [2.5, 5, 95, 97.5]).tolist()
    if high - low <= found.high - found.low:
        return found, found.p_value()
    return Interval(found.mean, low, high, found.n, found, (low_90, high_90)), found.p_value()


def _bootstrap(effects: pd.DataFrame, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of drawn tasks and the means of drawn seeds of each, both (draws, tasks)."""
    random, values = np.random.default_rng(0), [column.dropna().to_numpy() for _, column in effects.items()]
    # the mean of a task's drawn seeds, for every draw and every place that the task may take
    seeds = [random.choice(one, (draws, len(values), len(one))).mean(axis=2) for one in values]
    tasks = random.integers(len(values), size=(draws, len(values)))
    return tasks, np.stack(seeds)[tasks, np.arange(draws)[:, None], np.arange(len(values))]


def by_task(effects: pd.DataFrame, margin: float = WITHIN_TASK) -> pd.DataFrame:
    """A row a task: mean effect with its interval over seeds, p-value after Holm over tasks, outcome."""
    found = {task: interval(column.dropna()) for task, column in effects.items()}
    return pd.DataFrame({task: {"mean": one.mean, "low": one.low, "high": one.high, "seeds": one.n, "p": p,
                                "outcome": outcome([one], margin, one.sign() if p < 0.05 else 0)}
                         for (task, one), p in zip(found.items(), holm(one.p_value() for one in found.values()), strict=True)}).T


def block_interval(ours: np.ndarray, theirs: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the effect on a series of which there is one draw: seeds and blocks of test days are resampled.

    Parameters
    ----------
    ours, theirs : mean errors of blocks of test days, (seeds, blocks), the same seeds.
    """
    random, (seeds, blocks) = np.random.default_rng(0), ours.shape
    rows, columns = zip(*((random.integers(seeds, size=seeds), random.integers(blocks, size=blocks)) for _ in range(draws)), strict=True)
    rows, columns = np.stack(rows)[:, :, None], np.stack(columns)[:, None]
    drawn = 100 * np.log(ours[rows, columns].mean(axis=2) / theirs[rows, columns].mean(axis=2)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def simulate(effects: pd.DataFrame, added: float, family: int, draws: int = 1024) -> dict[str, float]:
    """How often the rule says what, if the truth were a difference of `added` percent.

    The labels of the two arms are exchanged task by task, the unit of the test, in all ways, or in `draws` random ones. The p-value counts `family` times, as much
    as Holm's correction can ask for.
    """
    tasks, said, shift = effects.shape[1], Counter[str](), 100 * np.log1p(added / 100)
    means, (which, drawn) = effects.mean().to_numpy(), _bootstrap(effects, 500)
    exchanged = product([-1, 1], repeat=tasks) if 2**tasks <= draws else np.random.default_rng(0).choice([-1, 1], (draws, tasks))
    for signs in map(np.array, exchanged):
        found = Contrast(effects, *_over(means * signs + shift, drawn * signs[which] + shift))
        said[found.outcome(min(1.0, family * found.p_value))] += 1
    return {name: count / said.total() for name, count in said.items()}
