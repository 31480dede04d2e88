"""What searches on daily returns and on text grew, from their records."""

from collections.abc import Sequence
from typing import Any

Records = Sequence[dict[str, Any]]


def working_nodes(record: dict[str, Any]) -> int:
    """Effective nodes of the derived cell: those that do more than `carry` the state on."""
    return sum(set(node) != {"carry"} for node in record["result"]["genotype"]["layers"][0])


def kept_nodes(records: Records, method: str) -> tuple[int, int, int]:
    """Searches of `method`; of these, kept a node that was added; ended with two or more that do more than `carry`."""
    own = [record for record in records if record["config"]["method"] == method]
    return (len(own), sum(len(record["result"]["genotype"]["layers"][0]) > 1 for record in own),
            sum(working_nodes(record) > 1 for record in own))


def growth_jumps(records: Records, method: str) -> list[float]:
    """Change of the validation error in percent by every node that was added, where both errors are finite."""
    return [100 * (event["validation_after"] / event["validation_before"] - 1)
            for record in records if record["config"]["method"] == method
            for event in record["search"]["events"]
            if event["kind"] == "grow_node" and None not in (event["validation_before"], event["validation_after"])]
