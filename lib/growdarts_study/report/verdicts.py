"""Evidence -> sentences. Rules, not judgement: the same records always give the same words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from growdarts_study.report.comparison import Difference, Interval, compare_all, feature_skill, feature_tests, geometric_mean
from growdarts_study.report.figures import LABELS

MARGIN = 1.0  # percent of test error: "the same quality" means worse by less than this, by both intervals
ALPHA = 0.05


def describe(difference: Difference) -> str:
    """One pair in one sentence: first the finding in plain words, then its numbers."""
    ours, theirs, over = LABELS[difference.method], LABELS[difference.rival], difference.over_origins
    finding = {-1: f"{ours} is better than {theirs}", 1: f"{ours} is worse than {theirs}",
               0: f"{ours} and {theirs} cannot be told apart"}[difference.decided()]
    intervals = [f"over {over.n} years {_range(over)}"] if over.n > 1 else []
    if difference.over_seeds.n > 1:
        intervals.append(f"over {difference.over_seeds.n} seeds {_range(difference.over_seeds)}")
    given = f"95 % intervals {', '.join(intervals)}; " if intervals else ""
    return (f"{finding} (error {over.mean:+.2f} %; {given}Diebold-Mariano p {p_text(difference.p_value)})")


def p_text(p_value: float) -> str:
    """p-value for reading, never "= 0.000"."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _range(values: Interval) -> str:
    return f"{values.low:+.2f} to {values.high:+.2f} %"


