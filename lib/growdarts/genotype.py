"""The discrete architecture that is left when every mixture has decided; stored as JSON."""

import json
from dataclasses import dataclass
from typing import Any, Self

from growdarts.spaces.two_input.operations import TWO_INPUT


class GenotypeError(ValueError):
    """The text or structure is not a genotype of the space it names."""


class JsonForm:
    """JSON text, for a class that has `to_dict` and `from_dict`."""

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise GenotypeError(f"not a genotype: {text!r:.200} ({error})") from None
        return cls.from_dict(data)


@dataclass(frozen=True)
class Genotype(JsonForm):
    """A two-input architecture: for every layer, for every node, the operations it sums.

    A node usually holds one operation; a duplicated one is listed as often as it was copied.

    Raises
    ------
    GenotypeError
        unknown space, empty layer or node, unknown operation.
    """

    layers: tuple[tuple[tuple[str, ...], ...], ...]
    space: str = "two_input"

    def __post_init__(self) -> None:
        if self.space != "two_input":
            raise GenotypeError(f"space {self.space!r}: allowed is 'two_input'")
        if not self.layers or not all(self.layers) or not all(all(layer) for layer in self.layers):
            raise GenotypeError(f"every layer needs a node and every node an operation: {self.layers}")
        unknown = {name for layer in self.layers for node in layer for name in node} - set(TWO_INPUT)
        if unknown:
            raise GenotypeError(f"unknown operations {sorted(unknown)}: allowed are {', '.join(TWO_INPUT)}")

    @property
    def n_nodes(self) -> int:
        """Nodes of the deepest layer."""
        return max(len(layer) for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, ready for JSON."""
        return {"space": self.space, "layers": [[list(node) for node in layer] for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        space = data.get("space", cls.space) if isinstance(data, dict) else cls.space
        if space != cls.space:
            raise GenotypeError(f"a genotype of space {space!r}: expected {cls.space!r}")
        try:
            layers = tuple(tuple(tuple(node) for node in layer) for layer in data["layers"])
            return cls(layers, data["space"])
        except (KeyError, TypeError) as error:
            raise GenotypeError(f"not a genotype: {data!r:.200} ({error})") from None


def require_space(genotype: Any, space: str) -> None:
    """Raises GenotypeError if `genotype` is not one of `space`."""
    found = getattr(genotype, "space", None)
    if found != space:
        raise GenotypeError(f"a genotype of space {found!r}: expected {space!r}")


def genotype_nodes(data: dict[str, Any]) -> int:
    """Nodes of the (deepest) cell of a genotype of any space, from its `to_dict` form."""
    if data["space"] == "two_input":
        return max(len(layer) for layer in data["layers"])
    if data["space"] == "darts_recurrent":
        return len(data["recurrent"])
    return max(len(data["normal"]), len(data["reduce"])) // 2  # a convolutional node has two edges


def genotype_operations(data: dict[str, Any]) -> list[str]:
    """The operation of every node or edge of a genotype of any space, from its `to_dict` form; copies count once."""
    if data["space"] == "two_input":
        return [name for layer in data["layers"] for node in layer for name in dict.fromkeys(node)]
    fields = ("recurrent",) if data["space"] == "darts_recurrent" else ("normal", "reduce")
    return [name for field in fields for name, _ in data[field]]
