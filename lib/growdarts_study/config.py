"""Configurations of time series, language and images: what one run depends on, and the parameters of its notebook.

The others: `arms` (searches and ablations), `stream_settings` (streams), `page_settings` (the whole space, and pages that are no experiment).
Values come from the notebook's cell of parameters; a tier of notebooks/grids.yml replaces some of them (`grids`).
"""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.devices import Device
from growdarts_study.precision import Precision
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts_study.controls import ControlledSettings
from growdarts_study.data.processes import PROCESSES
from growdarts_study.settings import StudySettings, known_operations, no_value_twice

Tier = Literal["smoke", "reduced", "workstation", "full"]
SEARCHING = ("grow", "grow_fresh", "fixed")  # methods that search


class Grid(StudySettings):
    """What the notebook of an experiment has besides the settings of its runs."""

    experiment: ClassVar[str]  # names the folder of the records, and the entry of the grid file

    tier: Tier = Field(description="names the folder of the records")
    progress: bool = Field(description="show progress bars also where stderr is no terminal")
    keep_records: bool = Field(description="write records under data/results, reuse those there")
    device: Device = Field(default="auto", description="where runs compute; auto: the GPU where there is one")


def _methods(settings: Any) -> list[str]:
    """Of a run the method, of a grid all of them."""
    return getattr(settings, "methods", None) or [settings.method]


class MethodGrid(Grid):
    """The notebook of an experiment that runs several methods, each a `run_class` of the same settings."""

    run_class: ClassVar[type[ControlledSettings]]

    def label(self) -> str:
        """What a job of the batch is called."""
        return f"{self.methods[0]}-seed{self.seed}"

    def runs(self) -> list[Any]:
        """The configurations of the runs, one a method."""
        return [self.run_of(method) for method in self.methods]

    def run_of(self, method: str, **varied: Any) -> Any:
        """The run of `method`, with what the grid does not share."""
        shared = self.model_dump(include={*self.run_class.model_fields})
        return self.run_class(**shared | varied, method=method)


# ---- time series -------------------------------------------------------------------------------


def two_input_operations(operations: list[str]) -> None:
    """Raises ValueError if a two-input cell of these could not grow, or would be zero for ever."""
    known_operations(operations, TWO_INPUT)
    if "add_identity" not in operations:
        raise ValueError(f"parameter 'operations' = {operations}: 'add_identity' must be among them, else no node can be "
                         "grown by morphism and a cell may never leave the zero state")


SeriesName = Literal["synthetic_var", "eu_stock_markets", "g7_brics", "log_range", "santa_fe_laser", "nyc_weather", *PROCESSES]


class TimeSeriesSettings(ControlledSettings):
    """What a time-series run depends on, apart from the method and the origin."""

    dataset: SeriesName = Field(description="which series; see growdarts_study.data.series")
    window: int = Field(ge=1, le=250, description="days the cell reads before it forecasts")
    batch_size: int = Field(ge=1, description="windows per gradient step")
    hidden: int = Field(ge=1, le=4096, description="units H of the cell during the search")
    sizes: list[int] = Field(min_length=1, description="units tried when a found cell, or a rival, "
                             "is trained from scratch; the best on validation is kept")
    n_layers: int = Field(ge=1, le=8, description="stacked cells")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("operations", "sizes", "methods", "origins"):
            no_value_twice(name, getattr(self, name, []))
        two_input_operations(self.operations)
        if not 1 <= min(self.sizes) <= max(self.sizes) <= 4096:
            raise ValueError(f"parameter 'sizes' = {self.sizes}: every size must be from 1 to 4096")
        return self


TimeSeriesMethod = Literal["mean", "var1", "rnn", "gru", "lstm", "random", "fixed", "grow", "grow_fresh"]


class TimeSeriesRun(TimeSeriesSettings):
    """One run: one method, one seed, one origin. Its hash names its record."""

    method: TimeSeriesMethod = Field(description="what is fitted")
    origin: int | None = Field(description="test year of a rolling origin; None: last fifth of the days")

    def label(self) -> str:
        """Method, seed and origin, for file names."""
        return f"{self.method}-seed{self.seed}-{'last-fifth' if self.origin is None else self.origin}"


class TimeSeriesConfig(TimeSeriesSettings, MethodGrid):
    """Parameters of notebook `02_time_series`: methods x origins, one run each."""

    experiment, run_class = "time_series", TimeSeriesRun

    methods: list[TimeSeriesMethod] = Field(min_length=1, description="methods to run, in order")
    origins: list[int | None] = Field(min_length=1, description="test years; [None]: last fifth")

    def runs(self) -> list[TimeSeriesRun]:
        """The runs of the grid, methods within origins."""
        return [self.run_of(method, origin=origin) for origin in self.origins for method in self.methods]


