"""Records of streams -> one table of arms; the verdict on C9, recovery, and the picture [protocol E7].

An effect is 100 times the logarithm of a ratio of prequential errors. The streams of a seed share their noise, so the
unit is a seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.experiments.streams import KEPT
from growdarts_study.report.comparison import Interval, holm
from growdarts_study.report.contrasts import WITHIN_TASK, Contrast, Verdict, block_interval, contrast
from growdarts_study.report.figures import COLOURS, DASHES, WIDTH
from growdarts_study.report.tables import p_text

NAMES = {"grow": "growing", "grow_fresh": "growing, fresh weights", "fixed_1": "fixed, 1 node", "fixed_4": "fixed, 4 nodes",
         "whole_1": "fixed, 1 node, not pruned", "whole_4": "fixed, 4 nodes, not pruned",
         "frozen": "frozen", "refit": "refit monthly", "refit_drift": "refit on drift", "linear": "linear, recursive"}
STREAMS = {"abrupt": "abrupt", "gradual": "gradual", "recurring": "recurring", "no_change": "no change", "log_range": "log range"}
JUDGED = ("abrupt", "gradual", "recurring")  # a change, and a law that is known
RIVALS = ("fixed_1", "fixed_4")
CHEAP = 0.5  # most operations of growing while the stream runs, over those of refitting
RECOVERED, SPAN = 0.75, 50  # share of the way to the best possible error that counts as recovered, days of a mean
CRISIS = ("2020-02-20", "2020-04-30")


def read(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row an arm, by stream, seed and arm: error, blocks (of `KEPT` days), flops, first_flops, nodes, events, and of
    the stream the floor, changes, mean (blocks of the mean forecast), labels and first, the day of the first
    forecast."""
    rows = [{**row, "stream": record["config"]["dataset"], "seed": record["config"]["seed"], "arm": arm,
             "first": record["config"]["first"], **{name: record[name] for name in ("floor", "changes", "mean", "labels")}}
            for record in records for arm, row in record["rows"].items()]
    return pd.DataFrame(rows).set_index(["stream", "seed", "arm"]).sort_index() if rows else pd.DataFrame()


def effects(runs: pd.DataFrame, arm: str, rival: str, of: str = "error", streams: Sequence[str] = JUDGED) -> pd.DataFrame:
    """100 times the log ratios, seeds by streams."""
    ours, theirs = (np.log(runs[of].astype(float).xs(name, level="arm").unstack("stream")) for name in (arm, rival))
    return 100 * (ours - theirs).filter(streams)


def over_seeds(runs: pd.DataFrame, arm: str, rival: str, streams: Sequence[str] = JUDGED) -> Contrast:
    """The contrast over seeds that have all of the streams: Student's t over their means, and a bootstrap of seeds and
    of streams within them."""
    return contrast(effects(runs, arm, rival, streams=streams).dropna().T, WITHIN_TASK)


def cost(runs: pd.DataFrame) -> float:
    """Operations of growing while the stream runs over those of the monthly refit, geometric mean."""
    return float(np.exp(effects(runs, "grow", "refit", "flops").mean().mean() / 100))


def c9(runs: pd.DataFrame) -> Verdict:
    """Supported: better than both fixed cells, and by the 90 % interval at most 2 % worse than refitting, for at most
    half of its operations. Contradicted: worse than a fixed cell or than refitting. A real series that contradicts leaves it undecided."""
    rivals = [over_seeds(runs, "grow", rival) for rival in RIVALS]
    refit, operations = over_seeds(runs, "grow", "refit"), cost(runs)
    said = [one.outcome(float(p)) for one, p in zip(rivals, holm([one.p_value for one in rivals]), strict=True)]
    as_well = refit.over.n > 1 and refit.over.at_90().high < WITHIN_TASK
    name, shown = max(zip(RIVALS, rivals, strict=True), key=lambda pair: pair[1].over.mean)
    verdict = "undecided"
    if "worse" in [*said, refit.outcome()]:
        verdict = "contradicted"
    elif set(said) == {"better"} and as_well and operations <= CHEAP:
        verdict = "undecided" if real_says(runs) == "worse" else "supported"
    elif not set(said) & {"better", "undecided"}:
        verdict = "no difference worth having"
    what = (f"prequential error, growing against {NAMES[name]}, the less favourable of two; against the monthly refit "
            f"{refit.over.percent().text('+.0f')} for {operations:.0%} of its operations")
    complete = set(JUDGED) <= set(runs.index.get_level_values("stream"))
    return Verdict("C9", what, verdict, shown.over, WITHIN_TASK, shown.over.n, complete, f"seeds of {len(JUDGED)} streams")


