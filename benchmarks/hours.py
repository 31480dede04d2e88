"""Hours of a GPU that a job of a tier takes, computed and not measured: `python -m benchmarks.hours`. notebooks/grids.yml has them.

Of the longest job: a search that has all its nodes from the start, then the training of a cell as large as the published one.
A step takes as long as its kernels or, if that is longer, as its floating-point operations. Kernels are counted, those of
search steps in the record `launches`; how long they take is assumed. Evaluations of text are included, those of images are few.
"""

from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.launches import counted, few
from benchmarks.sizes import Size, convolutional, recurrent
from benchmarks.steps import CLASSES, subject, weight_step
from growdarts.search import PASSES
from growdarts_study.published import CIFAR10_DARTS_V2, PTB_DARTS_V2
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.tasks.language import LanguageModel
from growdarts_study import grids
from growdarts_study.experiments import images, language, phases
from growdarts_study.report import performance

LAUNCHED, REPLAYED = 8e-6, 3e-6  # seconds of a kernel: launched by itself, and in a graph
RATE = 1e13  # floating-point operations a second, in float32
WORDS, TRAIN, VALIDATION = 10_000, 929_589, 73_760  # of Penn Treebank
IMAGES = 50_000  # of CIFAR-10, to search and train on
Run = Any


def hours(experiment: str, tier: str) -> float:
    """Of a job of `experiment` in a tier whose device is a GPU."""
    (config,) = grids.jobs(experiment, tier)[-1].config.model_copy(update={"methods": ["fixed"]}).runs()
    return {"language": _text, "images": _images}[experiment](config) / 3600


def search_step(size: Size, order: int) -> float:
    """Seconds that the kernels take of a search step of as many nodes, operations and cells: launched ones, and those in graphs."""
    shape = ("space", "nodes", "operations", "cells", "length")
    (found,) = [case for case in performance.load("launches")["launches"] if case["order"] == order
                and all(case["size"][name] == getattr(size, name) for name in shape)]
    return found["captured"] * LAUNCHED + (found["eager"] - found["captured"]) * REPLAYED


def _text(config: Run) -> float:
    size = recurrent(config.hidden, config.batch_size, config.max_nodes)
    made, cell = subject(few(size)), RecurrentCell(4, 4, PTB_DARTS_V2)
    derived = LanguageModel(few(size).words, cell)

    def evaluation(network: LanguageModel) -> float:
        with torch.no_grad():
            kernels = counted(lambda: made.task("float32").loss(network, made.batch(False))).kernels.total()
        return VALIDATION / (config.eval_batch_size * config.length) * kernels * REPLAYED

    search = max(TRAIN / (config.batch_size * config.length) * search_step(size, config.order),
                 TRAIN * PASSES[config.order] * language.search_model(config, WORDS, config.max_nodes).flops() / RATE)
    width = phases.largest_width(lambda width: language.model(config, WORDS, PTB_DARTS_V2, width), config.parameters)
    train = max(TRAIN / (config.train_batch_size * config.length) * _kernels(weight_step(derived, made)) * LAUNCHED,
                TRAIN * 3 * language.model(config, WORDS, PTB_DARTS_V2, width).flops() / RATE)
    return (config.search_epochs * (search + evaluation(made.network))
            + config.train_epochs * (train + evaluation(derived)))


def _images(config: Run) -> float:
    size = convolutional(config.channels, config.n_cells, config.batch_size, config.max_nodes)
    data = SimpleNamespace(train=SimpleNamespace(x=torch.empty(0, 3, 32, 32)), classes=range(CLASSES))
    searched, trained = IMAGES * config.search_portion, IMAGES * config.train_portion
    search = max(searched / config.batch_size * search_step(size, config.order),
                 searched * PASSES[config.order] * images.search_network(config, data, config.max_nodes).flops() / RATE)

    def network(channels: int) -> FixedImageNetwork:
        return images.network(config, data, CIFAR10_DARTS_V2, channels, auxiliary=False)

    width = phases.largest_width(network, config.parameters, step=2)
    derived = FixedImageNetwork(CIFAR10_DARTS_V2, 4, CLASSES, config.train_cells, image_size=few(size).pixels)
    train = max(trained / config.train_batch_size * _kernels(weight_step(derived, subject(few(size)))) * LAUNCHED,
                trained * 3 * network(width).flops() / RATE)
    return config.search_epochs * search + config.train_epochs * train


def _kernels(step: Any) -> int:
    """Of a step after the first, which sets up the optimiser."""
    step()
    return counted(step).kernels.total()


def main() -> None:
    """One line a tier."""
    for experiment, tiers in grids.read().items():
        for tier, chosen in tiers.items():
            if chosen["parameters"].get("device") == "cuda":
                found = f"{hours(experiment, tier):.2f} hours, grids.yml has {chosen.get('gpu_hours')}"
                print(f"{experiment} {tier}: {found}", flush=True)


if __name__ == "__main__":
    main()
