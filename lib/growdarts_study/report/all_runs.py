"""All records -> one table with a row a run, for download and for the page that filters it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from growdarts.spaces.genotype import genotype_from_dict
from growdarts_study import records
from growdarts_study.records import RESULTS

LISTED = str.maketrans("", "", "[],'")  # a list is shown as its words
# The codebook. What a run does not have is left empty.
COLUMNS = {
    "experiment": "time_series, language, images: a run of that notebook; "
                  "whole_space: one cell of all; searches and streams: an arm of the protocol",
    "tier": "scale of the experiment, see Notation",
    "data": "name of the data set or series",
    "method": "what was trained: a method, or in whole_space a rival or a cell, its operations joined by +, "
              "and in searches an arm; one-shot: its network as searched, else its cell trained from scratch",
    "changed": "parameters in which the run differs from most of its experiment on these data",
    "seed": "of all random draws; in whole_space of the generated series as well",
    "year": "test year; empty: the last part of the data",
    "test_error": "mean squared error of standardised values, of streams that of all forecasts after the first part; language: nats a word, or a character; images: share of images that are wrong; empty: the run diverged",
    "validation_error": "the same on the validation part, by which sizes and stages were chosen",
    "floor": "lowest possible test error, where it is known",
    "weights": "of the tested network",
    "nodes": "of the tested cell",
    "search_epochs": "epochs of the search",
    "search_flops": "floating-point operations of the search, estimated",
    "search_seconds": "wall time of the search on one core",
    "train_seconds": "wall time of the training from scratch on one core, all sizes",
    "made": "when the record was made, UTC",
    "commit": "of the repository at that time",
    "record": "file of the record below data/results/; its configuration has every parameter of the run",
}


def table(folder: Path = RESULTS) -> pd.DataFrame:
    """A row a run of every record below `folder`, benchmarks left out; the columns are those of the codebook.

    Raises
    ------
    RecordError
        a file is no record, or is damaged.
    """
    files = sorted(file for file in folder.rglob("*.json") if file.relative_to(folder).parts[0] != "benchmarks")
    rows = [row for file in files for row in _rows(file, file.relative_to(folder))]
    groups: dict[Any, Counter[tuple[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["experiment"], row["data"]), Counter()).update(row["config"])
    for row in rows:
        usual = groups[row["experiment"], row["data"]]
        row["changed"] = ", ".join(f"{name} = {value.translate(LISTED)}" for name, value in row["config"]
                                   if usual[name, value] < max(n for (other, _), n in usual.items() if other == name))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(("year", "weights", "nodes", "search_epochs"), "Int64"))


def _rows(file: Path, place: Path) -> Iterator[dict[str, Any]]:
    record = records.load(file, ("config", "provenance"))
    config, made = record["config"], record["provenance"]
    common = {"experiment": place.parts[0], "tier": record.get("tier", place.parts[1]), "data": config["dataset"],
              "year": config.get("origin"), "made": made["made"], "commit": made["commit"], "record": place.as_posix(), "config": []}
    if "changes" in record:  # of streams: the prequential error, the operations of the first part's search and of the stream
        for arm, row in record["rows"].items():
            yield common | {"method": arm, "seed": config["seed"], "test_error": row["error"], "floor": record["floor"],
                            "nodes": row.get("nodes"), "search_flops": row["first_flops"] + row["flops"]}
        return
    if "rows" in record:
        for arm, row in record["rows"].items():
            for estimand in [name for name in ("retrained", "one_shot", "kept") if name in row] or ["retrained"]:  # of one that diverged no errors
                errors, trained = row.get(estimand, {}), row.get("retrained", {})
                yield common | {
                    "config": [*((name, str(config[name])) for name in ("operations", "train_epochs")),  # what arms of one name differ in
                               ("group", config["group"] if config["group"] == "equal_cost" else "")],
                    "method": arm if estimand == "retrained" else f"{arm}, {estimand.replace('_', '-')}", "seed": config["seed"],
                    "validation_error": errors.get("validation"), "test_error": errors.get("test"), "floor": record["floor"],
                    "weights": trained.get("parameters"), "search_epochs": row.get("epochs"), "search_flops": row.get("search_flops"),
                    "nodes": genotype_from_dict(row["cell"]).n_nodes if "cell" in row else None}
        return
    if "cells" not in record:
        (run,) = [{"method": config["method"], "seed": config["seed"]}] if "diverged" in record else records.table(
            [record | {"config": {"origin": None} | config}]).rename(columns={
                "validation": "validation_error", "test": "test_error", "parameters": "weights"}).to_dict("records")
        settings = [(name, str(value)) for name, value in config.items() if name not in ("seed", "origin", "method", "dataset")]
        yield run | common | {"floor": record.get("result", {}).get("floor"), "config": settings}
        return
    tested = dict(zip(record["cells"], zip(record["validation"], record["test"], strict=True), strict=True))
    if config["nodes"] == 1:  # the same in the files of larger cells
        tested |= {name: (rival["validation"], rival["test"]) for name, rival in record["rivals"].items()}
    for name, (validation, test) in tested.items():
        floors = record["floor"] or [None] * len(test)
        for seed, chosen_by, error, floor in zip(config["seeds"], validation, test, floors, strict=True):
            yield common | {"method": name, "seed": seed, "validation_error": chosen_by, "test_error": error, "floor": floor,
                            "nodes": name.count("+") + 1 if name in record["cells"] else None}


def daily_errors(folder: Path = RESULTS) -> pd.DataFrame:
    """Squared errors of standardised returns: a row a test day of every record that has them, with its number (`day`) and its date, a column
    an index of the series. `test_days.csv` has the dates of daily returns; days of other series have none."""
    tables, calendar = [], pd.read_csv(RESULTS / "time_series" / "test_days.csv")["date"]
    for file in sorted((folder / "time_series").rglob("*.json")):
        if "diverged" in (record := records.load(file, ("config", "result"))):
            continue
        first, last, days = record["result"]["days"]
        rows = pd.DataFrame(record["result"]["daily_errors"], columns=record["result"]["features"], dtype=np.float32)
        rows.insert(0, "day", np.arange(days))
        dates = calendar[calendar.between(first, last)]
        rows.insert(1, "date", dates.to_list() if len(dates) == days else None)
        tables.append(rows.assign(record=file.relative_to(folder).as_posix()))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def made_again(file: Path = RESULTS / "benchmarks" / "again.json") -> pd.DataFrame:
    """A row a kind of record and commit of the second making, from what `benchmarks/again.py` noted: how many were made again, the numbers
    that differ by more than 0.001 %, the largest difference of a test error, records with other cells or events, and those whose
    first making was on another processor."""
    by_kind: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in json.loads(file.read_text())["rows"]:
        by_kind.setdefault((row["experiment"], row["again"]["commit"][:7]), []).append(row)
    return pd.DataFrame([{
        "experiment": kind, "made again at": commit, "records": str(len(some)),
        "numbers that differ": f"{sum(row['differing'] for row in some):,} of {sum(row['numbers'] for row in some):,}",
        "test error, at most": f"{max(row['test_percent'] for row in some):.2g} %", "other cells or events": str(sum(row["cells_differ"] for row in some)),
        "first on another processor": str(sum(row["stored"]["processor"] != row["again"]["processor"] for row in some))}
        for (kind, commit), some in by_kind.items()]).set_index("experiment")


def write(runs: pd.DataFrame, days: pd.DataFrame, folder: Path) -> None:
    """`runs.csv`, `runs.parquet`, `daily_errors.parquet`, and `runs-data.js`, the columns that the page shows."""
    folder.mkdir(parents=True, exist_ok=True)
    runs.to_csv(folder / "runs.csv", index=False)
    runs.to_parquet(folder / "runs.parquet", index=False)
    days.to_parquet(folder / "daily_errors.parquet", index=False)
    method = runs.method.where(runs.changed == "", runs.method + " (" + runs.changed + ")")
    files, numbers = np.unique(runs.record, return_inverse=True)
    shown = runs[["experiment", "data", "seed", "year", "test_error"]].assign(method=method, record=numbers).astype(object)
    rows = shown.where(shown.notna(), None)[["experiment", "data", "method", "seed", "year", "test_error", "record"]].values.tolist()
    data = json.dumps({"files": files.tolist(), "rows": rows}, separators=(",", ":"))
    (folder / "runs-data.js").write_text(f"window.RUNS = {data};\n", encoding="utf-8")
