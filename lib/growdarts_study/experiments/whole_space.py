"""Every cell of one layer that a set of operations allows, trained: many small networks as one network of stacked weights.

A cell of N nodes is a point of a grid with one dimension a node, as long as there are operations. A state of all
networks is one tensor (O, ..., O, S, B, H): N dimensions of O operations, then S seeds, B windows and H units.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from growdarts.checkpoints import Checkpoint, fingerprint
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.two_input.network import TwoInputForecaster, derived_forecaster
from growdarts.spaces.two_input.operations import TWO_INPUT
from growdarts.tasks.series import ForecastTask, Series, Windows
from growdarts.training import fit, learning_rate, theta_optimizer
from growdarts_study import records
from growdarts_study.page_settings import WholeSpaceRun
from growdarts_study.data.series import load_series
from growdarts_study.experiments import phases
from growdarts_study.experiments.baselines import baselines
from growdarts_study.experiments.time_series import recurrent_forecaster

RIVALS = ("lstm", "gru")
EVALUATED = 128  # windows


@dataclass
class Weights:
    """W, U and b of one operation of one node, in all networks that hold it there; `where` is their part of the grid.

    W (O, .., 1, .., O, S, blocks H, F), U (.., blocks H, H), b (.., 1, blocks H): dimension `node` of the grid has
    length 1.
    """

    operation: str
    where: tuple[slice, ...]
    W: nn.Parameter
    U: nn.Parameter
    b: nn.Parameter


class StackedForecasters(nn.Module):
    """One-layer forecasters of every cell of N nodes, each in S copies, from `build(cell, seed)`."""

    def __init__(self, operations: Sequence[str], nodes: int, seeds: Sequence[int], build,
                 device: torch.device = torch.device("cpu")) -> None:
        super().__init__()
        self.operations, self.grid = tuple(operations), (len(operations),) * nodes + (len(seeds),)
        networks: dict[tuple[int, ...], TwoInputForecaster] = {
            (*cell, s): build([operations[i] for i in cell], seed)
            for cell in product(range(len(operations)), repeat=nodes) for s, seed in enumerate(seeds)}
        self.hidden = networks[(0,) * (nodes + 1)].head.in_features

        def stacked(where: dict[int, int], value) -> nn.Parameter:
            """`value` of every network with index `where[dimension]`, in the order of the grid."""
            axes = [[where[d]] if d in where else range(n) for d, n in enumerate(self.grid)]
            values = [value(networks[index]).detach() for index in product(*axes)]
            return nn.Parameter(torch.stack(values).view(*map(len, axes), *values[0].shape).to(device))

        self.nodes = [[self._weights(stacked, node, i) for i in range(len(operations))] for node in range(nodes)]
        self.head_weight = stacked({}, lambda network: network.head.weight)
        self.head_bias = stacked({}, lambda network: network.head.bias[None])

    def _weights(self, stacked, node: int, i: int) -> Weights:
        name = self.operations[i]
        W, U, b = (stacked({node: i}, lambda network, part=part: getattr(network.cells[0].nodes[node], part)[name])
                   for part in "WUb")
        where = tuple(slice(None) for _ in range(node)) + (slice(i, i + 1),)
        return Weights(name, where, W, U, nn.Parameter(b.detach().unsqueeze(-2)))

    def parts(self) -> Iterator[tuple[tuple[slice, ...], nn.Parameter]]:
        """Every parameter with the part of the grid that it belongs to."""
        for node in self.nodes:
            for weights in node:
                yield from ((weights.where, value) for value in (weights.W, weights.U, weights.b))
        yield from (((), self.head_weight), ((), self.head_bias))

    def forward(self, x: Tensor) -> Tensor:
        """(S, T, B, F), a window of its own for every seed -> (O, .., O, S, B, F_out)."""
        steps, batch = x.shape[1:3]
        flat = x.flatten(1, 2)
        inputs = [[(flat @ w.W.mT + w.b).unflatten(-2, (steps, batch)).unbind(-3) for w in node] for node in self.nodes]
        s = x.new_zeros(*self.grid, batch, self.hidden)
        for t in range(steps):
            for dimension, (node, wx) in enumerate(zip(self.nodes, inputs, strict=True)):
                s = torch.cat([TWO_INPUT[w.operation].function(wx_o[t], part @ w.U.mT, part)
                               for w, wx_o, part in zip(node, wx, s.split(1, dim=dimension), strict=True)], dim=dimension)
        return s @ self.head_weight.mT + self.head_bias

    def clip(self, largest: float) -> None:
        """Scale every network's gradient to at most the norm `largest`, as `clip_grad_norm_` does for one."""
        square = torch.zeros(self.grid, device=self.head_bias.device)
        for where, value in self.parts():
            square[where] += value.grad.flatten(len(self.grid)).square().sum(-1)
        factor = (largest / (square.sqrt() + 1e-6)).clamp(max=1)
        for where, value in self.parts():
            value.grad *= factor[where].view(*factor[where].shape, 1, 1)


def stack_windows(parts: Sequence[Windows], device: torch.device) -> tuple[Tensor, Tensor]:
    """Windows of S series: x (S, T, n, F), y (S, n, F_out)."""
    return torch.stack([part.x for part in parts]).to(device), torch.stack([part.y for part in parts]).to(device)


def train(network: StackedForecasters, series: Sequence[Series], config: WholeSpaceRun, orders: Sequence[torch.Generator],
          checkpoint: Checkpoint = Checkpoint(None, ""), progress: bool = False) -> dict[str, Tensor]:
    """Train all networks as `growdarts.training.fit` trains one; each ends by its own patience.

    Parameters
    ----------
    series : one a seed. orders : one a seed, of which the order of its batches is drawn.

    Returns
    -------
    validation, test : least validation error and the test error of the weights that had it, by the grid; infinite for a
        network that never had a finite one. epochs : how many each was trained.
    """
    device = network.head_bias.device
    (x, y), held_out, test = (stack_windows([getattr(one, part) for one in series], device)
                              for part in ("train", "validation", "test"))
    values = [value for _, value in network.parts()]
    optimizer = theta_optimizer(values, config)
    state = {"best": torch.full(network.grid, torch.inf, device=device),
             **{name: torch.zeros(network.grid, dtype=torch.int64, device=device) for name in ("since", "epochs")},
             "kept": [value.detach().clone() for value in values]}
    epoch, data = 0, "".join(fingerprint(ForecastTask(one, config.batch_size)) for one in series)
    if (stored := checkpoint.load("whole space", data)) is not None:
        epoch = stored["epoch"]
        state = {name: [v.to(device) for v in value] if name == "kept" else value.to(device)
                 for name, value in stored["state"].items()}
        for value, old in zip(values, stored["values"], strict=True):
            value.data.copy_(old)
        optimizer.load_state_dict(stored["optimizer"])
        for order, old in zip(orders, stored["orders"], strict=True):
            order.set_state(old)
    with tqdm(total=config.train_epochs, initial=epoch, desc=config.label(), disable=None if not progress else False) as bar:
        while epoch < config.train_epochs and (alive := state["since"] < config.patience).any():
            optimizer.param_groups[0]["lr"] = learning_rate(config, epoch, config.train_epochs)
            drawn = torch.stack([torch.randperm(y.shape[1], generator=order) for order in orders]).to(device)  # (S, n)
            for index in drawn.split(config.batch_size, dim=1):
                batch = torch.stack([x[s, :, i] for s, i in enumerate(index)])
                target = torch.stack([y[s, i] for s, i in enumerate(index)])
                optimizer.zero_grad()
                (network(batch) - target).square().mean((-1, -2)).sum().backward()
                network.clip(config.grad_clip)
                optimizer.step()
            error = errors(network, *held_out)
            gained = alive & (error < state["best"])
            state["best"] = torch.where(gained, error, state["best"])
            state["since"] = torch.where(gained, 0, state["since"] + 1)
            state["epochs"] += alive
            for (where, value), kept in zip(network.parts(), state["kept"], strict=True):
                kept.copy_(torch.where(gained[where].view(*gained[where].shape, 1, 1), value.detach(), kept))
            epoch += 1
            bar.update()
            bar.set_postfix(training=int(alive.sum()))
            checkpoint.save("whole space", data, {
                "epoch": epoch, "state": state, "values": [value.detach() for value in values],
                "optimizer": optimizer.state_dict(), "orders": [order.get_state() for order in orders]})
    for value, kept in zip(values, state["kept"], strict=True):
        value.data.copy_(kept)
    return {"validation": state["best"], "test": errors(network, *test), "epochs": state["epochs"]}