def contrast_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a rival: effect of growing with its interval over seeds, the median seed's, p-value (corrected for the two
    that C9 rests on), outcome.
    """
    there = set(runs.index.get_level_values("arm")) - {"grow"}
    found = {rival: over_seeds(runs, "grow", rival) for rival in NAMES if rival in there}
    p_values = dict(zip(RIVALS, map(float, holm([found[rival].p_value for rival in RIVALS])), strict=True))
    return pd.DataFrame([{
        "growing against": NAMES[rival], "error": one.over.percent().text("+.0f"),
        "median": f"{100 * np.expm1(one.effects.mean().median() / 100):+.0f} %", "p": p_text(p_values.get(rival, one.p_value)),
        "outcome": one.outcome(p_values.get(rival))}
        for rival, one in found.items()]).set_index("growing against")


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values.astype(float)).mean()))


def arms_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: error over the best possible (log range: over frozen) by stream, operations over those of the
    monthly refit, on the streams that C9 is judged on."""
    rows, cost = {}, runs["flops"].astype(float)
    for arm in [name for name in NAMES if name in runs.index.get_level_values("arm")]:
        of_arm, row = runs.xs(arm, level="arm"), {}
        for stream in [name for name in STREAMS if name in of_arm.index.get_level_values("stream")]:
            error, floor = of_arm.loc[stream]["error"], of_arm.loc[stream]["floor"]
            if floor.isna().any():
                floor = runs.loc[stream].xs("frozen", level="arm")["error"]
            row[STREAMS[stream]] = f"{_geometric(error / floor.astype(float)):.2f}"
        row["operations"] = f"{_geometric(cost.loc[[*JUDGED]].xs(arm, level='arm') / cost.loc[[*JUDGED]].xs('refit', level='arm')):.2g}"
        rows[NAMES[arm]] = row
    return pd.DataFrame(rows).T


