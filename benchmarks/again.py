"""Records that are drawn at random and made again, to see whether they come out the same: `python -m benchmarks.again --help`.

Every row of data/results/benchmarks/again.json is one record. Rows that are there are kept, so it can be stopped and started again.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from growdarts.checkpoints import replacing
from growdarts_study import experiments, grids, records

FILE = records.RESULTS / "benchmarks" / "again.json"
ROUNDING = 1e-5  # a larger relative difference counts as one: records keep five digits of most numbers


def leaves(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The place and the value of everything in a record that is no dict and no list; of a list its length too, as text."""
    if isinstance(value, list):
        yield (*place, "length"), f"{len(value)}"
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*place, str(name)))
    else:
        yield place, value


def compare(stored: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """How two records of one configuration differ, seconds and provenance aside. What only the newer one has is left out: the code may note more today.

    Returns
    -------
    numbers, differing : how many numbers both have, and how many of these differ by more than `ROUNDING`.
    test_percent : the largest difference of a test error, in percent of the stored one.
    cells_differ : whether any derived cell, event, other text or length of a list is another one.
    """
    ours, theirs = (dict(leaves({name: item for name, item in records.without_timing(record).items() if name not in ("config", "sha256")}))
                    for record in (stored, made))
    numbers, differing, largest, texts = 0, 0, 0.0, False
    for place, one in ours.items():
        other = theirs.get(place)
        if isinstance(one, str) or one is None or isinstance(other, str) or other is None:
            texts = texts or one != other
            continue
        difference = abs(other - one) / max(abs(one), 1e-12)
        numbers, differing = numbers + 1, differing + (difference > ROUNDING)
        if any(name.startswith("test") or name == "error" for name in place):
            largest = max(largest, difference)
    return {"numbers": numbers, "differing": differing, "test_percent": records.significant(100 * largest, 3),
            "cells_differ": texts}


def drawn(experiment: str, tier: str, seed: int, number: int) -> list[tuple[Path, Any]]:
    """`number` of the records of an experiment that are there, with their configurations, drawn at random; none of a run that diverged."""
    runs = {file: run for job in grids.jobs(experiment, tier) for file, run in job.runs().items()
            if file.exists() and "diverged" not in records.load(file, ())}
    return [(file, runs[file]) for file in random.Random(f"{seed}/{experiment}").sample(sorted(runs), min(number, len(runs)))]


def main() -> None:
    """Draw, run and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.again", description=__doc__)
    parser.add_argument("experiments", nargs="*", default=list(grids.EXPERIMENTS), help="which; none: all")
    parser.add_argument("--tier", default="reduced")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--number", type=int, default=3, help="of records of each experiment")
    options = parser.parse_args()
    rows = json.loads(FILE.read_text())["rows"] if FILE.exists() else []
    for experiment in options.experiments:
        for file, run in drawn(experiment, options.tier, options.seed, options.number):
            name = str(file.relative_to(records.RESULTS))
            if any(row["record"] == name for row in rows):
                continue
            print(name, flush=True)
            stored = records.load_run(file, run)
            made = {"tier": options.tier, **experiments.run(run, device="cpu")}
            rows.append({"experiment": experiment, "record": name, **compare(stored, json.loads(json.dumps(made))),
                         "stored": _origin(stored), "again": _origin(made)})
            with replacing(FILE) as temporary:
                temporary.write_text("{\"rows\": [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]}\n")


def _origin(record: dict[str, Any]) -> dict[str, Any]:
    """Where a record was made."""
    made = record["provenance"]
    return {name: made[name] for name in ("made", "commit", "modified") if name in made} | {"processor": made["hardware"]["processor"]}


if __name__ == "__main__":
    main()
