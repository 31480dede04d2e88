"""What the contrasts of the searches would say by other tests, units, targets and prices, for the page on what could be wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from growdarts_study.report import claims
from growdarts_study.report.comparison import Interval, interval
from growdarts_study.report.contrasts import contrast
from growdarts_study.report.searches import CLOSED_FORMS, NAMES, costs_until_target, effects, judged, targets
from growdarts_study.report.tables import p_text
from growdarts_study.report.whole_space import TaskSpace, best_of, geometric

ARM, RIVAL = "grow_1", "random"  # the contrast that decides C1
EXPLODED = 1000.0  # times the error of the mean, or of the other arm


def without_each(table: pd.DataFrame) -> tuple[float, float]:
    """Least and largest mean effect over tasks, of a table of effects, if any one task is left out."""
    means = table.mean()
    left = [float(means.drop(task).mean()) for task in means.index]
    return min(left), max(left)


def ranks(table: pd.DataFrame) -> tuple[int, float, float]:
    """Tasks whose mean effect is above zero; p-values of the sign test and of Wilcoxon's, whose unit is a task."""
    means = table.mean()
    above = int((means > 0).sum())
    return above, float(stats.binomtest(above, len(means)).pvalue), float(stats.wilcoxon(means).pvalue)


def over_seeds(table: pd.DataFrame) -> Interval:
    """The mean effect with a seed as the unit, over seeds that have all tasks."""
    return contrast(table.dropna().T).over


def scatter(table: pd.DataFrame) -> tuple[float, float]:
    """Standard deviations of the effects: over the seeds of a task, and of the tasks' true means, by their moments (0 where the seeds
    explain all of it)."""
    within, means = table.var(), table.mean()
    between = means.var() - (within / table.count()).mean()
    return float(np.sqrt(within.mean())), float(np.sqrt(max(0.0, between)))


def matching_draws(runs: pd.DataFrame, spaces: Sequence[TaskSpace]) -> int:
    """The least k for which the best of k random cells of the whole space is, against LSTM and over tasks, at least as good as `ARM`."""
    own = effects(runs, ARM, "lstm").mean()
    known = [space for space in spaces if space.name in own.index]
    lstm = {space.name: float(geometric(space.rivals).loc["lstm"]) for space in known}
    wanted = float(own[[*lstm]].mean())
    return next(k for k in range(1, 1000) if np.mean([100 * np.log(best_of(space, k) / lstm[space.name]) for space in known]) <= wanted)


def restarts(spaces: Sequence[TaskSpace]) -> dict[str, float]:
    """What it brings to start LSTM several times, on series of which there is one draw: the test error of the seed with the least validation
    error against that of a seed in the mean, 100 times the log ratio."""
    found = {}
    for space in spaces:
        if space.one_draw():
            tested = space.rivals.loc["lstm"]
            found[space.name] = float(100 * (np.log(tested[space.rivals_validation.loc["lstm"].idxmin()]) - np.log(tested).mean()))
    return found


def before_growth(runs: pd.DataFrame, pilots: pd.DataFrame) -> tuple[int, int]:
    """Searches that reach the target of C3 with the nodes that they start with, and all that reach it."""
    goals, first, reached = targets(pilots), 0, 0
    for (task, _), row in runs.xs(ARM, level="arm").iterrows():
        if task in goals and isinstance(row["errors"], list):
            at = next((epoch for epoch, error in enumerate(row["errors"], 1) if error <= goals[task] * row["mean_validation"]), None)
            reached += at is not None
            first += at is not None and (not row["grown"] or at <= row["grown"][0])
    return first, reached


def given_back(runs: pd.DataFrame) -> float:
    """Share of the searches that grew whose cell has no more than the one node that they started with, since no later stage was better."""
    own = runs.xs(ARM, level="arm")
    grew = own[own["grown"].map(lambda epochs: isinstance(epochs, list) and len(epochs) > 0)]
    return float((grew["cell"].map(len) <= 1).mean())


def run_twice(runs: pd.DataFrame) -> tuple[int, int, float]:
    """Of one search that was run at two commits and did not diverge: how often the cell is the same, of how many, and the largest ratio of
    one-shot errors."""
    first, second = (runs[~runs["one_shot_failed"]].xs(arm, level="arm") for arm in ("grow_2", "kept_2"))
    both = first.index.intersection(second.index)
    ratios = np.log(first.loc[both, "one_shot"].astype(float) / second.loc[both, "one_shot"].astype(float))
    same = [a == b for a, b in zip(first.loc[both, "cell"], second.loc[both, "cell"], strict=True)]
    return sum(same), len(both), float(np.exp(ratios.abs().max()))


def without_exploded(table: pd.DataFrame) -> tuple[int, int, Interval]:
    """How many effects of a table are beyond a factor of `EXPLODED`, how many there are, and the mean over tasks without those."""
    exploded = table.abs() > 100 * np.log(EXPLODED)
    return int(exploded.sum().sum()), int(table.count().sum()), contrast(table.mask(exploded)).over


