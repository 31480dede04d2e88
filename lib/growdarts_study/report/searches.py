"""Records of searches -> one table of runs; what arms find and cost; the verdicts on the claims of the protocol."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from growdarts_study.report.comparison import Interval, holm, interval
from growdarts_study.report.contrasts import OVER_TASKS, Contrast, block_interval, by_task, contrast
from growdarts_study.report.figures import COLOURS
from growdarts_study.report.tables import p_text
from growdarts_study.report.whole_space import CONTROLS, TaskSpace, holds_product

NAMES = {"grow_1": "growing from 1 node", "grow_2": "growing from 2 nodes", "grow_3": "growing from 3 nodes",
         "grow_fresh_1": "growing from 1, fresh weights", "grow_fresh_2": "growing from 2, fresh weights",
         **{f"fixed_{n}": f"fixed backbone, {n} node{'s' * (n > 1)}" for n in (1, 2, 4, 8)},
         "graph_grow": "DARTS' graph, growing", "graph_fixed": "DARTS' graph, 4 nodes", "random": "random cells, same cost",
         "halving": "successive halving, same cost", "shared": "random, shared weights", "lstm": "LSTM", "gru": "GRU",
         "lstm_2": "LSTM, 2 layers", "gru_2": "GRU, 2 layers", "prune_end": "pruning at the end", "prune_none": "no pruning"}
ELEMENTARY = " (elementary)"
SEEDS = 12  # of the protocol, and its tasks that are no controls
TASKS = {"C1": 9, "C3": 9, "C4": 6, "C6": 6, "C7": 9, "C8": 9}


def read(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a run, by task, seed and arm; those with the elementary operations have arms of their own names.

    Columns: retrained and one_shot, the test errors, a diverged training having that of the mean; share, of the way from the error of the
    mean to the best possible or the best closed form; search_flops and flops, those of the search and of all; cell, its
    operations; nodes, the effective ones; what else a row of a record has.
    """
    rows = []
    for record in records:
        config, mean = record["config"], record["closed_forms"]["mean"]["test"]
        best = record["floor"] or min(record["closed_forms"].values(), key=lambda model: model["validation"])["test"]
        suffix = ELEMENTARY if "mul_tanh" in config["operations"] else ""
        closed = {name: {"retrained": found} for name, found in record["closed_forms"].items()}
        for arm, row in [*record["rows"].items(), *(closed.items() if config["group"] == "main" else ())]:
            retrained, cell = row.get("retrained", {}), row.get("cell")
            error = mean if retrained.get("test") is None else retrained["test"]
            rows.append({
                **row, "task": config["dataset"], "seed": config["seed"], "arm": arm + suffix * (arm not in closed), "mean": mean,
                "retrained": error, "retrained_row": retrained, "one_shot": row.get("one_shot", {"test": mean if "diverged" in row else np.nan})["test"],
                "mean_validation": record["closed_forms"]["mean"]["validation"],
                "share": (mean - error) / (mean - best) if config["dataset"] not in CONTROLS[:2] else np.nan,
                "flops": row.get("search_flops", 0.0) + retrained.get("flops", np.nan),
                "cell": operations_of(cell) if cell else None, "parameters": retrained.get("parameters", np.nan),
                "nodes": sum(name != "carry" for name in operations_of(cell)) if cell else np.nan})
    return pd.DataFrame(rows).set_index(["task", "seed", "arm"]).sort_index()


