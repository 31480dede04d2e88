"""Records of language modelling by characters -> one table of arms; the verdict on C2 [protocol C2].

An effect is 100 times the logarithm of a ratio of perplexities a word. The error a word is the error of the whole test text, spaces and
line ends among its characters, over its number of words; a line end counts as a word, as in published perplexities. The unit is a
seed: every seed reads another stretch of the training text.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from growdarts_study.report.comparison import Interval, interval
from growdarts_study.report.contrasts import Verdict, by_task
from growdarts_study.report import figures
from growdarts_study.report.tables import p_text
from growdarts_study.report.grown import working_nodes

DATASET = "penn_treebank_characters"
NAMES = {"grow": "growing", "fixed": "fixed, 4 nodes", "random": "random cells", "graph_grow": "DARTS' graph, growing",
         "graph_fixed": "DARTS' graph, fixed", "graph_random": "DARTS' graph, random", "darts_v2": "DARTS V2 cell", "lstm": "LSTM", "gru": "GRU",
         "kneser_ney": "Kneser-Ney, counts"}
RIVALS = ("lstm", "gru", "random")  # of growing, on which C2 rests
MARGIN = 3.0  # percent of the perplexity a word
WORDS = 82_430  # of the test text, ends of lines among them


def read(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """A row a run, by seed and arm. Columns: bits and word, the test error in bits a character and in nats a word; flops of search, trials
    and training; weights of the cell; hidden, its units; genotype; nodes, the effective ones."""
    rows = []
    for record in records:
        config, result = record["config"], record["result"]
        if config["dataset"] == DATASET:
            cell = result["genotype"]
            rows.append({
                "seed": config["seed"], "arm": arm_of(record),
                "bits": result["test_error"] / np.log(2), "word": result["test_error"] * result["tokens"]["test"] / WORDS,
                "flops": record["cost"]["search_flops"] + result.get("train_flops", 0.0), "weights": result.get("cell_parameters"),
                "hidden": result["hidden"], "genotype": result["genotype"],
                "nodes": np.nan if cell is None else working_nodes(record) if "layers" in cell else len(cell["recurrent"])})
    return pd.DataFrame(rows).set_index(["seed", "arm"]).sort_index() if rows else pd.DataFrame()


def arm_of(record: Mapping[str, Any]) -> str:
    """The arm of the protocol, one of `NAMES`, that a run belongs to."""
    return "graph_" * (record["config"]["space"] == "darts_recurrent") + record["config"]["method"]


def effects(runs: pd.DataFrame, arm: str, rival: str) -> pd.Series:
    """100 times the log ratio of perplexities a word, by seed, where both are there."""
    ours, theirs = (runs["word"].xs(name, level="arm") for name in (arm, rival))
    return (100 * (ours - theirs)).dropna()


def paired(runs: pd.DataFrame) -> int:
    """How many seeds have growing and all `RIVALS`."""
    return 0 if runs.empty else int((runs["word"].unstack("arm").reindex(columns=["grow", *RIVALS]).notna().all(axis=1)).sum())


def _over(values: pd.Series) -> Interval:
    """Mean and interval over seeds. Fewer than three have no interval: it would say nothing but that there are few."""
    return interval(values) if len(values) > 2 else Interval(float(np.mean(values)), np.nan, np.nan, 1)


def _judged(runs: pd.DataFrame, arm: str, rivals: Sequence[str]) -> pd.DataFrame:
    """`by_task` of the effects of an arm, a row a rival; the p-values are corrected together."""
    return by_task(pd.DataFrame({rival: effects(runs, arm, rival) for rival in rivals}), MARGIN)


def c2(runs: pd.DataFrame) -> Verdict:
    """Supported: growing is better than LSTM, GRU and random cells. Contradicted: it is worse than one of them. No difference worth having:
    all three contrasts are decided, and at least one says "equal"."""
    table = _judged(runs, "grow", RIVALS)
    said, verdict = set(table["outcome"]), "undecided"
    if "worse" in said:
        verdict = "contradicted"
    elif said == {"better"}:
        verdict = "supported"
    elif "undecided" not in said:
        verdict = "no difference worth having"
    shown = max(RIVALS, key=lambda rival: table.loc[rival, "mean"])
    what = f"perplexity a word of text by characters, growing against {NAMES[shown]}, the least favourable of 3"
    return Verdict("C2", what, verdict, _over(effects(runs, "grow", shown)), MARGIN, paired(runs), unit="stretches of Penn Treebank")


def contrast_table(runs: pd.DataFrame, arm: str = "grow") -> pd.DataFrame:
    """A row a rival: effect of the arm with its interval over seeds, p-value (corrected for the three that C2 rests on), outcome, and the true
    effect that would have been found."""
    rivals = [name for name in NAMES if name != arm and name in runs.index.get_level_values("arm") and len(effects(runs, arm, name))]
    together = RIVALS if arm == "grow" and set(RIVALS) <= set(rivals) else ()
    found = pd.concat([_judged(runs, arm, [name]) for name in rivals if name not in together] + [_judged(runs, arm, together)] * bool(together))
    return pd.DataFrame([{
        f"{NAMES[arm]} against": NAMES[rival], "perplexity a word": _over(effects(runs, arm, rival)).percent().text("+.1f"),
        "p": p_text(found.loc[rival, "p"]), "outcome": found.loc[rival, "outcome"], "80 % power finds": _over(effects(runs, arm, rival)).detectable_fall(),
        "seeds": found.loc[rival, "seeds"]} for rival in rivals]).set_index(f"{NAMES[arm]} against")


def arms_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row an arm: bits a character with their interval, perplexity a word, operations over those of growing, units, effective nodes."""
    rows = {}
    for arm in [name for name in NAMES if name in runs.index.get_level_values("arm")]:
        of_arm = runs.xs(arm, level="arm")
        bits = _over(of_arm["bits"])
        ratios = (of_arm["flops"] / runs["flops"].xs("grow", level="arm")).dropna() if "grow" in runs.index.get_level_values("arm") else []
        network = of_arm["hidden"].notna().all()
        rows[NAMES[arm]] = {
            "bits a character": f"{bits.mean:.3f} ({bits.ends('.3f')})", "perplexity a word": f"{np.exp(of_arm['word'].mean()):.0f}",
            "operations": f"{np.exp(np.log(ratios).mean()):.2g}" if network and len(ratios) else "-",
            "units": f"{of_arm['hidden'].mean():.0f}" if network else "-",
            "effective nodes": f"{of_arm['nodes'].mean():.1f}" if of_arm["nodes"].notna().all() else "-", "seeds": str(len(of_arm))}
    return pd.DataFrame(rows).T


def cells_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a seed, a column an arm that searches or draws two-input cells: the operations of its cell and its bits a character."""
    rows: dict[int, dict[str, str]] = {}
    for (seed, arm), row in runs.iterrows():
        if arm in ("grow", "fixed", "random"):
            operations = ", ".join(node[0] for node in row["genotype"]["layers"][0])
            rows.setdefault(seed, {})[NAMES[arm]] = f"{operations}: {row['bits']:.2f}"
    return pd.DataFrame(rows).T.rename_axis("seed").fillna("-")


def picture(runs: pd.DataFrame) -> Figure:
    """A row an arm: mean bits a character with their interval over seeds."""
    arms = [name for name in NAMES if name in runs.index.get_level_values("arm")]
    means = [_over(runs["bits"].xs(arm, level="arm")) for arm in arms]
    return figures.ranked([(arm, one.mean, *((one.low, one.high) if one.n > 1 else (None, None))) for arm, one in zip(arms, means, strict=True)],
                          "bits a character of test text", ".2f", NAMES)
