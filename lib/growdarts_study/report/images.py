"""Records of image classifiers with several seeds -> accuracies, and what grown cells gain, in points [protocol, images]."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.report import figures
from growdarts_study.report.comparison import interval

RIVALS = ("fixed", "random", "darts_v2")


def accuracies(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Test accuracy in percent, seeds by methods. Every seed reads images of its own."""
    rows = [{"seed": record["config"]["seed"], "method": record["config"]["method"], "right": 100 * (1 - record["result"]["test_error"])}
            for record in records]
    return pd.DataFrame(rows, columns=["seed", "method", "right"]).pivot(index="seed", columns="method", values="right")


def table(records: Iterable[Mapping[str, Any]], method: str = "grow") -> pd.DataFrame:
    """A row a method: accuracy, what `method` has more than it, both with 95 % intervals over seeds; the difference that 80 % power
    would have found."""
    right, rows, more = accuracies(records), {}, f"{figures.LABELS[method]} better by, points"
    for name in right:
        mean, gain = interval(right[name].dropna()), interval((right[method] - right[name]).dropna())
        rows[figures.LABELS[name]] = {
            "test accuracy, %": f"{mean.mean:.1f} ({mean.ends('.1f')})",
            more: "-" if name == method else f"{gain.mean:+.1f} ({gain.ends('+.1f')})",
            "detectable": "-" if name == method or gain.n < 2 else f"{gain.detectable():.1f}", "seeds": str(mean.n)}
    return pd.DataFrame(rows).T


def picture(records: Iterable[Mapping[str, Any]]) -> Figure:
    """A row a method: mean accuracy with its interval over seeds, the best first."""
    rows = [(name, (mean := interval(right.dropna())).mean, mean.low, mean.high) for name, right in accuracies(records).items()]
    return figures.ranked(sorted(rows, key=lambda row: -row[1]), "test accuracy, %")
