"""Whether a search ranks cells: by its mixture weights, by its loss, and by what it finds, against the table of all cells; and how far a
derived cell is from the mixture, stage by stage."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from growdarts_study.report.comparison import Interval, interval
from growdarts_study.report.contrasts import contrast
from growdarts_study.report.searches import NAMES, judged
from growdarts_study.report.whole_space import TaskSpace


def rank_correlation(runs: pd.DataFrame, spaces: Sequence[TaskSpace]) -> pd.Series:
    """Kendall's tau, by task, of a cell's mixture weights in `grow_1` (their product over nodes) with its error in the table of all cells.

    Positive: what the search weighs more is better. Cells with an operation that was pruned, or that is not in the table, are left out.
    """
    found: dict[str, list[float]] = {}
    tables = {space.name: np.log(space.validation).mean(axis=1) for space in spaces}
    for (task, _), row in runs.xs("grow_1", level="arm").iterrows():
        if task in tables and isinstance(row["weights"], list):
            scores: dict[str, float] = {"": 1.0}
            for mixture in row["weights"]:
                scores = {f"{cell}+{name}".lstrip("+"): score * weight for cell, score in scores.items()
                          for name, weight in mixture.items() if name != "carry"}
            scores = {cell: score for cell, score in scores.items() if cell in tables[task].index}
            if len(scores) > 2:
                tau = stats.kendalltau([*scores.values()], -tables[task].loc[[*scores]]).statistic
                found.setdefault(task, []).append(float(tau))
    return pd.Series({task: np.mean(values) for task, values in found.items()}, dtype=float)


def order_by_loss(runs: pd.DataFrame) -> Interval:
    """Kendall's tau, over series, of the least validation error of a searched network with the test error of its cell, trained from scratch, among the
    searches of a series and a seed. 1: the search with the better network hands over the better cell."""
    found = runs[runs.index.isin(["grow_1", "grow_2", "fixed_4"], level="arm")].dropna(subset="errors")
    taus = pd.Series({key: stats.kendalltau(group["errors"].map(min), group["retrained"]).statistic
                      for key, group in found.groupby(level=["task", "seed"]) if len(group) > 1})
    return contrast(taus.unstack(0).filter(judged(runs))).over


def regret(runs: pd.DataFrame, spaces: Sequence[TaskSpace], arms: Sequence[str]) -> dict[str, tuple[Interval, list[float]]]:
    """100 times the log ratio of an arm's retrained error to that of the cell of the whole space chosen on validation, over tasks; and its rank there,
    the share of all cells with a lower error on the same seeds, by task."""
    found = {}
    for arm in arms:
        own, values, ranks = np.log(runs["retrained"].astype(float)).xs(arm, level="arm"), [], []
        for space in spaces:
            if space.name in own.index.get_level_values("task"):
                table = np.log(space.test)[own.loc[space.name].index.intersection(space.test.columns)]
                error = own.loc[space.name][table.columns].mean()
                values.append(100 * (error - table.loc[space.chosen()].mean()))
                ranks.append(float((table.mean(axis=1) < error).mean()))
        found[arm] = interval(values), ranks
    return found


def stage_gaps(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm, a column a stage: 100 times the log ratio of the validation error by which `judged_n` judges the stage, of the derived cell trained on
    for a few epochs, to the least one of the mixture in that stage, over series; of the searches that had such a stage. A cell worse than the mean counts as the mean."""
    rows: dict[str, dict[str, str]] = {}
    for arm in ("judged_1", "judged_2"):
        found = runs.xs(arm, level="arm").dropna(subset="errors")
        for stage in range(3):
            ratios = {}
            for key, row in found[found["stage_errors"].map(len) > stage].iterrows():
                ends = [0, *row["grown"], int(row["epochs"])]
                ratios[key] = 100 * np.log(min(row["stage_errors"][stage] or np.inf, row["mean_validation"]) / min(row["errors"][ends[stage]:ends[stage + 1]]))
            over = contrast(pd.Series(ratios).unstack(0).filter(judged(runs))).over if ratios else None
            rows.setdefault(NAMES[arm], {})[f"stage {stage + 1}"] = f"{over.percent().text('+.0f')}, {len(ratios)}" if over else "-"
    return pd.DataFrame(rows).T