def operations_of(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """The operation of every node of a stored genotype."""
    if cell["space"] == "two_input":
        return tuple(node[0] for node in cell["layers"][0])
    return tuple(name for name, _ in cell["recurrent"])


def effects(runs: pd.DataFrame, arm: str, rival: str, of: str = "retrained", tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """Log ratios of `of`, percent, seeds by tasks, where both have a run; a forecast with a closed form has one for every seed."""
    ours, theirs = (np.log(runs[of].astype(float).xs(name, level="arm").unstack("task")) for name in (arm, rival))
    found = (100 * (ours - theirs)).dropna(how="all").dropna(axis=1, how="all")
    return found if tasks is None else found.filter(tasks)


def judged(runs: pd.DataFrame) -> list[str]:
    """The tasks that are no controls, in the order of the protocol."""
    return [task for task in dict.fromkeys(runs.index.get_level_values("task")) if task not in CONTROLS]


def cost_until(row: pd.Series, target: float, censored: float) -> float:
    """Operations that a search had spent when its validation error first reached `target`; `censored` if it never did."""
    return next((spent for spent, error in zip(row["spent"], row["errors"], strict=True) if error <= target), censored)


def costs_until_target(runs: pd.DataFrame, pilots: pd.DataFrame, arms: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Log ratio of the operations until the target, `fixed_4` = 0, in percent, by arm: seeds by tasks [protocol E2]."""
    mean = pilots["mean_validation"]
    targets = np.exp(np.log(pilots["errors"].map(min) / mean).groupby("task").mean()) * 1.01
    found: dict[str, dict[str, dict[int, float]]] = {arm: {} for arm in arms}
    for (task, seed), group in runs.groupby(level=["task", "seed"]):
        group = group.droplevel(["task", "seed"])
        if task in targets and "fixed_4" in group.index and isinstance(group.loc["fixed_4"]["spent"], list):
            fixed = group.loc["fixed_4"]
            target, censored = targets[task] * fixed["mean_validation"], 2 * fixed["spent"][-1]
            for arm in set(arms) & set(group.index):
                if isinstance(group.loc[arm]["spent"], list):
                    ratio = cost_until(group.loc[arm], target, censored) / cost_until(fixed, target, censored)
                    found[arm].setdefault(task, {})[seed] = 100 * np.log(ratio)
    return {arm: pd.DataFrame(values) for arm, values in found.items() if values}


@dataclass(frozen=True)
class Verdict:
    """What a claim comes to: the verdict, the estimate that it rests on (percent, over tasks), the smallest difference of interest."""

    claim: str
    what: str
    verdict: str
    estimate: Interval
    margin: float
    seeds: int

    def preliminary(self) -> bool:
        """Whether it rests on fewer seeds or tasks than the protocol asks for."""
        return self.seeds < SEEDS or self.estimate.n < TASKS[self.claim]

    def detectable(self) -> float:
        """The difference that 80 % power would have found."""
        return self.estimate.detectable()


def all_verdicts(runs: pd.DataFrame, pilots: pd.DataFrame) -> list[Verdict]:
    """C1, C3, C4, C6, C7 and C8, of those whose arms there are; the p-values of the primary contrasts are corrected together."""
    tasks, there = judged(runs), set(runs.index.get_level_values("arm"))
    pairs = {"C1": [("grow_1", rival) for rival in ("lstm", "gru", "random")], "C4": [("forced_morphism", "forced_fresh")],
             "C6": [("grow_2", "prune_none")], "C7": [("fixed_4", "graph_fixed"), ("grow_1", "graph_grow")]}
    estimands, margins = {"C4": "one_shot", "C6": "one_shot"}, {"C4": 1.0, "C6": 2.0}
    found = {claim: [contrast(effects(runs, *pair, estimands.get(claim, "retrained"), tasks), margins.get(claim, OVER_TASKS))
                     for pair in of_claim] for claim, of_claim in pairs.items() if {arm for pair in of_claim for arm in pair} <= there}
    corrected = iter(holm([one.p_value for of_claim in found.values() for one in of_claim]) if found else ())
    p_values = {claim: [float(next(corrected)) for _ in of_claim] for claim, of_claim in found.items()}
    made = []
    if "C1" in found:
        made.append(_all_of("C1", "error, growing against LSTM", found["C1"], p_values["C1"]))
    if {"grow_1", "fixed_4"} <= there:
        made.append(_cheaper(runs, contrast(costs_until_target(runs, pilots, ["grow_1"])["grow_1"].filter(tasks)), tasks))
    if "C4" in found:
        (one,) = found["C4"]
        made.append(_verdict("C4", "one-shot error, morphism against fresh weights", one.verdict(*p_values["C4"]), one))
    if "C6" in found:
        made.append(_workable(runs, *found["C6"]))
    if "C7" in found:
        made.append(_all_of("C7", "error, two-input backbone against DARTS' graph", found["C7"], p_values["C7"]))
    return [*made, products(runs, tasks)]


def _verdict(claim: str, what: str, verdict: str, one: Contrast, margin: float | None = None) -> Verdict:
    return Verdict(claim, what, verdict, one.over, one.margin if margin is None else margin, int(one.effects.count().min()))


def _all_of(claim: str, what: str, contrasts: Sequence[Contrast], p_values: Sequence[float]) -> Verdict:
    """Supported if the first is better than all, contradicted if it is worse than one; the first contrast is the estimate."""
    said = {one.verdict(p_value) for one, p_value in zip(contrasts, p_values, strict=True)}
    verdict = "contradicted" if "contradicted" in said else said.pop() if len(said) == 1 else "undecided"
    return _verdict(claim, what, verdict, contrasts[0])


def _cheaper(runs: pd.DataFrame, cost: Contrast, tasks: Sequence[str]) -> Verdict:
    """C3: the upper end of the ratio of operations is below 0.8, with a loss of quality within 1 %."""
    quality = contrast(effects(runs, "grow_1", "fixed_4", tasks=tasks)).over.at(0.9)
    cheap, dear = cost.over.high < 100 * np.log(0.8), cost.over.low > 0
    verdict = "contradicted" if dear else "supported" if cheap and quality.high < 1 else "undecided"
    return _verdict("C3", "operations until the target, growing against a fixed backbone of 4 nodes", verdict, cost, -100 * np.log(0.8))


def _workable(runs: pd.DataFrame, pruned: Contrast) -> Verdict:
    """C6: the error stays within 2 %, and at least half of the operations are gone."""
    left = np.exp(effects(runs, "grow_2", "prune_none", "network_flops").mean().mean() / 100)
    verdict = "contradicted" if pruned.over.at(0.9).low > 2 or left > 0.9 else (
        "supported" if pruned.over.within(2) and left <= 0.5 else "undecided")
    return _verdict("C6", f"one-shot error, pruning against none; {1 - left:.0%} of the operations gone", verdict, pruned)


def products(runs: pd.DataFrame, tasks: Sequence[str], arm: str = "grow_2") -> Verdict:
    """C8: whether found cells hold `hadamard` more often than random cells of as many nodes; the estimate is the difference in
    percent of cells, over tasks."""
    cells = runs.xs(arm, level="arm")["cell"].dropna()
    cells = cells[[task in tasks for task in cells.index.get_level_values("task")]]
    held, chance = cells.map(lambda cell: "hadamard" in cell), cells.map(lambda cell: 1 - (7 / 8) ** len(cell))
    test = stats.binomtest(int(held.sum()), len(held), float(chance.mean()))
    verdict = "undecided" if test.pvalue >= 0.05 else "supported" if held.mean() > chance.mean() else "contradicted"
    difference = 100 * (held.astype(float) - chance).groupby("task").mean()
    return Verdict("C8", f"cells that hold the Hadamard product: {held.mean():.0%}, by chance {chance.mean():.0%}", verdict,
                   interval(difference), 0.0, int(held.groupby("task").count().min()))


# ---- what arms find and cost --------------------------------------------------------------------


def arms_table(runs: pd.DataFrame, rival: str = "lstm") -> pd.DataFrame:
    """A row an arm: error against LSTM over tasks with its interval, share of the way, cost against `grow_1`, nodes."""
    tasks, rows = judged(runs), []
    cost = runs["flops"].astype(float)
    for arm in [name for name in NAMES if name in runs.index.get_level_values("arm")]:
        of_arm = runs.xs(arm, level="arm")
        of_arm = of_arm[[task in tasks for task in of_arm.index.get_level_values("task")]]
        found = contrast(effects(runs, arm, rival, tasks=tasks)) if arm != rival else None
        ratio = np.exp((np.log(cost.xs(arm, level="arm")) - np.log(cost.xs("grow_1", level="arm"))).mean())
        rows.append({"": NAMES[arm], "error against LSTM, %": "0" if found is None else f"{found.over.mean:+.1f} ({found.over.ends('+.1f')})",
                     "share": f"{of_arm['share'].groupby('task').mean().mean():.2f}", "cost": f"{ratio:.2f}",
                     "nodes": "-" if of_arm["nodes"].isna().all() else f"{of_arm['nodes'].mean():.1f}",
                     "weights": f"{of_arm['parameters'].mean():.0f}"})
    return pd.DataFrame(rows).set_index("")


def gap(runs: pd.DataFrame, arm: str) -> Interval:
    """Log ratio of the error of the derived cell, retrained, to that of the searched network as it stood, percent, over tasks."""
    of_arm = runs.xs(arm, level="arm").loc[judged(runs)]
    ratios = 100 * np.log(of_arm["retrained"].astype(float) / of_arm["one_shot"].astype(float))
    return interval(ratios.groupby("task").mean())


def growth_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a search: how many grew, kept a node, collapsed to one effective node; epochs of the first stage; what deriving costs."""
    tasks, rows = judged(runs), []
    for arm in [name for name in NAMES if name in runs.index.get_level_values("arm")]:
        of_arm = runs.xs(arm, level="arm")
        of_arm = of_arm[[task in tasks for task in of_arm.index.get_level_values("task")]]
        if of_arm["one_shot"].isna().all():
            continue
        grown = of_arm["grown"].map(lambda epochs: epochs if isinstance(epochs, list) else [])
        first = [epochs[0] if epochs else spent for epochs, spent in zip(grown, of_arm["epochs"], strict=True)]
        found = gap(runs, arm)
        rows.append({"": NAMES[arm], "grew": f"{np.mean([bool(epochs) for epochs in grown]):.0%}",
                     "epochs before": f"{np.mean(first):.0f}", "effective nodes": f"{of_arm['nodes'].mean():.1f}",
                     "one node left": f"{(of_arm['nodes'] <= 1).mean():.0%}",
                     "retrained against one-shot, %": f"{found.mean:+.0f} ({found.ends('+.0f')})"})
    return pd.DataFrame(rows).set_index("")


def rank_correlation(runs: pd.DataFrame, spaces: Sequence[TaskSpace], arm: str = "grow_1") -> pd.Series:
    """Kendall's tau, by task, of a cell's mixture weights (their product over nodes) with its error in the table of all cells.

    Positive: what the search weighs more is better. Cells with an operation that was pruned, or that is not in the table, are left out.
    """
    found: dict[str, list[float]] = {}
    tables = {space.name: np.log(space.validation).mean(axis=1) for space in spaces}
    for (task, _), row in runs.xs(arm, level="arm").iterrows():
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


def regret(runs: pd.DataFrame, spaces: Sequence[TaskSpace], arms: Sequence[str]) -> dict[str, Interval]:
    """Log ratio of an arm's retrained error to that of the cell of the whole space chosen on validation, percent, over tasks."""
    found = {}
    for arm in arms:
        own, values = runs["retrained"].astype(float).xs(arm, level="arm"), []
        for space in spaces:
            if space.name in own.index.get_level_values("task"):
                ratio = np.log(own.loc[space.name] / space.errors(space.chosen())).dropna()
                values.append(100 * ratio.mean())
        found[arm] = interval(values)
    return found


def products_by_task(runs: pd.DataFrame, arm: str) -> pd.Series:
    """Share of found cells with a product of input and state, by task."""
    cells = runs.xs(arm, level="arm")["cell"].dropna()
    return cells.map(lambda cell: any(holds_product(name) for name in cell)).groupby("task").mean()


def task_table(runs: pd.DataFrame, arm: str, rival: str) -> pd.DataFrame:
    """A row a task: the error of `arm` against that of `rival`, with its interval over seeds; where there is one series only, also
    that over seeds and blocks of test days."""
    found = by_task(effects(runs, arm, rival))
    rows = []
    for task, one in found.iterrows():
        ours, theirs = ([row.get("blocks") for row in runs.loc[task].xs(name, level="arm")["retrained_row"]] for name in (arm, rival))
        blocks = "-"
        if all(ours) and all(theirs):
            n = min(len(ours), len(theirs))
            ours, theirs = (np.array((rows * len(ours))[:len(ours)] if len(rows) == 1 else rows[:n]) for rows in (ours, theirs))
            blocks = "{:+.1f} to {:+.1f}".format(*block_interval(ours, theirs))
        rows.append({"series": task, "error, %": f"{one['mean']:+.1f} ({one['low']:+.1f} to {one['high']:+.1f})", "blocks of days": blocks,
                     "seeds": one["seeds"], "p": p_text(one["p"]), "outcome": one["outcome"]})
    return pd.DataFrame(rows).set_index("series")


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row a claim."""
    return pd.DataFrame([{"claim": one.claim, "what was measured": one.what, "verdict": one.verdict + ", so far" * one.preliminary(),
                          "estimate": f"{one.estimate.mean:+.1f} ({one.estimate.ends('+.1f')})", "series": one.estimate.n, "seeds": one.seeds,
                          "80 % power finds": f"{one.detectable():.1f}"} for one in found]).set_index("claim")


def picture(runs: pd.DataFrame, arms: Sequence[str], rival: str = "lstm") -> Figure:
    """A panel an arm, a row a task: the error against `rival` with its interval over seeds; the mean over tasks below."""
    figure, axes = plt.subplots(1, len(arms), figsize=(9, 4.6), sharey=True)
    tasks = judged(runs)
    for ax, arm in zip(np.atleast_1d(axes), arms, strict=True):
        table = effects(runs, arm, rival, tasks=tasks)
        for row, task in enumerate(tasks):
            if task in table:
                one = interval(table[task].dropna())
                colour = COLOURS[2] if one.high < 0 else COLOURS[1] if one.low > 0 else COLOURS[7]
                ax.plot([one.low, one.high], [row, row], color=colour, lw=2)
                ax.plot(one.mean, row, "o", color=colour, ms=5)
        over = contrast(table).over
        ax.plot([over.low, over.high], [len(tasks) + 0.3] * 2, color="black", lw=3)
        ax.plot(over.mean, len(tasks) + 0.3, "D", color="black", ms=6)
        ax.axvline(0, color=COLOURS[7], ls="--", lw=1, zorder=0)
        ax.axvspan(-OVER_TASKS, OVER_TASKS, color=COLOURS[7], alpha=0.15, lw=0, zorder=0)
        ax.set(title=NAMES[arm].replace(", ", ",\n").replace(" from", "\nfrom"), xlim=(-130, 90), xlabel="error, %")
        ax.title.set_fontsize(10)
    axes = np.atleast_1d(axes)
    axes[0].set_yticks([*range(len(tasks)), len(tasks) + 0.3], [*tasks, "over tasks"])
    axes[0].invert_yaxis()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure
