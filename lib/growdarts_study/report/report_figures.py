"""Figures over many records: every seed, intervals, countries, cost."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, ScalarFormatter

from growdarts_study.report.comparison import Difference, feature_skill, interval, relative_difference
from growdarts_study.report.figures import COLOURS, LABELS, operation_counts
from growdarts.tasks.images import ImageData

MARKERS = "osv^DPX*h"
ORDER = list(LABELS)


def methods_in(runs: pd.DataFrame) -> list[str]:
    """Methods present, in the order of all figures and tables."""
    return [name for name in ORDER if name in set(runs.method)]


def every_seed(runs: pd.DataFrame) -> Figure:
    """Test error of every run relative to the historical mean's, a panel a year; bars are means over seeds.

    Runs far off the others are written as numbers, and are not part of the bar.
    """
    methods = [name for name in methods_in(runs) if name != "mean"]
    origins = sorted(runs.origin.unique())
    figure, axes = plt.subplots(1, len(origins), figsize=(8.5, 4.2), sharey=True, squeeze=False)
    axes = axes[0]
    rng = np.random.default_rng(0)  # spreads the points, so that none hides another
    for origin, ax in zip(origins, axes, strict=True):
        by_method = [relative_difference(runs, method, "mean")[origin] for method in methods]
        low, high = _usual_range(np.concatenate(by_method))
        for row, values in enumerate(by_method):
            for value in values[(values < low) | (values > high)]:
                ax.annotate(f"{value:+.0f} %", (1.0, row - 0.42), xycoords=("axes fraction", "data"), ha="right",
                            va="center", fontsize=9)
            values = values[(values >= low) & (values <= high)]
            ax.plot(values, row + rng.uniform(-0.25, 0.25, len(values)), ls="", marker=MARKERS[row], ms=4, alpha=0.65,
                    color=COLOURS[row % len(COLOURS)])
            ax.plot([values.mean()] * 2, [row - 0.38, row + 0.38], color="black", lw=1.8)
        ax.axvline(0, color="#777777", lw=1)
        room = 0.06 * (high - low)
        ax.set(title=origin, xlim=(low - room, high + room))
        ax.margins(y=0.04)
        ax.tick_params(axis="x", labelsize=9)
    axes[0].set_yticks(range(len(methods)), [LABELS[name] for name in methods])
    axes[0].invert_yaxis()
    figure.supxlabel("test error against the historical mean's, by test year, %  (left is better)", fontsize=11)
    return figure


def _usual_range(values: np.ndarray) -> tuple[float, float]:
    """Range of the values within ten interquartile ranges of the median, zero included."""
    low, median, high = np.percentile(values, [25, 50, 75])
    usual = values[np.abs(values - median) <= 10 * (high - low)]
    return min(usual.min(), 0.0), max(usual.max(), 0.0)


def forest(groups: Sequence[tuple[str, Sequence[Difference]]]) -> Figure:
    """Paired differences with both intervals: thick over origins, thin with caps over seeds.

    Where the interval over origins is far wider than the others', its ends are written instead.
    """
    figure, axes = plt.subplots(1, len(groups), figsize=(8.5, 4), sharey=False)
    for (title, differences), ax in zip(groups, np.atleast_1d(axes), strict=True):
        ends = np.array([max(-d.over_origins.low, d.over_origins.high) for d in differences])
        limit = 3 * np.median(ends)
        for row, d in enumerate(differences):
            if max(-d.over_origins.low, d.over_origins.high) > limit:
                ax.annotate(f"{d.over_origins.low:+.0f} to {d.over_origins.high:+.0f} %", (0.5, row),
                            xycoords=("axes fraction", "data"), ha="center", va="center", fontsize=10)
                continue
            colour = {-1: COLOURS[2], 0: COLOURS[7], 1: COLOURS[1]}[d.decided()]
            o, s = d.over_origins, d.over_seeds
            ax.plot([o.low, o.high], [row, row], lw=5, color=colour, alpha=0.45, solid_capstyle="butt")
            if s.n > 1:
                ax.errorbar(s.mean, row + 0.22, xerr=[[s.mean - s.low], [s.high - s.mean]], color="black", lw=1.2,
                            capsize=3)
            ax.plot(o.mean, row, marker={-1: "<", 0: "o", 1: ">"}[d.decided()], ms=8, color=colour, mec="black")
        ax.axvline(0, color="#777777", lw=1)
        ax.set_yticks(range(len(differences)), [LABELS[d.method] for d in differences])
        ax.set_ylim(len(differences) - 0.5, -0.5)
        ax.set(title=title, xlabel="difference of the test error, %")
    return figure


def country_skill(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> Figure:
    """Error saved against the historical mean, per feature: mean and 95 % interval over origins."""
    figure, ax = plt.subplots(figsize=(8.5, 6))
    tables = {method: feature_skill(records, method) for method in methods}
    order = tables[methods[0]].mean().sort_values(ascending=False).index
    for position, method in enumerate(methods):
        for row, feature in enumerate(order):
            found = interval(tables[method][feature])
            y = row + (position - (len(methods) - 1) / 2) * 0.2
            ax.errorbar(found.mean, y, xerr=[[found.mean - found.low], [found.high - found.mean]], capsize=2, lw=1.3,
                        marker=MARKERS[position], ms=6, color=COLOURS[position],
                        label=LABELS[method] if row == 0 else None)
    for row in range(0, len(order), 2):
        ax.axhspan(row - 0.5, row + 0.5, color="#F3F3F3", zorder=0)
    ax.axvline(0, color="#777777", lw=1)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.set_xlabel("error saved against the historical mean, %  (right is better)")
    ax.legend(loc="lower right")
    return figure


def cost_and_quality(runs: pd.DataFrame) -> Figure:
    """Operations spent on the search against test error relative to the mean's; small: runs, large: means."""
    figure, ax = plt.subplots(figsize=(8, 4))
    searching = [name for name in methods_in(runs) if runs[runs.method == name].search_flops.gt(0).all()]
    for position, method in enumerate(searching):
        flops = runs[runs.method == method].pivot(index="seed", columns="origin", values="search_flops") / 1e9
        error = relative_difference(runs, method, "mean").reindex_like(flops)
        style = dict(color=COLOURS[position], marker=MARKERS[position])
        ax.scatter(flops, error, s=14, alpha=0.4, **style)
        ax.scatter(np.exp(np.log(flops).to_numpy().mean()), error.to_numpy().mean(), s=150, ec="black", zorder=3,
                   label=LABELS[method], **style)
    for method, dash in (("lstm", "--"), ("var1", ":")):
        ax.axhline(relative_difference(runs, method, "mean").to_numpy().mean(), color="black", ls=dash, lw=1.2,
                   label=f"{LABELS[method]} (no search)")
    ax.set(xscale="log", xlabel="floating-point operations of the search, 10⁹",
           ylabel="test error against\nthe mean's, %")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return figure


