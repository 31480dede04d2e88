"""What is compared on a series: the arms of the protocol, and the parameters of notebooks `10_searches` and `05_ablations`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from growdarts_study.config import Grid, two_input_operations
from growdarts_study.controls import ControlledSettings
from growdarts_study.page_settings import OneSeries, SeriesOf
from growdarts_study.settings import no_value_twice


@dataclass(frozen=True)
class Arm:
    """A search. `changes`: its settings where they differ from those of all arms; `morphism`: new nodes preserve the function;
    `whole`: all `max_nodes` are there from the start; `keep`: the derived cell is also trained on from the weights that it has."""

    changes: dict[str, Any] = field(default_factory=dict)
    morphism: bool = True
    whole: bool = False
    keep: bool = False
    backbone: Literal["two_input", "graph"] = "two_input"


FORCED = {"initial_nodes": 1, "prune": "none"}  # growth after every stage_epochs [protocol E3]
COPIES = {"initial_nodes": 1, "max_nodes": 1, "prune": "none"}  # one node, whose operations are duplicated [protocol E4]
SINGLE = {**COPIES, "max_copies": 4}  # one at a time, the same one again if it is chosen again
DUPLICATION = {
    "copy_splitting": Arm({**SINGLE, "grow_operations": "splitting"}),
    "copy_all": Arm({**COPIES, "grow_operations": "splitting_all"}),
    "copy_morphism": Arm({**SINGLE, "grow_operations": "morphism", "duplicate_above": 1e-6}),
    "copy_random": Arm({**SINGLE, "grow_operations": "random"}),
    # for as many operations as `copy_splitting`; `wider` has about as many weights, too
    "copy_random_more": Arm({**SINGLE, "grow_operations": "random"}), "copy_none": Arm(COPIES), "wider": Arm(COPIES),
}
MATCHED = ("copy_random_more", "copy_none", "wider")
SEARCHES = {
    **{f"grow_{n}": Arm({"initial_nodes": n}) for n in (1, 2, 3)},
    **{f"grow_fresh_{n}": Arm({"initial_nodes": n}, morphism=False) for n in (1, 2, 3)},
    **{f"fixed_{n}": Arm({"max_nodes": n}, whole=True) for n in (1, 2, 4, 8)},
    "graph_grow": Arm({"initial_nodes": 1}, backbone="graph"),
    "graph_fixed": Arm(whole=True, backbone="graph"),
    "forced_morphism": Arm(FORCED),
    "forced_identity": Arm({**FORCED, "noise": 1e-6}),
    "forced_fresh": Arm(FORCED, morphism=False),
    "forced_scratch": Arm(FORCED, whole=True),
    "prune_end": Arm({"initial_nodes": 2, "prune": "end"}),
    "prune_none": Arm({"initial_nodes": 2, "prune": "none"}),
    **{f"judged_{n}": Arm({"initial_nodes": n, "judge_epochs": 5}) for n in (1, 2)},  # remedies [protocol E6]
    "second_1": Arm({"initial_nodes": 1, "order": 2}),
    "long_1": Arm({"initial_nodes": 1, "search_epochs": 400}), "kept_2": Arm({"initial_nodes": 2}, keep=True),
    **DUPLICATION,
}
DRAWS = ("random", "halving", "shared")  # random cells; the first two take as many operations as `grow_1` in all
RIVALS = {"lstm": ("lstm", 1), "gru": ("gru", 1), "lstm_2": ("lstm", 2), "gru_2": ("gru", 2)}  # kind, layers
STARTS = {"grow_starts": "grow_1", "lstm_starts": "lstm"}  # the same trained as often as `random` trains cells [protocol E8]
ARMS = (*SEARCHES, *DRAWS, *RIVALS, *STARTS)


class SearchesSettings(ControlledSettings):
    """What all arms on a draw of a series depend on, apart from the series."""

    group: str = Field(pattern=r"^[a-z0-9_]+$", description="names the arms, for file names")
    arms: list[Literal[ARMS]] = Field(min_length=1, description="what is run: searches, random draws, and LSTM and GRU of one "
                                      "and two layers")
    batch_size: int = Field(ge=1, description="windows per gradient step")
    hidden: int = Field(ge=1, le=4096, description="units H of every cell")
    learning_rates: list[float] = Field(min_length=1, description="steps of theta at first that are tried for a training from "
                                        "scratch, on a cosine; the best on validation is kept")
    n_layers: ClassVar[int] = 1

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("arms", "operations", "learning_rates", "seeds"):
            no_value_twice(name, getattr(self, name, []))
        two_input_operations(self.operations)
        if min(self.learning_rates) <= 0:
            raise ValueError(f"parameter 'learning_rates' = {self.learning_rates}: every one must be above 0")
        if set(self.arms) & {"random", "halving"} and self.arms[0] != "grow_1":
            raise ValueError(f"parameter 'arms' = {self.arms}: 'random' and 'halving' may cost what 'grow_1' does, which must "
                             "come first")
        for name in set(self.arms) & set(STARTS):
            if not {"random", STARTS[name]} <= set(self.arms[:self.arms.index(name)]):
                raise ValueError(f"parameter 'arms' = {self.arms}: {name!r} is {STARTS[name]!r} trained as often as 'random', and both "
                                 "must come before it")
        forced = any(name.startswith("forced") for name in self.arms)
        if forced != (self.stage_epochs is not None) or forced and not all(name.startswith("forced") for name in self.arms):
            raise ValueError(f"parameter 'stage_epochs' = {self.stage_epochs}: it goes with the arms 'forced_...', and only with "
                             "them")
        copies = set(self.arms) & DUPLICATION.keys()
        if bool(copies) != (self.duplicate_epochs is not None) or copies and copies < set(self.arms):
            raise ValueError(f"parameter 'duplicate_epochs' = {self.duplicate_epochs}: it goes with the arms {', '.join(DUPLICATION)}, "
                             "and only with them")
        if copies & set(MATCHED) and self.arms[0] != "copy_splitting":
            raise ValueError(f"parameter 'arms' = {self.arms}: {', '.join(MATCHED)} cost what 'copy_splitting' does, which must come first")
        return self


class SearchesRun(SearchesSettings, OneSeries):
    """All arms on one draw of a series. Its hash names its record."""

    method: ClassVar[str] = "searches"
    record_entries: ClassVar[tuple[str, ...]] = ("config_hash", "provenance.data_sha256", "rows", "closed_forms", "floor")

    def label(self) -> str:
        """Arms and seed, for file names."""
        return f"{self.group}-seed{self.seed}"


class SearchesConfig(SearchesSettings, Grid):
    """Parameters of notebook `10_searches`: every series with every seed, one run each."""

    experiment = "searches"

    seed: ClassVar[None] = None
    seeds: list[int] = Field(min_length=1, description="of the weights, the batches, and the draws of a generated series")
    series: SeriesOf = Field(min_length=1, description="series, each with what differs from window 24, origin None, days None "
                             "and season None")

    def runs(self) -> list[SearchesRun]:
        """The runs, seeds within series."""
        shared = self.model_dump(include={*SearchesSettings.model_fields})
        return [SearchesRun.of({**shared, "dataset": name, **OneSeries.usual, **own, "seed": seed})
                for name, own in self.series.items() for seed in self.seeds]

    def label(self) -> str:
        """What a job of the batch is called."""
        return f"{'-'.join(self.series)}-{self.group}"


class AblationConfig(SearchesConfig):
    """Parameters of notebook `05_ablations`: searches in which one parameter is switched."""

    switch: str = Field(description="parameter that is varied")
    values: list[Any] = Field(min_length=1, description="its values; the first is what the others are compared with")

    def switched(self) -> dict[str, SearchesConfig]:
        """The searches with every value, by switch and value."""
        same = self.model_dump(include={*SearchesConfig.model_fields})
        return {f"{self.switch} = {value}": SearchesConfig.of({**same, self.switch: value}) for value in self.values}

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        allowed = SearchesSettings.model_fields.keys() - {"group", "arms", "seed"}
        if self.switch not in allowed:
            raise ValueError(f"parameter 'switch' = {self.switch!r}: allowed are {', '.join(sorted(allowed))}")
        for name in self.arms:
            if name in SEARCHES and self.switch in SEARCHES[name].changes:
                raise ValueError(f"parameter 'switch' = {self.switch!r}: the arm {name!r} has a value of its own")
        return self
