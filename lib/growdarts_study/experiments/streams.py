"""All arms of the protocol on one stream, day by day: forecast a block of days, then learn from it; a row each
[protocol E7].

A window and the day that it forecasts have one number, that of the day. At day t whatever has a number below t is
known. Operations are those of matrix products, as in the searches.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from growdarts.bilevel import VirtualStep, alpha_gradient
from growdarts.criteria import growing_helps, stage_is_over
from growdarts.growth import grow_node
from growdarts.pruning import prune
from growdarts.search import PASSES
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.training import DivergenceError, theta_step
from growdarts_study import records
from growdarts_study.controls import ControlledSearch
from growdarts_study.data.streams import Stream
from growdarts_study.experiments import phases
from growdarts_study.experiments.recursive import PageHinkley, recursive_least_squares
from growdarts_study.stream_settings import NETWORKS, StreamArm, StreamRun

KEPT = 10  # days whose errors are kept as one mean
LIMIT = 8.0  # deviations from the mean of the first part within which every forecast is kept
FORGETTING, LAGS = (0.98, 0.99, 0.995, 0.998), (1, 2, 5)  # that recursive least squares chooses from


@dataclass
class Learner:
    """A network that forecasts the stream and what it does after every block."""

    stream: Stream
    arm: StreamArm
    device: torch.device
    flops: float = 0.0
    purse: float = 0.0  # operations that may be spent on steps
    began: int = 0  # day on which the last drift did
    events: list[list[Any]] = field(default_factory=list)  # [day, what]
    month: list[float] = field(default_factory=list)  # errors of its blocks
    months: list[float] = field(default_factory=list)  # of the stage
    stages: list[float] = field(default_factory=list)
    due: list[tuple[int, int]] = field(default_factory=list)  # refits to come: day, first day that it takes

    def __post_init__(self) -> None:
        config = self.config = self.stream.config
        self.detector = PageHinkley(config.tolerance, config.threshold)
        self.task = self.stream.task(0, config.first, self.device)
        whole = self._network(config.max_nodes)
        self.allowance = PASSES[config.order] * config.batch_size * whole.flops(config.window)
        self.start()

    def _network(self, nodes: int):
        config = self.config
        return two_input_forecaster(self.stream.x.shape[2], config.hidden, 1, nodes, config.operations,
                                    self.stream.y.shape[1]).to(self.device)

    def start(self) -> None:
        """The search of the first part, which arms with the same backbone share."""
        starts, kind = self.stream.starts, (self.arm.fixed, self.arm.morphism, self.arm.prunes)
        if kind not in starts:
            self.search(0, self.config.first)
            starts[kind] = self.network, self.optimizers, self.flops
        self.network, self.optimizers, self.flops = deepcopy(starts[kind])

    def search(self, start: int, end: int) -> None:
        """Algorithm 2 on the days from start to before end, or a search with a fixed backbone; what there was is
        forgotten, if it does not diverge."""
        config, task = self.config, self.stream.task(start, end, self.device)
        if self.arm.fixed:
            config = StreamRun.of(config.model_dump() | {"initial_nodes": self.arm.fixed, "max_nodes": self.arm.fixed,
                                                         "prune": config.prune if self.arm.prunes else "none"})
        torch.manual_seed(phases.seed_of(config.seed, f"search {end}"))
        search = ControlledSearch(self._network(config.initial_nodes), task, config, morphism=self.arm.morphism)
        try:
            search.run()
        except DivergenceError:
            if not self.flops:
                raise
            self.events.append([end, "diverged"])
        else:
            self.network, self.optimizers = search.network, (search.theta_optimizer, search.alpha_optimizer)
            self.optimizers[0].param_groups[0]["lr"] = config.stream_rate
        self.flops += search.state.flops

    @torch.no_grad()
    def forecast(self, start: int, end: int) -> Tensor:
        """Of the days from start to before end, (days, F_out)."""
        self.flops += (end - start) * self.network.flops(self.config.window)
        found = self.network(self.stream.x[:, start:end].to(self.device)).cpu()
        return found.nan_to_num(0.0).clamp(-LIMIT, LIMIT)

    def learn(self, day: int, error: float) -> None:
        """From all that is known before `day`; `error` is that of the last block."""
        config, alarm = self.config, self.detector.alarm(math.log(error))
        if alarm:
            self.events.append([day, "drift"])
            self.began = day - config.block * self.detector.since
        if self.arm.grows:
            self._grow_if(day, error, alarm)
        if self.arm.learns:
            self._steps(day)
        if self.arm.refits == "on_drift" and alarm:
            self.due = [(day + config.month, self.began), (day + config.memory, self.began)]
        elif self.arm.refits == "monthly" and (day - config.first) % config.month == 0:
            self.due = [(day, 0)]
        if self.due and day >= self.due[0][0]:
            _, start = self.due.pop(0)
            self.search(max(start, day - config.memory), day)
            self.events.append([day, "refit"])

    def _grow_if(self, day: int, error: float, alarm: bool) -> None:
        """Algorithm 2 with months in place of epochs, whose history a drift ends: a node is added when one is
        detected, and when a stage brings no more gain, if it was better than those before it."""
        config = self.config
        self.month.append(error)
        if (day - config.first) % config.month == 0:
            self.months.append(sum(self.month) / len(self.month))
            self.month = []
        over = stage_is_over(self.months, config.stall, config.min_gain)
        if over:
            self.stages.append(min(self.months))
        if alarm or over and growing_helps(self.stages, config.min_gain):
            self._grow(day)
        if alarm:
            self.month, self.stages = [], []
        if alarm or over:
            self.months = []

    def _grow(self, day: int) -> None:
        config = self.config
        if self.network.n_nodes() >= config.max_nodes:
            return
        if config.prune != "none":
            prune(self.network, *self.optimizers, prune_below=config.prune_below, keep_all_above=config.keep_all_above)
        torch.manual_seed(phases.seed_of(config.seed, f"grow {day}"))
        grow_node(self.network, *self.optimizers, morphism=self.arm.morphism, epsilon=config.epsilon, noise=config.noise)
        self.events.append([day, f"node {self.network.n_nodes()}"])

    def _steps(self, day: int) -> None:
        """As many pairs of steps as the purse pays for. Batches are drawn from the recent days since the last drift
        began, or from as many as two batches take if these are more; the draws are the same in all arms."""
        config, (theta, alpha) = self.config, self.optimizers
        cost = PASSES[config.order] * config.batch_size * self.network.flops(config.window)
        self.purse = min(self.purse + self.allowance, config.steps * cost)
        generator = torch.Generator().manual_seed(phases.seed_of(config.seed, f"batches {day}"))
        recent = min(max(day - self.began, 2 * config.batch_size), config.recent, day - config.window)
        while self.purse >= cost:
            days = day - 1 - torch.randperm(recent, generator=generator)[: 2 * config.batch_size]
            batch, held_out = ((self.stream.x[:, part].to(self.device), self.stream.y[part].to(self.device)) for part in days.chunk(2))
            step = VirtualStep(theta, self.network.theta_parameters(), config.grad_clip)
            gradient = alpha_gradient(self.network, self.task.loss, batch, held_out, order=config.order, step=step,
                                      radius=config.radius)
            for logits, g in zip(self.network.alpha_parameters(), gradient, strict=True):
                logits.grad = g
            alpha.step()
            theta_step(self.network, self.task, theta, batch, config.grad_clip)
            self.purse -= cost
            self.flops += cost


def network_arm(stream: Stream, arm: StreamArm, device: torch.device) -> dict[str, Any]:
    """Forecasts (days, F_out) from the first day after the first part on, errors (days), nodes at the end, operations,
    events.
    """
    learner, config, forecasts, errors = Learner(stream, arm, device), stream.config, [], []
    searched, started = learner.flops, learner.network.n_nodes()
    for day in range(config.first, len(stream.y), config.block):
        end = min(day + config.block, len(stream.y))
        forecasts.append(learner.forecast(day, end))
        errors.append((forecasts[-1] - stream.y[day:end]).square().mean(1))
        learner.learn(end, max(errors[-1].mean().item(), 1e-12))
    return {"forecasts": torch.cat(forecasts), "errors": torch.cat(errors), "first_flops": searched,
            "flops": learner.flops - searched, "started": started, "nodes": learner.network.n_nodes(), "events": learner.events}


def linear_arm(stream: Stream) -> dict[str, Any]:
    """Recursive least squares on the last days of a window. Order and factor of forgetting have the least error of the
    second half of the first part."""
    first, y = stream.config.first, stream.y

    def forecasts(order: int, factor: float) -> tuple[Tensor, float]:
        x = stream.x[-order:].permute(1, 0, 2).flatten(1).double().numpy()
        found, flops = recursive_least_squares(x, y.double().numpy(), factor, stream.config.window)
        return torch.tensor(found).float().nan_to_num(0.0).clamp(-LIMIT, LIMIT), flops

    tried = {choice: forecasts(*choice) for choice in product((n for n in LAGS if n <= stream.config.window), FORGETTING)}
    order, factor = min(tried, key=lambda choice: (tried[choice][0] - y)[first // 2: first].square().mean().item())
    found, flops = tried[order, factor]
    return {"forecasts": found[first:], "errors": (found - y)[first:].square().mean(1), "first_flops": flops * first * len(tried),
            "flops": flops * (len(y) - first), "events": [], "order": order, "forgetting": factor}


def _arm(stream: Stream, name: str, device: torch.device) -> dict[str, Any]:
    """The row of one arm."""
    found = linear_arm(stream) if name == "linear" else network_arm(stream, NETWORKS[name], device)
    errors = found.pop("errors")
    del found["forecasts"]
    return found | records.significant({
        "error": errors.mean().item(), "blocks": [block.mean().item() for block in errors.split(KEPT)]}, 5)


def run(config: StreamRun, *, device: torch.device, checkpoints: Path | None = None, progress: bool = False) -> dict[str, Any]:
    """All arms, one after another; those that are done are kept in `checkpoints`."""
    stream = Stream.load(config)
    rows = phases.rows(config, stream.hashes, lambda name, _: _arm(stream, name, device), device, checkpoints, progress)
    days = stream.y[config.first:]
    return {"config": config.model_dump(), "config_hash": config.hash(), "provenance": records.provenance(stream.hashes, device),
            "rows": rows, "floor": stream.floor, "changes": list(stream.changes),
            "labels": stream.labels[config.first::KEPT] if config.dataset == "log_range" else None,
            "mean": records.significant([block.mean().item() for block in days.square().mean(1).split(KEPT)], 5)}
