"""A language-modelling run from configuration to record: search -> derive -> train from scratch -> test perplexity."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from growdarts.spaces.two_input.network import derived_layers, two_input_layers
from growdarts_study.experiments.rivals import GRU, LSTM
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts_study.config import SEARCHING, LanguageRun
from growdarts.spaces.darts.genotypes import RecurrentGenotype
from growdarts_study.experiments import phases
from growdarts_study.experiments.kneser_ney import KneserNey
from growdarts_study.experiments.time_series import WideSearchCell, random_genotype, wider
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.settings import ConfigError
from growdarts.tasks.language import Dropout, LanguageModel
from growdarts_study.precision import MixedPrecisionTask, used_precision
from growdarts_study.published import PTB_DARTS_V2
from growdarts_study.data.text import load_text
from growdarts.tasks.text import Text
from growdarts.training import DivergenceError, Fit, fit

ORDERS = range(2, 10)  # numbers of words of the longest n-gram; the best on validation is tested


def run(config: LanguageRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """Search a cell unless the method has one, train it from scratch on the whole text, test it once.

    Every network that is trained from scratch has the width that `config.parameters` weights allow it, so that
    LSTM, the published cell and a found one compete at equal size; each at the best of `config.learning_rates` for it.
    Of random cells the best on validation after a trial is trained. Where a training diverges, the next best trial takes its place. Errors are nats a token.
    """
    text = load_text(config.dataset, config.folder)
    words = len(text.vocabulary)
    text = replace(text, train=stretch(text.train, config.train_tokens, config.seed))
    searched_text = replace(text, train=text.train[:config.search_tokens])
    if config.method == "kneser_ney":
        return _counted(config, text, device)
    _columns_fit(config, searched_text, text)
    with torch.random.fork_rng(devices=phases.random_devices(device)):
        searched = phases.search(config, lambda nodes: search_model(config, words, nodes), task_of(
            config, searched_text, config.batch_size, device), checkpoints, progress)
        known = searched.result.genotype if searched else PTB_DARTS_V2 if config.method == "darts_v2" else None
        task = task_of(config, text, config.train_batch_size, device)

        def train(genotype: Genotype | RecurrentGenotype | None, phase: str, **changes: float) -> tuple[LanguageModel, Fit]:
            hidden = width(config, words, genotype)
            phases.seed(config, "train")  # equal weights at first
            network = model(config, words, genotype, hidden).to(device)
            settings = config.model_copy(update={"weight_decay": config.train_weight_decay, **changes})
            return network, fit(network, network.theta_parameters(), task, settings,
                                phases.checkpoint(config, phase, checkpoints),
                                label=f"{config.method} H={network.cell.hidden} {phase}", progress=progress)

        trials = []  # cell, learning rate, validation error (None: diverged), operations
        for genotype, rate in _candidates(config, known):
            name = f"draw {len(trials)}" if config.method == "random" else f"rate {rate:g}"
            try:
                network, fitted = train(genotype, name, learning_rate=rate, train_epochs=config.rate_epochs)
                trials.append((genotype, rate, fitted.validation_error, _flops(task, network, fitted)))
            except DivergenceError:
                trials.append((genotype, rate, None, 0.0))
        (genotype, rate), (network, trained), diverged = phases.best_trained(
            [((genotype, rate), error) for genotype, rate, error, _ in trials] or [((known, config.learning_rate), None)],
            lambda candidate, phase: train(candidate[0], phase, learning_rate=candidate[1]))
    started = time.perf_counter()
    error = task.evaluate(network, "test")
    return phases.record(config, text.hashes, searched, {str(network.cell.hidden): trained}, time.perf_counter() - started, {
        "test_error": error, "test_perplexity": perplexity(error),
        "validation_error": task.evaluate(network, "validation"), "floor": text.floor, "words": words,
        "tokens": {part: len(getattr(text, part)) for part in ("train", "validation", "test")},
        "optimizer": config.optimizer, "learning_rate": rate,
        "learning_rates": {} if config.method == "random" else {f"{rate:g}": error for _, rate, error, _ in trials},
        "draws": [{"genotype": cell.to_dict(), "learning_rate": rate, "validation_error": error}
                  for cell, rate, error, _ in trials] if config.method == "random" else [],
        "diverged": [rate for _, rate in diverged], "train_flops": _flops(task, network, trained) + sum(flops for *_, flops in trials),
        "precision": used_precision(config.precision, device),
        "parameters": sum(p.numel() for p in network.theta_parameters()), "hidden": network.cell.hidden,
        "cell_parameters": sum(p.numel() for p in network.cell.parameters()),
        "genotype": genotype.to_dict() if genotype else None}, device)


def stretch(ids: Tensor, length: int | None, number: int) -> Tensor:
    """Of `ids`, cut into stretches of `length`, the one with that number, counted from 0; after the last comes the first again. All of `ids` if
    `length` is None or too long."""
    start = number % max(1, len(ids) // length) * length if length else 0
    return ids[start:start + length] if length else ids


def _counted(config: LanguageRun, text: Text, device: torch.device) -> dict[str, Any]:
    """The record of counting n-grams: of the `ORDERS` the one with the least validation error."""
    words, tried = len(text.vocabulary), {}
    for n in ORDERS:
        model = KneserNey(text.train.tolist(), n, words)
        tried[n] = model.error(text.validation.tolist())
        if tried[n] == min(tried.values()):
            best, order = model, n
    error = best.error(text.test.tolist())
    return phases.record(config, text.hashes, None, {}, 0.0, {
        "test_error": error, "test_perplexity": perplexity(error), "validation_error": tried[order], "floor": text.floor,
        "words": words, "tokens": {part: len(getattr(text, part)) for part in ("train", "validation", "test")},
        "order": order, "orders": {str(order): error for order, error in tried.items()}, "learning_rates": {},
        "parameters": best.counted(), "hidden": None, "genotype": None}, device)


def _candidates(config: LanguageRun, known: Genotype | RecurrentGenotype | None) -> list[tuple[Any, float]]:
    """The cells that are tried and their learning rates: every rate with the `known` cell (None: an LSTM or GRU), or random cells,
    each with one rate."""
    rates = config.learning_rates or []
    if config.method != "random":
        return [(known, rate) for rate in rates]
    phases.seed(config, "draws")
    return [(random_cell(config), rates[int(torch.randint(len(rates), ()))]) for _ in range(config.draws)]


def random_cell(config: LanguageRun) -> Genotype | RecurrentGenotype:
    """A uniform draw from the space: the number of nodes, then the operation of every node; in DARTS' graph the state that it reads as well."""
    if config.space == "two_input":
        return random_genotype(config)
    operations = [name for name in config.operations if name != "none"]
    nodes = range(int(torch.randint(1, config.max_nodes + 1, ())))
    edges = [(operations[int(torch.randint(len(operations), ()))], int(torch.randint(node + 1, ()))) for node in nodes]
    return RecurrentGenotype(tuple(edges), tuple(range(1, len(edges) + 1)))


