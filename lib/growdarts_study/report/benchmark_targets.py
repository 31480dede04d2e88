"""Targets of the speed and memory of a step, and verdicts from the records of `make benchmark`.

Rules, not judgement: the same record always gives the same words, and a target is judged by its worst case.
"""

from typing import Any, Literal, NamedTuple

import pandas as pd

from growdarts_study.report.benchmark_results import SPACES, growth, steps


class Target(NamedTuple):
    """What is asked of the worst of some cases.

    table, cases : "steps" or "growth", and a query of its rows; column : what is looked at; at_least : whether
    `bound` is the smallest or the largest allowed value; unit : behind the numbers.
    """

    text: str
    table: Literal["steps", "growth"]
    cases: str
    column: str
    at_least: bool
    bound: float
    unit: str


TARGETS = (
    Target("recurrent cell, first order, H = 128, B = 32: times as fast as the reference", "steps",
           "space == 'recurrent' and order == 1 and width == 128 and batch == 32", "speedup", True, 2.0, ""),
    Target("recurrent cell, first order, H = 300, B = 64: times as fast as the reference", "steps",
           "space == 'recurrent' and order == 1 and width == 300 and batch == 64", "speedup", True, 1.5, ""),
    Target("recurrent cell, second order, both sizes: times as fast as the reference", "steps",
           "space == 'recurrent' and order == 2 and width >= 128", "speedup", True, 2.0, ""),
    Target("convolutional cells, both orders, C = 8 and 16: times as fast as the reference", "steps",
           "space == 'convolutional' and width >= 8", "speedup", True, 2.0, ""),
    Target("two-input cell, both orders, every size: times its floor", "steps", "space == 'two_input'", "floors", False, 2.0, ""),
    Target("every step: times as fast as the reference", "steps", "width > 0", "speedup", True, 1.0, ""),
    Target("every weight step of a derived cell: times as fast as the reference", "growth", "width > 0", "speedup", True,
           1.0, ""),
    Target("every step: peak memory, of the reference's", "steps", "width > 0", "share", False, 0.5, ""),
    Target("recurrent cell, first order, H = 300, B = 64, in bfloat16: times as fast as the reference", "steps",
           "space == 'recurrent' and order == 1 and width == 300 and batch == 64", "speedup_bfloat16", True, 2.5, ""),
    Target("making the two batches of a step, every size: of the seconds of its weight step alone", "growth", "width > 0",
           "supply", False, 0.05, ""),
    Target("selecting an operation to split, H = 300: seconds, of those of an epoch", "growth",
           "space != 'convolutional' and width == 300", "epochs", False, 1.0, ""),
    Target("selecting an operation to split, H = 300: peak memory", "growth",
           "space != 'convolutional' and width == 300", "mib", False, 2048.0, " MiB"))


def verdicts(record: dict[str, Any]) -> pd.DataFrame:
    """Every target, what was measured in its worst case, what the floor would be there, and "met", "missed" or "not
    measured"."""
    tables, rows = {"steps": steps(record), "growth": growth(record)}, []
    for target in TARGETS:
        found = tables[target.table].query(target.cases)
        values = found[target.column].dropna()
        row = {"target": target.text, "asked": f"{'>=' if target.at_least else '<='} {target.bound:g}{target.unit}",
               "measured": "-", "where": "-", "floor": "-", "verdict": "not measured"}
        if len(values):
            worst = values.idxmin() if target.at_least else values.idxmax()
            met = values[worst] >= target.bound if target.at_least else values[worst] <= target.bound
            order = f", order {found.order[worst]}" if "order" in found else ""
            if target.column == "speedup":  # which a step can pass only with products that are faster than torch.mm
                row["floor"] = f"{found.limit[worst]:.2f}"
            row |= {"measured": f"{values[worst]:{'.0f' if target.bound > 100 else '.2f'}}{target.unit}",
                    "where": f"{SPACES[found.space[worst]]}, {found.label[worst]}{order}",
                    "verdict": "met" if met else "missed"}
        rows.append(row)
    return pd.DataFrame(rows).set_index("target")


def summary(record: dict[str, Any]) -> str:
    """How many targets are met; every one that is missed or was not measured is named."""
    found = verdicts(record)
    counts = found.verdict.value_counts()
    parts = [f"{counts.get('met', 0)} of {len(found)} targets are met."]
    for verdict, words in (("missed", "Missed"), ("not measured", "Not measured")):
        rows = found[found.verdict == verdict]
        if len(rows):
            parts.append(f"{words}: " + "; ".join(
                f"{text} ({row.measured}, asked {row.asked}{_at_the_floor(row)}; {row['where']})" if verdict == "missed" else text
                for text, row in rows.iterrows()) + ".")
    return " ".join(parts)


def _at_the_floor(row: pd.Series) -> str:
    return "" if row.floor == "-" else f", {row.floor} at the floor"
