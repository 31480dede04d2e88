"""The discrete architecture of the two-input space: what is left when every mixture has decided."""

from dataclasses import dataclass

from growdarts.spaces.genotype import GenotypeError, JsonForm, genotypes_of
from growdarts.spaces.two_input.operations import TWO_INPUT


@genotypes_of("two_input")
@dataclass(frozen=True)
class Genotype(JsonForm):
    """A two-input architecture: for every layer and node one operation, or copies of it, which are averaged."""

    layers: tuple[tuple[tuple[str, ...], ...], ...]

    def __post_init__(self) -> None:
        try:
            layers = tuple(tuple(map(tuple, layer)) for layer in self.layers)
            unknown = {name for layer in layers for node in layer for name in node} - set(TWO_INPUT)
        except TypeError as error:
            raise GenotypeError(f"not a genotype: layers = {self.layers!r:.200} ({error})") from None
        if not layers or not all(layers) or not all(map(all, layers)):
            raise GenotypeError(f"every layer needs a node and every node an operation: {layers}")
        if unknown:
            raise GenotypeError(f"unknown operations {sorted(map(str, unknown))}: allowed are {', '.join(TWO_INPUT)}")
        object.__setattr__(self, "layers", layers)  # the dataclass is frozen for everybody else

    @property
    def n_nodes(self) -> int:
        return max(map(len, self.layers))

    @property
    def operations(self) -> list[str]:
        return [name for layer in self.layers for node in layer for name in dict.fromkeys(node)]
