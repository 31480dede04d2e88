"""Parameters of the notebooks that are not one of the three experiments."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from growdarts_study.config import Grid, Tier, two_input_operations
from growdarts_study.settings import StudySettings


class AblationConfig(Grid):
    """Parameters of notebook `05_ablations`: one thing of an experiment is switched, for every seed.

    `growdarts_study.grids.runs_of` makes the runs.
    """

    experiment = "ablations"

    base_experiment: Literal["time_series", "language", "images"] = Field(description="whose runs are varied")
    base_tier: Tier = Field(description="whose parameters are the base; 'smoke': the notebook's own")
    changes: dict[str, Any] = Field(description="parameters that replace those of the base in all runs")
    switch: str = Field(description="parameter that is varied; 'method' varies what is fitted, else it is 'grow'")
    values: list[Any] = Field(min_length=1, description="its values; the first is what the others are compared with")
    seeds: list[int] = Field(min_length=1, description="seeds of every value")

    def records_folder(self) -> str:
        """Of the records: one for all switches, which share the runs of the base."""
        return f"{self.experiment}/{self.base_experiment}"

    def label(self) -> str:
        """What a job of the batch is called."""
        return f"{self.switch}-seed{self.seeds[0]}"

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        if self.switch in self.changes:
            raise ValueError(f"parameter 'switch' = {self.switch!r}: it stands in 'changes' too; one thing is varied, "
                             "the rest is the same for all")
        return self


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