def _flops(task: MixedPrecisionTask, network: LanguageModel, fitted: Fit) -> float:
    """Floating-point operations of a training; a step takes three passes."""
    return 3.0 * len(fitted.errors) * task.flops(network)


def width(config: LanguageRun, words: int, genotype: Genotype | RecurrentGenotype | None) -> int:
    """The largest width whose network, or cell, has at most `config.parameters` weights."""

    def counted(hidden: int) -> nn.Module:
        network = model(config, words, genotype, hidden)
        return network if config.weights_of == "network" else network.cell

    return phases.largest_width(counted, config.parameters)


def _columns_fit(config: LanguageRun, searched: Text, whole: Text) -> None:
    """`ConfigError` if a part of the text has fewer than two tokens for each of the columns that it is read in."""
    read = [("train_batch_size", [whole.train]), ("eval_batch_size", [whole.validation, whole.test])]
    if config.method in SEARCHING:
        read.insert(0, ("batch_size", [searched.train, whole.validation]))
    for name, parts in read:
        if getattr(config, name) > (most := min(map(len, parts)) // 2):
            raise ConfigError(f"parameter {name!r} = {getattr(config, name)}: allowed is at most {most}, half the "
                              "tokens of the shortest part that is read in so many columns")


def search_model(config: LanguageRun, words: int, n_nodes: int) -> LanguageModel:
    """The searchable network, E = H = `config.hidden`."""
    if config.space == "two_input":
        cell = two_input_layers(config.hidden, config.n_layers, n_nodes, config.operations)
    else:
        graph = WideSearchCell if config.wide_start else RecurrentSearchCell
        cell = graph(config.hidden, config.hidden, n_nodes, config.operations)
    return LanguageModel(words, cell, _dropout(config))


def model(config: LanguageRun, words: int, genotype: Genotype | RecurrentGenotype | None, width: int) -> LanguageModel:
    """The network that is trained from scratch, E = H = `width`: a derived or published cell, without one an LSTM or GRU."""
    if genotype is None:
        cell = GRU(width) if config.method == "gru" else LSTM(width, width)
    elif isinstance(genotype, RecurrentGenotype):
        cell = RecurrentCell(width, width, genotype)
        cell = wider(cell) if config.wide_start else cell
    else:
        cell = derived_layers(genotype, width)
    return LanguageModel(words, cell, _dropout(config))


def _dropout(config: LanguageRun) -> Dropout:
    return Dropout(config.dropout_word, config.dropout_embedding, config.dropout_inputs, config.dropout_hidden,
                   config.dropout_outputs)


def task_of(config: LanguageRun, text: Any, batch_size: int, device: str | torch.device = "cpu") -> MixedPrecisionTask:
    """The task of a run on `text`, in batches of `batch_size` columns."""
    return MixedPrecisionTask(text, batch_size, config.length, config.act_reg, config.temporal_act_reg,
                              eval_batch_size=config.eval_batch_size, precision=config.precision, device=device)


def perplexity(negative_log_likelihood: float) -> float:
    """exp(nats a token); infinite where that overflows."""
    return math.exp(negative_log_likelihood) if negative_log_likelihood < 700 else math.inf
