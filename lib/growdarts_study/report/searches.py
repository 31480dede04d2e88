"""Records of searches -> one table of runs; what arms find and cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.arms import DUPLICATION
from growdarts_study.report.comparison import Interval, interval
from growdarts_study.report.contrasts import OVER_TASKS, WITHIN_TASK, block_interval, by_task, contrast
from growdarts_study.report.figures import COLOURS, SIGNS, WIDTH, interval_bar
from growdarts_study.report.tables import p_text
from growdarts_study.report.whole_space import CONTROLS

NAMES = {"grow_1": "growing from 1 node", "grow_2": "growing from 2 nodes", "grow_3": "growing from 3 nodes",
         **{f"grow_fresh_{n}": f"growing from {n}, fresh weights" for n in (1, 2, 3)},
         **{f"fixed_{n}": f"fixed backbone, {n} node{'s' * (n > 1)}" for n in (1, 2, 4, 8)},
         "graph_grow": "DARTS' graph, growing", "graph_fixed": "DARTS' graph, 4 nodes", "random": "random cells, same cost",
         "halving": "successive halving, same cost", "shared": "random, shared weights", "lstm": "LSTM", "gru": "GRU",
         "lstm_2": "LSTM, 2 layers", "gru_2": "GRU, 2 layers", "prune_end": "pruning at the end", "prune_none": "no pruning", "forced_morphism": "forced growth by morphism",
         "forced_fresh": "forced growth with fresh weights", "forced_identity": "forced growth without noise",
         "forced_scratch": "all nodes from the start", "judged_1": "growing from 1, judged by the derived cell",
         "judged_2": "growing from 2, judged by the derived cell", "kept_2": "growing from 2, weights kept",
         "long_1": "growing from 1, at most 400 epochs", "second_1": "growing from 1, second order", "copy_splitting": "splitting", "copy_all": "splitting all at once",
         "copy_morphism": "copies by morphism", "copy_random": "copies of random operations", "copy_random_more": "random copies, equal cost", "copy_none": "no copies",
         "wider": "a wider cell", "grow_starts": "growing's cell, as many starts", "lstm_starts": "LSTM, as many starts"}
ELEMENTARY = " (elementary)"
NAMES |= {arm + ELEMENTARY: f"{NAMES[arm]}, elementary operations" for arm in ("grow_1", "grow_2", "fixed_4", "halving")}
CLOSED_FORMS = {"mean": "historical mean", "last": "last value", "season": "a day before", "var_bic": "VAR by BIC", "ridge": "ridge on lags",
                "quadratic_ridge": "ridge with products of lags", "har": "HAR"}
SIZES = ("fixed_1", "fixed_2", "fixed_4", "fixed_8")


def read(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a run, by task, seed and arm; those with the elementary operations have arms of their own names.

    Columns: retrained and one_shot, the test errors, one that is not finite counting as that of the mean, and whether it is one of these,
    retrained_failed and one_shot_failed; validation and rate, validation
    error and learning rate of the training from scratch; share, of the way from the error of the mean to the best possible or the best
    closed form; search_flops and flops, those of the search and of all; cell, its operations; nodes, the effective ones; what else a row
    of a record has. Where the derived cell is trained on from the weights that it has (`kept_2`), the errors of that count as retrained;
    from_scratch is always the test error of the cell trained from scratch.
    """
    rows = []
    for record in records:
        config, mean = record["config"], record["closed_forms"]["mean"]["test"]
        best = record["floor"] or min(record["closed_forms"].values(), key=lambda model: model["validation"])["test"]
        suffix = ELEMENTARY if "mul_tanh" in config["operations"] else ""
        closed = {name: {"retrained": found} for name, found in record["closed_forms"].items()}
        for arm, row in [*record["rows"].items(), *(closed.items() if config["group"] in ("main", "controls") else ())]:
            if "retrained" in row:
                row = row | {"retrained": row["retrained"] | row.get("kept", {}), "from_scratch": row["retrained"]["test"]}
            retrained, cell = row.get("retrained", {}), row.get("cell")
            error, one_shot = (_error(row, of, mean) for of in ("retrained", "one_shot"))
            failed = {f"{of}_failed": _failed(row, of) for of in ("retrained", "one_shot")}
            rows.append({
                **row, **failed, "task": config["dataset"], "seed": config["seed"], "arm": arm + suffix * (arm not in closed), "mean": mean,
                "retrained": error, "one_shot": one_shot, "blocks": retrained.get("blocks"), "rate": retrained.get("rate", np.nan), "operations": config["operations"],
                "mean_validation": record["closed_forms"]["mean"]["validation"], 
                "validation": record["closed_forms"]["mean"]["validation"] if retrained.get("validation") is None else retrained["validation"],
                "share": (mean - error) / (mean - best) if config["dataset"] not in CONTROLS[:2] else np.nan,
                "flops": row.get("search_flops", 0.0) + retrained.get("flops", np.nan),
                "cell": operations_of(cell) if cell else None, "parameters": retrained.get("parameters", np.nan),
                "nodes": sum(name != "carry" for name in operations_of(cell)) if cell else np.nan})
    return pd.DataFrame(rows, columns=None if rows else ["task", "seed", "arm"]).set_index(["task", "seed", "arm"]).sort_index()


