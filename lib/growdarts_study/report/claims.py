"""The verdicts on the claims by the rules of book/protocol.md, and their table on the front page. Those on streams and on text are in their modules."""

from collections.abc import Sequence
from html import escape

import numpy as np
import pandas as pd
from scipy import stats

from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_study.report.comparison import Interval, holm, interval
from growdarts_study.report.contrasts import OVER_TASKS, Contrast, Verdict, contrast
from growdarts_study.report.searches import NAMES, costs_until_target, effects, judged

CLAIMS = {  # claim -> in a few words
    "C1": "Growing beats LSTM, GRU and random cells on series", "C2": "... and works for language",
    "C3": "Growing is cheaper than a fixed backbone", "C4": "The morphism beats fresh weights",
    "C5": "Duplicated operations help", "C6": "Pruning removes much and costs little",
    "C7": "The two-input backbone beats DARTS' graph", "C8": "Found cells hold the Hadamard product",
    "C9": "Growing suits streams of data", "C10": "A remedy of ours helps growing"}
SIGNS = {"supported": "✓", "contradicted": "✗", "no difference worth having": "=", "undecided": "?", "not tested": "–"}
WIDTH, HEIGHT = 150, 26  # of a plot, pixels
PILOTS = 5  # seeds of the protocol that set the target of C3
PRIMARY = {"C1": [("grow_1", rival) for rival in ("lstm", "gru", "random")], "C4": [("forced_morphism", "forced_fresh")],
           "C5": [("copy_splitting", "wider")],
           "C7": [("fixed_4", "graph_fixed"), ("grow_1", "graph_grow")]}  # whose p-values are corrected together
FAMILY = sum(map(len, PRIMARY.values())) + 1  # that of C10
ONE_SHOT = {"C4": 1.0, "C5": 2.0}  # claims that rest on the one-shot error, and their smallest differences of interest
PRUNING_MARGIN = 2.0  # percent of the one-shot error, of C6
REMEDIES = ("grow_2", "judged_1", "judged_2", "long_1", "kept_2")
CHOSEN_ON = ("bilinear", "narma10", "log_range")  # on which one of them is chosen


def primary(runs: pd.DataFrame) -> dict[str, list[tuple[tuple[str, str], Contrast, float]]]:
    """The primary contrasts of the claims whose arms there are: arm and rival, what they say, their p-value by Holm's correction, in
    which those that are not there yet count with p = 1."""
    tasks, there = judged(runs), set(runs.index.get_level_values("arm"))
    found, asked = {}, dict(PRIMARY)
    if set(REMEDIES) <= there:
        asked["C10"] = [(chosen_remedy(runs), "grow_1")]
    for claim, pairs in asked.items():
        if {arm for pair in pairs for arm in pair} <= there:
            of, margin = "one_shot" if claim in ONE_SHOT else "retrained", ONE_SHOT.get(claim, OVER_TASKS)
            on = [task for task in tasks if claim != "C10" or task not in CHOSEN_ON]
            found[claim] = [(pair, contrast(effects(runs, *pair, of, on), margin)) for pair in pairs]
    p_values = [one.p_value for contrasts in found.values() for _, one in contrasts]
    corrected = iter(holm(p_values + [1.0] * (FAMILY - len(p_values))))
    return {claim: [(pair, one, float(next(corrected))) for pair, one in contrasts] for claim, contrasts in found.items()}


def all_verdicts(runs: pd.DataFrame, pilots: pd.DataFrame) -> list[Verdict]:
    """C1, C3 to C8 and C10, of those whose arms there are."""
    tasks, there = judged(runs), set(runs.index.get_level_values("arm"))
    made = {claim: of_all(claim, *zip(*contrasts, strict=True)) for claim, contrasts in primary(runs).items()}
    if {"grow_1", "fixed_4"} <= there and len(pilots):
        made["C3"] = cheaper(runs, pilots, tasks)
    if {"grow_2", "prune_none"} <= there:
        made["C6"] = pruning(runs, tasks)
    made["C8"] = products(runs, tasks)
    return [made[claim] for claim in CLAIMS if claim in made]


