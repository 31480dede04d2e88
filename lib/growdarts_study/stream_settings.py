"""What is compared on a stream, and the parameters of notebook `11_streams` [protocol E7]."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from growdarts_study.config import Grid, two_input_operations
from growdarts_study.controls import ControlledSettings
from growdarts_study.data.processes import STREAMS
from growdarts_study.settings import StudySettings, no_value_twice


@dataclass(frozen=True)
class StreamArm:
    """How an arm starts, by Algorithm 2 or with a backbone of `fixed` nodes, and what it does while the stream runs."""

    learns: bool = False  # takes steps after every block
    grows: bool = False  # adds nodes
    refits: Literal["never", "monthly", "on_drift"] = "never"  # searches anew
    morphism: bool = True
    fixed: int | None = None
    prunes: bool = True


NETWORKS = {
    "grow": StreamArm(learns=True, grows=True),
    "grow_fresh": StreamArm(learns=True, grows=True, morphism=False),
    "fixed_1": StreamArm(learns=True, fixed=1),
    "fixed_4": StreamArm(learns=True, fixed=4),
    "whole_1": StreamArm(learns=True, fixed=1, prunes=False),
    "whole_4": StreamArm(learns=True, fixed=4, prunes=False),
    "frozen": StreamArm(),
    "refit": StreamArm(refits="monthly"),
    "refit_drift": StreamArm(refits="on_drift"),
}
STREAM_ARMS = (*NETWORKS, "linear")  # recursive least squares with forgetting
StreamName = Literal[(*STREAMS, "log_range")]


class StreamSettings(ControlledSettings):
    """What all arms on a stream depend on, apart from the stream."""

    arms: list[Literal[STREAM_ARMS]] = Field(min_length=1, description="what forecasts")
    batch_size: int = Field(ge=1, description="windows per gradient step")
    hidden: int = Field(ge=1, le=4096, description="units H of every cell")
    block: int = Field(ge=1, description="days that are forecast before all that is known since is learnt from")
    recent: int = Field(ge=20, description="days whose windows a learning arm draws its batches from, the last ones")
    memory: int = Field(ge=50, description="days that a search anew takes")
    steps: int = Field(ge=1, description="most gradient steps after a block; all of them together take at most as many operations "
                       "as one step of a whole backbone of max_nodes")
    stream_rate: float = Field(gt=0, description="step of theta while the stream runs")
    stall: int = Field(ge=1, description="months without gain of the error after which a node is added")
    tolerance: float = Field(gt=0, description="drift detector: change of the log error of a block that is none")
    threshold: float = Field(gt=0, description="drift detector: sum of what is above that at which there is a drift")
    train_epochs: ClassVar[int] = 1  # nothing is trained from scratch
    n_layers: ClassVar[int] = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("arms", "operations", "seeds"):
            no_value_twice(name, getattr(self, name, []))
        two_input_operations(self.operations)
        return self


class OneStream(StudySettings):
    """Which stream, and how it is cut."""

    dataset: StreamName = Field(description="which stream; see growdarts_study.data.series.load_stream")
    window: int = Field(ge=1, le=250, description="days the cell reads before it forecasts")
    first: int = Field(ge=100, description="days of the first part, which a search is for before the stream runs")
    month: int = Field(ge=2, description="days of a month")
    days: int | None = Field(default=None, ge=100, description="how many of the first days are used; None: all")

    def draw(self) -> int | None:
        """Seed of the stream: a generated one is drawn anew for every seed."""
        return self.seed if self.dataset in STREAMS else None


class StreamRun(StreamSettings, OneStream):
    """All arms on one stream. Its hash names its record."""

    method: ClassVar[str] = "streams"
    record_entries: ClassVar[tuple[str, ...]] = ("config_hash", "provenance.data_sha256", "rows", "floor", "changes")

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.days is not None and self.days <= self.first:
            raise ValueError(f"parameter 'days' = {self.days}: allowed is more than first = {self.first}")
        if self.month % self.block:
            raise ValueError(f"parameter 'month' = {self.month}: allowed are multiples of block = {self.block}")
        return self

    def label(self) -> str:
        """Seed, for file names."""
        return f"seed{self.seed}"


class StreamsConfig(StreamSettings, Grid):
    """Parameters of notebook `11_streams`: every stream with every seed, one run each."""

    experiment = "streams"

    seed: ClassVar[None] = None
    seeds: list[int] = Field(min_length=1, description="of the weights, the batches, and the draws of a generated stream")
    series: dict[StreamName, dict[str, int]] = Field(min_length=1, description="streams, each with its window, first and month")

    def runs(self) -> list[StreamRun]:
        """The runs, seeds within streams."""
        shared = self.model_dump(include={*StreamSettings.model_fields})
        return [StreamRun.of({**shared, "dataset": name, **own, "seed": seed}) for name, own in self.series.items()
                for seed in self.seeds]

    def label(self) -> str:
        """What a job of the batch is called."""
        return f"{'-'.join(self.series)}-seed{'-'.join(map(str, self.seeds))}"
