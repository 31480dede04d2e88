"""What a search spends until it reaches a given validation loss: growing against the fixed backbone, paired by seed.

Costs are read off the histories: `flops_spent`, floating-point operations, and `seconds_spent`, at the end of every
epoch. A loss is reached by the first epoch that ends at or below it. Which losses are given is a rule that treats both
sides alike (`given_losses`).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.report.comparison import Interval, geometric_mean, pair_of, seed_means
from growdarts_study.report.figures import COLOURS, WIDTH

Record = dict[str, Any]
Searches = Mapping[int, Sequence[Record]]  # by the nodes that growing starts from; FIXED: the fixed backbone

FIXED, STARTS = 0, (1, 2)
COSTS = {"flops_spent": "operations", "seconds_spent": "seconds"}
BOTH, HALF = "both reach", "half of the runs reach"
SHARES = {"all runs reach": 1.0, "three quarters reach": 0.75, HALF: 0.5}
STYLES = {FIXED: ("fixed backbone", COLOURS[1], "--", "s"), 1: ("growing from 1 node", COLOURS[0], "-", "o"),
          2: ("growing from 2 nodes", COLOURS[2], "-.", "^")}


@dataclass(frozen=True)
class Comparison:
    """Growing from `start` nodes against the fixed backbone until the losses that `given` names.

    losses: smallest and largest of them, over the pairs; reached: searches that come there, growing and fixed, of
    `n` each; ratio: by cost, growing over fixed, geometric mean with its interval over the seeds of which both come
    there, None without any.
    """

    start: int
    given: str
    losses: tuple[float, float]
    reached: tuple[int, int]
    n: int
    ratio: dict[str, Interval | None]


def searches(found: Iterable[Record]) -> dict[int, list[Record]]:
    """The fixed searches, and the growing ones (by morphism) by the nodes they start from, each run once."""
    groups: dict[int, list[Record]] = {}
    for record in {record["config_hash"]: record for record in found}.values():
        config = record["config"]
        start = {"fixed": FIXED, "grow": config["initial_nodes"]}.get(config["method"])
        if start in (FIXED, *STARTS):
            groups.setdefault(start, []).append(record)
    return dict(sorted(groups.items()))


def best_loss(record: Record) -> float:
    """The lowest validation loss at the end of an epoch of the search."""
    return min(row["validation_error"] for row in record["search"]["history"])


def spent_until(record: Record, loss: float, cost: str) -> float:
    """Operations or seconds that the search had spent when it reached `loss`; infinite if it never did."""
    return next((row[cost] for row in record["search"]["history"] if row["validation_error"] <= loss), math.inf)


def curve(record: Record, cost: str) -> tuple[np.ndarray, np.ndarray]:
    """What was spent by the end of every epoch, and the best validation loss until then."""
    history = record["search"]["history"]
    return (np.array([row[cost] for row in history]),
            np.minimum.accumulate([row["validation_error"] for row in history]))


def median_curve(group: Sequence[Record], cost: str) -> tuple[np.ndarray, np.ndarray]:
    """The median over `group` of the best loss at every cost at which one may change, once most of them have one.

    A search that is over keeps its best loss.
    """
    curves = [curve(record, cost) for record in group]
    at = np.unique(np.concatenate([spent for spent, _ in curves]))
    best = np.array([np.append(np.inf, losses)[np.searchsorted(spent, at, side="right")] for spent, losses in curves])
    begun = np.isfinite(best).mean(axis=0) > 0.5
    return at[begun], np.median(best[:, begun], axis=0)


def given_losses(pairs: Sequence[tuple[Record, Record]]) -> dict[str, list[float]]:
    """The losses that are given, a list over the pairs, from the best losses of both sides alike.

    "both reach": of every pair the worse one. The others are the same for all pairs: the loss that a share of all
    runs, of both sides together, reach; a single pair has none of them.
    """
    best = [(best_loss(grown), best_loss(fixed)) for grown, fixed in pairs]
    pooled = sorted(loss for pair in best for loss in pair)
    shares = SHARES if len(pairs) > 1 else {}
    return {BOTH: [max(pair) for pair in best],
            **{name: [pooled[math.ceil(share * len(pooled)) - 1]] * len(pairs) for name, share in shares.items()}}


def compare(groups: Searches) -> list[Comparison]:
    """Every start against the fixed backbone, until every given loss."""
    fixed = {pair_of(record): record for record in groups[FIXED]}
    found = []
    for start in sorted(groups.keys() - {FIXED}):
        pairs = [(record, fixed[pair_of(record)]) for record in groups[start]]
        for given, losses in given_losses(pairs).items():
            reached = [[best_loss(record) <= loss for record in pair] for pair, loss in zip(pairs, losses, strict=True)]
            found.append(Comparison(start, given, (min(losses), max(losses)), tuple(map(sum, zip(*reached, strict=True))),
                                    len(pairs), {cost: _ratio(pairs, losses, cost) for cost in COSTS}))
    return found


def _ratio(pairs: Sequence[tuple[Record, Record]], losses: Sequence[float], cost: str) -> Interval | None:
    """Growing over fixed, each seed averaged over its test years; of the pairs in which both reach the loss."""
    ratios = [(grown["config"]["seed"], spent_until(grown, loss, cost) / spent_until(fixed, loss, cost))
              for (grown, fixed), loss in zip(pairs, losses, strict=True)]
    logs = seed_means((seed, math.log(ratio)) for seed, ratio in ratios if 0 < ratio < math.inf)  # nan: neither reaches it
    return geometric_mean(np.exp(logs)) if logs else None


def table(by_data: Mapping[str, Searches]) -> pd.DataFrame:
    """All comparisons for reading, by the name of the data."""
    rows = []
    for data, groups in by_data.items():
        for found in compare(groups):
            low, high = found.losses
            rows.append({
                "data, growing from": f"{data}, {found.start} node{'s' if found.start > 1 else ''}",
                "until the loss that": found.given,
                "which is": f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}",
                "reached by growing, fixed": f"{found.reached[0]}, {found.reached[1]} of {found.n}",
                **{name: _written(found.ratio[cost]) for cost, name in COSTS.items()},
                "seeds": getattr(found.ratio["flops_spent"], "n", 0)})
    return pd.DataFrame(rows).set_index("data, growing from")


def _written(ratio: Interval | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio.mean:.2f} x" + (f" ({ratio.ends('.2f')})" if ratio.n > 2 else "")  # two tell nothing


def figure(by_data: Mapping[str, Searches]) -> Figure:
    """Best validation loss so far against operations, a row a data set: every search thin, medians thick."""
    drawn, axes = plt.subplots(len(by_data), 1, figsize=(WIDTH, 1.1 + 2.7 * len(by_data)), squeeze=False)
    labelled = {}
    for (data, groups), ax in zip(by_data.items(), axes[:, 0], strict=True):
        for start, group in groups.items():
            label, colour, dash, marker = STYLES[start]
            for record in group if len(group) > 1 else ():
                ax.step(*curve(record, "flops_spent"), where="post", color=colour, ls=dash, lw=0.8, alpha=0.45)
            spent, best = median_curve(group, "flops_spent")
            (labelled[label],) = ax.step(spent, best, where="post", color=colour, ls=dash, lw=2.4, marker=marker,
                                         markevery=[len(spent) - 1], ms=8, mec="black")
        n = max(len(group) for group in groups.values())
        ax.set(xscale="log", ylabel="best validation\nloss so far")
        ax.set_title(f"{data}, {n} {'searches' if n > 1 else 'search'} each", loc="left")
    ax.set_xlabel("floating-point operations of the search")
    drawn.legend(labelled.values(), labelled.keys(), loc="outside lower center")
    return drawn
