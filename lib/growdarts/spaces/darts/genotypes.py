"""Discrete DARTS architectures: validated data that reads and writes JSON.

The fields are those of the namedtuples that the original code prints to its logs: with the name of the class in place
of `Genotype` such a text builds the same architecture.

    Genotype(recurrent=[('relu', 0), ('tanh', 1)], concat=range(1, 3))
    Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=..., reduce_concat=...)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from typing import ClassVar

from growdarts.spaces.genotype import GenotypeError, JsonForm, genotypes_of

Edge = tuple[str, int]  # operation, predecessor

# The candidates of a search, in the order of the columns of alpha. `none` competes but is never derived.
RECURRENT_OPERATIONS = ("none", "tanh", "relu", "sigmoid", "identity")
CONVOLUTIONAL_OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
                            "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")


class DartsGenotype(JsonForm):
    """What both kinds of genotype share: fields in pairs, a cell's edges and the states that its output is made of.

    Node `inputs` is the first of a cell, after the states that are its inputs, and each node has `per_node` edges. A
    `GenotypeError` lists everything that is wrong with the fields.
    """

    inputs: ClassVar[int]
    per_node: ClassVar[int]
    candidates: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            try:
                plain = (tuple(map(index, value)) if name.endswith("concat") else
                         tuple((str(operation), index(j)) for operation, j in value))
            except (TypeError, ValueError) as error:
                wanted = "node numbers" if name.endswith("concat") else "pairs (operation, predecessor)"
                raise GenotypeError(f"{name} = {value!r:.200}: allowed is a list of {wanted} ({error})") from None
            object.__setattr__(self, name, plain)  # the dataclass is frozen for everybody else
        if problems := [problem for cell in self._cells() for problem in self._problems(*cell)]:
            raise GenotypeError("; ".join(problems))

    def _cells(self) -> list[tuple[str, str]]:
        """Of every cell the names of its two fields."""
        names = list(vars(self))
        return list(zip(names[::2], names[1::2], strict=True))

    def _problems(self, cell: str, output: str) -> Iterator[str]:
        edges, concat = getattr(self, cell), getattr(self, output)
        if not edges or len(edges) % self.per_node:
            yield f"{cell}: {len(edges)} edges, allowed is {self.per_node} for every node, at least one node"
        for k, (operation, predecessor) in enumerate(edges):
            node = self.inputs + k // self.per_node
            where = f"{cell}, edge {k % self.per_node} of node {node}"
            if operation not in self.candidates:
                yield f"{where}: unknown operation {operation!r}, allowed are {', '.join(self.candidates)}"
            if not 0 <= predecessor < node:
                yield f"{where}: predecessor {predecessor}, allowed is 0 to {node - 1}"
        states = self.inputs + len(edges) // self.per_node
        if not concat or len(set(concat)) != len(concat) or not all(0 <= i < states for i in concat):
            yield f"{output} = {list(concat)}: allowed are different nodes out of 0 to {states - 1}, at least one"

    @property
    def n_nodes(self) -> int:
        """Intermediate nodes of the deepest cell."""
        return max(len(getattr(self, edges)) for edges, _ in self._cells()) // self.per_node

    @property
    def operations(self) -> list[str]:
        return [name for edges, _ in self._cells() for name, _ in getattr(self, edges)]


@genotypes_of("darts_recurrent")
@dataclass(frozen=True)
class RecurrentGenotype(DartsGenotype):
    """A recurrent cell: node i = 1, 2, ... applies an activation to one of the states 0 .. i-1.

    Parameters
    ----------
    recurrent : for every node its activation and predecessor; state 0 is the one made of x_t and h_{t-1}.
    concat : the states whose mean is the output.
    """

    recurrent: tuple[Edge, ...]
    concat: tuple[int, ...]
    inputs, per_node, candidates = 1, 1, RECURRENT_OPERATIONS[1:]


@genotypes_of("darts_conv")
@dataclass(frozen=True)
class ConvolutionalGenotype(DartsGenotype):
    """A normal and a reduction cell: node i = 2, 3, ... sums two operations on the states 0 .. i-1.

    Parameters
    ----------
    normal, reduce : two edges a node, operation and predecessor; states 0 and 1 are the cell's inputs.
    normal_concat, reduce_concat : the states that are concatenated to the output.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    inputs, per_node, candidates = 2, 2, CONVOLUTIONAL_OPERATIONS[1:]
