"""Every cell of a space -> what it holds: its best cells, what a second node brings, what a random draw is worth."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.data.processes import PROCESSES
from growdarts_study.report.comparison import Interval, outcome
from growdarts_study.report.contrasts import OVER_TASKS, by_task, contrast
from growdarts_study.report.figures import COLOURS, LABELS, WIDTH
from growdarts_study.report.tables import p_text

NO_SIGNAL = ("garch", "g7_brics")  # of the protocol
CONTROLS = (*NO_SIGNAL, "linear_var")
TRAINED = ("lstm", "gru")
PRODUCTS = ("mul_", "hadamard")


@dataclass(frozen=True)
class TaskSpace:
    """All cells on one series. validation, test: mean squared error, cells ("a+b") by seeds; rivals and rivals_validation
    likewise by name; best: the least possible error by seed, or that of the closed form with the least validation error."""

    name: str
    validation: pd.DataFrame
    test: pd.DataFrame
    rivals_validation: pd.DataFrame
    rivals: pd.DataFrame
    best: pd.Series
    best_name: str

    def cells(self, nodes: int | None = None) -> list[str]:
        """The cells of so many nodes, None: all."""
        return [cell for cell in self.test.index if nodes in (None, nodes_of(cell))]

    def chosen(self, nodes: int | None = None) -> str:
        """The cell with the least validation error, mean over the seeds."""
        return self.validation.loc[self.cells(nodes)].mean(axis=1).idxmin()

    def errors(self, name: str) -> pd.Series:
        """Test errors by seed of a cell or a rival."""
        return self.test.loc[name] if name in self.test.index else self.rivals.loc[name]

    def share(self, name: str) -> float:
        """Part of the way from the error of the mean to the best one, mean over the seeds; NaN where there is no way."""
        mean = self.rivals.loc["mean"]
        return float("nan") if self.name in NO_SIGNAL else float(((mean - self.errors(name)) / (mean - self.best)).mean())

    def effect(self, name: str, rival: str) -> pd.Series:
        """100 times the log ratio of test errors by seed; negative: `name` is better."""
        return 100 * np.log(self.errors(name) / self.errors(rival))

    def one_draw(self) -> bool:
        """Whether all seeds share one series, so that their interval says nothing of other data."""
        return self.name not in PROCESSES


def geometric(errors: pd.DataFrame) -> pd.Series:
    """Geometric mean over the seeds, by row."""
    return np.exp(np.log(errors).mean(axis=1))


def nodes_of(cell: str) -> int:
    """Nodes of a cell, "a+b" has two."""
    return cell.count("+") + 1


def holds_product(cell: str) -> bool:
    """Whether an operation of the cell is a product of input and state."""
    return any(name.startswith(PRODUCTS) for name in cell.split("+"))


def read(records: Iterable[Mapping[str, Any]], most: int = 2) -> list[TaskSpace]:
    """The records of a tier of cells of at most so many nodes, joined by series; a training that diverged has the error of the mean [protocol]."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["config"]["nodes"] <= most:
            groups.setdefault(record["config"]["dataset"], []).append(record)
    return [_task(name, group) for name, group in groups.items()]


def _task(name: str, group: Sequence[Mapping[str, Any]]) -> TaskSpace:
    first, seeds = group[0], group[0]["config"]["seeds"]
    rivals, rivals_validation = (pd.DataFrame({rival: found[part] for rival, found in first["rivals"].items()}, seeds).T
                                 for part in ("test", "validation"))

    def cells(part: str) -> pd.DataFrame:
        own = rivals if part == "test" else rivals_validation
        table = pd.concat(pd.DataFrame(record[part], record["cells"], seeds, dtype=float) for record in group)
        return table.fillna(own.loc["mean"])

    closed = rivals_validation.drop(index=["mean", *TRAINED]).mean(axis=1).idxmin()
    best = rivals.loc[closed] if first["floor"] is None else pd.Series(first["floor"], seeds)
    return TaskSpace(name, cells("validation"), cells("test"), rivals_validation, rivals, best,
                     "known" if first["floor"] else closed)


