"""Records of `make benchmark` -> tables and the figure of the steps.

`steps` holds, for every size and order, the seconds of a search step in every round: of the plain reference, of the
library in float32 and bfloat16, of torch's LSTM and of the floor (see `benchmarks/`). Numbers are medians over the
rounds, ratios are those of medians.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from pydantic import Field

from growdarts_study import records
from growdarts_study.report.figures import COLOURS
from growdarts_study.records import RecordError
from growdarts_study.settings import StudySettings

SPACES = {"recurrent": "recurrent cell of DARTS", "two_input": "two-input cell", "convolutional": "convolutional cells"}
PARTS = {"steps": ("steps", "growth"), "scaling": ("sweeps", "bases")}
OTHER = records.RESULTS / "benchmarks" / "another_processor"  # an earlier record of the same cases
TOKENS = 929_589  # of Penn Treebank's training part, of which an epoch's steps are counted
Record = dict[str, Any]


class PerformanceConfig(StudySettings):
    """Parameters of notebook `07_performance`."""

    spaces: list[Literal["recurrent", "two_input", "convolutional"]] = Field(
        min_length=1, description="search spaces whose steps are shown")


def load(name: str, folder: Path = records.RESULTS / "benchmarks") -> Record:
    """The record `name`, one of `PARTS`.

    Raises
    ------
    RecordError
        it is missing or not one.
    """
    file = folder / f"{name}.json"
    if not file.exists():
        raise RecordError(f"{file} is missing; `make benchmark` makes it")
    try:
        record = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise RecordError(f"{file} is not a record ({error}); `make benchmark` makes it anew") from None
    missing = {"provenance", *PARTS[name]} - set(record)
    if missing:
        raise RecordError(f"{file} lacks {', '.join(sorted(missing))}; `make benchmark` makes it anew")
    return record


def label(size: dict[str, Any]) -> str:
    """A size for reading."""
    if size["space"] == "convolutional":
        return f"C = {size['width']}, {size['cells']} cells, B = {size['batch']}"
    return f"H = {size['width']}, B = {size['batch']}"


# ---- search steps ------------------------------------------------------------------------------


def steps(record: Record) -> pd.DataFrame:
    """One row a case, unrounded.

    Seconds (NaN: not measured) of `reference`, `float32`, `bfloat16`, `lstm` and `floor`; `speedup` and
    `speedup_bfloat16` over the reference, `limit` of the floor over it; `floors`, of float32 over the floor;
    `mib_reference`, `mib`, by which memory rises, and `share`, of the second in the first.
    """
    rows = []
    for case in record["steps"]:
        size, times = case["size"], {name: median(values) for name, values in case["seconds"].items()}
        peak = case["peak_mib"]
        rows.append({
            **{name: size[name] for name in ("space", "width", "batch")}, "label": label(size), "order": case["order"],
            **{name: times.get(name, float("nan")) for name in ("reference", "float32", "bfloat16", "lstm", "floor")},
            "mib_reference": peak["reference"], "mib": peak["float32"]})
    found = pd.DataFrame(rows)
    return found.assign(speedup=found.reference / found.float32, speedup_bfloat16=found.reference / found.bfloat16,
                        limit=found.reference / found.floor, floors=found.float32 / found.floor, share=found.mib / found.mib_reference)


def step_table(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """Seconds of a search step, for reading."""
    rows = _of(steps(record), spaces)
    return pd.DataFrame({
        "size": rows.label, "order": rows.order, "reference, s": rows.reference.map(seconds_text),
        "float32, s": rows.float32.map(seconds_text), "bfloat16, s": rows.bfloat16.map(seconds_text),
        "floor, s": rows.floor.map(seconds_text), "reference / float32": rows.speedup.map(times_text),
        "reference / bfloat16": rows.speedup_bfloat16.map(times_text), "float32 / floor": rows.floors.map(times_text),
        "LSTM, weight step, s": rows.lstm.map(seconds_text)})


def memory_table(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """Peak memory of a search step, for reading."""
    rows = _of(steps(record), spaces)
    return pd.DataFrame({
        "size": rows.label, "order": rows.order, "reference, MiB": rows.mib_reference.map(whole_text),
        "float32, MiB": rows.mib.map(whole_text),
        "of the reference's": [f"{value:.0%}" for value in rows.share]})


def _of(rows: pd.DataFrame, spaces: Sequence[str]) -> pd.DataFrame:
    """The rows of these spaces, named."""
    rows = rows[rows.space.isin(spaces)]
    return rows.set_index(rows.space.map(SPACES)).rename_axis("")


# ---- growth ------------------------------------------------------------------------------------


def growth(record: Record) -> pd.DataFrame:
    """One row a size, unrounded.

    Seconds of a weight step of the derived cell (`derived`), of that cell written out (`reference`), of its floor, of
    torch's LSTM (`lstm`, NaN for images) and of the search network (`mixed`); `speedup` and `limit`, of the derived cell
    and of the floor over the reference. Seconds of adding a node (`grow_node`) and of selecting an operation to split
    (`selection`), whose eigenpairs are those of the measured operations times the number of all; `epoch`: seconds of an
    epoch of the search network's weight steps on Penn Treebank, NaN for images; `epochs`: the selection in units of that;
    `mib`: by which memory rises in a selection; `supply`: seconds of making the two batches of a search step, as a share
    of a weight step, which is less than half of that.
    """
    rows = []
    for case in record["growth"]:
        size, found = case["size"], case["selection"]
        row = {"lstm": float("nan")} | {name: median(values) for name, values in case["seconds"].items()}
        row["selection"] = found["traces"] + found["eigenpairs"] * found["places"] / found["sampled"]
        batches = TOKENS / (size["length"] * size["batch"]) if size["length"] else float("nan")
        rows.append({**{name: size[name] for name in ("space", "width", "batch")}, "label": label(size), **row,
                     "grow_node": median(case["grow_node"]), "epoch": batches * row["mixed"], "mib": found["peak_mib"],
                     "supply": median(case["batches"]) / row["mixed"],
                     "places": found["places"], "sampled": found["sampled"]})
    out = pd.DataFrame(rows)
    return out.assign(epochs=out.selection / out.epoch, speedup=out.reference / out.derived,
                      limit=out.reference / out.floor)


def derived_table(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """A weight step of the derived cell, for reading."""
    rows = _of(growth(record), spaces)
    return pd.DataFrame({
        "size": rows.label, "reference, s": rows.reference.map(seconds_text),
        "derived cell, s": rows.derived.map(seconds_text), "floor, s": rows.floor.map(seconds_text),
        "reference / derived": rows.speedup.map(times_text),
        "derived / floor": (rows.derived / rows.floor).map(times_text), "torch's LSTM, s": rows.lstm.map(seconds_text),
        "all mixed, s": rows.mixed.map(seconds_text)})


def growth_table(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """Steps of growth, for reading."""
    rows = _of(growth(record), spaces)
    return pd.DataFrame({
        "size": rows.label,
        "making batches": rows.supply.map(lambda value: f"{100 * value:.1f} %"),
        "adding a node, s": rows.grow_node.map(seconds_text),
        "selecting a split, s": rows.selection.map(seconds_text),
        "operations, measured": [f"{n}, {k}" for n, k in zip(rows.places, rows.sampled, strict=True)],
        "in epochs": rows.epochs.map(lambda value: or_dash(value, ".2f")), "MiB": rows.mib.map(whole_text)})


def provenance(record: Record) -> pd.DataFrame:
    """Machine and circumstances of a record."""
    made = record["provenance"]
    hardware, load = made["hardware"], made["load_average"]
    rows = {"made": f"{made['made']}, in {made['minutes']:.0f} minutes",
            "commit": f"{str(made['commit'])[:12]}, library modified: {made['modified']}",
            "processor": f"{hardware['processor']}, {hardware['cores']} cores, {hardware['threads']} threads used",
            "computes in bfloat16": "yes" if made["bfloat16"] else "no: float32 in its place, so not measured",
            "load average of the machine": f"{load['before']:.2f} before, {load['after']:.2f} after",
            "packages": ", ".join(f"{name} {number}" for name, number in made["packages"].items()),
            "Python, system": f"{made['python']}, {hardware['system']}"}
    return pd.DataFrame({"": rows}).rename_axis("benchmarks")


def or_dash(value: float, form: str) -> str:
    """The number, or a dash where there is none."""
    return "-" if pd.isna(value) else f"{value:{form}}"


def seconds_text(value: float) -> str:
    """Three digits, which is more than the noise leaves."""
    return or_dash(value, ".3g" if value < 100 else ".0f")


def times_text(value: float) -> str:
    """A ratio."""
    return or_dash(value, ".2f")


def whole_text(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


# ---- figure ------------------------------------------------------------------------------------

# Marker, colour, size and whether filled: told apart without colour too.
MARKS = {"reference": ("s", COLOURS[7], 7, True), "float32": ("o", COLOURS[0], 7, True),
         "bfloat16": ("^", COLOURS[1], 7, False), "lstm": ("D", COLOURS[2], 5, False),
         "floor": ("|", "black", 13, True)}
NAMES = {"reference": "plain reference", "float32": "growdarts, float32", "bfloat16": "growdarts, bfloat16",
         "lstm": "torch's LSTM, weight step only", "floor": "floor"}


def step_figure(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> Figure:
    """Seconds of a search step by variant, a row a case: medians, and the range of the rounds as a line.

    At the right edge how many times as fast as the reference the library is, in float32 and, if measured, in bfloat16.
    """
    chosen = [space for space in SPACES if space in spaces]
    found, cases = steps(record), record["steps"]
    counts = [int((found.space == space).sum()) for space in chosen]
    figure, axes = plt.subplots(len(chosen), 1, figsize=(8.4, 0.9 + 0.33 * sum(counts) + 0.5 * len(chosen)),
                                sharex=True, squeeze=False, height_ratios=counts)
    lines: dict[str, Any] = {}
    for ax, space in zip(axes[:, 0], chosen, strict=True):
        rows = found[found.space == space].sort_values(["width", "batch", "order"])
        for y, (case, row) in enumerate(rows.iterrows()):
            for name, (marker, colour, size, filled) in MARKS.items():
                if pd.isna(row[name]):
                    continue
                times = cases[case]["seconds"][name]
                ax.plot([min(times), max(times)], [y, y], color=colour, lw=1)
                (lines[name],) = ax.plot(row[name], y, marker=marker, ls="", ms=size, color=colour, mew=1.5,
                                         mfc=colour if filled else "white", label=NAMES[name])
            ax.text(1.10, y, times_text(row.speedup), transform=ax.get_yaxis_transform(), va="center", ha="right",
                    fontsize=10)
            ax.text(1.24, y, times_text(row.speedup_bfloat16), transform=ax.get_yaxis_transform(), va="center",
                    ha="right", fontsize=10)
        ax.set(xscale="log", ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), [f"{row.label}, {'1st' if row.order == 1 else '2nd'} order"
                                         for _, row in rows.iterrows()], fontsize=10)
        ax.set_title(SPACES[space], loc="left")
        ax.grid(axis="x", color="#DDDDDD")
        ax.set_axisbelow(True)
    for x, text in ((1.10, "float32"), (1.24, "bfloat16")):
        axes[0][0].text(x, 1.02, text, transform=axes[0][0].transAxes, ha="right", va="bottom", fontsize=9)
    axes[0][0].text(1.24, 1.02, "times as fast\n", transform=axes[0][0].transAxes, ha="right", va="bottom", fontsize=9)
    axes[-1][0].set_xlabel("seconds of a search step")
    figure.legend(lines.values(), [line.get_label() for line in lines.values()], loc="outside lower center", ncols=3,
                  fontsize=10)
    return figure
