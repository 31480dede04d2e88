"""Controls and remedies of the study that change Algorithm 2: forced growth and duplication, stages judged by derived cells.

`arms` says which arms of the protocol use them.
"""

import math
import time
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from growdarts.criteria import Operation
from growdarts.growth import growable_operations, replace_parameters
from growdarts.mixture import operation_name
from growdarts.pruning import keep
from growdarts.search import Search
from growdarts.settings import SearchSettings
from growdarts.space import SearchSpace
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.training import theta_epoch
from growdarts_study.settings import StudySettings


class ControlledSettings(SearchSettings, StudySettings):
    """What every search of the study depends on: the method's settings and those of `ControlledSearch`."""

    stage_epochs: int | None = Field(default=None, ge=1, description="epochs of every stage, after which the cell grows, up "
                                     "to max_nodes, whether that helps or not; None: early stopping decides both")
    judge_epochs: int = Field(default=0, ge=0, description="theta-only epochs of the network with the derived operation of every "
                              "mixture alone, by whose error a stage is then judged; 0: by that of the mixtures, as in the paper")
    grow_operations: Literal["off", "morphism", "splitting", "splitting_all", "random"] = Field(
        default="off", description="which operations are duplicated. morphism: the one of the largest weight; splitting: the one whose split lowers "
        "the loss in most units; splitting_all: every one whose split lowers the loss in at least one unit; random: one drawn at random")
    duplicate_epochs: int | None = Field(default=None, ge=1, description="epochs between duplications, whether they help or "
                                         "not, in a single stage of all search_epochs; None: weights and errors decide")


class ControlledSearch(Search):
    """Algorithm 2 with the settings that `ControlledSettings` adds (Deviation D25); at their defaults it is the method's search."""

    settings: ControlledSettings

    def _stage_is_over(self) -> bool:
        if self.settings.stage_epochs:
            return len(self.state.epoch_errors) >= self.settings.stage_epochs
        return super()._stage_is_over()

    def _helped(self, gained: bool) -> bool:
        return gained or self.settings.stage_epochs is not None

    def _stage_error(self) -> float:
        """The error of the network; with `judge_epochs` the least one of its derived form while that is trained on."""
        settings = self.settings
        if not settings.judge_epochs:
            return super()._stage_error()
        now, errors, started = self._snapshot(), [], time.perf_counter()
        keep_derived(self.network, self.theta_optimizer, self.alpha_optimizer)
        for _ in range(settings.judge_epochs):
            with self.graphs.of(self.network):
                theta_epoch(self.network, self.task, self.theta_optimizer, settings.grad_clip)
            errors.append(self.task.evaluate(self.network, settings.select_on))
            self.state.flops += 3 * self.task.flops(self.network)
        self._restore(now)
        self.state.seconds += time.perf_counter() - started
        return min((error for error in errors if math.isfinite(error)), default=math.inf)

    def _duplicate_or_stop(self) -> bool:
        every = self.settings.duplicate_epochs
        if not every:
            return super()._duplicate_or_stop()
        if self.settings.grow_operations != "off" and len(self.state.epoch_errors) == every:
            self._duplicate_chosen()
            self.state.epoch_errors = []  # the stage's best weights are those of an epoch with the copies
        return True

    def _chosen_operations(self) -> dict[Operation, Mapping[str, Tensor] | None]:
        if self.settings.grow_operations != "random":
            return super()._chosen_operations()
        one = random_operation(self.network, self.settings)
        return {} if one is None else {one: None}


def random_operation(network: SearchSpace, settings: ControlledSettings) -> Operation | None:
    """An operation that owns weights, each with the same probability: the control of the other choices."""
    growable = list(growable_operations(network, max_copies=settings.max_copies))
    return growable[int(torch.randint(len(growable), ()))] if growable else None


def keep_derived(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer) -> None:
    """Keep in every mixture the operation that is derived, with its copies and their weights.

    That is the strongest one; two-input cells have a rule of their own (Deviation D13).
    """
    chosen = [max(weights, key=weights.__getitem__) for weights in
              (mixture.operation_weights() for mixture in network.mixtures())]
    if isinstance(genotype := network.genotype(), Genotype):
        chosen = [node[0] for layer in genotype.layers for node in layer]
    for mixture, name in zip(list(network.mixtures()), chosen, strict=True):
        keep(network, mixture, [key for key in mixture.keys if operation_name(key) == name], alpha_optimizer)
    replace_parameters(network, theta_optimizer, alpha_optimizer)
