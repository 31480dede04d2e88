"""What bfloat16 does to what a search finds: growing searches on Penn Treebank, paired by seed with float32.

Searches only, of the language experiment's reduced tier; nothing is trained from scratch. The records decide the
precision of that tier, by the rule of `decision`. `python -m growdarts_study.studies.precision` makes those that are missing.
"""

import argparse
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure
from tqdm import tqdm

from growdarts_study import grids, records
from growdarts_study.report.comparison import Interval, geometric_mean, interval
from growdarts_study.config import LanguageConfig, LanguageRun
from growdarts_study.experiments import language, phases
from growdarts_study.report.figures import COLOURS
from growdarts.precision import Precision, used_precision
from growdarts.settings import ConfigError
from growdarts_study.data.text import load_text

SEEDS = (0, 1, 2, 3, 4)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")  # the first is what the other is compared with
BENCHMARK = records.RESULTS / "precision" / "benchmark"  # what the tier goes by: the last of several that agreed
MARGIN = 1.0  # percent of validation loss: bfloat16 may cost less than this, by the interval

# What only a training from scratch reads: held fixed, so that it does not change the name of a record.
UNUSED = {"parameters": 100, "train_batch_size": 1, "train_weight_decay": 0.0, "train_epochs": 1,
          "train_patience": None, "learning_rates": None, "rate_epochs": 3}


# ---- running -----------------------------------------------------------------------------------


def study_run(seed: int, precision: Precision, changes: Mapping[str, Any] | None = None) -> LanguageRun:
    """Configuration of one search: the reduced tier's, with `changes` (tests make it small)."""
    tier = yaml.safe_load(grids.GRIDS.read_text())["language"]["reduced"]["parameters"]
    values = grids.defaults("language") | tier | UNUSED | {"tier": "reduced", "methods": ["grow"]} | dict(changes or {})
    (found,) = LanguageConfig.of(values | {"seed": seed, "precision": precision}).runs()
    return found


def path(config: LanguageRun, folder: Path = records.RESULTS) -> Path:
    """File of the record of a search."""
    return (folder / "precision" / "reduced" / config.dataset / config.precision
            / f"{config.label()}-{config.hash()}.json")


def run(seed: int, precision: Precision, *, changes: Mapping[str, Any] | None = None, folder: Path = records.RESULTS,
        checkpoints: Path = records.CHECKPOINTS, progress: bool = False) -> dict[str, Any]:
    """One search and its record: read if it is there, else made, from its checkpoint on if it was killed.

    Raises
    ------
    ConfigError
        this processor does not compute in `precision`: float32 would be compared with itself.
    """
    config = study_run(seed, precision, changes)
    file, states = path(config, folder), checkpoints / config.hash()
    if file.exists():
        return records.load(file)
    if used_precision(precision) != precision:
        raise ConfigError(f"parameter 'precision' = {precision!r}: this processor has no units for it")
    record = {"tier": "reduced", **_search(config, states, progress)}
    records.write(record, file)
    shutil.rmtree(states, ignore_errors=True)
    return record


def _search(config: LanguageRun, checkpoints: Path, progress: bool) -> dict[str, Any]:
    """The search of a language run and nothing after it."""
    text = load_text(config.dataset, config.folder)
    words, searched_text = len(text.vocabulary), replace(text, train=text.train[:config.search_tokens])
    task = language.task_of(config, searched_text, config.batch_size)
    with torch.random.fork_rng(devices=[]):
        searched = phases.search(config, lambda nodes: language.search_model(config, words, nodes), task, checkpoints,
                                 progress)
    found = searched.result
    return phases.record(config, text.hashes, searched, {}, 0.0, {
        "validation_error": found.validation_error, "genotype": found.genotype.to_dict(), "words": words,
        "precision": used_precision(config.precision), "epochs": found.epochs})


