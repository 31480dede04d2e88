"""A language-modelling run from configuration to record: search -> derive -> train from scratch -> test perplexity."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from growdarts.spaces.two_input.network import derived_layers, two_input_layers
from growdarts_study.experiments.lstm import LSTM
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts_study.config import SEARCHING, LanguageRun
from growdarts.spaces.darts.genotypes import RecurrentGenotype
from growdarts_study.experiments import phases
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.settings import ConfigError
from growdarts.tasks.language import Dropout, LanguageModel
from growdarts_study.precision import MixedPrecisionTask, used_precision
from growdarts_study.published import PTB_DARTS_V2
from growdarts_study.data.text import load_text
from growdarts.tasks.text import Text
from growdarts.training import DivergenceError, Fit, fit


def run(config: LanguageRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """Search a cell unless the method has one, train it from scratch on the whole text, test it once.

    Every network that is trained from scratch has the width that `config.parameters` weights allow it, so that
    LSTM, the published cell and a found one compete at equal size; each at the best of `config.learning_rates` for it.
    Errors are nats a word.
    """
    text = load_text(config.dataset, config.folder)
    words = len(text.vocabulary)
    searched_text = replace(text, train=text.train[:config.search_tokens])
    _columns_fit(config, searched_text, text)
    with torch.random.fork_rng(devices=phases.random_devices(device)):
        searched = phases.search(config, lambda nodes: search_model(config, words, nodes), task_of(
            config, searched_text, config.batch_size, device), checkpoints, progress)
        genotype = searched.result.genotype if searched else PTB_DARTS_V2 if config.method == "darts_v2" else None
        task = task_of(config, text, config.train_batch_size, device)
        width = phases.largest_width(lambda hidden: model(config, words, genotype, hidden), config.parameters)

        def train(phase: str, **changes: float) -> tuple[LanguageModel, Fit]:
            phases.seed(config, "train")  # equal weights at first
            network = model(config, words, genotype, width).to(device)
            settings = config.model_copy(update={"weight_decay": config.train_weight_decay, **changes})
            return network, fit(network, network.theta_parameters(), task, settings,
                                phases.checkpoint(config, phase, checkpoints),
                                label=f"{config.method} H={width} {phase}", progress=progress)

        trials = {}  # validation error by learning rate; None: diverged
        for rate in config.learning_rates or ():
            try:
                trials[rate] = train(f"rate {rate:g}", learning_rate=rate,
                                     train_epochs=config.rate_epochs)[1].validation_error
            except DivergenceError:
                trials[rate] = None
        rate = min(trials, key=lambda rate: math.inf if trials[rate] is None else trials[rate], default=config.learning_rate)
        network, trained = train("train", learning_rate=rate)
    started = time.perf_counter()
    error = task.evaluate(network, "test")
    return phases.record(config, text.hashes, searched, {str(width): trained}, time.perf_counter() - started, {
        "test_error": error, "test_perplexity": perplexity(error),
        "validation_error": task.evaluate(network, "validation"), "floor": text.floor, "words": words,
        "tokens": {part: len(getattr(text, part)) for part in ("train", "validation", "test")},
        "optimizer": config.optimizer, "learning_rate": rate,
        "learning_rates": {f"{rate:g}": error for rate, error in trials.items()},
        "precision": used_precision(config.precision, device),
        "parameters": sum(p.numel() for p in network.theta_parameters()), "hidden": width,
        "genotype": genotype.to_dict() if genotype else None}, device)


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
        cell = RecurrentSearchCell(config.hidden, config.hidden, n_nodes, config.operations)
    return LanguageModel(words, cell, _dropout(config))


def model(config: LanguageRun, words: int, genotype: Genotype | RecurrentGenotype | None, width: int) -> LanguageModel:
    """The network that is trained from scratch, E = H = `width`: a derived or published cell, without one an LSTM."""
    if genotype is None:
        cell = LSTM(width, width)
    elif isinstance(genotype, RecurrentGenotype):
        cell = RecurrentCell(width, width, genotype)
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
    """exp of nats a token; infinite where it overflows."""
    return math.exp(negative_log_likelihood) if negative_log_likelihood < 700 else math.inf