# ---- language ----------------------------------------------------------------------------------


class LanguageSettings(ControlledSettings):
    """What a language-modelling run depends on, apart from the method."""

    dataset: Literal["grammar", "penn_treebank", "penn_treebank_characters", "folder"] = Field(
        description="which text; see growdarts_study.data.text")
    folder: str | None = Field(description="files of dataset 'folder', e.g. WikiText-2; else None")
    space: Literal["two_input", "darts_recurrent"] = Field(description="what is searched")
    n_layers: int = Field(ge=1, le=8, description="stacked cells; 1 for 'darts_recurrent'")
    search_tokens: int | None = Field(ge=100, description="tokens at the start of what is read that a search "
                                      "uses; None: all")
    hidden: int = Field(ge=1, le=4096, description="units H of the cell during the search")
    batch_size: int = Field(ge=1, description="columns of text per gradient step of the search")
    length: int = Field(ge=1, le=500, description="(base of the random) length of a window, tokens")

    parameters: int = Field(ge=100, description="most weights of a network that is trained from scratch; its width "
                            "is the largest that these allow")
    weights_of: Literal["network", "cell"] = Field(default="network", description="whose weights these are: all, or "
                                                   "those of the recurrent cell")
    wide_start: bool = Field(default=False, description="draw the first weights of DARTS' cells from the range of torch's "
                             "recurrent cells; DARTS' own is meant for hundreds of units")
    draws: int = Field(default=8, ge=1, description="random cells that method 'random' tries, each with one of the "
                       "learning_rates")
    train_tokens: int | None = Field(default=None, ge=100, description="tokens of the training part that a run reads: "
                                     "the stretch of this length that its seed counts to, round and round; None: all")
    train_batch_size: int = Field(ge=1, description="columns of text per gradient step of the training from scratch")
    train_weight_decay: float = Field(ge=0, description="L2 factor in the training from scratch")
    learning_rates: list[float] | None = Field(default=None, min_length=1, description="steps of theta at first that "
                                               "are tried for the training from scratch, the best on validation is "
                                               "kept; None: learning_rate, as in the search")
    rate_epochs: int = Field(default=3, ge=1, description="epochs that such a trial takes")
    eval_batch_size: int = Field(default=10, ge=1, description="columns of text in an evaluation; the first token of "
                                 "each, and what does not fill all, is not predicted")
    precision: Precision = Field(default="float32", description="of matrix products in training; see "
                                 "growdarts_study.precision")
    dropout_word: float = Field(ge=0, lt=1, description="rate of dropped words")
    dropout_embedding: float = Field(ge=0, lt=1, description="rate of dropped units of the embedded text")
    dropout_inputs: float = Field(ge=0, lt=1, description="rate of dropped units of the cell's inputs")
    dropout_hidden: float = Field(ge=0, lt=1, description="rate of dropped units of the states in the cell")
    dropout_outputs: float = Field(ge=0, lt=1, description="rate of dropped units that the decoder reads")
    act_reg: float = Field(ge=0, description="factor of the states' mean square in the loss")
    temporal_act_reg: float = Field(ge=0, description="factor of the mean square of their change in the loss")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("operations", "methods", "learning_rates"):
            no_value_twice(name, getattr(self, name, None) or [])
        if min(self.learning_rates or [1.0]) <= 0:
            raise ValueError(f"parameter 'learning_rates' = {self.learning_rates}: every one must be above 0")
        if (self.dataset == "folder") != (self.folder is not None):
            raise ValueError(f"parameter 'folder' = {self.folder!r}: it goes with dataset 'folder', and only there")
        methods = _methods(self)
        if "random" in methods and not self.learning_rates:
            raise ValueError("parameter 'learning_rates' = None: method 'random' needs some, each cell is drawn with one of them")
        if self.space == "two_input":
            two_input_operations(self.operations)
            if self.dropout_hidden and set(methods) & {*SEARCHING, "random", "gru"}:
                raise ValueError(f"parameter 'dropout_hidden' = {self.dropout_hidden}: allowed is 0 with GRU and two-input "
                                 "cells, they drop no states")
        else:
            known_operations(self.operations, RECURRENT_OPERATIONS)
            if self.operations == ["none"] or self.n_layers > 1:
                raise ValueError(f"parameters 'operations' = {self.operations}, 'n_layers' = {self.n_layers}: space "
                                 "'darts_recurrent' needs an operation besides none, and has one layer")
        return self