def load(folder: Path = records.RESULTS, changes: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """The records of the study, seed by seed; raises `records.RecordError` if some are missing."""
    files = [path(study_run(seed, precision, changes), folder) for seed in SEEDS for precision in PRECISIONS]
    missing = [file for file in files if not file.exists()]
    if missing:
        raise records.RecordError(f"{len(missing)} of {len(files)} records are missing, the first is {missing[0]}; "
                                  "`make precision` makes them")
    return [records.load(file) for file in files]


# ---- reading -----------------------------------------------------------------------------------


def pairs(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """One row a seed, unrounded, bfloat16 against float32.

    float32, bfloat16: final validation loss, nats a word; difference: of it, percent; same_cell: whether both derive
    one; operations: ratio of the floating-point operations of the searches, which may differ in epochs and nodes.
    """
    rows, by_run = {}, {(record["config"]["seed"], record["result"]["precision"]): record for record in found}
    for seed in sorted({seed for seed, _ in by_run}):
        base, other = (by_run[seed, precision] for precision in PRECISIONS)
        losses = [record["result"]["validation_error"] for record in (base, other)]
        rows[seed] = {"float32": losses[0], "bfloat16": losses[1], "difference": 100 * (losses[1] / losses[0] - 1),
                      "same_cell": base["result"]["genotype"] == other["result"]["genotype"],
                      "operations": other["cost"]["search_flops"] / base["cost"]["search_flops"]}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("seed")


def table(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """`pairs` for reading."""
    rows = pairs(found)
    return pd.DataFrame({
        "validation loss, float32": [f"{value:.3f}" for value in rows.float32],
        "bfloat16": [f"{value:.3f}" for value in rows.bfloat16],
        "difference, %": [f"{value:+.2f}" for value in rows.difference],
        "same derived cell": ["yes" if same else "no" for same in rows.same_cell],
        "operations": [f"{value:.2f} x" for value in rows.operations]}, index=rows.index)


def loss_difference(found: Sequence[dict[str, Any]]) -> Interval:
    """Difference of the final validation loss in percent, with its interval over seeds; negative: bfloat16 is better."""
    return interval(pairs(found).difference)


def pace_ratio(steps: Mapping[str, Any]) -> Interval:
    """Seconds of a search step in bfloat16 over those in float32: geometric mean, with its interval over rounds.

    `steps` is the record of `make benchmark`, which times both in turn on a quiet machine, at the sizes of the tier's
    search. (Seconds of the searches themselves also tell what else the machine had to do.)
    """
    tier = study_run(SEEDS[0], PRECISIONS[0])
    size = {"space": tier.space, "width": tier.hidden, "batch": tier.batch_size, "nodes": tier.max_nodes}
    (rounds,) = [case["seconds"] for case in steps["steps"]
                 if case["order"] == tier.order and size.items() <= case["size"].items()]
    return geometric_mean(b / a for a, b in zip(*(rounds[name] for name in PRECISIONS), strict=True))


def decision(found: Sequence[dict[str, Any]], pace: Interval) -> tuple[Precision, str]:
    """The precision of the reduced tier, and why.

    bfloat16 if the interval of the loss excludes a worsening by `MARGIN` percent and that of `pace`, see `pace_ratio`,
    lies below 1; else float32.
    """
    rows, loss = pairs(found), loss_difference(found)
    harmless, faster = loss.high < MARGIN, pace.high < 1
    reasons = [text for holds, text in ((harmless, f"a loss that is {MARGIN:g} % worse is not excluded"),
                                        (faster, "it is not faster beyond chance")) if not holds]
    why = (f"the loss is shown to be less than {MARGIN:g} % worse and the step to be faster" if not reasons
           else " and ".join(reasons))
    chosen: Precision = "float32" if reasons else "bfloat16"
    return chosen, (
        f"With products in bfloat16 the final validation loss differs from float32's by {loss.mean:+.2f} % (95 % interval "
        f"over {loss.n} seeds {loss.low:+.2f} to {loss.high:+.2f} %), {int(rows.same_cell.sum())} of {len(rows)} searches "
        f"derive the same cell, and a step takes {pace.mean:.2f} times the seconds (over {pace.n} rounds {pace.low:.2f} "
        f"to {pace.high:.2f}). The reduced tier computes in {chosen}: {why}.")


def reconsidered(found: Sequence[dict[str, Any]], before: Mapping[str, Any], newer: Mapping[str, Any]) -> str:
    """What the rule says by a `newer` benchmark than `before`, which the tier goes by; its runs stay what they are."""
    pace = pace_ratio(newer)
    chosen, _ = decision(found, pace)
    made = [record["provenance"] for record in (before, newer)]
    old, new = (f"commit {str(at['commit'])[:7]} on {at['hardware']['processor']}" for at in made)
    same = chosen == decision(found, pace_ratio(before))[0]
    return (f"The tier goes by the benchmark of {old}. By the newer one of {new} a step in bfloat16 takes {pace.mean:.2f} "
            f"times the seconds of float32 ({pace.low:.2f} to {pace.high:.2f}): the rule would choose "
            + (f"{chosen} again." if same else f"{chosen}; the tier's runs have not been repeated with it."))


def figure(found: Sequence[dict[str, Any]]) -> Figure:
    """Final validation loss of both precisions, a line a seed; solid where both derive the same cell."""
    drawn, ax = plt.subplots(figsize=(4.6, 3))
    rows = pairs(found).sort_values("bfloat16")
    values = rows[["float32", "bfloat16"]].to_numpy()
    gap, label = 0.07 * np.ptp(values), -np.inf  # labels keep their distance
    for seed, row in rows.iterrows():
        ax.plot([0, 1], [row.float32, row.bfloat16], color=COLOURS[7], lw=1.2, ls="-" if row.same_cell else "--")
        for place, name in enumerate(PRECISIONS):
            ax.plot(place, row[name], marker="os"[place], ms=7, mec="black", color=COLOURS[place])
        label = max(row.bfloat16, label + gap)
        ax.text(1.07, label, f"seed {seed}", va="center", fontsize=9)
    ax.set(xticks=[0, 1], xticklabels=PRECISIONS, xlim=(-0.25, 1.45), ylabel="final validation loss,\nnats a word")
    return drawn


def main(arguments: Sequence[str] | None = None, **settings: Any) -> None:
    """Make the records that are missing; `settings` go to `run`."""
    parser = argparse.ArgumentParser(description="Growing searches in both precisions; makes the missing records.")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # as the batch: numbers and seconds must not depend on the number of cores
    failed = []
    for seed, precision in tqdm([(s, p) for s in chosen.seeds for p in chosen.precisions], desc="searches"):
        try:
            record = run(seed, precision, progress=True, **settings)
        except Exception as error:  # one diverged search must not cost the others
            failed.append(f"seed {seed}, {precision}: {type(error).__name__}: {error}")
            tqdm.write(failed[-1])
            continue
        tqdm.write(f"seed {seed}, {precision}: validation loss {record['result']['validation_error']:.4f}, "
                   f"{record['result']['epochs']} epochs, {record['cost']['search_seconds']:.0f} s")
    if failed:
        raise SystemExit("\n".join([f"{len(failed)} searches failed:", *failed]))


if __name__ == "__main__":
    main()
