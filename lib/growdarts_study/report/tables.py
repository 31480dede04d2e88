"""Records -> tables for reading, rounded; the exact numbers are in the records."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown

from growdarts.drawing.text import error_text
from growdarts.spaces.genotype import genotype_from_dict
from growdarts_study.records import table
from growdarts_study.report.comparison import Difference, detectable, relative_difference
from growdarts_study.report.figures import LABELS, methods_in
from growdarts_study.report.grown import working_nodes

FAILED = 2.0  # a run has failed whose error is more than so many times the historical mean's


def show(table: pd.DataFrame, caption: str = "") -> Markdown:
    """The table as Markdown, whose cells wrap on a narrow page, with its caption."""
    text = table.to_markdown(disable_numparse=True)
    return Markdown(f":::{{table}} {caption}\n{text}\n:::" if caption else text)


def quoted(table: pd.DataFrame, caption: str) -> HTML:
    """The table for `glue` on another page, where Markdown is not read any more."""
    return HTML(table.reset_index().to_html(index=False, border=0, classes="table").replace("<thead>", f"<caption>{escape(caption)}</caption><thead>"))


def linked(table: pd.DataFrame, places: Sequence[str] | str) -> pd.DataFrame:
    """A table whose names lead to their records on the book's page of all runs.

    Parameters
    ----------
    places : what that list is filtered by, a row each: a hash, or words. One string for all rows has {} for the row's method or name.
    """
    if isinstance(places, str):
        methods = {label: method for method, label in LABELS.items()}
        places = [places.format(methods.get(name, name.strip("*"))) for name in table.index]
    return table.set_axis([f'<a href="../book/runs.html#{place}" title="show the record">{name}</a>'
                           for name, place in zip(table.index, places, strict=True)]).rename_axis(table.index.name)


def p_text(p_value: float | None) -> str:
    """p-value for reading, never 0.000; a dash without one."""
    return "-" if p_value is None else "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def rivals(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Test error of every run against the historical mean's and, where known, the floor."""
    runs = table(records)
    mean = runs[runs.method == "mean"].set_index("origin").test
    out = pd.DataFrame({"method": runs.method.map(LABELS), "year": runs.origin, "test error": runs.test.round(3)})
    if len(mean):
        base = [mean.get(origin, float("nan")) for origin in runs.origin]
        out["of the mean's"] = (runs.test / base).round(3)
    floors = [record["result"]["floor"] for record in records]
    if None not in floors:
        out["above the floor"] = [f"{error / floor - 1:+.1%}" for error, floor in zip(runs.test, floors, strict=True)]
    out["parameters"] = runs.parameters
    out["nodes"] = ["-" if pd.isna(value) else f"{value:.0f}" for value in runs.nodes]
    out["search, training, s"] = [f"{a:.1f}, {b:.1f}" for a, b in zip(runs.search_seconds, runs.train_seconds, strict=True)]
    return out.dropna(axis="columns", how="all").set_index("method")


