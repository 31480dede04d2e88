"""Settings of a search and of a training: strict types (`"false"` is not a bool), one clear error."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class ConfigError(ValueError):
    """A parameter is unknown, missing, of the wrong type or out of range."""


class DataError(RuntimeError):
    """Data are missing, damaged or asked for in an impossible way; says what to do."""


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
            problems = error.errors(include_url=False)
            raise ConfigError("\n".join(_describe(p, sorted(cls.model_fields)) for p in problems)) from None


class SearchSettings(Settings):
    """What a search and a training from scratch depend on, whatever is searched."""

    seed: int = Field(ge=0, lt=2**31, description="seed of every random draw of the run")
    operations: list[str] = Field(min_length=1, description="candidate operations of every node or edge")
    initial_nodes: int = Field(ge=1, le=32, description="nodes of a growing cell at its start")
    max_nodes: int = Field(ge=1, le=32, description="most nodes a cell grows to; nodes of a fixed one")

    order: int = Field(ge=1, le=2, description="1: first-order alpha gradient, 2: second-order")
    radius: float = Field(default=1e-2, gt=0, description="length of the step of theta in the finite difference of "
                          "the second order")
    virtual_clip: bool = Field(default=True, description="whether the virtual step of the second order is clipped as "
                               "the real one is")
    search_epochs: int = Field(ge=1, description="most passes over the training data in a search")
    patience: int = Field(ge=1, description="epochs without validation gain that end a stage")
    min_gain: float = Field(ge=0, description="smallest relative decrease of the validation error that counts as a gain")
    epsilon: float = Field(ge=1e-5, lt=1, description="scale of the relative change of the output by a growth; "
                           "below 1e-5 float32 rounds as much")
    noise: float = Field(gt=0, le=0.5, description="deviation of the noise on new weights, in epsilon")
    prune: Literal["stage", "end", "none"] = Field(description="when operations are pruned")
    prune_below: float = Field(ge=0, lt=1, description="operations below this mixture weight are pruned ...")
    keep_all_above: float = Field(gt=0, le=1, description="... unless the largest weight of the node reaches this")
    resample: bool = Field(default=False, description="refill a pruned slot with an operation that the mixture does not "
                           "hold, at mixture weight epsilon")
    tune_epochs: int = Field(ge=0, description="theta-only epochs after a pruning")
    grow_operations: Literal["off", "morphism", "splitting", "splitting_all"] = Field(
        default="off", description="which operations are duplicated. morphism: the one of the largest weight; splitting: the one whose split lowers "
        "the loss in most units; splitting_all: every one whose split lowers the loss in at least one unit")
    duplicate_above: float = Field(default=0.5, gt=0, lt=1, description="mixture weight above which an operation is "
                                   "duplicated by morphism")
    max_copies: int = Field(default=2, ge=2, le=8, description="most copies of an operation in one mixture")
    select_on: Literal["validation", "test"] = Field(
        description="what Algorithm 2 evaluates on; 'test' is the letter of the paper, see D1")

    train_epochs: int = Field(ge=1, description="most epochs of a training from scratch")
    train_patience: int | None = Field(default=None, ge=1, description="epochs without validation gain that end it; "
                                       "None: as many as end a stage of a search")
    optimizer: Literal["adam", "sgd", "nt_asgd"] = Field(
        default="adam", description="of theta; nt_asgd: SGD whose iterates are averaged from the epoch on in which "
        "the validation error has stalled (a search takes plain SGD)")
    momentum: float = Field(default=0.0, ge=0, lt=1, description="of SGD")
    schedule: Literal["constant", "cosine"] = Field(
        default="constant", description="of the learning rate of theta, over search_epochs or train_epochs")
    learning_rate: float = Field(gt=0, description="initial learning rate of theta, also xi of the second order")
    weight_decay: float = Field(ge=0, description="L2 factor of theta")
    alpha_learning_rate: float = Field(gt=0, description="Adam step of alpha")
    alpha_weight_decay: float = Field(ge=0, description="L2 factor of alpha")
    grad_clip: float = Field(gt=0, description="largest norm of a theta gradient")

    @classmethod
    def usual(cls, **changes: Any) -> Self:
        """Values that do for a first search of two-input cells, with `changes`; the study's own are in its notebooks."""
        return cls.of({
            "seed": 0, "operations": ["add_tanh", "add_sigmoid", "add_relu", "add_identity", "hadamard", "gate",
                                      "gated_update", "carry"],
            "initial_nodes": 1, "max_nodes": 4, "order": 1, "search_epochs": 100, "patience": 10, "min_gain": 1e-3,
            "epsilon": 1e-3, "noise": 0.1, "prune": "stage", "prune_below": 0.04, "keep_all_above": 0.5, "tune_epochs": 2,
            "select_on": "validation", "train_epochs": 100, "learning_rate": 0.01, "weight_decay": 1e-4,
            "alpha_learning_rate": 0.03, "alpha_weight_decay": 1e-3, "grad_clip": 1.0, **changes})

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.initial_nodes > self.max_nodes:
            raise ValueError(f"parameter 'initial_nodes' = {self.initial_nodes}: allowed is at most "
                             f"max_nodes = {self.max_nodes}")
        if self.momentum and self.optimizer == "adam":
            raise ValueError(f"parameter 'momentum' = {self.momentum}: allowed is 0 with optimizer 'adam'")
        return self
