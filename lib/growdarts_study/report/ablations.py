"""Ablations: what one part of the search changes, by the records of the searches [protocol E1, E3 to E6], or by runs of the template."""

from collections.abc import Mapping
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.report.claims import ONE_SHOT, PRUNING_MARGIN
from growdarts_study.report.comparison import Interval
from growdarts_study.report.contrasts import OVER_TASKS, Contrast, contrast
from growdarts_study.report.figures import WIDTH, difference_bar
from growdarts_study.report.searches import NAMES, effects, judged

FORMS = {"one_shot": "as searched", "retrained": "retrained"}


class Part(NamedTuple):
    """What is changed, the arm that has the change, the one that it is compared with, which test error, and the smallest difference of interest in
    percent."""

    change: str
    arm: str
    base: str
    of: str = "retrained"
    margin: float = OVER_TASKS


PARTS = (
    Part("fresh weights in new nodes", "forced_fresh", "forced_morphism", "one_shot", ONE_SHOT["C4"]),
    Part("new nodes without noise", "forced_identity", "forced_morphism", "one_shot", ONE_SHOT["C4"]),
    Part("all nodes from the start", "forced_scratch", "forced_morphism", "one_shot", ONE_SHOT["C4"]),
    Part("no pruning", "prune_none", "grow_2", "one_shot", PRUNING_MARGIN),
    Part("pruning at the end", "prune_end", "grow_2", "one_shot", PRUNING_MARGIN),
    Part("copies by splitting", "copy_splitting", "copy_none", "one_shot", ONE_SHOT["C5"]),
    Part("random copies", "copy_random", "copy_splitting", "one_shot", ONE_SHOT["C5"]),
    Part("random copies, equal cost", "copy_random_more", "copy_splitting", "one_shot", ONE_SHOT["C5"]),
    Part("copies all at once", "copy_all", "copy_splitting", "one_shot", ONE_SHOT["C5"]),
    Part("a wider cell, no copies", "wider", "copy_splitting", "one_shot", ONE_SHOT["C5"]),
    Part("two nodes at first", "grow_2", "grow_1"),
    Part("three nodes at first", "grow_3", "grow_1"),
    *(Part(f"fresh weights, from {n}", f"grow_fresh_{n}", f"grow_{n}") for n in (1, 2, 3)),
    Part("second order", "second_1", "grow_1"),
    Part("judged by derived cell", "judged_1", "grow_1"),
    Part("judged, from two nodes", "judged_2", "grow_2"),
    Part("stages up to 400 epochs", "long_1", "grow_1"),
    Part("derived weights kept", "kept_2", "grow_2"),
)


def found(*groups: pd.DataFrame) -> list[tuple[Part, Contrast]]:
    """The parts whose arms there are in the same group of runs, and what their change does over the series that are no controls."""
    return [(part, contrast(effects(runs, part.arm, part.base, part.of, judged(runs)), part.margin))
            for part in PARTS for runs in groups if {part.arm, part.base} <= set(runs.index.get_level_values("arm"))]


def epoch_later(runs: pd.DataFrame) -> Interval:
    """The validation error one epoch after the first forced growth, by morphism against fresh weights, over tasks: until that growth both are
    the same search [protocol E3]."""
    errors = {arm: runs.xs(arm, level="arm").dropna(subset="errors").apply(lambda row: row["errors"][row["grown"][0]], axis=1)
              for arm in ("forced_morphism", "forced_fresh")}
    return contrast((100 * np.log(errors["forced_morphism"] / errors["forced_fresh"])).unstack("task")).over


def table(changes: list[tuple[Part, Contrast]]) -> pd.DataFrame:
    """A row a part: the change of its error, and what that comes to without a correction for the number of parts."""
    return pd.DataFrame([{
        "change": part.change, "against": NAMES[part.base], "error": FORMS[part.of], "changes by": one.over.percent().text("+.1f"), "outcome": one.outcome(),
        "series": one.over.n, "seeds": int(one.effects.count().min())} for part, one in changes]).set_index("change")


def figure(changes: list[tuple[Part, Contrast]]) -> Figure:
    """A row a part: the change of its error on every series (dots), their mean and its interval (bar)."""
    (drawn, ax), (low, high) = plt.subplots(figsize=(WIDTH, 1 + 0.32 * len(changes))), (-142, 122)  # beyond these an arrow stands
    for row, (_, one) in enumerate(changes):
        means = one.effects.mean()
        for shown, marker in ((means, "o"), (means[means < low].clip(low), "<"), (means[means > high].clip(upper=high), ">")):
            ax.plot(shown, [row] * len(shown), ls="", marker=marker, ms=4, mfc="none", color="black")
        difference_bar(ax, row, one.over, one.over.sign())
    ax.axvline(0, color="#777777", lw=1)
    ax.set_yticks(range(len(changes)), [part.change for part, _ in changes])
    ticks = [-50, 0, 100]
    ax.set_xticks(100 * np.log1p(np.array(ticks) / 100), [f"{tick:+d}" if tick else "0" for tick in ticks])
    ax.set(ylim=(len(changes) - 0.5, -0.5), xlim=(-150, 127))
    ax.set_xlabel("change of the test error, %", x=0.3)
    return drawn


def switch_table(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Runs of the template by the value of its switch, the first of which is the base: a row a value and arm, with the change of the test
    errors in percent, the operations of the search over those of the base, and the effective nodes; means over series and seeds."""
    base, rows = next(iter(results.values())), []
    for value, runs in results.items():
        for arm in [arm for arm in dict.fromkeys(runs.index.get_level_values("arm")) if runs.xs(arm, level="arm")["cell"].notna().all()]:
            ours, theirs = runs.xs(arm, level="arm"), base.xs(arm, level="arm")
            change = {of: np.log(ours[of].astype(float) / theirs[of].astype(float)).mean() for of in ("one_shot", "retrained", "search_flops")}
            rows.append({"switch": value, "arm": arm, "as searched, %": f"{100 * np.expm1(change['one_shot']):+.1f}",
                         "retrained, %": f"{100 * np.expm1(change['retrained']):+.1f}",
                         "operations": f"{np.exp(change['search_flops']):.2f}", "effective nodes": f"{ours['nodes'].mean():.1f}"})
    return pd.DataFrame(rows).set_index("switch")