def perplexities(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Test perplexity of language models, how far above the floor or else the validation perplexity, sizes and costs."""
    rows = {}
    for record in records:
        result = record["result"]
        row = {"test perplexity": f"{result['test_perplexity']:.1f}"}
        if result["floor"]:
            row["above the floor"] = f"{result['test_perplexity'] / result['floor'] - 1:+.1%}"
        else:
            row["validation"] = f"{math.exp(result['validation_error']):.1f}"
        rows[LABELS[record["config"]["method"]]] = row | _size_and_cost(record)
    return pd.DataFrame(rows).T


def rate_trials(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Validation perplexity after the trials of learning rates; the rate with the lowest is the one trained with."""
    rows = {LABELS[record["config"]["method"]]: {
        f"step {rate}": "diverged" if error is None else f"{math.exp(error):.0f}"
        for rate, error in record["result"]["learning_rates"].items()} for record in records}
    return pd.DataFrame(rows).T


def accuracies(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Test accuracy of image classifiers in percent with Wilson's 95 % interval, sizes and costs."""
    from statsmodels.stats.proportion import proportion_confint  # slow to import

    rows = {}
    for record in records:
        n, mistakes = record["result"]["test_images"], len(record["result"]["mistakes"])
        low, high = proportion_confint(n - mistakes, n, method="wilson")
        rows[LABELS[record["config"]["method"]]] = {
            "test accuracy, % (interval)": f"{100 * (1 - mistakes / n):.1f} ({100 * low:.1f} to {100 * high:.1f})"} | _size_and_cost(record)
    return pd.DataFrame(rows).T


def _size_and_cost(record: dict[str, Any]) -> dict[str, str]:
    result, cost, genotype = record["result"], record["cost"], record["result"]["genotype"]
    searched = record["search"] is not None
    return {"weights": f"{result['parameters']:,}", "nodes": str(genotype_from_dict(genotype).n_nodes) if genotype else "-",
            "search, TFLOP": f"{cost['search_flops'] / 1e12:.3g}" if searched else "-",
            "search, training, test, s": (f"{cost['search_seconds']:.0f}, " if searched else "-, ")
                                         + f"{cost['train_seconds']:.0f}, {cost['test_seconds']:.2g}"}


def events(record: dict[str, Any]) -> pd.DataFrame:
    """Every growth, pruning, tuning and end of a stage of one search."""
    return pd.DataFrame([{
        "after epoch": event["epoch"], "event": event["kind"].replace("_", " "),
        "what": ", ".join(event["what"]) or "nothing",
        "validation before, after": ", ".join(error_text(event[f"validation_{when}"]) for when in ("before", "after")),
        "nodes": event["nodes"], "weights": event["parameters"], "GFLOP spent": round(event["flops_spent"] / 1e9, 2),
    } for event in record["search"]["events"]]).set_index("after epoch")


def provenance(records: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Where records come from: what all have in common, and all values of what differs between them."""
    records = list(records)

    def values(*keys: str) -> str:
        seen = set()
        for value in records:
            for key in keys:
                value = value[key]
            seen.add(str(value))
        return ", ".join(sorted(seen))

    first, made = records[0]["provenance"], sorted(record["provenance"]["made"] for record in records)
    rows = {
        "runs": str(len(records)), "made": f"{made[0]} to {made[-1]}",
        "commit": ", ".join(commit[:12] for commit in values("provenance", "commit").split(", ")),
        "library modified": values("provenance", "modified"), "Python": values("provenance", "python"),
        "packages": ", ".join(f"{name} {values('provenance', 'packages', name)}" for name in first["packages"]),
        "processor": values("provenance", "hardware", "processor"),
        "cores, threads a run": f"{values('provenance', 'hardware', 'cores')}, "
                                f"{values('provenance', 'hardware', 'threads')}"}
    if "cost" in records[0]:  # of runs
        rows |= {"hours of computing, trials aside": str(total_hours(records)),
                 "peak memory of a process, MiB": str(round(max(r["cost"]["peak_memory_mib"] for r in records))),
                 "data files": f"{len(first['data_sha256'])}, SHA-256 in every record"}
    elif "minutes" in first:  # of benchmarks
        rows |= {"minutes": f"{first['minutes']:.0f}", "computes in bfloat16": values("provenance", "bfloat16"),
                 "load average of the machine": "{before:.2f} before, {after:.2f} after".format(**first["load_average"])}
    return pd.DataFrame({"": rows}).rename_axis("all runs")


def cost_in_words(records: Iterable[dict[str, Any]]) -> str:
    """Hours and hardware of runs, for the sentence of a page that says how to make them again."""
    records = list(records)
    processors = sorted({record["provenance"]["hardware"]["processor"] for record in records})
    return f"{len(records)} runs, together {total_hours(records)} hours of one core ({', '.join(processors)})"


def total_hours(records: Iterable[dict[str, Any]]) -> float:
    """Hours of searching, of the last training and of testing, all runs added up; records do not have the seconds of trials."""
    cost = [record["cost"] for record in records]
    return round(sum(c["search_seconds"] + c["train_seconds"] + c["test_seconds"] for c in cost) / 3600, 1)


def summary(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Per method: failed runs, error, relative difference to the mean's, size of what was tested.

    A mean that a failed run is part of says nothing of the others: a dash stands for it.
    """
    runs, out = table(records), {}
    for method in methods_in(runs):
        own, difference = runs[runs.method == method], relative_difference(runs, method, "mean")
        failed = int((difference > 100 * (FAILED - 1)).to_numpy().sum())
        out[LABELS[method]] = {
            "runs (failed)": f"{len(own)} ({failed})", "test error": "-" if failed else f"{own.test.mean():.4f}",
            "against the mean, %": "-" if failed else f"{difference.to_numpy().mean():+.2f}",
            "median run, %": f"{np.median(difference):+.2f}", "weights (median)": f"{own.parameters.median():.0f}",
            "nodes (mean)": "-" if own.nodes.isna().all() else f"{own.nodes.astype(float).mean():.1f}"}
    return pd.DataFrame(out).T


def grown(records: Sequence[dict[str, Any]], methods: Sequence[str]) -> pd.DataFrame:
    """The derived cells of every method: nodes, those that do more than `carry`, and the Hadamard product's share."""
    rows = {}
    for method in methods:
        own = [record for record in records if record["config"]["method"] == method]
        cells = [genotype_from_dict(record["result"]["genotype"]) for record in own]
        working = [working_nodes(record) for record in own]
        drawn, chosen = own[0]["config"]["operations"], [name for cell in cells for name in cell.operations]
        rows[LABELS[method]] = {
            "cells": len(own), "nodes, of these effective (mean)": f"{np.mean([c.n_nodes for c in cells]):.1f}, {np.mean(working):.1f}",
            "one effective node": working.count(1), "with `carry`": sum("carry" in cell.operations for cell in cells),
            "with `hadamard`": sum("hadamard" in cell.operations for cell in cells),
            "`hadamard`, % of operations (by chance)": f"{100 * chosen.count('hadamard') / len(chosen):.1f} "
                                                       f"({100 * ('hadamard' in drawn) / len(drawn):.1f})"}
    return pd.DataFrame(rows).T


def differences(found: Sequence[Difference]) -> pd.DataFrame:
    """Paired differences in percent: both intervals, the Diebold-Mariano test (p after Holm), what could be found."""
    rows = {LABELS[d.method]: {
        f"against {LABELS[d.rival]}, %": f"{d.over_origins.mean:+.2f}",
        "interval over years": d.over_origins.ends(), "interval over seeds": d.over_seeds.ends(),
        "p": p_text(d.p_value), "outcome": d.outcome(),
        "80 % power finds": f"{detectable((d.over_origins, d.over_seeds)):.1f}"}
        for d in found}
    return pd.DataFrame(rows).T