def recovery(row: Mapping[str, Any]) -> list[tuple[int, bool]]:
    """Of every change: days until the mean error of the last `SPAN` days is back on the way to the floor, and whether
    that was before the next change; if not, the days until then."""
    ends = [*row["changes"][1:], row["first"] + KEPT * len(row["blocks"])]
    found = []
    for change, end in zip(row["changes"], ends, strict=True):
        start, stop = (-(-(day - row["first"]) // KEPT) for day in (change, end))
        target = row["floor"] + (1 - RECOVERED) * (float(np.mean(row["mean"][start:stop])) - row["floor"])
        means = np.convolve(row["blocks"][start:stop], np.ones(SPAN // KEPT) / (SPAN // KEPT), "valid")
        below = np.flatnonzero(means <= target)
        found.append((int(below[0]) * KEPT + SPAN, True) if len(below) else (end - change, False))
    return found


def recovery_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: median days to recover by stream, with the share of changes from which it does not; nodes at the end."""
    rows = {}
    for arm in [name for name in NAMES if name in runs.index.get_level_values("arm")]:
        of_arm, row = runs.xs(arm, level="arm"), {}
        for stream in [name for name in JUDGED if name in of_arm.index.get_level_values("stream")]:
            found = [one for _, entry in of_arm.loc[stream].iterrows() for one in recovery(entry)]
            days, never = np.median([day for day, _ in found]), np.mean([not back for _, back in found])
            row[STREAMS[stream]] = f"{days:.0f} ({never:.0%} never)"
        row["nodes"] = "-" if of_arm["nodes"].isna().all() else f"{of_arm['nodes'].mean():.1f}"
        rows[NAMES[arm]] = row
    return pd.DataFrame(rows).T


def real_says(runs: pd.DataFrame) -> str:
    """"worse" if on the log range growing is worse than one of the `RIVALS` by seeds and blocks of days, else ""."""
    if "log_range" not in runs.index.get_level_values("stream"):
        return ""
    real = runs.loc["log_range"]
    lows = [block_interval(*(_means(real.xs(name, level="arm")["blocks"]) for name in ("grow", rival)))[0] for rival in RIVALS]
    return "worse" if max(lows) > 0 else ""


def real_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: change of its error on the log range against that of `frozen`, over all days and in the blocks of days that reach into
    the spring of 2020."""
    real, rows = runs.loc["log_range"], {}
    days = np.array(real["labels"].iloc[0])
    crisis = np.flatnonzero((days <= CRISIS[1]) & (np.append(days[1:], days[-1]) > CRISIS[0]))  # blocks that hold a day of it
    for arm in [name for name in NAMES if name in real.index.get_level_values("arm") and name != "frozen"]:
        ours, theirs = (real.xs(name, level="arm")["blocks"] for name in (arm, "frozen"))
        low, high = block_interval(_means(ours), _means(theirs))
        ratios = {name: 100 * np.mean([np.log(np.mean(np.array(a)[index]) / np.mean(np.array(b)[index]))
                                       for a, b in zip(ours, theirs, strict=True)])
                  for name, index in (("all", slice(None)), ("crisis", crisis))}
        rows[NAMES[arm]] = {"all days": Interval(ratios["all"], low, high, 2).percent().text("+.0f"),
                            "spring of 2020": f"{100 * np.expm1(ratios['crisis'] / 100):+.0f} %"}
    return pd.DataFrame(rows).T


def picture(runs: pd.DataFrame, arms: Sequence[str] = ("grow", "fixed_1", "fixed_4", "refit")) -> Figure:
    """A panel a stream: errors over time, over the floor or over those of the frozen network; changes, growths and
    detected drifts of growing."""
    there = [name for name in STREAMS if name in runs.index.get_level_values("stream")]
    figure, axes = plt.subplots(len(there), 1, figsize=(WIDTH, 0.7 + 1.75 * len(there)), squeeze=False)
    width = 100 // KEPT
    for stream, ax in zip(there, axes[:, 0], strict=True):
        of_stream = runs.loc[stream]
        first, floor = int(of_stream["first"].iloc[0]), of_stream["floor"].iloc[0]
        for position, arm in enumerate(arms):
            own = of_stream.xs(arm, level="arm")
            best = _means(of_stream.xs("frozen", level="arm")["blocks"], width) if pd.isna(floor) else own["floor"].to_numpy(float)[:, None]
            means = np.exp(np.log(_means(own["blocks"], width) / best).mean(axis=0))
            days = first + KEPT * (width / 2 + width * np.arange(len(means)))
            ax.plot(days, means, color=COLOURS[position], ls=DASHES[position], lw=2.4 if arm == "grow" else 1.5, label=NAMES[arm])
        for change in of_stream["changes"].iloc[0]:
            ax.axvline(change, color=COLOURS[7], ls="--", lw=1, zorder=0)
        for what, marker, height in (("node", "^", 0.05), ("drift", "o", 0.16)):
            events = of_stream.xs("grow", level="arm")["events"]
            at = [day for own in events for day, kind in own if kind.startswith(what)]
            ax.plot(at, [height] * len(at), ls="", marker=marker, ms=5, color="black", alpha=0.6, clip_on=False,
                    mfc="white" if what == "drift" else "black", transform=ax.get_xaxis_transform())
        ax.set(yscale="log", title=STREAMS[stream], ylabel="error / frozen" if pd.isna(floor) else "error / best")
        ax.margins(y=0.25)
        ticks = [0.5, 0.7, 1, 1.4] if pd.isna(floor) else [1, 2, 5, 10, 20]
        low, high = ax.get_ylim()
        ax.set_yticks([tick for tick in ticks if low <= tick <= high], [f"{tick:g}" for tick in ticks if low <= tick <= high])
        ax.minorticks_off()
        if of_stream["labels"].iloc[0]:
            _years(ax, of_stream["labels"].iloc[0], first)
    axes[-1, 0].set_xlabel("year" if "log_range" in there else "day")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _means(blocks: pd.Series, width: int = 2) -> np.ndarray:
    """Means of `width` successive blocks, (seeds, means)."""
    values = np.array(blocks.tolist(), dtype=float)
    return values[:, : values.shape[1] // width * width].reshape(len(values), -1, width).mean(axis=2)


def _years(ax: plt.Axes, labels: Sequence[str], first: int) -> None:
    """Ticks at the first block of a year."""
    starts = [i for i, label in enumerate(labels) if i == 0 or label[:4] != labels[i - 1][:4]]
    ax.set_xticks([first + KEPT * i for i in starts], [labels[i][:4] for i in starts])
