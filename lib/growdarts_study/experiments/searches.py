"""All arms of the protocol on one draw of a series: searches, random cells of equal cost, rivals; a row each.

An operation is a floating-point operation of a matrix product. A training step takes three forward passes of them, a
step of a search six.
"""

import copy
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from growdarts.pruning import held_operations
from growdarts.search import PASSES
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.spaces.genotype import genotype_from_dict
from growdarts.spaces.two_input.network import Forecaster, TwoInputForecaster, derived_forecaster, two_input_forecaster
from growdarts.tasks.series import ForecastTask
from growdarts.training import DivergenceError, fit, theta_optimizer, theta_step
from growdarts_study import records
from growdarts_study.arms import MATCHED, RIVALS, SEARCHES, STARTS, SearchesRun
from growdarts_study.controls import ControlledSearch, keep_derived
from growdarts_study.data.series import load_series
from growdarts_study.experiments import phases
from growdarts_study.experiments.baselines import baselines
from growdarts_study.experiments.time_series import GraphForecaster, random_genotype, recurrent_forecaster, wider

BLOCK = 20  # test days whose errors are kept as one mean, where there is one draw only
CANDIDATES = 64  # random cells that a network of shared weights ranks
HALVINGS = ((9, 9), (3, 3), (1, 1))  # cells that are left, and their part of the epochs, of a round of successive halving


