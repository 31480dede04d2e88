"""Records of `make benchmark` -> numbers, tables and figures of seconds and memory.

The record `steps` holds, for every size and order, the seconds of a search step in every round: of the plain reference,
of the library in float32 and bfloat16, of torch's LSTM and of the floor (see `benchmarks/`). The record `scaling` holds
first-order steps, each in a process of its own, with one thing at a time varied around a base. Numbers are medians over
the rounds, ratios are those of medians. The record `launches` counts what a step asks of a GPU.
"""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study import records
from growdarts_study.report.figures import COLOURS, WIDTH

SPACES = {"recurrent": "recurrent cell of DARTS", "two_input": "two-input cell", "convolutional": "convolutional cells"}
PARTS = {"steps": ("steps", "growth"), "scaling": ("sweeps", "bases"), "launches": ("launches",)}
FOLDER = records.RESULTS / "benchmarks"
OTHER = FOLDER / "another_processor"  # an earlier record of the same cases
TOKENS = 929_589  # of Penn Treebank's training part, of which an epoch's steps are counted
STEP_PASSES = 5  # forward-sized passes of a first-order step: 2 for alpha, 3 for the weights
Record = dict[str, Any]


def load(name: str, folder: Path = FOLDER) -> Record:
    """The record `name`, one of `PARTS`; raises `RecordError` if it is missing or not one."""
    return records.load(folder / f"{name}.json", ("provenance", *PARTS[name]), "`make benchmark` makes it anew")


# ---- numbers, a row a case, unrounded ----------------------------------------------------------


def label(size: dict[str, Any]) -> str:
    """A size for reading."""
    if size["space"] == "convolutional":
        return f"C = {size['width']}, {size['cells']} cells, B = {size['batch']}"
    return f"H = {size['width']}, B = {size['batch']}"


def _case(case: dict[str, Any]) -> dict[str, Any]:
    """What a row says of the size, and the median seconds."""
    size, seconds = case["size"], case["seconds"]
    return {**{name: size[name] for name in ("space", "width", "batch")}, "label": label(size),
            **{name: median(times) for name, times in seconds.items()}}


def steps(record: Record) -> pd.DataFrame:
    """Search steps.

    Seconds (NaN: not measured) of `reference`, `float32`, `bfloat16`, `lstm` and `floor`; `speedup` and
    `speedup_bfloat16` over the reference; `floors`, of float32 over the floor; `mib_reference`, `mib`, by which memory
    rises, and `share`, of the second in the first.
    """
    found = pd.DataFrame([{"bfloat16": nan, "lstm": nan, **_case(case), "order": case["order"],
                           "mib_reference": case["peak_mib"]["reference"], "mib": case["peak_mib"]["float32"]}
                          for case in record["steps"]])
    return found.assign(speedup=found.reference / found.float32, speedup_bfloat16=found.reference / found.bfloat16,
                        floors=found.float32 / found.floor, share=found.mib / found.mib_reference)


def growth(record: Record) -> pd.DataFrame:
    """Growth, and training what was found.

    Seconds of a weight step of the derived cell (`derived`), of that cell written out (`reference`), of its floor, of
    torch's LSTM (`lstm`, NaN for images) and of the search network (`mixed`); `speedup` and `floors` of the derived cell.
    Seconds of adding a node (`grow_node`) and of selecting an operation to split (`selection`), whose eigenpairs are
    those of the `sampled` operations times the number of all `places`; `epochs`: the selection in units of an epoch
    of the search network's weight steps on Penn Treebank, NaN for images; `mib`: by which memory rises in a selection;
    `supply`: seconds of making the two batches of a search step, as a share of a weight step.
    """
    rows = []
    for case in record["growth"]:
        size, found, row = case["size"], case["selection"], {"lstm": nan} | _case(case)
        selection = found["traces"] + found["eigenpairs"] * found["places"] / found["sampled"]
        weight_steps = TOKENS / (size["length"] * size["batch"]) if size["length"] else nan
        rows.append({**row, "grow_node": median(case["grow_node"]), "selection": selection, "mib": found["peak_mib"],
                     "epochs": selection / (weight_steps * row["mixed"]), "supply": median(case["batches"]) / row["mixed"],
                     "places": found["places"], "sampled": found["sampled"]})
    found = pd.DataFrame(rows)
    return found.assign(speedup=found.reference / found.derived, floors=found.derived / found.floor)