LanguageMethod = Literal["kneser_ney", "lstm", "gru", "darts_v2", "random", "fixed", "grow", "grow_fresh"]


class LanguageRun(LanguageSettings):
    """One run: one method, one seed. Its hash names its record."""

    method: LanguageMethod = Field(description="what is trained")

    def label(self) -> str:
        """Method and seed, for file names."""
        return f"{self.method}-seed{self.seed}"


class LanguageConfig(LanguageSettings, MethodGrid):
    """Parameters of notebook `03_penn_treebank`."""

    experiment, run_class = "language", LanguageRun

    methods: list[LanguageMethod] = Field(min_length=1, description="methods to run, in order")


# ---- images ------------------------------------------------------------------------------------


class ImageSettings(ControlledSettings):
    """What an image classification run depends on, apart from the method."""

    dataset: Literal["digits", "cifar10", "cifar10_held_out"] = Field(
        description="which images; see growdarts_study.data.images")
    virtual_clip: bool = Field(default=False, description="whether the virtual step of the second order is clipped as "
                               "the real one is; DARTS does so for recurrent cells only")
    search_images: int | None = Field(ge=20, description="training images of a search; None: all")
    search_portion: float = Field(gt=0, lt=1, description="share of them that trains theta, the rest trains alpha")
    channels: int = Field(ge=2, le=512, multiple_of=2, description="channels C of the first cell in the search")
    n_cells: int = Field(ge=3, le=50, description="cells of the searched network")
    batch_size: int = Field(ge=2, description="images per gradient step of the search")

    train_images: int | None = Field(ge=20, description="training images of the training from scratch; None: all")
    train_portion: float = Field(gt=0, le=1, description="share of them that is trained on; the rest validates, and "
                                 "at 1 the last epoch's weights are kept")
    train_cells: int = Field(ge=3, le=50, description="cells of a network that is trained from scratch")
    parameters: int = Field(ge=1000, description="most weights of such a network, auxiliary head aside; its channels "
                            "are as many as these allow")
    train_batch_size: int = Field(ge=2, description="images per gradient step of the training from scratch")
    draws: int = Field(default=4, ge=1, description="random cells that method 'random' tries")
    trial_epochs: int = Field(default=2, ge=1, description="epochs that such a trial takes")
    cutout_length: int = Field(ge=0, description="side of the square cut out of its training images, pixels")
    drop_path: float = Field(ge=0, lt=1, description="probability at the end of it that an edge is dropped")
    auxiliary: bool = Field(description="a second classifier in it; for images of 32 to 40 pixels")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("operations", "methods"):
            no_value_twice(name, getattr(self, name, []))
        known_operations(self.operations, CONVOLUTIONAL_OPERATIONS)
        if self.operations == ["none"]:
            raise ValueError(f"parameter 'operations' = {self.operations}: an edge needs one besides none")
        if "random" in _methods(self) and self.train_portion == 1:
            raise ValueError("parameter 'train_portion' = 1.0: method 'random' needs a validation part, to choose one of its cells")
        if self.auxiliary and self.dataset == "digits":
            raise ValueError("parameter 'auxiliary' = True: allowed is False for digits, which have 8 pixels")
        for phase, least in (("search", 2), ("train", 1)):
            n, portion = getattr(self, f"{phase}_images"), getattr(self, f"{phase}_portion")
            if n and portion < 1 and n - round(portion * n) < least:
                raise ValueError(f"parameter '{phase}_portion' = {portion}: with '{phase}_images' = {n} it must leave "
                                 f"at least {least} for validation")
        return self


ImageMethod = Literal["darts_v2", "random", "fixed", "grow", "grow_fresh"]


class ImageRun(ImageSettings):
    """One run: one method, one seed. Its hash names its record."""

    method: ImageMethod = Field(description="what is trained")

    def start(self) -> int:
        """The first image that is read. Of `cifar10_held_out` every seed has images of its own; after the last ones come the first again."""
        if self.dataset != "cifar10_held_out" or self.train_images is None:
            return 0
        return self.seed % max(1, 40_000 // self.train_images) * self.train_images

    def label(self) -> str:
        """Method and seed, for file names."""
        return f"{self.method}-seed{self.seed}"


class ImageConfig(ImageSettings, MethodGrid):
    """Parameters of notebook `04_cifar10`."""

    experiment, run_class = "images", ImageRun

    methods: list[ImageMethod] = Field(min_length=1, description="methods to run, in order")