@dataclass
class Bench:
    """One draw of a series with its trainings. The same cell, step and epochs are trained once, with the same numbers in every arm."""

    config: SearchesRun
    task: ForecastTask
    trained: dict[tuple[str, float, int, int], dict[str, Any]] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int]:
        """Features and outputs."""
        return len(self.task.series.features), len(self.task.series.targets)

    def network(self, cell: str) -> Forecaster:
        """The network of a genotype in JSON or of a rival's name, with fresh weights."""
        features, outputs = self.sizes
        if cell in RIVALS:
            kind, layers = RIVALS[cell]
            return recurrent_forecaster(kind, features, self.config.hidden, layers, outputs)
        genotype = genotype_from_dict(json.loads(cell))
        if genotype.space == "two_input":
            return derived_forecaster(genotype, features, self.config.hidden, outputs)
        return Forecaster([wider(RecurrentCell(features, self.config.hidden, genotype))], self.config.hidden, outputs)

    def errors(self, network: nn.Module) -> dict[str, Any]:
        """Mean squared errors of the validation and the test part, and of blocks of test days where seeds share one draw."""
        network.to(self.task.device)  # closed forms are solved where the series was read
        test = self.task.squared_errors(network, "test").mean(1)
        found = {"validation": self.task.evaluate(network, "validation"), "test": test.mean().item()}
        if self.config.draw(self.config.seed) is None:
            found["blocks"] = [block.mean().item() for block in test.split(BLOCK)]
        return records.significant(found, 5)

    def training(self, rate: float, epochs: int) -> SearchesRun:
        """The settings of a training: a step that falls along a cosine, without early stopping."""
        return self.config.model_copy(update={"learning_rate": rate, "train_epochs": epochs, "schedule": "cosine",
                                              "train_patience": epochs})

    def fitted(self, network: nn.Module, config: SearchesRun) -> dict[str, Any]:
        """Errors of a network after a training; None for those of one that diverged."""
        try:
            fit(network, network.theta_parameters(), self.task, config, label=config.label())
        except DivergenceError:
            return {"validation": None, "test": None}
        return self.errors(network)

    def train(self, cell: str, rate: float, epochs: int, start: int = 0) -> dict[str, Any]:
        """Errors of a network trained from scratch, with its operations; another `start` has other first weights and batches."""
        if (cell, rate, epochs, start) not in self.trained:
            config = self.training(rate, epochs)
            torch.manual_seed(phases.seed_of(config.seed, f"{cell} start {start}" if start else cell))
            network = self.network(cell).to(self.task.device)
            found = self.fitted(network, config)
            matrices = sum(p.numel() for p in network.cells.parameters() if p.ndim == 2)
            passes = 3 * epochs * len(self.task.series.train.y) * self.config.window
            self.trained[cell, rate, epochs, start] = found | {
                "rate": rate, "parameters": sum(p.numel() for p in network.parameters()), "flops": 2.0 * passes * matrices}
        return self.trained[cell, rate, epochs, start]

    def best(self, cell: str, trainings: int | None = None) -> dict[str, Any]:
        """The one with the least validation error of so many `trainings`, which take the learning rates in turn (None: one with each
        rate). Its operations are those of all of them."""
        rates = self.config.learning_rates
        trials = [self.train(cell, rates[i % len(rates)], self.config.train_epochs, i // len(rates)) for i in range(trainings or len(rates))]
        return min(trials, key=_validation) | {"flops": sum(trial["flops"] for trial in trials)}

    def retrained(self, cell: str, spent: float) -> dict[str, Any]:
        """What an arm ends with, after `spent` operations that found the cell."""
        trained = self.best(cell)
        return {"cell": json.loads(cell), "search_flops": spent, "retrained": trained}


def _validation(trained: dict[str, Any]) -> float:
    return float("inf") if trained["validation"] is None else trained["validation"]


def run(config: SearchesRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """All arms, one after another; those that are done are kept in `checkpoints`."""
    series = load_series(config.dataset, config.window, config.origin, days=config.days, draw=config.draw(config.seed))
    bench = Bench(config, ForecastTask(series, config.batch_size, device))
    rows = phases.rows(config, series.hashes, lambda name, done: _arm(bench, name, done, checkpoints), device, checkpoints, progress)
    closed = {name: bench.errors(model) for name, model in baselines(series, config.season).items()}
    return {"config": config.model_dump(), "config_hash": config.hash(),
            "provenance": records.provenance(series.hashes, device), "rows": rows, "closed_forms": closed,
            "floor": series.floor}


def _arm(bench: Bench, name: str, rows: dict[str, Any], checkpoints: Path | None) -> dict[str, Any]:
    """The row of one arm; of the `rows` before it `grow_1` says what random draws cost, `copy_splitting` what its controls do."""
    if name in RIVALS:
        return {"retrained": bench.best(name)}
    model = {"random": "grow_1", "halving": "grow_1", **dict.fromkeys(MATCHED, "copy_splitting")}.get(name, "")
    if "diverged" in (grown := rows.get(model, {})):
        return {"diverged": f"{model}, whose cost would be the budget"}
    if model == "copy_splitting":
        return matched(bench, name, grown, checkpoints)
    if name in SEARCHES:
        return search(bench, name, checkpoints)
    if name in STARTS:
        return starts(bench, rows[STARTS[name]], name, rows["random"].get("draws", 0))
    if name == "shared":
        return shared(bench)
    draw = random_cells if name == "random" else halving
    return draw(bench, grown["search_flops"] + grown["retrained"]["flops"])


def starts(bench: Bench, model: dict[str, Any], name: str, trainings: int) -> dict[str, Any]:
    """The cell of the row `model`, or the rival that it is the row of, trained so many times, but at least once with every learning rate."""
    if "diverged" in model or not trainings:
        return {"diverged": "an arm before it"}
    cell = json.dumps(model["cell"]) if "cell" in model else STARTS[name]
    best = bench.best(cell, max(trainings, len(bench.config.learning_rates)))
    return {**({"cell": model["cell"]} if "cell" in model else {}), "search_flops": model.get("search_flops", 0.0), "retrained": best}


def search(bench: Bench, name: str, checkpoints: Path | None) -> dict[str, Any]:
    """A search, the errors of its network as it stands at the end (one-shot), and those of its cell retrained."""
    arm, (features, outputs) = SEARCHES[name], bench.sizes
    changes = dict(arm.changes)
    if arm.whole:
        changes["initial_nodes"] = changes.get("max_nodes", bench.config.max_nodes)
        if bench.config.stage_epochs:  # as many operations as the growing arms, all of them with all nodes
            changes["stage_epochs"] = round(bench.config.stage_epochs * (bench.config.max_nodes + 1) / 2)
    config = SearchesRun.of(bench.config.model_dump() | changes)
    torch.manual_seed(phases.seed_of(config.seed, "search"))
    network = (GraphForecaster(features, config.hidden, config.initial_nodes, outputs) if arm.backbone == "graph" else
               two_input_forecaster(features, config.hidden, 1, config.initial_nodes, config.operations, outputs))
    try:
        found = ControlledSearch(network.to(bench.task.device), bench.task, config, morphism=arm.morphism,
                                 checkpoint=phases.checkpoint(bench.config, name, checkpoints)).run()
    except DivergenceError as error:
        return {"diverged": str(error).split(";")[0]}  # without a path of this machine
    row = bench.retrained(json.dumps(found.genotype.to_dict()), found.flops)
    if arm.keep:
        row["kept"] = kept(bench, network)
    return row | records.significant({
        "one_shot": bench.errors(network), "epochs": found.epochs, "stage_errors": found.stage_errors,
        "errors": [row["validation_error"] for row in found.history],
        "spent": [row["flops_spent"] for row in found.history],
        "grown": [event["epoch"] for event in found.events if event["kind"] == "grow_node"],
        "network_flops": float(bench.task.flops(network)), "held": sum(map(len, held_operations(network).values())),
        "weights": [mixture.named_weights() for mixture in network.mixtures()]}, 4)


def matched(bench: Bench, name: str, copied: dict[str, Any], checkpoints: Path | None) -> dict[str, Any]:
    """A search for as many operations as that of the row `copied`: with random copies, at the same parts of its epochs, or without any;
    if `name` is `wider`, of a width that gives about as many weights as the network of `copied` ended with."""
    config, (features, outputs) = bench.config, bench.sizes
    if name == "copy_random_more":
        if "diverged" in (as_long := search(bench, "copy_random", checkpoints)):
            return as_long
        longer = copied["search_flops"] / as_long["search_flops"]
        changed = config.model_copy(update={"search_epochs": round(longer * config.search_epochs),
                                            "duplicate_epochs": math.ceil(longer * config.duplicate_epochs)})
        return search(Bench(changed, bench.task), name, checkpoints)

    def network(hidden: int, keys: Iterable[str] = config.operations) -> TwoInputForecaster:
        return two_input_forecaster(features, hidden, 1, 1, list(keys), outputs)

    def weights(*of: Any) -> int:
        return sum(p.numel() for p in network(*of).theta_parameters())

    target = weights(config.hidden, copied["weights"][0])
    widths = range(config.hidden, config.hidden + 1 if name == "copy_none" else 4 * config.hidden)
    hidden = min(widths, key=lambda width: abs(weights(width) - target))
    epochs = round(copied["search_flops"] / (PASSES[config.order] * bench.task.flops(network(hidden))))
    changed = config.model_copy(update={"hidden": hidden, "search_epochs": max(1, epochs)})
    return search(Bench(changed, bench.task), name, checkpoints)


def kept(bench: Bench, searched: nn.Module) -> dict[str, Any]:
    """Errors of a searched network with the derived operation of every node alone, trained on as one from scratch is trained."""
    trials = []
    for rate in bench.config.learning_rates:
        network, config = copy.deepcopy(searched), bench.training(rate, bench.config.train_epochs)
        optimizers = (theta_optimizer(network.theta_parameters(), config), torch.optim.Adam(network.alpha_parameters()))
        keep_derived(network, *optimizers)
        torch.manual_seed(phases.seed_of(config.seed, "kept"))
        trials.append(bench.fitted(network, config) | {"rate": rate})
    return min(trials, key=_validation)


def cells(bench: Bench, arm: str) -> Iterator[tuple[str, float]]:
    """Random cells, of one to `max_nodes` nodes, each with one of the learning rates. Every arm has draws of its own."""
    generator_state = phases.seed_of(bench.config.seed, arm)
    while True:
        torch.manual_seed(generator_state)
        cell = json.dumps(random_genotype(bench.config).to_dict())
        rate = bench.config.learning_rates[int(torch.randint(len(bench.config.learning_rates), ()))]
        generator_state = int(torch.randint(2**31 - 1, ()))
        yield cell, rate


def random_cells(bench: Bench, budget: float) -> dict[str, Any]:
    """The best on validation of random cells that take about `budget` operations to train; at least one. Another one is
    drawn while as many operations are left as the last one took."""
    return _best_of((bench.train(*drawn, bench.config.train_epochs) | {"cell": drawn[0]} for drawn in cells(bench, "random")), budget)


def halving(bench: Bench, budget: float) -> dict[str, Any]:
    """Successive halving in rounds: nine random cells for a ninth of the epochs, the best three for a third, the best for all.

    The rounds take about `budget` operations, as above.
    """

    def rounds() -> Iterator[dict[str, Any]]:
        drawn = cells(bench, "halving")
        while True:
            left, flops = [next(drawn) for _ in range(HALVINGS[0][0])], 0.0
            for keep, part in HALVINGS:
                trained = [(bench.train(*one, max(1, bench.config.train_epochs // part)), one) for one in left]
                flops += sum(result["flops"] for result, _ in trained)
                trained.sort(key=lambda pair: _validation(pair[0]))
                left = [one for _, one in trained[:max(1, keep // 3)]]
            yield trained[0][0] | {"cell": trained[0][1][0], "flops": flops}

    return _best_of(rounds(), budget)


def _best_of(trained: Iterator[dict[str, Any]], budget: float) -> dict[str, Any]:
    found, spent = [next(trained)], 0.0
    while (spent := spent + found[-1]["flops"]) + found[-1]["flops"] <= budget:  # room for one more of about that cost
        found.append(next(trained))
    best = min(found, key=_validation)
    return {"cell": json.loads(best["cell"]), "search_flops": spent - best["flops"], "draws": len(found),
            "retrained": {name: value for name, value in best.items() if name != "cell"}}


def shared(bench: Bench) -> dict[str, Any]:
    """Random search with shared weights [Li & Talwalkar 2019]: a fixed backbone is trained, in every step as another random cell.

    Of 64 random cells the one with the least validation error with those weights is retrained.
    """
    config, task, (features, outputs) = bench.config, bench.task, bench.sizes
    torch.manual_seed(phases.seed_of(config.seed, "shared"))
    network = two_input_forecaster(features, config.hidden, 1, config.max_nodes, config.operations, outputs).to(task.device)
    optimizer, one = theta_optimizer(network.theta_parameters(), config), 1 / len(config.operations)
    for _ in range(config.search_epochs):
        for batch in task.train_batches():
            _draw(network)
            theta_step(network, task, optimizer, batch, config.grad_clip)
    found = []
    for _ in range(CANDIDATES):
        _draw(network)
        error = task.evaluate(network, "validation")
        found.append((float("inf") if error != error else error, json.dumps(network.genotype().to_dict())))
    share = CANDIDATES * len(task.series.validation.y) / len(task.series.train.y)
    spent = one * task.flops(network) * (3 * config.search_epochs + share)
    return bench.retrained(min(found)[1], spent)


@torch.no_grad()
def _draw(network: nn.Module) -> None:
    """Give one operation of every node, drawn uniformly, all of the weight; a draw that would be zero for ever is repeated."""
    drawn = None
    while drawn is None or network.genotype().operations != drawn:
        drawn = []
        for mixture in network.mixtures():
            chosen = int(torch.randint(len(mixture.keys), ()))
            mixture.alpha.fill_(-40.0)
            mixture.alpha[chosen] = 0.0
            drawn.append(mixture.keys[chosen])