def _verdict(claim: str, what: str, verdict: str, one: Contrast, margin: float | None = None, complete: bool = True) -> Verdict:
    return Verdict(claim, what, verdict, one.over, one.margin if margin is None else margin, int(one.effects.count().min()), complete)


def chosen_remedy(runs: pd.DataFrame) -> str:
    """The remedy whose trained cells have the least validation error, over seeds and then the tasks to choose on, among those that cost at
    most twice what `grow_1` costs there [protocol E6]."""
    there = runs.loc[list(CHOSEN_ON)]
    means = {arm: np.log(there.xs(arm, level="arm")[["validation", "flops"]].astype(float)).groupby("task").mean().mean()
             for arm in ("grow_1", *REMEDIES)}
    cheap = [arm for arm in REMEDIES if means[arm]["flops"] <= means["grow_1"]["flops"] + np.log(2)]
    return min(cheap, key=lambda arm: means[arm]["validation"])


def of_all(claim: str, pairs: Sequence[tuple[str, str]], contrasts: Sequence[Contrast], p_values: Sequence[float]) -> Verdict:
    """Supported if the arm is better than every rival, contradicted if it is worse than one; the least favourable contrast is shown."""
    said = {one.verdict(p_value) for one, p_value in zip(contrasts, p_values, strict=True)}
    verdict = "contradicted" if "contradicted" in said else said.pop() if len(said) == 1 else "undecided"
    shown = max(range(len(contrasts)), key=lambda i: contrasts[i].over.mean)
    arm, rival = (NAMES[name] for name in pairs[shown])
    kind = "one-shot error" if claim in ONE_SHOT else "error"
    which = f", the least favourable of {len(contrasts)}" if len(contrasts) > 1 else ""
    return _verdict(claim, f"{kind}, {arm} against {rival}{which}", verdict, contrasts[shown])


def cheaper(runs: pd.DataFrame, pilots: pd.DataFrame, tasks: Sequence[str]) -> Verdict:
    """C3: the upper end of the ratio of operations is below 0.8, and that of the retrained error's 90 % interval below +1 %."""
    costs, ours, theirs = costs_until_target(runs, pilots, "grow_1")
    cost, quality = contrast(costs.filter(tasks)), contrast(effects(runs, "grow_1", "fixed_4", tasks=tasks)).over.at_90()
    cheap, dear = cost.over.high < 100 * np.log(0.8), cost.over.low > 0
    verdict = "contradicted" if dear else "supported" if cheap and quality.high < 1 else "undecided"
    what = (f"operations until the target, growing against a fixed backbone of 4 nodes; {ours:.0%} and {theirs:.0%} never reach it; "
            f"error of its cell {quality.percent().mean:+.0f} %, up to {quality.percent().high:+.0f} % by a 90 % interval, where +1 % is allowed")
    return _verdict("C3", what, verdict, cost, -100 * np.log(0.8), pilots.groupby("task").size().min() >= PILOTS)


def left_by_pruning(runs: pd.DataFrame, tasks: Sequence[str]) -> float:
    """Operations of the pruned network over those of the one that is never pruned, geometric mean over tasks."""
    return float(np.exp(effects(runs, "grow_2", "prune_none", "network_flops", tasks).mean().mean() / 100))


def pruning(runs: pd.DataFrame, tasks: Sequence[str]) -> Verdict:
    """C6: the error stays within 2 %, and at least half of the operations are gone."""
    pruned = contrast(effects(runs, "grow_2", "prune_none", "one_shot", tasks), PRUNING_MARGIN)
    left = left_by_pruning(runs, tasks)
    verdict = "supported" if pruned.over.within(PRUNING_MARGIN) and left <= 0.5 else "contradicted" if pruned.outcome() == "worse" else "undecided"
    return _verdict("C6", f"one-shot error, pruning against none; {1 - left:.0%} of the operations gone, of which half must be", verdict, pruned)