def compare(tasks: Sequence[TaskSpace], pair: Callable[[TaskSpace], tuple[str, str]]) -> pd.DataFrame:
    """A row a task: its space, the cell and the rival that `pair(task)` names, and `by_task` of the effect."""
    cells, rivals = zip(*map(pair, tasks), strict=True)
    effects = {task.name: task.effect(*names) for task, *names in zip(tasks, cells, rivals, strict=True)}
    return by_task(pd.DataFrame(effects)).assign(task=tasks, cell=cells, rival=rivals)


def over_tasks(found: pd.DataFrame) -> tuple[Interval, str]:
    """The mean effect over tasks, a task being one value, and its outcome by its interval."""
    effects = {name: one["task"].effect(one["cell"], one["rival"]) for name, one in found.iterrows()}
    over = contrast(pd.DataFrame(effects)).over
    return over, outcome([over], OVER_TASKS)


def against_lstm(tasks: Sequence[TaskSpace]) -> pd.DataFrame:
    """The chosen cell of the whole space against LSTM."""
    return compare(tasks, lambda task: (task.chosen(), "lstm"))


def second_node(tasks: Sequence[TaskSpace]) -> pd.DataFrame:
    """The chosen cell of two nodes against the chosen one of one."""
    return compare(tasks, lambda task: (task.chosen(2), task.chosen(1)))


