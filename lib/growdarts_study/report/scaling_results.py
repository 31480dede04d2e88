"""How the cost of a search step grows: the record `scaling` of `make benchmark` -> table, sentence and figure.

A point is a first-order step in a process of its own; one thing at a time is varied around a base.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

from growdarts_study.report.benchmark_results import SPACES, seconds_text, times_text, whole_text
from growdarts_study.report.figures import COLOURS
from growdarts_study.report.verdicts import listing

Record = dict[str, Any]
STEP_PASSES = 5  # forward-sized passes of a first-order step: 2 for alpha, 3 for the weights
LINES = {"gflop": ("floating-point operations", {"color": "black", "lw": 1.2, "ls": ":", "marker": "x", "ms": 5}),
         "seconds": ("seconds of a step", {"color": COLOURS[0], "lw": 1.8, "marker": "o", "ms": 5}),
         "mib": ("peak memory", {"color": COLOURS[1], "lw": 1.8, "ls": "--", "marker": "s", "ms": 5})}


def varied(space: str, field: str) -> str:
    """What a field of a size is called."""
    names = {"width": "channels" if space == "convolutional" else "hidden units", "operations": "candidate operations"}
    return names.get(field, field)


def sweeps(record: Record) -> pd.DataFrame:
    """One row a point, unrounded: space, field, value, seconds, mib, gflop of a first-order step."""
    return pd.DataFrame([
        {"space": space, "field": field, "value": point["value"], "seconds": median(point["seconds"]),
         "mib": point["peak_mib"], "gflop": STEP_PASSES * point["forward_flops"] / 1e9}
        for space, by_field in record["sweeps"].items() for field, points in by_field.items() for point in points])


def scaling_table(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """First and last point of every sweep, and by which factor everything grows between them."""
    found, rows = sweeps(record), {}
    for (space, field), points in found[found.space.isin(spaces)].groupby(["space", "field"], sort=False):
        first, last = points.iloc[0], points.iloc[-1]
        rows[f"{SPACES[space]}, {varied(space, field)}"] = {
            "from, to": f"{first.value}, {last.value}", "factor": f"{last.value / first.value:.3g}",
            "operations": times_text(last.gflop / first.gflop), "seconds": times_text(last.seconds / first.seconds),
            "memory": times_text(last.mib / first.mib), "largest: GFLOP": f"{last.gflop:.3g}",
            "s": seconds_text(last.seconds), "MiB": whole_text(last.mib)}
    return pd.DataFrame(rows).T


def faster_than_operations(record: Record, spaces: Sequence[str] = tuple(SPACES), margin: float = 1.1) -> str:
    """Where seconds or memory grow by more than `margin` times the factor of the operations."""
    points_of, found = sweeps(record), {"seconds": [], "mib": []}
    for (space, field), points in points_of[points_of.space.isin(spaces)].groupby(["space", "field"], sort=False):
        first, last = points.iloc[0], points.iloc[-1]
        for column, names in found.items():
            if last[column] / first[column] > margin * last.gflop / first.gflop:
                names.append(f"{varied(space, field)} ({SPACES[space]})")
    words = {"seconds": "The seconds of a step grow", "mib": "its memory grows"}
    return " and ".join(f"{words[column]} faster than its floating-point operations with "
                        f"{listing(names)}" if names else f"{words[column]} nowhere faster than its operations"
                        for column, names in found.items()) + "."


def figure(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> Figure:
    """Seconds, memory and operations relative to each sweep's first point, both axes logarithmic.

    A curve that is steeper than that of the operations is a cost that grows faster than they do.
    """
    found = sweeps(record)
    chosen = [space for space in SPACES if space in spaces and space in set(found.space)]
    fields = list(dict.fromkeys(found.field))
    drawn, axes = plt.subplots(len(chosen), len(fields), sharey=True, squeeze=False,
                               figsize=(1.0 + 2.0 * len(fields), 0.9 + 2.1 * len(chosen)))
    lines: dict[str, Any] = {}
    for row, space in zip(axes, chosen, strict=True):
        for ax, field in zip(row, fields, strict=True):
            points = found[(found.space == space) & (found.field == field)]
            for column, (name, style) in LINES.items():
                (lines[name],) = ax.loglog(points.value, points[column] / points[column].iloc[0], **style)
            ax.xaxis.set_major_locator(FixedLocator(list(points.value)))
            ax.set_xticklabels([str(value) for value in points.value], fontsize=9)
            ax.xaxis.set_minor_locator(NullLocator())
            ax.yaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel(varied(space, field), fontsize=10)
            ax.grid(color="#DDDDDD")
        row[0].set_title(SPACES[space], loc="left")
        row[0].set_ylabel("relative to\nthe first point", fontsize=10)
    drawn.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=3, fontsize=10)
    return drawn
