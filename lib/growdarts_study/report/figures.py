"""Records -> matplotlib axes. Figures read records, nothing here trains."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, PUBLISHED_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.drawing import by_layer, key_label
from growdarts.genotype import genotype_operations
from growdarts.mixture import operation_name
from growdarts.spaces.two_input.operations import TWO_INPUT

# Okabe & Ito's colours; methods and operations differ in marker or dash as well, for grey prints.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
LABELS = {"mean": "historical mean", "var1": "VAR(1)", "rnn": "RNN", "gru": "GRU", "lstm": "LSTM",
          "darts_v2": "DARTS V2 cell", "random": "random cell", "fixed": "fixed backbone",
          "grow": "growing (morphism)", "grow_fresh": "growing (fresh weights)"}
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (6, 2, 2, 2))]
EVENTS = {"grow_node": ("grow", COLOURS[1], "--"), "prune": ("prune", COLOURS[2], ":")}


def use_style() -> None:
    """Set the look of all figures of the book."""
    sns.set_theme(style="ticks", rc={
        "figure.dpi": 110, "savefig.bbox": "tight", "font.size": 11, "axes.titlesize": 11,
        "axes.spines.top": False, "axes.spines.right": False, "axes.prop_cycle": plt.cycler(color=COLOURS),
        "legend.frameon": False, "figure.constrained_layout.use": True})


def loss_curves(ax: Axes, record: dict[str, Any]) -> None:
    """Training and validation error by epoch, with every growth and pruning marked."""
    history = record["search"]["history"]
    epochs = [row["epoch"] for row in history]
    ax.plot(epochs, [row["train_loss"] for row in history], color=COLOURS[0], ls="--", label="training")
    ax.plot(epochs, [row["validation_error"] for row in history], color=COLOURS[0], marker="o", ms=3,
            label="validation")
    named = set()
    for event in record["search"]["events"]:
        if event["kind"] in EVENTS and event["what"]:
            name, colour, dash = EVENTS[event["kind"]]
            ax.axvline(event["epoch"] + 0.5, color=colour, ls=dash, lw=1.5,
                       label=name if name not in named else None)
            named.add(name)
    ax.set(xlabel="epoch", ylabel="mean squared error\n(standardised)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(ncols=2)


def mixture_weights(record: dict[str, Any]) -> Figure:
    """How the mixtures of a search weigh their operations.

    Two-input cells: by epoch, a row a layer, a panel a node, while the node existed. Cells of edges, which are too
    many for that: a panel a kind of cell, a row an edge, a column an operation, of the stage that the architecture is
    derived from.
    """
    if record["result"]["genotype"]["space"] != "two_input":
        return _edge_weights(record)
    history = record["search"]["history"]
    layers = by_layer(max((row["weights"] for row in history), key=len))
    n_nodes = max(len(nodes) for nodes in layers.values())
    figure, axes = plt.subplots(len(layers), n_nodes, figsize=(2.2 + 2.6 * n_nodes, 0.6 + 2.6 * len(layers)),
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
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        row_of_axes[0].set_ylabel("mixture weight")
    axes[0][0].set_ylim(bottom=0)  # of all panels, once all are drawn
    figure.supxlabel("epoch", fontsize=11)
    figure.legend(lines.values(), lines.keys(), loc="outside right center", fontsize=10)
    return figure


def _edge_weights(record: dict[str, Any]) -> Figure:
    """Mixture weights of all edges as numbers on a ground that is the darker, the larger they are."""
    panels: dict[str, dict[str, dict[str, float]]] = {}
    for name, mixture in derived_from(record)["weights"].items():
        kind, edge = name.split(" ", 1)
        panels.setdefault(kind, {})[edge] = mixture
    order = record["config"]["operations"]
    keys = sorted({key for edges in panels.values() for mixture in edges.values() for key in mixture},
                  key=lambda key: (order.index(operation_name(key)), key))
    rows = len(max(panels.values(), key=len))
    size = min(8.5, 1 + 0.65 * len(keys) * len(panels)), 1.3 + 0.26 * rows
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False)
    for ax, (kind, edges) in zip(axes[0], panels.items(), strict=True):
        weights = np.array([[mixture.get(key, np.nan) for key in keys] for mixture in edges.values()])
        numbers = np.vectorize(lambda weight: "" if np.isnan(weight) else f"{weight:.2f}".removeprefix("0"))(weights)
        sns.heatmap(weights, ax=ax, vmin=0, vmax=1, cmap="Blues", cbar=False, annot=numbers, fmt="",
                    annot_kws={"size": 10}, linewidths=0.5, linecolor="#DDDDDD",
                    xticklabels=[key_label(key) for key in keys], yticklabels=list(edges))
        ax.set_title("" if len(panels) == 1 else f"{kind} cell")
        ax.tick_params(axis="x", rotation=90, labelsize=10)
        ax.tick_params(axis="y", rotation=0, labelsize=10)
    axes[0][0].set_ylabel("node <- predecessor")
    return figure


def derived_from(record: dict[str, Any]) -> dict[str, Any]:
    """The event after which a search derived its architecture: pruning at the end, or the end of its best stage."""
    events = record["search"]["events"]
    if events[-1]["kind"] == "prune":
        return events[-1]
    return [event for event in events if event["kind"] == "stage" and event["what"] == ["gain"]][-1]


def forecasts(record: dict[str, Any], truth: Any, features: Sequence[int] = (0, 1)) -> Figure:
    """One-day-ahead forecasts of the first test days against what happened.

    truth : (n, F_out) standardised test targets.
    """
    forecast = np.asarray(record["result"]["forecast"])
    features = features[:forecast.shape[1]]  # a series may have one target
    truth = np.asarray(truth)[:len(forecast)]
    figure, axes = plt.subplots(len(features), 1, figsize=(8, 1.9 * len(features)), sharex=True, squeeze=False)
    for feature, ax in zip(features, axes[:, 0], strict=True):
        ax.plot(truth[:, feature], color=COLOURS[7], lw=1.2, marker=".", ms=4, label="truth")
        ax.plot(forecast[:, feature], color=COLOURS[1], lw=2, label="forecast")
        ax.set_ylabel(record["result"]["features"][feature])
    axes[0][0].legend(ncols=2, loc="upper right")
    axes[-1][0].set_xlabel("day of the test part")
    return figure


def operation_counts(genotypes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How often each operation was chosen over all nodes or edges of `genotypes`, copies of one counted once."""
    counts = dict.fromkeys([*TWO_INPUT, *RECURRENT_OPERATIONS, *CONVOLUTIONAL_OPERATIONS, *PUBLISHED_OPERATIONS], 0)
    for genotype in genotypes:
        for name in genotype_operations(genotype):
            counts[name] += 1
    return {name: count for name, count in counts.items() if count}


