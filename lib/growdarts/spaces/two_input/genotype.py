"""The discrete architecture of the two-input space: what is left when every mixture has decided."""

from dataclasses import dataclass
from typing import Any, Self

from growdarts.spaces.genotype import GenotypeError, JsonForm, genotypes_of, require_space
from growdarts.spaces.two_input.operations import TWO_INPUT


@genotypes_of("two_input")
@dataclass(frozen=True)
class Genotype(JsonForm):
    """A two-input architecture: for every layer and node one operation, or copies of it, which are averaged."""

    layers: tuple[tuple[tuple[str, ...], ...], ...]
    space: str = "two_input"

    def __post_init__(self) -> None:
        require_space(self, "two_input")
        if not self.layers or not all(self.layers) or not all(all(layer) for layer in self.layers):
            raise GenotypeError(f"every layer needs a node and every node an operation: {self.layers}")
        unknown = {name for layer in self.layers for node in layer for name in node} - set(TWO_INPUT)
        if unknown:
            raise GenotypeError(f"unknown operations {sorted(unknown)}: allowed are {', '.join(TWO_INPUT)}")

    @property
    def n_nodes(self) -> int:
        return max(len(layer) for layer in self.layers)

    @property
    def operations(self) -> list[str]:
        return [name for layer in self.layers for node in layer for name in dict.fromkeys(node)]

    def to_dict(self) -> dict[str, Any]:
        return {"space": self.space, "layers": [[list(node) for node in layer] for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        contents = cls.contents(data)
        try:
            return cls(tuple(tuple(tuple(node) for node in layer) for layer in contents["layers"]))
        except (KeyError, TypeError) as error:
            raise GenotypeError(f"not a genotype: {data!r:.200} ({error})") from None