def listing(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def anything_beats_the_mean(differences: Sequence[Difference]) -> str:
    """Which methods beat the historical mean, from their differences to it."""
    better = [LABELS[d.method] for d in differences if d.decided() < 0]
    worse = [LABELS[d.method] for d in differences if d.decided() > 0]
    first = (f"Beyond chance, {listing(better)} beat{'s' if len(better) == 1 else ''} the historical mean" if better
             else "Over all countries together, nothing beats the historical mean beyond chance")
    return first + (f"; {listing(worse)} {'is' if len(worse) == 1 else 'are'} worse than it." if worse else ".")


def smallest_difference(differences: Sequence[Difference], method: str) -> str:
    """What the intervals could have told apart: half their width over years."""
    (own,) = [d for d in differences if d.method == method]
    half = (own.over_origins.high - own.over_origins.low) / 2
    return f"A difference from {LABELS[own.rival]} below about {half:.1f} % could not have been detected."


def claim_c1(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C1, growing beats LSTM and other baselines: verdict and sentence; p-values adjusted for all rivals."""
    found = {d.rival: d for d in compare_all(records, runs, "grow", reverse=True)}
    rivals = [name for name in ("mean", "lstm", "gru", "rnn", "var1", "random") if name in found]
    beaten = [LABELS[name] for name in rivals if found[name].decided() < 0]
    beating = [LABELS[name] for name in rivals if found[name].decided() > 0]
    if found["lstm"].decided() > 0 or found["mean"].decided() > 0:
        verdict = "contradicted"
    elif found["lstm"].decided() == 0:
        verdict = "not supported"
    else:
        verdict = "supported" if len(beaten) == len(rivals) else "supported in part"
    others = f"Of {len(rivals)} rivals it beats {listing(beaten)} beyond chance"
    return verdict, (f"{_capital(describe(found['lstm']))}. {others}"
                     + (f" and is worse than {listing(beating)}." if beating else "."))


def claim_c3(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C3, growing makes the search cheaper for the same quality: verdict and sentence."""
    over_origins, over_seeds = cost_ratio(runs)
    (quality,) = [d for d in compare_all(records, runs, "grow", reverse=True, only=("fixed",))]
    cheaper = max(over_origins.high, over_seeds.high) < 1
    dearer = min(over_origins.low, over_seeds.low) > 1
    same = quality.at_most(MARGIN)
    if quality.decided() > 0 or dearer:
        verdict = "contradicted"
    else:
        verdict = "supported" if cheaper and same else "not supported"
    cost = "is cheaper" if cheaper else "costs more" if dearer else "costs about the same"
    return verdict, (
        f"The growing search {cost}: {over_origins.mean:.2f} times the floating-point operations of the fixed backbone's "
        f"(95 % intervals over years {over_origins.low:.2f} to {over_origins.high:.2f}, over seeds "
        f"{over_seeds.low:.2f} to {over_seeds.high:.2f}). In quality, {describe(quality)}; growing is "
        f"{'' if same else 'not '}shown to be less than {MARGIN:g} % worse.")


def cost_ratio(runs: pd.DataFrame) -> tuple[Interval, Interval]:
    """Operations of the growing search over the fixed one's: geometric mean, intervals over origins and seeds."""
    flops = {name: runs[runs.method == name].pivot(index="seed", columns="origin", values="search_flops")
             for name in ("grow", "fixed")}
    logs = np.log(flops["grow"] / flops["fixed"])
    return geometric_mean(np.exp(logs.mean(axis=0))), geometric_mean(np.exp(logs.mean(axis=1)))


def claim_c4(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C4, the morphism beats fresh random weights: verdict and sentence."""
    (quality,) = compare_all(records, runs, "grow", reverse=True, only=("grow_fresh",))
    verdict = {-1: "supported", 0: "not supported", 1: "contradicted"}[quality.decided()]
    kept, broken = growth_jumps(records, "grow"), growth_jumps(records, "grow_fresh")
    if not kept or not broken:
        return verdict, f"{_capital(describe(quality))}. In too few searches a node was added to compare the steps."
    return verdict, (
        f"{_capital(describe(quality))}. {what_was_kept(records, 'grow')} What a step does is clear: with the morphism, {len(kept)} new nodes changed the "
        f"validation error by at most {_digit(max(map(abs, kept)))} %; with fresh weights, {len(broken)} nodes changed it by "
        f"{np.mean(broken):+.1f} % on average.")


def what_was_kept(records: Sequence[dict[str, Any]], method: str) -> str:
    """How many of the searches of `method` kept a node that was added, and one that does more than carry."""
    layers = [r["result"]["genotype"]["layers"] for r in records if r["config"]["method"] == method]
    kept = sum(len(nodes[0]) > 1 for nodes in layers)
    working = sum(sum(node[0] != "carry" for node in nodes[0]) > 1 for nodes in layers)
    return (f"Of {len(layers)} searches {kept} kept a node that was added, and {working} ended with two or more nodes "
            "that do more than carry the state on.")


def growth_jumps(records: Sequence[dict[str, Any]], method: str) -> list[float]:
    """Change of the validation error in percent by every node that was added."""
    return [100 * (event["validation_after"] / event["validation_before"] - 1)
            for record in records if record["config"]["method"] == method
            for event in record["search"]["events"] if event["kind"] == "grow_node"]


def country(records: Sequence[dict[str, Any]], method: str) -> str:
    """Where `method` saves error against the mean, or loses: Diebold-Mariano over days, adjusted for all features."""
    skills, tests = feature_skill(records, method).mean(), feature_tests(records, method, "mean")
    told = sorted((name for name, (_, p) in tests.items() if p < ALPHA), key=lambda name: -skills[name])
    saved = [f"{name} ({skills[name]:.1f} %)" for name in told if tests[name][0] < 0]
    lost = [f"{name} ({-skills[name]:.1f} %)" for name in told if tests[name][0] > 0]
    parts = ([f"saves error in {listing(saved)}"] if saved else []) + ([f"loses in {listing(lost)}"] if lost else [])
    return f"{LABELS[method]} {' and '.join(parts) if parts else 'differs from the mean nowhere'} beyond chance."


def countries(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """`country` for several methods, as a list."""
    return "\n".join(f"* {_capital(country(records, method))}" for method in methods)


def _digit(value: float) -> str:
    """One significant digit, without an exponent."""
    return np.format_float_positional(value, precision=1, unique=False, fractional=False, trim="-")


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
