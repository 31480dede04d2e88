"""Records -> matplotlib axes; cells -> SVG. Figures read records, nothing here trains."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pygraphviz
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from growdarts.primitives import TWO_INPUT

# Okabe & Ito's colours; methods and operations differ in marker or dash as well, for grey prints.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F"]
LABELS = {"mean": "historical mean", "var1": "VAR(1)", "rnn": "RNN", "gru": "GRU", "lstm": "LSTM",
          "darts_v2": "DARTS V2 cell", "random": "random cell", "fixed": "fixed backbone",
          "grow": "growing (morphism)", "grow_fresh": "growing (fresh weights)"}
DASHES = ["-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1)), (0, (6, 2, 2, 2))]
FONT = "Helvetica,Arial,sans-serif"
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
    """Weights of every node's operations by epoch, a row a layer, a panel a node, while the node existed."""
    history = record["search"]["history"]
    layers = _by_layer(max((row["weights"] for row in history), key=len))
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


def forecasts(record: dict[str, Any], truth: Any, features: Sequence[int] = (0, 1)) -> Figure:
    """One-day-ahead forecasts of the first test days against what happened.

    truth : (n, F) standardised test targets.
    """
    forecast = np.asarray(record["result"]["forecast"])
    truth = np.asarray(truth)[:len(forecast)]
    figure, axes = plt.subplots(len(features), 1, figsize=(8, 1.9 * len(features)), sharex=True, squeeze=False)
    for feature, ax in zip(features, axes[:, 0], strict=True):
        ax.plot(truth[:, feature], color=COLOURS[7], lw=1.2, marker=".", ms=4, label="truth")
        ax.plot(forecast[:, feature], color=COLOURS[1], lw=2, label="forecast")
        ax.set_ylabel(record["result"]["features"][feature])
    axes[0][0].legend(ncols=2, loc="upper right")
    axes[-1][0].set_xlabel("day of the test part")
    return figure


def _by_layer(weights: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """`{"layer 1, node 2": w}` -> `{"layer 1": {"node 2": w}}`, in the order of layers and nodes."""
    layers: dict[str, dict[str, Any]] = {}
    for name, mixture in weights.items():
        layer, node = name.split(", ")
        layers.setdefault(layer, {})[node] = mixture
    return layers


def search_cell(weights: dict[str, dict[str, float]]) -> str:
    """Searched cells as an SVG graph: per node every operation with its mixture weight, darker is more.

    weights : by name of the mixture, as in the events and the history of a record.
    """
    return _svg(_titled("", weights))


def fixed_cell(layers: Sequence[Sequence[Sequence[str]]]) -> str:
    """Derived cells as an SVG graph: layers of nodes of operations, as in a genotype."""
    return _svg([(f"layer {layer}" if len(layers) > 1 else "",
                  [_label(node, [(name, None) for name in names]) for node, names in enumerate(nodes)])
                 for layer, nodes in reversed(list(enumerate(layers, start=1)))])


def _titled(title: str, weights: dict[str, dict[str, float]]) -> list[tuple[str, list[str]]]:
    """A titled cell for every layer, the last first: dot stacks upwards."""
    layers = _by_layer(weights)
    titles = {layer: title if len(layers) == 1 else ", ".join(filter(None, [title, layer])) for layer in layers}
    return [(titles[layer], _mixture_labels(list(nodes.values()))) for layer, nodes in reversed(layers.items())]


def growth(record: dict[str, Any]) -> str:
    """The cell at the end of every stage of a search, one below the other, as SVG."""
    stages = [event for event in record["search"]["events"] if event["kind"] == "stage"]
    titles = [f"stage {number}, epoch {event['epoch']}: validation error {event['validation_after']:.4f}"
              for number, event in enumerate(stages, start=1)]
    return _svg([cell for title, event in reversed(list(zip(titles, stages, strict=True)))
                 for cell in _titled(title, event["weights"])])


def _mixture_labels(weights: list[dict[str, float]]) -> list[str]:
    return [_label(node, sorted(mixture.items(), key=lambda item: -item[1])) for node, mixture in enumerate(weights)]


def _label(node: int, rows: list[tuple[str, float | None]]) -> str:
    """Graphviz HTML table: a header and a row per operation, shaded by weight."""
    cells = []
    for name, weight in rows:
        shade = 0.15 if weight is None else min(1.0, weight)
        red, green, blue = (round(255 * (1 - shade * (1 - part))) for part in (0.0, 0.447, 0.698))
        ink = "white" if shade > 0.55 else "black"
        text = f'<TD ALIGN="LEFT"><FONT COLOR="{ink}">{name}</FONT></TD>'
        if weight is not None:
            text += f'<TD ALIGN="RIGHT"><FONT COLOR="{ink}">{weight:.2f}</FONT></TD>'
        cells.append(f'<TR><TD BGCOLOR="#{red:02x}{green:02x}{blue:02x}" BORDER="0"><TABLE BORDER="0" '
                     f'CELLBORDER="0" CELLSPACING="0">{f"<TR>{text}</TR>"}</TABLE></TD></TR>')
    return (f'<<TABLE BORDER="1" CELLBORDER="0" CELLSPACING="2" COLOR="#444444" STYLE="ROUNDED">'
            f'<TR><TD><B>s<SUB>{node + 1}</SUB></B></TD></TR>{"".join(cells)}</TABLE>>')


def _svg(cells: list[tuple[str, list[str]]]) -> str:
    """Cells, each a title and its nodes' labels, as one drawing."""
    graph = pygraphviz.AGraph(directed=True, rankdir="LR", nodesep="0.25", ranksep="0.45", bgcolor="white",
                              fontname=FONT, fontsize="12", labeljust="l")
    graph.node_attr.update(fontname=FONT, fontsize="11", shape="plain")
    graph.edge_attr.update(color="#444444", arrowsize="0.7")
    ends = dict(shape="ellipse", style="filled", fillcolor="#eeeeee", color="#444444", margin="0.08,0.04")
    for number, (title, labels) in enumerate(cells):
        part = graph.add_subgraph(name=f"cluster{number}", label=title, pencolor="white")
        for name, label in (("first", "h<SUB>t-1</SUB> = s<SUB>0</SUB>"), ("x", "x<SUB>t</SUB>"),
                            ("last", "h<SUB>t</SUB>")):
            part.add_node(f"{name} {number}", label=f"<{label}>", **ends)
        before = f"first {number}"
        for position, label in enumerate(labels):
            node = f"{position} {number}"
            part.add_node(node, label=label)
            part.add_edge(before, node, penwidth="1.6")
            part.add_edge(f"x {number}", node, style="dashed")
            before = node
        part.add_edge(before, f"last {number}", penwidth="1.6")
    return graph.draw(format="svg", prog="dot").decode()


def operation_counts(genotypes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How often each operation was chosen over all layers and nodes of `genotypes`."""
    counts = dict.fromkeys(TWO_INPUT, 0)
    for genotype in genotypes:
        for layer in genotype["layers"]:
            for node in layer:
                counts[node[0]] += 1
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
