"""Verdicts on daily returns, by rules (page 06), and the numbers that they rest on. Those of the protocol are in `claims`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from growdarts_study.report.comparison import MARGIN, Interval, compare_all, detectable, geometric_mean

RIVALS = {"mean", "var1", "rnn", "gru", "lstm", "random"}  # of C1
Records = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim with one of the estimates that it rests on; `p_value` is Diebold and Mariano's after Holm.

    "supported" or "contradicted" by a difference that matters and is told from chance, "equal within ..." by two
    one-sided tests, else "undecided".
    """

    claim: str
    verdict: str
    measure: str
    over_origins: Interval
    over_seeds: Interval
    p_value: float | None

    def detectable(self) -> float:
        """The difference, or the ratio below one, that 80 % power would have found, by both intervals."""
        known = (self.over_origins, self.over_seeds)
        if self.measure.startswith("error"):
            return detectable(known)
        return float(np.exp(-detectable(Interval(*np.log([i.mean, i.low, i.high]), i.n) for i in known)))


def verdicts(records: Records, runs: pd.DataFrame) -> list[Verdict]:
    """C1, C3 (cost and quality) and C4."""
    return [claim_c1(records, runs), *claim_c3(records, runs), claim_c4(records, runs)]


def claim_c1(records: Records, runs: pd.DataFrame) -> Verdict:
    """C1, growing beats LSTM and other baselines; p-values are adjusted for all rivals."""
    found = {d.rival: d for d in compare_all(records, runs, "grow", reverse=True)}
    rivals = RIVALS & found.keys()
    better, lstm = sum(found[name].outcome() == "better" for name in rivals), found["lstm"]
    if "worse" in (lstm.outcome(), found["mean"].outcome()):
        verdict = "contradicted"
    elif lstm.outcome() == "better":
        verdict = "supported" if better == len(rivals) else "supported in part"
    else:
        verdict = lstm.outcome()
    return Verdict("C1", verdict, f"error against LSTM, % (better than {better} of {len(rivals)} rivals)",
                   lstm.over_origins, lstm.over_seeds, lstm.p_value)


def claim_c3(records: Records, runs: pd.DataFrame) -> tuple[Verdict, Verdict]:
    """C3, growing makes the search cheaper for the same quality: its cost, and its quality."""
    cost = cost_ratio(runs)
    (quality,) = compare_all(records, runs, "grow", reverse=True, only=("fixed",))
    if quality.outcome() == "worse" or all(ratio.low > 1 for ratio in cost):
        verdict = "contradicted"
    else:
        cheaper = all(ratio.high < 1 for ratio in cost)
        verdict = "supported" if cheaper and quality.at_most(MARGIN) else "undecided"
    return (Verdict("C3", verdict, "operations of the search, fixed backbone = 1", *cost, None),
            Verdict("C3", verdict, "error against the fixed backbone, %", quality.over_origins, quality.over_seeds,
                    quality.p_value))


def cost_ratio(runs: pd.DataFrame) -> tuple[Interval, Interval]:
    """Operations of the growing search over the fixed one's: geometric mean, intervals over origins and seeds."""
    flops = {name: runs[runs.method == name].pivot(index="seed", columns="origin", values="search_flops")
             for name in ("grow", "fixed")}
    logs = np.log(flops["grow"] / flops["fixed"])
    return geometric_mean(np.exp(logs.mean(axis=0))), geometric_mean(np.exp(logs.mean(axis=1)))


def claim_c4(records: Records, runs: pd.DataFrame) -> Verdict:
    """C4, the morphism beats fresh random weights."""
    (quality,) = compare_all(records, runs, "grow", reverse=True, only=("grow_fresh",))
    verdict = {"better": "supported", "worse": "contradicted"}.get(quality.outcome(), quality.outcome())
    return Verdict("C4", verdict, "error against growing with fresh weights, %", quality.over_origins,
                   quality.over_seeds, quality.p_value)


def working_nodes(record: dict[str, Any]) -> int:
    """Effective nodes of the derived cell: those that do more than `carry` the state on."""
    return sum(set(node) != {"carry"} for node in record["result"]["genotype"]["layers"][0])


def kept_nodes(records: Records, method: str) -> tuple[int, int, int]:
    """Searches of `method`; of these, kept a node that was added; ended with two or more that do more than `carry`."""
    own = [record for record in records if record["config"]["method"] == method]
    return (len(own), sum(len(record["result"]["genotype"]["layers"][0]) > 1 for record in own),
            sum(working_nodes(record) > 1 for record in own))


def growth_jumps(records: Records, method: str) -> list[float]:
    """Change of the validation error in percent by every node that was added."""
    return [100 * (event["validation_after"] / event["validation_before"] - 1)
            for record in records if record["config"]["method"] == method
            for event in record["search"]["events"] if event["kind"] == "grow_node"]
