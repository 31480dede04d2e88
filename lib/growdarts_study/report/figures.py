"""Records -> figures: of one search, then of many runs. Nothing here trains. Pictures of one experiment are in its module of this folder."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from growdarts.tasks.images import ImageData
from growdarts_study.report.comparison import Difference, Interval

# Okabe & Ito's colours; methods and operations differ in marker or dash as well, for grey prints.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
LABELS = {"mean": "historical mean", "var1": "VAR(1)", "rnn": "RNN", "gru": "GRU", "lstm": "LSTM",
          "darts_v2": "DARTS V2 cell", "kneser_ney": "Kneser-Ney", "random": "random cell", "fixed": "fixed backbone",
          "grow": "growing (morphism)", "grow_fresh": "growing (fresh weights)"}
MARKERS = "osv^DPX*h"
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (6, 2, 2, 2))]
EVENTS = {"grow_node": ("grow", COLOURS[1], "--"), "prune": ("prune", COLOURS[2], ":")}
SIGNS = {-1: (COLOURS[2], "<"), 0: (COLOURS[7], "o"), 1: (COLOURS[1], ">")}  # of a difference


WIDTH = 4.8  # inches of every figure: on a phone, where it is 350 pixels wide, letters of 11 points have 11 pixels


def use_style() -> None:
    """Set the look of all figures of the book."""
    plt.style.use(["seaborn-v0_8-ticks", {
        "figure.dpi": 110, "figure.figsize": (WIDTH, 3), "savefig.bbox": "tight", "font.size": 11, "font.sans-serif": "DejaVu Sans", "axes.titlesize": 11,
        "axes.labelsize": 12, "grid.linewidth": 1, "axes.spines.top": False, "axes.spines.right": False,
        "axes.prop_cycle": plt.cycler(color=COLOURS), "patch.edgecolor": "w", "patch.force_edgecolor": True, "legend.fontsize": 11,
        "legend.title_fontsize": 12, "legend.frameon": False, "figure.constrained_layout.use": True,
        **{f"{axis}tick.{name}": value for axis in "xy" for name, value in (
            ("labelsize", 11), ("major.width", 1.25), ("minor.width", 1), ("minor.size", 4))}}])


def difference_bar(ax: Axes, row: float, found: Interval, sign: int) -> None:
    """A mean with its interval, coloured and pointing to the better side where it is told from zero."""
    interval_bar(ax, row, found.mean, found.low, found.high, *SIGNS[sign])


def interval_bar(ax: Axes, row: float, value: float, low: float | None, high: float | None, colour: str, marker: str) -> None:
    """A value with its interval, if it has one."""
    ax.plot(np.array([low, high], dtype=float), [row, row], lw=6, color=colour, alpha=0.45, solid_capstyle="butt")
    ax.plot(value, row, marker=marker, ms=8, color=colour, mec="black")


def ranked(rows: Sequence[tuple[str, float, float | None, float | None]], label: str, form: str = ".1f", names: Mapping[str, str] = LABELS) -> Figure:
    """A dot a method with its number beside it, and the interval from low to high where there is one; as wide as a phone."""
    figure, ax = plt.subplots(figsize=(WIDTH, 0.8 + 0.34 * len(rows)))
    for row, (method, value, low, high) in enumerate(rows):
        interval_bar(ax, row, value, low, high, *((COLOURS[1], "D") if method == "grow" else (COLOURS[0], "o")))
        ax.annotate(f"{value:{form}}", (1.02, row), xycoords=("axes fraction", "data"), va="center")
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=label, xmargin=0.08)
    ax.set_yticks(range(len(rows)), [names[method] for method, *_ in rows])
    ax.grid(axis="y", color="#DDDDDD")
    return figure


def loss_curves(ax: Axes, record: dict[str, Any]) -> None:
    """Training and validation error by epoch, with every growth and pruning marked."""
    history = record["search"]["history"]
    epochs = [row["epoch"] for row in history]
    ax.plot(epochs, [row["train_loss"] for row in history], color=COLOURS[0], ls="--", label="training")
    ax.plot(epochs, [row["validation_error"] for row in history], color=COLOURS[0], marker="o", ms=3, label="validation")
    named = set()
    for event in record["search"]["events"]:
        if event["kind"] in EVENTS and event["what"]:
            name, colour, dash = EVENTS[event["kind"]]
            ax.axvline(event["epoch"] + 0.5, color=colour, ls=dash, lw=1.5, label=name if name not in named else None)
            named.add(name)
    ax.set(xlabel="epoch", ylabel="mean squared error\n(standardised)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(ncols=2)


def mixture_weights(record: dict[str, Any]) -> Figure:
    """How the mixtures of a search over two-input cells weigh their operations by epoch: a row a layer, a panel a node."""
    history = record["search"]["history"]
    layers: dict[str, list[str]] = {}
    for layer, node in (name.split(", ") for name in max((row["weights"] for row in history), key=len)):
        layers.setdefault(layer, []).append(node)
    figure, axes = plt.subplots(len(layers), max(map(len, layers.values())), figsize=(WIDTH, 2.2 + 2.2 * len(layers)),
                                sharey=True, sharex=True, squeeze=False)
    lines = {}
    for row_of_axes, (layer, nodes) in zip(axes, layers.items(), strict=True):
        for ax, node in zip(row_of_axes, nodes, strict=False):
            weights = [(row["epoch"], row["weights"].get(f"{layer}, {node}", {})) for row in history]
            for position, name in enumerate(record["config"]["operations"]):
                points = [(epoch, mixture[name]) for epoch, mixture in weights if name in mixture]
                if points:
                    (lines[name],) = ax.plot(*zip(*points, strict=True), color=COLOURS[position % len(COLOURS)],
                                             ls=DASHES[position % len(DASHES)], lw=1.8, label=name)
            ax.set_title(node if len(layers) == 1 else f"{layer}, {node}")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        row_of_axes[0].set_ylabel("mixture weight")
    axes[-1][0].set_xlabel("epoch")
    axes[0][0].set_ylim(bottom=0)  # of all panels, once all are drawn
    figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=2)
    return figure


def forecasts(record: dict[str, Any], truth: Any, features: Sequence[int] = (0, 1)) -> Figure:
    """One-day-ahead forecasts of the first test days against what happened.

    truth : (n, F_out) standardised test targets.
    """
    forecast = np.asarray(record["result"]["forecast"])
    features = features[:forecast.shape[1]]  # a series may have one target
    truth = np.asarray(truth)[:len(forecast)]
    figure, axes = plt.subplots(len(features), 1, figsize=(WIDTH, 1.9 * len(features)), sharex=True, squeeze=False)
    for feature, ax in zip(features, axes[:, 0], strict=True):
        ax.plot(truth[:, feature], color=COLOURS[7], lw=1.2, marker=".", ms=4, label="truth")
        ax.plot(forecast[:, feature], color=COLOURS[1], lw=2, label="forecast")
        ax.set_ylabel(record["result"]["features"][feature])
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    axes[-1][0].set_xlabel("day of the test part")
    return figure


def responses(table: Any, pairs: Sequence[tuple[str, str]]) -> Figure:
    """Output against input before (grey, wide) and after (dashed) a transformation, one panel a pair of columns."""
    figure, axes = plt.subplots(len(pairs), 1, figsize=(WIDTH, 0.5 + 1.7 * len(pairs)), sharex=True)
    for ax, (before, after) in zip(axes, pairs, strict=True):
        ax.plot(table["input"], table[before], color="#BBBBBB", lw=5, label="before")
        ax.plot(table["input"], table[after], color=COLOURS[0], ls="--", lw=1.8, label="after")
        ax.set(title=after, ylabel="output")
    axes[-1].set_xlabel("input")
    axes[0].legend()
    return figure


def change_against_epsilon(changes: Any, fresh_change: float) -> Figure:
    """Relative change of the output by one growth, against its bound, for every level of the noise."""
    figure, ax = plt.subplots(figsize=(WIDTH, 4.2))
    for position, (noise, group) in enumerate(changes.groupby("noise")):
        ax.loglog(group.epsilon, group.change, ls="", marker="osv^D"[position % 5], ms=5, alpha=0.7,
                  color=COLOURS[position % len(COLOURS)], label=f"noise {noise:g}")
    bound = sorted(changes.epsilon.unique())
    ax.loglog(bound, bound, color="black", lw=1, label="bound: epsilon")
    ax.axhline(fresh_change, color=COLOURS[1], ls="--", label="fresh random weights")
    ax.set(xlabel="epsilon", ylabel="relative change\nof the output")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def growth_errors(errors: Any, grown_after: int) -> Figure:
    """Validation error by epoch, growing by morphism and with fresh weights."""
    figure, ax = plt.subplots()
    epochs = [*range(1, grown_after + 1), *range(grown_after, len(errors))]
    ax.plot(epochs, errors["fresh"], color=COLOURS[1], ls="--", marker="s", ms=4, label="fresh random weights")
    ax.plot(epochs, errors["morphism"], color=COLOURS[0], marker="o", ms=4, label="morphism")
    ax.axvline(grown_after, color=COLOURS[7], ls=":", label="a node is added")
    ax.set(xlabel="epoch", ylabel="validation error")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center")
    return figure


# ---- many records ------------------------------------------------------------------------------


def methods_in(runs: pd.DataFrame) -> list[str]:
    """Methods present, in the order of all figures and tables."""
    return [name for name in LABELS if name in set(runs.method)]


def forest(groups: Sequence[tuple[str, Sequence[Difference]]]) -> Figure:
    """Paired differences with both intervals: thick over origins, thin with caps over seeds.

    Where the interval over origins is far wider than the others', its ends are written instead.
    """
    figure, axes = plt.subplots(len(groups), 1, figsize=(WIDTH, 0.5 + 0.38 * sum(len(found) for _, found in groups)),
                                height_ratios=[len(found) for _, found in groups], sharex=True)
    for (title, differences), ax in zip(groups, np.atleast_1d(axes), strict=True):
        ends = np.array([max(-d.over_origins.low, d.over_origins.high) for d in differences])
        limit = 3 * np.median(ends)
        for row, d in enumerate(differences):
            if max(-d.over_origins.low, d.over_origins.high) > limit:
                ax.annotate(f"{d.over_origins.low:+.0f} to {d.over_origins.high:+.0f} %", (0.5, row),
                            xycoords=("axes fraction", "data"), ha="center", va="center")
                continue
            difference_bar(ax, row, d.over_origins, d.decided())
            seeds = d.over_seeds
            if seeds.n > 1:
                ax.errorbar(seeds.mean, row + 0.22, xerr=[[seeds.mean - seeds.low], [seeds.high - seeds.mean]],
                            color="black", lw=1.2, capsize=3)
        ax.axvline(0, color="#777777", lw=1)
        ax.set_yticks(range(len(differences)), [LABELS[d.method] for d in differences])
        ax.set_ylim(len(differences) - 0.5, -0.5)
        ax.set_title(title, loc="left")
    ax.set_xlabel("difference of the test error, %", x=0.3)
    return figure


def training_curves(records: Sequence[dict[str, Any]], label: str, *, exponential: bool = False, scale: float = 1.0) -> Figure:
    """Validation error by epoch of every training from scratch; `exponential` for perplexities."""
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    for position, record in enumerate(records):
        errors = scale * np.array(record["training"][str(record["result"]["hidden"])])
        ax.plot(range(1, len(errors) + 1), np.exp(errors) if exponential else errors, color=COLOURS[position],
                marker=MARKERS[position], ms=5, label=LABELS[record["config"]["method"]])
    ax.set(xlabel="epoch of the training from scratch", ylabel=label)
    if exponential:
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(ScalarFormatter())
        ax.yaxis.set_minor_formatter(ScalarFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
    return figure


def example_images(data: ImageData, n: int = 10) -> Figure:
    """The first training image of each of `n` classes."""
    figure, axes = plt.subplots(2, -(-n // 2), figsize=(WIDTH, 2.5))
    for label, ax in enumerate(axes.flat[:n]):
        image = data.train.x[data.train.y == label][0].permute(1, 2, 0).numpy()
        ax.imshow(image, cmap="gray")
        ax.set_title(data.classes[label])
    for ax in axes.flat:
        ax.axis("off")
    return figure
