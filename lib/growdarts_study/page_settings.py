"""Parameters of notebooks 01 and 06 to 09; those of the others are in `config`, `arms` and `stream_settings`."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_study.config import Grid, SeriesName, two_input_operations
from growdarts_study.data.processes import PROCESSES
from growdarts_study.settings import StudySettings, known_operations, no_value_twice


class WholeSpaceSettings(StudySettings):
    """What the training of every cell depends on, apart from the series."""

    seeds: list[int] = Field(min_length=1, description="of the weights, the batches, and the draws of a generated series")
    operations: list[str] = Field(min_length=2, description="what a node can be; none that owns no weights: a cell with "
                                  "`carry` is a smaller cell")
    nodes: int = Field(ge=1, le=3, description="N of every cell")
    batch_size: int = Field(ge=1, description="windows per gradient step")
    hidden: int = Field(ge=1, le=4096, description="units H of a cell")
    train_epochs: int = Field(ge=1, description="most epochs of a training")
    patience: int = Field(ge=1, description="epochs without validation gain that end it")
    schedule: Literal["constant", "cosine"] = Field(description="of the learning rate over train_epochs")
    learning_rate: float = Field(gt=0, description="initial learning rate of Adam")
    weight_decay: float = Field(ge=0, description="L2 factor")
    grad_clip: float = Field(gt=0, description="largest norm of a gradient")

    # what `growdarts.training.fit` asks for besides
    optimizer: ClassVar[str] = "adam"
    train_patience: ClassVar[None] = None

    @model_validator(mode="after")
    def _with_weights(self) -> Self:
        for name in ("seeds", "operations"):
            no_value_twice(name, getattr(self, name))
        known_operations(self.operations, [name for name, operation in TWO_INPUT.items() if operation.blocks])
        return self


class OneSeries(StudySettings):
    """Which series, and how it is cut."""

    usual: ClassVar[dict[str, int | None]] = {"window": 24, "origin": None, "days": None, "season": None}

    dataset: SeriesName = Field(description="which series; see growdarts_study.data.series")
    window: int = Field(ge=1, le=250, description="days the cell reads before it forecasts")
    origin: int | None = Field(description="test year of a rolling origin; None: last fifth of the days")
    days: int | None = Field(ge=250, description="how many of the first days are used; None: all")
    season: int | None = Field(ge=1, description="days of a period, for the seasonal naive forecast")

    def draw(self, seed: int) -> int | None:
        """Seed of the series: a generated one is drawn anew for every seed."""
        return seed if self.dataset in PROCESSES else None


SeriesOf = dict[SeriesName, dict[str, int | None]]  # series, each with what differs from the usual values


class WholeSpaceRun(WholeSpaceSettings, OneSeries):
    """All cells of one size on one series. Its hash names its record."""

    method: ClassVar[str] = "every_cell"
    record_entries: ClassVar[tuple[str, ...]] = ("config_hash", "provenance.data_sha256", "cells", "validation", "test",
                                                 "epochs", "rivals", "floor")

    def label(self) -> str:
        """Series and size, for file names."""
        return f"{self.dataset}-{self.nodes}-nodes"


class WholeSpaceConfig(WholeSpaceSettings, Grid):
    """Parameters of notebook `09_whole_space`: every series, one run each."""

    experiment = "whole_space"

    series: SeriesOf = Field(min_length=1, description="series, each with what differs from window 24, origin None, days None "
                             "and season None")

    def runs(self) -> list[WholeSpaceRun]:
        """The runs, one a series."""
        shared = self.model_dump(include={*WholeSpaceSettings.model_fields})
        return [WholeSpaceRun.of({**shared, "dataset": name, **OneSeries.usual, **own}) for name, own in self.series.items()]

    def label(self) -> str:
        """What a job of the batch is called."""
        return f"{'-'.join(self.series)}-{self.nodes}-nodes"


class MorphismConfig(StudySettings):
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
        two_input_operations(self.operations)
        if not all(0 < epsilon < 1 for epsilon in self.epsilons):
            raise ValueError(f"parameter 'epsilons' = {self.epsilons}: allowed is above 0 and below 1")
        if not all(0 < noise <= 0.5 for noise in self.noises):
            raise ValueError(f"parameter 'noises' = {self.noises}: allowed is above 0, at most 0.5")
        return self


class OwnSpaceConfig(StudySettings):
    """Parameters of notebook `08_own_space`."""

    seed: int = Field(ge=0, lt=2**31, description="seed of every random draw")
    search_epochs: int = Field(ge=1, description="most epochs of the search")


class ReportConfig(StudySettings):
    """Parameters of notebook `06_report`: whose records it reads."""

    tier: Literal["reduced", "workstation", "full"] = Field(description="tier of the grid file whose records are read")


class PerformanceConfig(StudySettings):
    """Parameters of notebook `07_performance`."""

    spaces: list[Literal["recurrent", "two_input", "convolutional"]] = Field(
        min_length=1, description="search spaces whose steps are shown")