def what_was_grown(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> Figure:
    """Number of nodes and chosen operations of the derived cells, per method."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.6), width_ratios=[1, 2])
    genotypes = {method: [r["result"]["genotype"] for r in records if r["config"]["method"] == method]
                 for method in methods}
    most = max(len(g["layers"][0]) for chosen in genotypes.values() for g in chosen)
    names = list(operation_counts([g for chosen in genotypes.values() for g in chosen]))
    width = 0.8 / len(methods)
    for position, (method, chosen) in enumerate(genotypes.items()):
        shift = (position - (len(methods) - 1) / 2) * width
        sizes = [len(g["layers"][0]) for g in chosen]
        style = dict(width=width, color=COLOURS[position], ec="black", hatch=["", "//", "..", "xx"][position % 4])
        left.bar(np.arange(1, most + 1) + shift, [100 * sizes.count(n) / len(sizes) for n in range(1, most + 1)],
                 label=LABELS[method], **style)
        counts = operation_counts(chosen)
        total = sum(counts.values())
        right.bar(np.arange(len(names)) + shift, [100 * counts.get(name, 0) / total for name in names], **style)
    left.set(xlabel="nodes of the derived cell", ylabel="share, %", xticks=range(1, most + 1))
    right.set_xticks(range(len(names)), names, rotation=30, ha="right")
    right.set_title("operations of the derived cells")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def training_curves(records: Sequence[dict[str, Any]], label: str, *, exponential: bool = False,
                    scale: float = 1.0) -> Figure:
    """Validation error by epoch of every training from scratch; `exponential` for perplexities."""
    figure, ax = plt.subplots(figsize=(8, 3.4))
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
    figure, axes = plt.subplots(1, n, figsize=(8.5, 1.3))
    for label, ax in enumerate(axes):
        image = data.train.x[data.train.y == label][0].permute(1, 2, 0).numpy()
        ax.imshow(image, cmap="gray")
        ax.set_title(data.classes[label], fontsize=10)
        ax.axis("off")
    return figure