def responses(axes: Sequence[Axes], table: Any, pairs: Sequence[tuple[str, str]]) -> None:
    """Output against input before (grey, wide) and after (dashed) a transformation, one panel a pair of columns."""
    for ax, (before, after) in zip(axes, pairs, strict=True):
        ax.plot(table["input"], table[before], color="#BBBBBB", lw=5, label="before")
        ax.plot(table["input"], table[after], color=COLOURS[0], ls="--", lw=1.8, label="after")
        ax.set(title=after, xlabel="input")
    axes[0].set_ylabel("output")
    axes[0].legend()


def change_against_epsilon(ax: Axes, changes: Any, fresh_change: float) -> None:
    """Relative change of the output by one growth, against its bound, for every level of the noise."""
    for position, (noise, group) in enumerate(changes.groupby("noise")):
        ax.loglog(group.epsilon, group.change, ls="", marker="osv^D"[position % 5], ms=5, alpha=0.7,
                  color=COLOURS[position % len(COLOURS)], label=f"noise {noise:g}")
    bound = sorted(changes.epsilon.unique())
    ax.loglog(bound, bound, color="black", lw=1, label="bound: epsilon")
    ax.axhline(fresh_change, color=COLOURS[1], ls="--", label="fresh random weights")
    ax.set(xlabel="epsilon", ylabel="relative change\nof the output")
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def growth_errors(ax: Axes, errors: Any, grown_after: int) -> None:
    """Validation error by epoch, growing by morphism and with fresh weights."""
    epochs = [*range(1, grown_after + 1), *range(grown_after, len(errors))]
    ax.plot(epochs, errors["fresh"], color=COLOURS[1], ls="--", marker="s", ms=4, label="fresh random weights")
    ax.plot(epochs, errors["morphism"], color=COLOURS[0], marker="o", ms=4, label="morphism")
    ax.axvline(grown_after, color=COLOURS[7], ls=":", label="a node is added")
    ax.set(xlabel="epoch", ylabel="validation error")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend()
