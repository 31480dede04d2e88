"""Evidence -> sentences. Rules, not judgement: the same records always give the same words."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from growdarts.comparison import Difference, Interval, compare, feature_skill, interval
from growdarts.figures import LABELS


def describe(difference: Difference) -> str:
    """One pair in one sentence: size, both intervals, test over days, and whether it is told from chance."""
    over = difference.over_origins
    more = "more" if over.mean > 0 else "less"
    seeds = f", over seeds {_range(difference.over_seeds)}" if difference.over_seeds.n > 1 else ""
    told = "told from chance" if difference.decided() else "not told from chance"
    return (f"{LABELS[difference.method]} errs {abs(over.mean):.2f} % {more} than {LABELS[difference.rival]} (95 % "
            f"interval over years {_range(over)}{seeds}; Diebold-Mariano p {p_text(difference.p_value)}): {told}")


def p_text(p_value: float) -> str:
    """p-value for reading, never "= 0.000"."""
    return "< 0.001" if p_value < 0.001 else f"= {p_value:.3f}"


def _range(values: Interval) -> str:
    return f"{values.low:+.2f} to {values.high:+.2f} %"


def anything_beats_the_mean(differences: Sequence[Difference]) -> str:
    """Which methods beat the historical mean, from their differences to it."""
    better = [LABELS[d.method] for d in differences if d.decided() < 0]
    worse = [LABELS[d.method] for d in differences if d.decided() > 0]
    first = (f"Beyond chance, {listing(better)} beat{'s' if len(better) == 1 else ''} the historical mean" if better
             else "Nothing beats the historical mean beyond chance")
    return first + (f"; {listing(worse)} {'is' if len(worse) == 1 else 'are'} worse than it." if worse else ".")


def listing(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"


def claim_c1(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C1, growing beats LSTM and other baselines: verdict and sentence."""
    rivals = [name for name in ("lstm", "gru", "rnn", "var1", "random") if name in set(runs.method)]
    found = {rival: compare(records, runs, "grow", rival) for rival in rivals}
    against_lstm = found["lstm"].decided()
    beaten = [LABELS[rival] for rival, d in found.items() if d.decided() < 0]
    not_beaten = [LABELS[rival] for rival, d in found.items() if d.decided() >= 0]
    if against_lstm > 0:
        verdict = "contradicted"
    elif against_lstm < 0:
        verdict = "supported" if not not_beaten else "supported in part"
    else:
        verdict = "not supported"
    return verdict, (f"{describe(found['lstm'])}. Beyond chance it beats {listing(beaten)}; "
                     f"it does not beat {listing(not_beaten)}.")


def claim_c3(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C3, growing makes the search cheaper for the same quality: verdict and sentence."""
    ratio = cost_ratio(runs)
    quality = compare(records, runs, "grow", "fixed")
    cheaper, worse = ratio.high < 1, quality.decided() > 0
    verdict = "supported" if cheaper and not worse else "not supported"
    return verdict, (f"Growing spent {ratio.mean:.2f} times the fixed backbone's floating-point operations "
                     f"(95 % interval over years {ratio.low:.2f} to {ratio.high:.2f}). In quality, {describe(quality)}.")


def cost_ratio(runs: pd.DataFrame) -> Interval:
    """Operations of the growing search over the fixed one's, geometric mean and interval over origins."""
    flops = {name: runs[runs.method == name].pivot(index="seed", columns="origin", values="search_flops")
             for name in ("grow", "fixed")}
    logs = interval(np.log(flops["grow"] / flops["fixed"]).mean(axis=0))
    return Interval(*(float(np.exp(value)) for value in (logs.mean, logs.low, logs.high)), logs.n)


def claim_c4(records: Sequence[dict[str, Any]], runs: pd.DataFrame) -> tuple[str, str]:
    """C4, the morphism beats fresh random weights: verdict and sentence."""
    quality = compare(records, runs, "grow", "grow_fresh")
    verdict = {-1: "supported", 0: "not supported", 1: "contradicted"}[quality.decided()]
    jumps = {method: interval(growth_jumps(records, method)) for method in ("grow", "grow_fresh")}
    return verdict, (
        f"Adding a node by morphism changes the validation error by {jumps['grow'].mean:+.3f} % on average, with fresh "
        f"weights by {jumps['grow_fresh'].mean:+.1f} %: the mechanism works. In quality, {describe(quality)}.")


def growth_jumps(records: Sequence[dict[str, Any]], method: str) -> list[float]:
    """Change of the validation error in percent by every node that was added."""
    return [100 * (event["validation_after"] / event["validation_before"] - 1)
            for record in records if record["config"]["method"] == method
            for event in record["search"]["events"] if event["kind"] == "grow_node"]


def country(records: Sequence[dict[str, Any]], method: str) -> str:
    """Where `method` saves error beyond the chance of the year, and where it loses, largest first."""
    skills = feature_skill(records, method)
    found = sorted(((interval(skills[feature]), feature) for feature in skills), key=lambda pair: -pair[0].mean)
    saved = [f"{name} ({skill.mean:.1f} %)" for skill, name in found if skill.sign() > 0]
    lost = [f"{name} ({-skill.mean:.1f} %)" for skill, name in found if skill.sign() < 0]
    return (f"{LABELS[method]} saves error in {listing(saved)} and loses in {listing(lost)}, "
            "by intervals over years that lie on one side of zero.")


def countries(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> str:
    """`country` for several methods, as a list."""
    return "\n".join(f"* {country(records, method)}" for method in methods)
