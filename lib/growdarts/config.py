"""Typed, validated configuration of a run; a notebook's parameters become one of these.

Every field carries its meaning and unit. A bad value, a wrong type (`"false"` is not a bool) and
an unknown name are each one `ConfigError` that names the parameter, its value and what is allowed.
"""

import ast
import hashlib
import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from growdarts.primitives import TWO_INPUT

Method = Literal["mean", "var1", "rnn", "gru", "lstm", "random", "fixed", "grow", "grow_fresh"]
Dataset = Literal["synthetic_var", "eu_stock_markets", "g7_brics"]


# Part of every configuration's hash: raised whenever a change of the code changes the numbers of a run, so
# that records and checkpoints made before are not taken for those of the new code.
RESULTS_VERSION = 2


class ConfigError(ValueError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


def _describe(problem: dict[str, Any], allowed: list[str]) -> str:
    """One line for one pydantic problem: which parameter, its value, what is allowed."""
    name = ".".join(str(part) for part in problem["loc"]) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown parameter {name!r} = {problem['input']!r}: allowed are {', '.join(allowed)}"
    if problem["type"] == "missing":
        return f"parameter {name!r} is missing"
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    return f"parameter {name!r} = {problem['input']!r}: {problem['msg']}"


class Settings(BaseModel):
    """Base of all configurations: strict types, no unknown names, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Validate `values`; raises `ConfigError` with one line per bad parameter."""
        try:
            return cls(**values)
        except ValidationError as error:
            allowed = sorted(cls.model_fields)
            problems = error.errors(include_url=False)
            raise ConfigError("\n".join(_describe(p, allowed) for p in problems)) from None

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Self:
        """Read a notebook's parameters from its `globals()`.

        The parameters are the names bound in cells made of literal assignments only: the cell tagged
        `parameters` and the one papermill injects after it. papermill only warns about a misspelled
        name and runs on with the default; here such a name is unknown and raises `ConfigError`.
        """
        names: set[str] = set()
        for source in reversed(namespace["In"]):  # the last run of cells of literals: corrected ones are history
            found = _assigned_literals(source)
            if not found and names:
                break
            names |= found
        if not names:  # nbval keeps no history of inputs: there, nothing but the parameters is bound yet
            plain = (bool, int, float, str, list, dict, type(None))
            names = {name for name, value in namespace.items() if isinstance(value, plain)
                     and not name.startswith("_") and name not in ("In", "Out")}
        return cls.of({name: namespace[name] for name in sorted(names)})

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the sorted JSON and the version of the results."""
        text = json.dumps({**self.model_dump(), "results_version": RESULTS_VERSION}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _assigned_literals(source: str) -> set[str]:
    """Names assigned in `source` if it consists of literal assignments only, else none."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with magics is no parameters cell
        return set()
    names = set()
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else (
            [statement.target] if isinstance(statement, ast.AnnAssign) and statement.value else [])
        if not targets or not all(isinstance(target, ast.Name) for target in targets):
            return set()
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            if not (isinstance(statement.value, ast.Call)  # papermill writes float('nan') this way
                    and ast.unparse(statement.value).startswith("float(")):
                return set()
        names |= {target.id for target in targets}
    return names


class SearchSettings(Settings):
    """What a time-series run depends on, apart from the method and the origin."""

    dataset: Dataset = Field(description="which series; see growdarts.series")
    seed: int = Field(ge=0, lt=2**31, description="seed of every random draw of the run")
    window: int = Field(ge=1, le=250, description="days the cell reads before it forecasts")
    batch_size: int = Field(ge=1, description="windows per gradient step")

    hidden: int = Field(ge=1, le=4096, description="units H of the cell during the search")
    sizes: list[int] = Field(min_length=1, description="units tried when a found cell, or a rival, "
                             "is trained from scratch; the best on validation is kept")
    n_layers: int = Field(ge=1, le=8, description="stacked cells")
    operations: list[str] = Field(min_length=1, description="candidate operations of every node")
    initial_nodes: int = Field(ge=1, le=32, description="nodes of a growing cell at its start")
    max_nodes: int = Field(ge=1, le=32, description="most nodes a cell grows to; nodes of a fixed one")

    order: int = Field(ge=1, le=2, description="1: first-order alpha gradient, 2: second-order")
    search_epochs: int = Field(ge=1, description="most passes over the training data in a search")
    patience: int = Field(ge=1, description="epochs without validation gain that end a stage")
    min_gain: float = Field(ge=0, description="relative validation gain that counts as one")
    epsilon: float = Field(ge=1e-5, lt=1, description="most relative change of the output by a growth; "
                           "below 1e-5 float32 rounds as much")
    noise: float = Field(gt=0, le=0.5, description="deviation of the noise on new weights, in epsilon")
    prune: Literal["stage", "end", "none"] = Field(description="when operations are pruned")
    prune_below: float = Field(ge=0, lt=1, description="mixture weight below which one is pruned ...")
    keep_all_above: float = Field(gt=0, le=1, description="... while the node's largest is below this")
    tune_epochs: int = Field(ge=0, description="theta-only epochs after a pruning")
    select_on: Literal["validation", "test"] = Field(
        description="what Algorithm 2 evaluates on; 'test' is the letter of the paper, see D1")

    train_epochs: int = Field(ge=1, description="most epochs of a training from scratch")
    learning_rate: float = Field(gt=0, description="Adam step of theta, also xi of the second order")
    weight_decay: float = Field(ge=0, description="L2 factor of theta")
    alpha_learning_rate: float = Field(gt=0, description="Adam step of alpha")
    alpha_weight_decay: float = Field(ge=0, description="L2 factor of alpha")
    grad_clip: float = Field(gt=0, description="largest norm of a theta gradient")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("operations", "sizes", "methods", "origins"):
            values = getattr(self, name, [])
            if len(set(values)) < len(values):
                raise ValueError(f"parameter {name!r} = {values}: no value may stand twice")
        unknown = [name for name in self.operations if name not in TWO_INPUT]
        if unknown:
            raise ValueError(f"parameter 'operations' = {unknown}: allowed are {', '.join(TWO_INPUT)}")
        if not {"add_identity", "carry"} & set(self.operations):
            raise ValueError(f"parameter 'operations' = {self.operations}: a node can only be grown "
                             "by morphism if 'add_identity' or 'carry' is among them")
        if not any(TWO_INPUT[name].admits_input() for name in self.operations):
            raise ValueError(f"parameter 'operations' = {self.operations}: a cell of these never leaves the zero "
                             f"state; one of {', '.join(n for n, o in TWO_INPUT.items() if o.admits_input())} must "
                             "be among them")
        if self.initial_nodes > self.max_nodes:
            raise ValueError(f"parameter 'initial_nodes' = {self.initial_nodes}: allowed is at most "
                             f"max_nodes = {self.max_nodes}")
        if not 1 <= min(self.sizes) <= max(self.sizes) <= 4096:
            raise ValueError(f"parameter 'sizes' = {self.sizes}: every size must be from 1 to 4096")
        return self


class RunConfig(SearchSettings):
    """One run: one method, one seed, one origin. Its hash names its record."""

    method: Method = Field(description="what is fitted")
    origin: int | None = Field(description="test year of a rolling origin; None: last fifth of the days")


class TimeSeriesConfig(SearchSettings):
    """Parameters of notebook `02_time_series`: methods x origins, one run each."""

    methods: list[Method] = Field(min_length=1, description="methods to run, in order")
    origins: list[int | None] = Field(min_length=1, description="test years; [None]: last fifth")
    tier: Literal["smoke", "reduced", "full"] = Field(description="names the folder of the records")
    progress: bool = Field(description="show progress bars also where stderr is no terminal")
    keep_records: bool = Field(description="write records under data/results, reuse those there")

    def runs(self) -> list[RunConfig]:
        """The runs of the grid, methods within origins."""
        shared = {name: getattr(self, name) for name in SearchSettings.model_fields}
        return [RunConfig(**shared, method=method, origin=origin)
                for origin in self.origins for method in self.methods]


class MorphismConfig(Settings):
    """Parameters of notebook `01_morphisms`."""

    seed: int = Field(ge=0, lt=2**31, description="seed of every random draw")
    window: int = Field(ge=1, le=250, description="days the cell reads before it forecasts")
    hidden: int = Field(ge=1, le=4096, description="units H of the cell")
    operations: list[str] = Field(min_length=1, description="candidate operations of every node")
    epochs_before: int = Field(ge=1, description="epochs of training before the growth")
    epochs_after: int = Field(ge=1, description="epochs of training after it")
    epsilons: list[float] = Field(min_length=2, description="bounds on the relative change that are tried")
    noises: list[float] = Field(min_length=1, description="noise deviations, in epsilon, that are tried")
    draws: int = Field(ge=1, description="growths per pair of epsilon and noise")

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        unknown = [name for name in self.operations if name not in TWO_INPUT]
        if unknown:
            raise ValueError(f"parameter 'operations' = {unknown}: allowed are {', '.join(TWO_INPUT)}")
        if not all(0 < epsilon < 1 for epsilon in self.epsilons):
            raise ValueError(f"parameter 'epsilons' = {self.epsilons}: allowed is above 0 and below 1")
        if not all(0 < noise <= 0.5 for noise in self.noises):
            raise ValueError(f"parameter 'noises' = {self.noises}: allowed is above 0, at most 0.5")
        return self


class ReportConfig(Settings):
    """Parameters of notebook `06_report`: whose records it reads."""

    tier: Literal["reduced", "full"] = Field(description="tier of the grid file whose records are read")