def third_node(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The chosen cell of three nodes against the chosen one of one or two nodes of the same operations, on series that have all cells of three."""
    operations = {record["config"]["dataset"]: set(record["config"]["operations"]) for record in records if record["config"]["nodes"] == 3}
    tasks = read((record for record in records if record["config"]["dataset"] in operations), most=3)

    def pair(task: TaskSpace) -> tuple[str, str]:
        smaller = [cell for cell in task.cells(1) + task.cells(2) if set(cell.split("+")) <= operations[task.name]]
        return task.chosen(3), task.validation.loc[smaller].mean(axis=1).idxmin()

    return compare(tasks, pair) if tasks else pd.DataFrame()


def products_in_best(task: TaskSpace, part: float = 0.1) -> tuple[float, float]:
    """Share of cells with a product among the best `part` by validation error, and among all."""
    order = task.validation.mean(axis=1).sort_values().index
    best = order[: max(1, round(part * len(order)))]
    return float(np.mean([holds_product(cell) for cell in best])), float(np.mean([holds_product(cell) for cell in order]))


def best_of(task: TaskSpace, k: int) -> float:
    """Typical test error of the best on validation of k random cells, drawn with replacement.

    The r-th best of n is the best of the draw with probability ((n - r + 1)^k - (n - r)^k) / n^k. The mean over draws and
    seeds is geometric, as effects are: one cell that explodes on the test part would be all of another mean.
    """
    n = len(task.test)
    left = np.arange(n, -1, -1) / n
    probability = left[:-1] ** k - left[1:] ** k
    logs = np.log(task.test)
    return float(np.exp(np.mean([probability @ logs[seed].loc[task.validation[seed].sort_values(kind="stable").index]
                                 for seed in task.test])))


def picture(tasks: Sequence[TaskSpace], found: Mapping[str, pd.Series] = {}) -> Figure:
    """A row a series, a dot a cell: its test error over LSTM's, geometric means over the seeds.

    found : what searches found, by their name: log ratios to LSTM by series.
    """
    random = np.random.default_rng(0)
    figure, ax = plt.subplots(figsize=(WIDTH, 1.9 + 0.5 * len(tasks)))
    for row, task in enumerate(tasks):
        lstm = geometric(task.rivals).loc["lstm"]
        ratio = np.clip(geometric(task.test) / lstm, 0.2, 5)
        product = np.array([holds_product(cell) for cell in ratio.index])
        height = row + random.uniform(-0.26, 0.26, len(ratio))
        for chosen, colour, marker, label in ((~product, COLOURS[0], "o", "a cell of sums"),
                                              (product, COLOURS[1], "^", "a cell with a product")):
            ax.scatter(ratio[chosen], height[chosen], s=16, marker=marker, color=colour, alpha=0.55, lw=0,
                       label=label if not row else None)
        best = geometric(task.best.to_frame().T).iloc[0] / lstm
        ax.plot([best, best], [row - 0.4, row + 0.4], color="black", lw=2.5,
                label="best possible, or best closed form" if not row else None)
        ax.plot(ratio[task.chosen()], row, marker="D", ms=8, mfc="none", mec="black",
                mew=1.6, ls="", label="chosen on validation" if not row else None)
    for (name, ratios), marker, colour in zip(found.items(), ("*", "X"), (COLOURS[4], COLOURS[2]), strict=False):
        rows = [row for row, task in enumerate(tasks) if task.name in ratios]
        ax.plot(np.clip(np.exp(ratios[[tasks[row].name for row in rows]]), 0.2, 5), rows, marker, mfc=colour, mec="black", mew=1,
                ms=15 if marker == "*" else 11, ls="", label=name)
    ax.axvline(1, color=COLOURS[7], ls="--", zorder=0)
    ax.set(xscale="log", xlim=(0.12, 5.7), ylim=(len(tasks) - 0.4, -0.6), yticks=range(len(tasks)),
           yticklabels=[task.name for task in tasks], xlabel="test error, LSTM = 1")
    ax.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "\u2265 5"])
    ax.minorticks_off()
    figure.legend(loc="outside lower center")
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # every drawing of it is the same
    return figure


def ranking(task: TaskSpace, rows: int = 8) -> pd.DataFrame:
    """The best cells by validation error, and the rivals; mean test error and share of the way to the best."""
    names = [*task.validation.mean(axis=1).nsmallest(rows).index, *task.rivals.index]
    return pd.DataFrame({"": names, "test error": [f"{task.errors(name).mean():.3f}" for name in names],
                         "share": [f"{task.share(name):.2f}" for name in names]}).set_index("")


def comparison_table(found: pd.DataFrame) -> pd.DataFrame:
    """A row a series: the cell, what it is compared with, shares of both, the difference with its interval, the outcome."""
    def share(task: TaskSpace, name: str) -> str:
        return "-" if task.name in NO_SIGNAL else f"{task.share(name):.2f}"

    rows = [{"series": name + "*" * one["task"].one_draw(), "cell": one["cell"].replace("+", ", "),
             "compared with": LABELS.get(one["rival"], one["rival"].replace("+", ", ")),
             "shares": f"{share(one['task'], one['cell'])}, {share(one['task'], one['rival'])}",
             "error": Interval(*one[["mean", "low", "high", "seeds"]]).percent().text(), "p": p_text(one["p"]),
             "outcome": one["outcome"]} for name, one in found.iterrows()]
    return pd.DataFrame(rows).set_index("series")


def draws_table(tasks: Sequence[TaskSpace]) -> pd.DataFrame:
    """A row a series: products among the best tenth and all, and the expected error of the best of some random cells."""
    rows = []
    for task in tasks:
        lstm, (best, all_cells) = geometric(task.rivals).loc["lstm"], products_in_best(task)
        rows.append({"series": task.name, "products in best tenth, all": f"{best:.0%}, {all_cells:.0%}",
                     **{f"best of {k}": f"{best_of(task, k) / lstm:.2f}" for k in (1, 8, 64)},
                     "chosen": f"{geometric(task.test).loc[task.chosen()] / lstm:.2f}",
                     "best possible": f"{geometric(task.best.to_frame().T).iloc[0] / lstm:.2f}" + (
                         "" if task.best_name == "known" else f" ({task.best_name})")})
    return pd.DataFrame(rows).set_index("series")
