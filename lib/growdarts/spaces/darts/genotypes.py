"""Discrete DARTS architectures: validated data that reads and writes JSON.

The fields are those of the namedtuples that the original code prints to its logs: with the name of the class in place
of `Genotype` such a text builds the same architecture.

    Genotype(recurrent=[('relu', 0), ('tanh', 1)], concat=range(1, 3))
    Genotype(normal=[('skip_connect', 0), ('sep_conv_3x3', 1)], normal_concat=[2], reduce=..., reduce_concat=...)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from operator import index

from growdarts.spaces.genotype import GenotypeError, JsonForm, genotypes_of

Edge = tuple[str, int]  # operation, predecessor

# The candidates of a search, in the order of the columns of alpha. `none` competes but is never derived.
RECURRENT_OPERATIONS = ("none", "tanh", "relu", "sigmoid", "identity")
CONVOLUTIONAL_OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect",
                            "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")


class DartsGenotype(JsonForm):
    """What both kinds of genotype share. A `GenotypeError` lists everything that is wrong with the fields."""

    def __post_init__(self) -> None:
        for name, value in list(vars(self).items()):
            try:
                plain = (tuple(map(index, value)) if name.endswith("concat") else
                         tuple((str(operation), index(j)) for operation, j in value))
            except (TypeError, ValueError) as error:
                wanted = "node numbers" if name.endswith("concat") else "pairs (operation, predecessor)"
                raise GenotypeError(f"{name} = {value!r:.200}: allowed is a list of {wanted} ({error})") from None
            object.__setattr__(self, name, plain)  # the dataclass is frozen for everybody else
        if problems := self._problems():
            raise GenotypeError("; ".join(problems))

    @property
    def operations(self) -> list[str]:
        return [name for field, edges in vars(self).items() if not field.endswith("concat") for name, _ in edges]


def _edge_problems(where: str, edge: Edge, n_predecessors: int, allowed: Iterable[str]) -> list[str]:
    operation, predecessor = edge
    problems = []
    if operation not in allowed:
        problems.append(f"{where}: unknown operation {operation!r}, allowed are {', '.join(allowed)}")
    if not 0 <= predecessor < n_predecessors:
        problems.append(f"{where}: predecessor {predecessor}, allowed is 0 to {n_predecessors - 1}")
    return problems


def _concat_problems(name: str, concat: tuple[int, ...], n_states: int) -> list[str]:
    if not concat or len(set(concat)) != len(concat) or not all(0 <= i < n_states for i in concat):
        return [f"{name} = {list(concat)}: allowed are different nodes out of 0 to {n_states - 1}, at least one"]
    return []


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

    @property
    def n_nodes(self) -> int:
        """Intermediate nodes."""
        return len(self.recurrent)

    def _problems(self) -> list[str]:
        problems = [] if self.recurrent else ["recurrent: a cell needs a node"]
        for i, edge in enumerate(self.recurrent, start=1):
            problems += _edge_problems(f"recurrent, node {i}", edge, i, RECURRENT_OPERATIONS[1:])
        return problems + _concat_problems("concat", self.concat, self.n_nodes + 1)


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

    @property
    def n_nodes(self) -> int:
        """Intermediate nodes of the deeper cell."""
        return max(len(self.normal), len(self.reduce)) // 2

    def _problems(self) -> list[str]:
        problems = []
        for name in ("normal", "reduce"):
            edges, concat = getattr(self, name), getattr(self, f"{name}_concat")
            if not edges or len(edges) % 2:
                problems.append(f"{name}: {len(edges)} edges, allowed is two for every node")
            for k, edge in enumerate(edges):
                problems += _edge_problems(f"{name}, edge {k} of node {2 + k // 2}", edge, 2 + k // 2,
                                           CONVOLUTIONAL_OPERATIONS[1:])
            problems += _concat_problems(f"{name}_concat", concat, 2 + len(edges) // 2)
        return problems