def points(record: Record) -> pd.DataFrame:
    """Every point of the sweeps: space, what is varied, value, seconds, mib, gflop of a first-order step."""
    names = {"width": "hidden units", "operations": "candidate operations"}
    return pd.DataFrame([
        {"space": space, "varied": "channels" if (space, field) == ("convolutional", "width") else names.get(field, field),
         "value": point["value"], "seconds": median(point["seconds"]), "mib": point["peak_mib"],
         "gflop": STEP_PASSES * point["forward_flops"] / 1e9}
        for space, by_field in record["sweeps"].items() for field, found in by_field.items() for point in found])


def scaling(record: Record) -> pd.DataFrame:
    """The largest point of every sweep, and by which factor everything grows from the smallest one to it."""
    rows = []
    for (space, varied), sweep in points(record).groupby(["space", "varied"], sort=False):
        first, last = sweep.iloc[0], sweep.iloc[-1]
        rows.append({**last, "label": f"{varied}, {first.value} to {last.value}",
                     **{f"{name}_factor": last[name] / first[name] for name in ("gflop", "seconds", "mib")}})
    return pd.DataFrame(rows)


def launches(record: Record) -> pd.DataFrame:
    """Kernels of a search step: of the plain reference, of the library, and of its captured form beside its graphs
    (`replays`); `transfers`, readings of a number. The label has what they depend on."""
    return pd.DataFrame([
        {**case, "space": size["space"], "label": f"{size['nodes']} nodes, {size['operations']} operations, "
         + (f"{size['cells']} cells" if size["cells"] else f"{size['length']} words")}
        for case in record["launches"] for size in (case["size"],)])


# ---- tables ------------------------------------------------------------------------------------

# Title of a column -> what it shows, and how.
Columns = Mapping[str, tuple[str, str]]
STEPS: Columns = {
    "reference, s": ("reference", ".3g"), "float32, s": ("float32", ".3g"), "bfloat16, s": ("bfloat16", ".3g"),
    "floor, s": ("floor", ".3g"), "reference / float32": ("speedup", ".2f"), "float32 / floor": ("floors", ".2f")}
MEMORY: Columns = {"reference, MiB": ("mib_reference", ",.0f"), "float32, MiB": ("mib", ",.0f"), "of the reference's": ("share", ".0%")}
DERIVED: Columns = {
    "reference, s": ("reference", ".3g"), "derived cell, s": ("derived", ".3g"), "floor, s": ("floor", ".3g"),
    "reference / derived": ("speedup", ".2f"), "derived / floor": ("floors", ".2f"), "torch's LSTM, s": ("lstm", ".3g")}
GROWTH: Columns = {
    "making batches": ("supply", ".1%"), "adding a node, s": ("grow_node", ".3g"), "selecting a split, s": ("selection", ".3g"),
    "operations": ("places", "d"), "in epochs": ("epochs", ".2f"), "MiB": ("mib", ",.0f")}
LAUNCHES: Columns = {
    "reference": ("reference", ",d"), "step by step": ("eager", ",d"), "captured": ("captured", ",d"), "graphs": ("replays", "d"),
    "numbers read": ("transfers", "d")}
SCALING: Columns = {
    "operations": ("gflop_factor", ".2f"), "seconds": ("seconds_factor", ".2f"), "memory": ("mib_factor", ".2f"),
    "largest: GFLOP": ("gflop", ".3g"), "s": ("seconds", ".3g"), "MiB": ("mib", ",.0f")}


def table(rows: pd.DataFrame, columns: Columns, spaces: Sequence[str] = tuple(SPACES)) -> pd.DataFrame:
    """The rows of `spaces` for reading; a dash where nothing was measured."""
    rows = rows[rows.space.isin(spaces)]
    orders = rows["order"].map(", order {}".format) if "order" in rows else ""
    shown = {title: [_text(value, form) for value in rows[name]] for title, (name, form) in columns.items()}
    return pd.DataFrame({"": rows.space.map(SPACES).str.split().str[0] + ": " + rows.label + orders, **shown}).set_index("")


def _text(value: float, form: str) -> str:
    return "-" if pd.isna(value) else f"{value:{form}}"


class Target(NamedTuple):
    """A bound on `column` in the worst of the rows of `table` ("steps" or "growth") that the query `cases` gives."""

    text: str
    table: str
    cases: str
    column: str
    at_least: bool
    bound: float