def _error(row: Mapping[str, Any], of: str, mean: float) -> float:
    """A test error of a row, NaN if the arm has none of that kind, `mean` if the search or the training diverged."""
    return mean if _failed(row, of) else row.get(of, {"test": np.nan})["test"]


def _failed(row: Mapping[str, Any], of: str) -> bool:
    """Whether the search diverged, or the error of this kind is not finite."""
    return "diverged" in row or of in row and (row[of]["test"] is None or not np.isfinite(row[of]["test"]))


def operations_of(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """The operation of every node of a stored genotype."""
    if cell["space"] == "two_input":
        return tuple(node[0] for node in cell["layers"][0])
    return tuple(name for name, _ in cell["recurrent"])


def effects(runs: pd.DataFrame, arm: str, rival: str, of: str = "retrained", tasks: Sequence[str] | None = None) -> pd.DataFrame:
    """100 times the log ratios of `of`, seeds by tasks, where both have a run; a forecast with a closed form has one for every seed."""
    ours, theirs = (np.log(runs[of].astype(float).xs(name, level="arm").unstack("task")) for name in (arm, rival))
    found = (100 * (ours - theirs)).dropna(how="all").dropna(axis=1, how="all")
    return found if tasks is None else found.filter(tasks)


def judged(runs: pd.DataFrame) -> list[str]:
    """The tasks that are no controls."""
    return [task for task in dict.fromkeys(runs.index.get_level_values("task")) if task not in CONTROLS]


def searched(runs: pd.DataFrame) -> list[str]:
    """The arms that there are, in order, but for forced growth and copies, whose searches have other settings."""
    there = set(runs.index.get_level_values("arm"))
    return [name for name in NAMES if name in there and not name.startswith("forced") and name not in DUPLICATION]


def cost_until(row: Mapping[str, Any], target: float, censored: float) -> float:
    """Operations that a search had spent when its validation error first reached `target`; if it never did, `censored`, or what it
    spent if that is more."""
    reached = (spent for spent, error in zip(row["spent"], row["errors"], strict=True) if error <= target)
    return next(reached, max(censored, row["spent"][-1]))


def targets(pilots: pd.DataFrame) -> pd.Series:
    """The validation error that counts as reached, by task, in units of that of the mean; set by the pilot seeds of `fixed_4` [protocol E2]."""
    return np.exp(np.log(pilots["errors"].map(min) / pilots["mean_validation"]).groupby("task").mean()) * 1.01


def costs_until_target(runs: pd.DataFrame, pilots: pd.DataFrame, arm: str) -> tuple[pd.DataFrame, float, float]:
    """100 times the log ratio of the operations until the target, `arm` to `fixed_4`, seeds by tasks [protocol E2]; and the shares of
    both that never reach it."""
    goals, found, missed = targets(pilots), dict[str, dict[int, float]](), []
    for (task, seed), group in runs.groupby(level=["task", "seed"]):
        group = group.droplevel(["task", "seed"])
        ours, fixed = (group.loc[name] if name in group.index else {"spent": None} for name in (arm, "fixed_4"))
        if task in goals and isinstance(ours["spent"], list) and isinstance(fixed["spent"], list):
            target, censored = goals[task] * fixed["mean_validation"], 2 * fixed["spent"][-1]
            found.setdefault(task, {})[seed] = 100 * np.log(cost_until(ours, target, censored) / cost_until(fixed, target, censored))
            missed.append([min(row["errors"]) > target for row in (ours, fixed)])
    return pd.DataFrame(found), *np.mean(missed, axis=0)


def target_table(runs: pd.DataFrame, pilots: pd.DataFrame) -> pd.DataFrame:
    """A row a way to search: its operations until the target against those of `fixed_4`, over series, in percent, how often it never
    gets there [protocol E2], and the operations of `grow_1` against its own, on the series and seeds that both have. All sizes together
    are what choosing one of them by hand costs: all that the four searches spend."""
    arms, there = ["grow_1", "grow_2", "fixed_1", "fixed_2", "fixed_4", "fixed_8"], set(runs.index.get_level_values("arm"))
    if set(SIZES) <= there:
        spent = pd.concat([runs.xs(arm, level="arm", drop_level=False)["spent"].dropna().map(lambda costs: costs[-1]) for arm in SIZES])
        total = spent.unstack("arm").dropna().sum(axis=1)
        sizes = pd.DataFrame({"spent": [[cost] for cost in total], "errors": [[0.0]] * len(total)},
                             pd.MultiIndex.from_tuples([(*pair, "sizes") for pair in total.index], names=runs.index.names))
        runs, arms, there = pd.concat([runs, sizes]), [*arms, "sizes"], there | {"sizes"}
    found = {arm: costs_until_target(runs, pilots, arm) for arm in arms if arm in there}
    rows = {}
    for arm, (costs, missed, _) in found.items():
        costs = costs.filter(judged(runs))
        growing = (found["grow_1"][0] - costs).dropna(how="all").dropna(axis=1, how="all")
        rows[NAMES.get(arm, "all four sizes, in full")] = {
            "operations": "-" if arm == "fixed_4" else contrast(costs).over.percent().text("+.0f"), "never reach it": "-" if arm == "sizes" else f"{missed:.0%}",
            "growing from 1 against it": "-" if arm == "grow_1" else contrast(growing).over.percent().text("+.0f"),
            "series": str(costs.shape[1]), "seeds": str(int(costs.count().min()))}
    return pd.DataFrame(rows).T


def arms_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: errors against LSTM over tasks with their intervals, that of the searched network and that of the cell trained from scratch;
    share of the way, cost against `grow_1`, nodes, weights. An arm with fewer runs than others says how many it has."""
    runs, rows = runs.loc[judged(runs)], []
    most = runs.groupby("arm").size().max()
    cost, as_searched = runs["flops"].astype(float), runs.assign(one_shot=runs["one_shot"].fillna(runs["retrained"]))
    for arm in searched(runs):
        of_arm = runs.xs(arm, level="arm")
        ratio = np.exp((np.log(cost.xs(arm, level="arm")) - np.log(cost.xs("grow_1", level="arm"))).mean())
        errors = {of: "-" if arm == "lstm" or of_arm[of].isna().all() else contrast(effects(as_searched, arm, "lstm", of)).over.percent().text("+.0f")
                  for of in ("one_shot", "retrained")}
        seeds = of_arm.groupby("task").size()
        rows.append({"": NAMES[arm] + (f" ({len(seeds)} series, {seeds.min()} seeds)" if len(of_arm) < most else ""), "as searched": errors["one_shot"], "retrained": errors["retrained"],
                     "share": f"{of_arm['share'].groupby('task').mean().mean():.2f}", "cost": f"{ratio:.2f}",
                     "nodes": "-" if of_arm["nodes"].isna().all() else f"{of_arm['nodes'].mean():.1f}",
                     "weights": f"{of_arm['parameters'].mean():.0f}"})
    return pd.DataFrame(rows).set_index("")


def closed_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a series: its forecast with a closed form that has the least validation error, and the errors of growing, random cells and LSTM over that forecast's with
    their outcomes, see `task_table`; not corrected for the number of series."""
    validation, rows = np.log(runs["validation"].astype(float)).unstack("arm").drop(columns=NAMES, errors="ignore"), {}
    for task in judged(runs):
        best = str(validation.loc[task].mean().idxmin())
        found = {NAMES[arm]: task_table(runs.loc[[task]], arm, best).loc[task] for arm in ("grow_1", "random", "lstm")}
        rows[task] = {"closed form": CLOSED_FORMS[best], **{name: f"{one['error']}, {one['outcome']}" for name, one in found.items()}}
    return pd.DataFrame(rows).T.rename_axis("series")


LONGER = (("grow_1", "lstm"), ("grow_1", "random"), ("random", "lstm"), ("grow_starts", "random"), ("lstm_starts", "random"))


def longer_table(runs: pd.DataFrame, longer: pd.DataFrame) -> pd.DataFrame:
    """A row a contrast of E8: the change of the error over tasks in percent, in `runs` (E1) and in those with `longer` trainings; of both
    only the tasks and seeds that `longer` has."""
    shared = runs[[pair in set(longer.index.droplevel("arm")) for pair in runs.index.droplevel("arm")]]
    rows = {}
    for arm, rival in LONGER:
        row = {}
        for name, made in (("as in E1", shared), ("longer", longer)):
            there = {arm, rival} <= set(made.index.get_level_values("arm"))
            row[name] = contrast(effects(made, arm, rival, tasks=judged(longer))).over.percent().text("+.0f") if there else "-"
        rows[f"{NAMES[arm]} against {NAMES[rival]}"] = row
    return pd.DataFrame(rows).T


def duplication_table(runs: pd.DataFrame, rival: str = "wider") -> pd.DataFrame:
    """A row an arm of E4, all against `rival`: errors over tasks with their intervals; geometric means over tasks of operations of
    the searched network, of weights of the derived one, and of operations of the search. And how many copies there are, and
    the mixture weight of what was copied."""
    tasks, rows = judged(runs), []
    for arm in [arm for arm in DUPLICATION if arm in runs.index.get_level_values("arm")]:
        nodes = runs.xs(arm, level="arm")["weights"].dropna()
        ratios = {of: np.exp(effects(runs, arm, rival, of, tasks).mean().mean() / 100)
                  for of in ("network_flops", "parameters", "search_flops")}
        errors = {of: "0" if arm == rival else contrast(effects(runs, arm, rival, of, tasks)).over.percent().text("+.1f")
                  for of in ("one_shot", "retrained")}
        rows.append({"": NAMES[arm], "one-shot error": errors["one_shot"], "size": f"{ratios['network_flops']:.2f}",
                     "retrained error": errors["retrained"], "weights": f"{ratios['parameters']:.2f}",
                     "cost": f"{ratios['search_flops']:.2f}", "copies, weight":
                     f"{nodes.map(lambda node: str(node).count('#')).mean():.1f}, {nodes.map(_copied_weight).mean():.0%}"})
    return pd.DataFrame(rows).set_index("")


def _copied_weight(nodes: Sequence[Mapping[str, float]]) -> float:
    """Mixture weight of the first node's operations that have copies, these counted."""
    return sum(weight for key, weight in nodes[0].items() if f"{key.split('#')[0]}#2" in nodes[0])


def gap(runs: pd.DataFrame, arm: str) -> Interval:
    """100 times the log ratio of the error of the derived cell, retrained, to that of the searched network as it stood, over those tasks that the arm
    has run on and that are no controls."""
    of_arm = runs.loc[judged(runs)].xs(arm, level="arm")
    ratios = 100 * np.log(of_arm["retrained"].astype(float) / of_arm["one_shot"].astype(float))
    return contrast(ratios.unstack("task")).over


def growth_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a search: how many ever grew, ended with one effective node; epochs of the first stage; what deriving costs."""
    runs, rows = runs.loc[judged(runs)], []
    for arm in searched(runs):
        of_arm = runs.xs(arm, level="arm")
        if of_arm["one_shot"].isna().all():
            continue
        of_arm = of_arm[of_arm["epochs"].notna()]  # not of a search that diverged
        grown = of_arm["grown"].map(lambda epochs: epochs if isinstance(epochs, list) else [])
        first = [epochs[0] if epochs else spent for epochs, spent in zip(grown, of_arm["epochs"], strict=True)]
        found = gap(runs, arm)
        rows.append({"": NAMES[arm], "grew": f"{np.mean([bool(epochs) for epochs in grown]):.0%}",
                     "epochs before": f"{np.mean(first):.0f}", "effective nodes": f"{of_arm['nodes'].mean():.1f}",
                     "one node left": f"{(of_arm['nodes'] <= 1).mean():.0%}",
                     "retrained against one-shot": found.percent().text("+.0f")})
    return pd.DataFrame(rows).set_index("")


def task_table(runs: pd.DataFrame, arm: str, rival: str) -> pd.DataFrame:
    """A row a task: the error of `arm` against that of `rival`, with its interval over seeds; where there is one series only, also
    that over seeds and blocks of test days, which must say the same."""
    rows = []
    for task, one in by_task(effects(runs, arm, rival)).iterrows():
        pairs = pd.DataFrame({name: runs.loc[task].xs(name, level="arm")["blocks"] for name in (arm, rival)}).dropna()
        outcome, blocks = one["outcome"], "-"
        if len(pairs):
            low, high = block_interval(*(np.array(pairs[name].tolist()) for name in (arm, rival)))
            said = {"better": high < 0, "worse": low > 0}.get(outcome, -WITHIN_TASK < low and high < WITHIN_TASK)
            outcome, blocks = outcome if said else "undecided", Interval(0.0, low, high, 2).percent().ends("+.1f")
        rows.append({"series": task, "error": Interval(one["mean"], one["low"], one["high"], one["seeds"]).percent().text("+.1f"),
                     "blocks of days, %": blocks, "seeds": one["seeds"], "p": p_text(one["p"]), "outcome": outcome})
    return pd.DataFrame(rows).set_index("series")


def picture(runs: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """A panel an arm, a row a task: the error over that of LSTM with its interval over seeds; the mean over tasks below."""
    tasks, lines = judged(runs), -(-len(arms) // 2)
    figure, axes = plt.subplots(lines, min(2, len(arms)), figsize=(WIDTH, lines * (1.3 + 0.24 * len(tasks))), sharex=True, sharey=True, squeeze=False)
    for ax, arm in zip(axes.flat, arms, strict=False):
        table = effects(runs, arm, "lstm", tasks=tasks)
        bars = [(tasks.index(task), interval(column.dropna())) for task, column in table.items()]
        for row, one in [*bars, (len(tasks) + 0.3, contrast(table).over)]:
            interval_bar(ax, row, *np.exp(np.array([one.mean, one.low, one.high]) / 100), *SIGNS[one.sign()])
        ax.axvline(1, color=COLOURS[7], ls="--", lw=1, zorder=0)
        ax.axvspan(*np.exp([-OVER_TASKS / 100, OVER_TASKS / 100]), color=COLOURS[7], alpha=0.15, lw=0, zorder=0)
        ax.set(xscale="log", xlim=(0.25, 4), title=NAMES[arm].replace(", ", ",\n").replace(" from", "\nfrom"))
        ax.set_xticks([0.3, 1, 3], ["0.3", "1", "3"])
        ax.minorticks_off()
    for ax in axes[-1]:
        ax.set_xlabel("error, LSTM = 1")
    axes[0, 0].set_yticks([*range(len(tasks)), len(tasks) + 0.3], [*tasks, "over series"])
    axes[0, 0].invert_yaxis()
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # every drawing of it is the same
    return figure
