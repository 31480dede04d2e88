"""Ablations: what one switch changes, paired by seed and test year, with intervals over the seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study import grids, records
from growdarts_study.report.comparison import Interval, geometric_mean, interval, pair_of, seed_means
from growdarts_study.report.figures import SIGNS, WIDTH, difference_bar


@dataclass(frozen=True)
class Effect:
    """One value of a switch against the switch's first value, which is the base.

    error: relative difference of the test error, percent, over the seeds (each averaged over its test years);
    flops: ratio of the operations of the search, geometric mean; nodes: of the derived cells, mean; changes: how many
    growths and prunings a search made on average, by kind.
    """

    switch: str
    value: Any
    base: Any
    error: Interval
    by_seed: tuple[float, ...]
    flops: float
    nodes: float
    changes: dict[str, float]

    def place(self) -> str:
        """Words by which its runs are found in the list of all; the base is no change, and among all."""
        if self.value == self.base:
            return "ablations"
        return f"ablations {self.value}" if self.switch == "method" else f"ablations {self.switch} = {self.value}"


def load(tier: str) -> dict[str, list[dict[str, Any]]]:
    """The records of a tier by switch; raises `records.RecordError` if some are missing."""
    loaded = {record["config_hash"]: record for record in grids.load_records("ablations", tier)}
    found: dict[str, list[dict[str, Any]]] = {}
    for job in grids.jobs("ablations", tier):
        found.setdefault(job.config.switch, []).extend(loaded[run.hash()] for run in job.runs().values())
    return found


def effects(switch: str, runs: Sequence[dict[str, Any]]) -> list[Effect]:
    """The effect of every value of `switch` in the order of `runs`; the first is the base itself."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in runs:
        groups.setdefault(repr(record["config"][switch]), []).append(record)
    base = next(iter(groups.values()))
    return [_effect(switch, group, base) for group in groups.values()]


def _effect(switch: str, group: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> Effect:
    before = {pair_of(record): record for record in base}
    pairs = [(before[pair_of(record)], record) for record in group]
    seeds = tuple(seed_means((new["config"]["seed"], 100 * (new["result"]["test_error"] / old["result"]["test_error"] - 1))
                             for old, new in pairs))
    ratios = [new["cost"]["search_flops"] / old["cost"]["search_flops"] for old, new in pairs]
    kinds = [event["kind"] for record in group for event in record["search"]["events"] if event["what"]]
    return Effect(switch, group[0]["config"][switch], base[0]["config"][switch], interval(seeds), seeds,
                  geometric_mean(ratios).mean, float(records.table(group).nodes.mean()),
                  {kind: kinds.count(kind) / len(group) for kind in ("grow_node", "grow_operation", "prune", "resample")})


def table(found: Sequence[Effect]) -> pd.DataFrame:
    """All effects for reading; a dash where a value is the base, and a note where two values led to the same errors."""
    rows = []
    for effect in found:
        is_base = effect.value == effect.base
        same = [other.value for other in found if other is not effect and (other.switch, other.by_seed) == (
            effect.switch, effect.by_seed)]
        told = f"same errors as {same[0]}" if same else SIGNS[effect.error.sign()][2]
        rows.append({
            "switch: value": f"{effect.switch}: {effect.value}", "test error, %": "-" if is_base else f"{effect.error.mean:+.2f}",
            "interval over seeds": "-" if is_base else effect.error.ends(), "told from chance": "-" if is_base else told,
            "search FLOP": "1" if is_base else f"{effect.flops:.2f} x",
            "nodes (added)": f"{effect.nodes:.1f} ({effect.changes['grow_node']:.1f})",
            "copied, pruned": f"{effect.changes['grow_operation']:.1f}, {effect.changes['prune']:.1f}"})
    return pd.DataFrame(rows).set_index("switch: value")


def figure(found: Sequence[Effect]) -> Figure:
    """Every effect with all seeds (dots) and the interval over them (bar)."""
    shown = [effect for effect in found if effect.value != effect.base]
    drawn, ax = plt.subplots(figsize=(WIDTH, 1 + 0.32 * len(shown)))
    for row, effect in enumerate(shown):
        ax.plot(effect.by_seed, [row] * len(effect.by_seed), ls="", marker="o", ms=4, mfc="none", color="black")
        difference_bar(ax, row, effect.error, effect.error.sign())
    ax.axvline(0, color="#777777", lw=1)
    ax.set_yticks(range(len(shown)), [f"{e.switch}: {e.value}" for e in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel("difference of the test error to the base, %", x=0.3)
    return drawn