_PTB = "space == 'recurrent' and order == 1 and width == {} and batch == {}"
_LARGE = "space != 'convolutional' and width == 300"
TARGETS = (
    Target("recurrent, order 1, H = 128, B = 32: speed-up", "steps", _PTB.format(128, 32), "speedup", True, 2),
    Target("recurrent, order 1, H = 300, B = 64: speed-up", "steps", _PTB.format(300, 64), "speedup", True, 1.5),
    Target("recurrent, order 2, H >= 128: speed-up", "steps", "space == 'recurrent' and order == 2 and width >= 128",
           "speedup", True, 2),
    Target("convolutional, C >= 8: speed-up", "steps", "space == 'convolutional' and width >= 8", "speedup", True, 2),
    Target("two-input: seconds in units of the floor's", "steps", "space == 'two_input'", "floors", False, 2),
    Target("every search step: speed-up", "steps", "width > 0", "speedup", True, 1),
    Target("every weight step of a derived cell: speed-up", "growth", "width > 0", "speedup", True, 1),
    Target("every search step: memory in units of the reference's", "steps", "width > 0", "share", False, 0.5),
    Target("recurrent, order 1, H = 300, B = 64, bfloat16: speed-up", "steps", _PTB.format(300, 64), "speedup_bfloat16",
           True, 2.5),
    Target("making batches in units of a weight step", "growth", "width > 0", "supply", False, 0.05),
    Target("selecting a split, H = 300: epochs", "growth", _LARGE, "epochs", False, 1),
    Target("selecting a split, H = 300: MiB", "growth", _LARGE, "mib", False, 2048))


def targets(record: Record) -> pd.DataFrame:
    """Every target, its bound, the worst case, the value there, and whether it is met ("-": not measured)."""
    tables, rows = {"steps": steps(record), "growth": growth(record)}, {}
    for target in TARGETS:
        found = tables[target.table].query(target.cases)
        values = found[target.column].dropna()
        row = {"bound": f"{'>=' if target.at_least else '<='} {target.bound:g}", "value": "-", "where": "-", "met": "-"}
        if len(values):
            worst = values.idxmin() if target.at_least else values.idxmax()
            value, order = values[worst], f", order {found.order[worst]}" if "order" in found else ""
            row |= {"value": _text(value, ".0f" if target.bound > 100 else ".2f"),
                    "where": f"{SPACES[found.space[worst]]}, {found.label[worst]}{order}",
                    "met": "yes" if (value >= target.bound if target.at_least else value <= target.bound) else "no"}
        rows[target.text] = row
    return pd.DataFrame(rows).T.rename_axis("target")


# ---- figures -----------------------------------------------------------------------------------

# Name, marker, colour, size and whether filled: told apart without colour too.
MARKS = {"reference": ("plain reference", "s", COLOURS[7], 7, True),
         "float32": ("growdarts, float32", "o", COLOURS[0], 7, True),
         "bfloat16": ("growdarts, bfloat16", "^", COLOURS[1], 7, False),
         "lstm": ("torch's LSTM, weight step only", "D", COLOURS[2], 5, False), "floor": ("floor", "|", "black", 13, True)}
def step_figure(record: Record, spaces: Sequence[str] = tuple(SPACES)) -> Figure:
    """Seconds of a first-order search step by variant, a row a case: medians, and the range of the rounds as a line."""
    chosen, found, lines = [space for space in SPACES if space in spaces], steps(record).query("order == 1"), {}
    counts = [int((found.space == space).sum()) for space in chosen]
    figure, axes = plt.subplots(len(chosen), 1, figsize=(WIDTH, 2 + 0.33 * sum(counts) + 0.5 * len(chosen)),
                                sharex=True, squeeze=False, height_ratios=counts)
    for ax, space in zip(axes[:, 0], chosen, strict=True):
        rows = found[found.space == space].sort_values(["width", "batch"])
        for y, (case, row) in enumerate(rows.iterrows()):
            for variant, times in record["steps"][case]["seconds"].items():
                name, marker, colour, size, filled = MARKS[variant]
                ax.plot([min(times), max(times)], [y, y], color=colour, lw=1)
                (lines[name],) = ax.plot(row[variant], y, marker=marker, ls="", ms=size, color=colour, mew=1.5,
                                         mfc=colour if filled else "white")
        ax.set(xscale="log", ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), rows.label)
        ax.set_title(SPACES[space], loc="left")
        ax.grid(axis="x", color="#DDDDDD")
        ax.set_axisbelow(True)
    axes[-1][0].set_xlabel("seconds of a search step", x=0.3)
    figure.legend(lines.values(), lines.keys(), loc="outside lower center")
    return figure