@torch.no_grad()
def errors(network: StackedForecasters, x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of every network, by the grid; infinite where it is not finite. Few windows at a time: all states are kept."""
    windows = zip(x.split(EVALUATED, dim=2), y.split(EVALUATED, dim=1), strict=True)
    found = torch.cat([(network(some) - target).square().mean(-1) for some, target in windows], dim=-1).mean(-1)
    return torch.where(found.isfinite(), found, torch.inf)


def run(config: WholeSpaceRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """Train every cell of the space, LSTM and GRU of the same width, and the forecasts with a closed form, on every seed.

    A generated series is drawn anew for every seed; there is one of the other series.
    """
    torch.set_num_threads(1)
    series = [load_series(config.dataset, config.window, config.origin, days=config.days, draw=config.draw(seed))
              for seed in config.seeds]
    features, outputs = len(series[0].features), len(series[0].targets)
    found: dict[str, Any] = {}
    with torch.random.fork_rng(devices=phases.random_devices(device)), _no_denormals():

        def build(cell: list[str], seed: int) -> TwoInputForecaster:
            torch.manual_seed(phases.seed_of(seed, "+".join(cell)))
            return derived_forecaster(Genotype((tuple((name,) for name in cell),)), features, config.hidden, outputs)

        network = StackedForecasters(config.operations, config.nodes, config.seeds, build, device)
        orders = [torch.Generator().manual_seed(phases.seed_of(seed, "order")) for seed in config.seeds]
        trained = train(network, series, config, orders, phases.checkpoint(config, "cells", checkpoints), progress)
        cells = list(product(config.operations, repeat=config.nodes))
        for name, value in trained.items():
            found[name] = records.significant(value.flatten(0, -2).tolist(), 5)
        rivals: dict[str, dict[str, list[float]]] = {}
        for one, seed in zip(series, config.seeds, strict=True):
            task = ForecastTask(one, config.batch_size)
            fitted = {**baselines(one, config.season),
                      **{kind: _rival(kind, one, config, seed, device).cpu() for kind in RIVALS}}
            for name, model in fitted.items():
                entry = rivals.setdefault(name, {"validation": [], "test": []})
                for part in entry:
                    entry[part].append(float(f"{task.evaluate(model, part):.5g}"))
    hashes = {name: value for one in series for name, value in one.hashes.items()}
    return {"config": config.model_dump(), "config_hash": config.hash(), "provenance": records.provenance(hashes, device),
            "cells": ["+".join(cell) for cell in cells], **found, "rivals": rivals,
            "floor": records.significant([one.floor for one in series], 6) if series[0].floor else None}


def _rival(kind: str, series: Series, config: WholeSpaceRun, seed: int, device: torch.device) -> nn.Module:
    """A fitted LSTM or GRU."""
    torch.manual_seed(phases.seed_of(seed, kind))
    network = recurrent_forecaster(kind, len(series.features), config.hidden, 1, len(series.targets)).to(device)
    fit(network, network.theta_parameters(), ForecastTask(series, config.batch_size, device), config, label=kind)
    return network


@contextlib.contextmanager
def _no_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as zero: the states of a dying cell, which would slow all others down."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