def without_diverged(runs: pd.DataFrame, arm: str, rival: str, of: str = "retrained", tasks: Sequence[str] | None = None) -> Interval:
    """The effect of `arm` against `rival` over tasks without runs that diverged, whose error is that of the mean."""
    return contrast(effects(runs[~runs[f"{of}_failed"]], arm, rival, of, tasks)).over


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm that has any: its runs, those whose search or training diverged, and those with an error of more than `EXPLODED` times that
    of the mean."""
    errors = runs[["one_shot", "retrained"]].astype(float)
    found = pd.DataFrame({"diverged": runs["one_shot_failed"] | runs["retrained_failed"], "exploded": errors.gt(EXPLODED * runs["mean"], axis=0).any(axis=1)})
    found = found[~found.index.get_level_values("arm").isin(CLOSED_FORMS)].groupby("arm").sum().assign(runs=runs.groupby("arm").size())
    return found[found.diverged + found.exploded > 0][["runs", "diverged", "exploded"]].rename(index=NAMES)


def weights_kept(runs: pd.DataFrame) -> Interval:
    """The effect of keeping a cell's weights against training the same cell from scratch, over tasks; without trainings that diverged."""
    own = runs[~runs["retrained_failed"]].xs("kept_2", level="arm")
    return contrast((100 * np.log(own["retrained"].astype(float) / own["from_scratch"].astype(float))).unstack("task")).over


def larger_step(runs: pd.DataFrame, arm: str) -> float:
    """Share of the trainings from scratch that end with the largest step of all that are tried."""
    rates = runs["rate"].dropna()
    return float((rates.xs(arm, level="arm") == rates.max()).mean())


def numbers(runs: pd.DataFrame, pilots: pd.DataFrame, spaces: Sequence[TaskSpace]) -> dict[str, str]:
    """All of it in words, for the text; of runs on tasks that are no controls."""
    tasks = judged(runs)
    runs = runs.loc[tasks]
    table = effects(runs, ARM, RIVAL)
    low, high = (f"{100 * np.expm1(value / 100):+.0f} %" for value in without_each(table))
    above, sign, wilcoxon = ranks(table)
    pairs, found, corrected = zip(*claims.primary(runs)["C1"], strict=True)
    decisive = pairs.index((ARM, RIVAL))
    steps = interval([100 * np.log(runs["retrained"].loc[space.name].xs("lstm", level="arm") / space.rivals.loc["lstm"]).mean()
                      for space in spaces if space.name in tasks])
    looser = pilots.assign(errors=pilots["errors"].map(lambda errors: [1.3 * error for error in errors]))
    same, of, most = run_twice(runs)
    seeds, series = scatter(table)
    second = runs.xs("second_1", level="arm")["retrained_failed"]
    exploded, pairs_of, without = without_exploded(effects(runs, "forced_fresh", "forced_morphism", "one_shot"))
    remedy, others = claims.chosen_remedy(runs), [task for task in tasks if task not in claims.CHOSEN_ON]
    return {
        "c6_without": without_diverged(runs, "grow_2", "prune_none", "one_shot").percent().text("+.0f"),
        "c10_without": without_diverged(runs, remedy, "grow_1", tasks=others).percent().text("+.0f"),
        "second_without": without_diverged(runs, "second_1", "grow_1").percent().text("+.0f"),
        "second_failed": f"{second.sum()} of {len(second)}",
        "weights_kept": weights_kept(runs).percent().text("+.0f"),
        "exploded": f"{exploded} of {pairs_of}", "without_exploded": without.percent().text("+.0f"),
        "scatter_seeds": f"{seeds / 100:.2f}", "scatter_series": f"{series / 100:.2f}",
        "without": f"{low} to {high}", "series_worse": f"{above} of {table.shape[1]}", "sign": p_text(sign), "wilcoxon": p_text(wilcoxon),
        "over_seeds": over_seeds(table).percent().text("+.0f"), "whole_seeds": str(len(table.dropna())),
        "random_p": p_text(found[decisive].p_value), "random_p_holm": p_text(corrected[decisive]),
        "c1_plain": claims.of_all("C1", pairs, found, [one.p_value for one in found]).verdict,
        "c1_holm": claims.of_all("C1", pairs, found, corrected).verdict,
        "matching": str(matching_draws(runs, spaces)),
        "restarts": ", ".join(f"{100 * np.expm1(value / 100):+.0f} % on {name}" for name, value in restarts(spaces).items()),
        "before_growth": "{} of {}".format(*before_growth(runs, pilots)),
        "looser": contrast(costs_until_target(runs, looser, ARM)[0]).over.percent().text("+.0f"),
        "given_back": f"{given_back(runs):.0%}", "same": f"{same} of {of}", "most": f"{most:.1f}",
        **{f"step_{arm}": f"{larger_step(runs, arm):.0%}" for arm in ("grow_1", "random", "lstm")},
        "lstm_steps": steps.percent().text("+.1f")}