def chance_of_hadamard(nodes: int, operations: Sequence[str]) -> float:
    """Probability that a random cell of so many nodes holds `hadamard`. Cells whose operations all keep a zero state at zero are
    never drawn, nor derived (Deviation D13)."""
    K, dead = len(operations), sum(not TWO_INPUT[name].admits_input() for name in operations)
    return (K**nodes - (K - 1)**nodes - dead**nodes + (dead - 1)**nodes) / (K**nodes - dead**nodes)


def products(runs: pd.DataFrame, tasks: Sequence[str], arm: str = "grow_2") -> Verdict:
    """C8: whether found cells hold `hadamard` more often than random cells of as many nodes; the estimate is the difference in
    percentage points, over tasks."""
    found = runs.loc[tasks].xs(arm, level="arm").dropna(subset="cell")
    held = found["cell"].map(lambda cell: "hadamard" in cell)
    chance = pd.Series([chance_of_hadamard(*one) for one in zip(found["cell"].map(len), found["operations"], strict=True)], found.index)
    test = stats.binomtest(int(held.sum()), len(held), float(chance.mean()))
    verdict = "undecided" if test.pvalue >= 0.05 else "supported" if held.mean() > chance.mean() else "contradicted"
    difference = 100 * (held.astype(float) - chance).groupby("task").mean()
    return Verdict("C8", f"cells that hold the Hadamard product: {held.mean():.0%}, by chance {chance.mean():.0%}", verdict,
                   interval(difference), 0.0, int(held.groupby("task").count().min()))


def verdict_table(found: Sequence[Verdict]) -> pd.DataFrame:
    """A row a claim, in their order; *detectable* is the estimate that 80 % power would have found."""
    return pd.DataFrame([{"claim": one.claim, "what was measured": one.what, "verdict": one.verdict + ", so far" * one.preliminary(),
                          "estimate": one.text(), "detectable": one.detectable(), "on": one.data()}
                         for one in sorted(found, key=lambda one: list(CLAIMS).index(one.claim))]).set_index("claim")


# ---- the table on the front page ----------------------------------------------------------------

def interval_plot(estimate: Interval, margin: float) -> str:
    """SVG of an estimate with its interval, the band is the smallest difference of interest; the axis is that of the logarithm."""
    reach = 1.1 * max(abs(estimate.low), abs(estimate.high), 2 * margin, 1.0)

    def x(value: float) -> float:
        return round(WIDTH / 2 * (1 + value / reach), 1)

    middle = HEIGHT / 2
    return (f'<svg class="interval" aria-hidden="true" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}">'
            f'<rect class="margin" x="{x(-margin)}" y="2" width="{round(x(margin) - x(-margin), 1)}" height="{HEIGHT - 4}"/>'
            f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="0" y2="{HEIGHT}"/>'
            f'<line class="range" x1="{x(estimate.low)}" x2="{x(estimate.high)}" y1="{middle}" y2="{middle}"/>'
            f'<circle class="estimate" cx="{x(estimate.mean)}" cy="{middle}" r="4"/></svg>')


def claims_table(verdicts: Sequence[Verdict], pages: dict[str, str]) -> str:
    """HTML: a row a claim, its verdict, its estimate, what was measured, a link.

    Parameters
    ----------
    pages : claim -> address of the page with its evidence.
    """
    found = {one.claim: one for one in verdicts}
    rows = []
    for claim, words in CLAIMS.items():
        one = found.get(claim)
        verdict, what = (one.verdict, f"{one.what}; {one.data()}") if one else ("not tested", "")
        plot = interval_plot(one.estimate, one.margin) + f"<br>{one.text()}" if one else ""
        label = f'<a href="{escape(pages[claim])}">{claim}</a>' if claim in pages else claim
        rows.append(f'<tr><th scope="row">{label}</th><td>{escape(words)}</td><td class="verdict {verdict.split()[0]}">'
                    f'{SIGNS[verdict]} {verdict}{", so far" if one and one.preliminary() else ""}</td>'
                    f'<td>{plot}</td><td>{escape(what)}</td></tr>')
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "claim", "verdict", "estimate, 95 % interval", "what was measured"))
    return f'<table class="claims"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
