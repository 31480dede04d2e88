"""An image classification run from configuration to record: search -> derive -> train from scratch -> test accuracy."""

import time
from pathlib import Path
from typing import Any

import torch

from growdarts_study.config import ImageRun
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype
from growdarts_study.experiments import phases
from growdarts_study.experiments.auxiliary import AuxiliaryNetwork, AuxiliaryTask
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.settings import DataError
from growdarts.tasks.images import ImageData, ImageTask
from growdarts_study.data.images import load_images
from growdarts_study.published import CIFAR10_DARTS_V2
from growdarts.training import DivergenceError, Fit, fit

CHANNELS_LAST = torch.channels_last  # convolutions on a CPU are faster with it; the numbers mean the same


def run(config: ImageRun, *, device: torch.device, checkpoints: Path | None = None,
        progress: bool = False) -> dict[str, Any]:
    """Search cells unless the method has them, train them from scratch, test once.

    Every network that is trained from scratch has the channels that `config.parameters` weights allow it, so that
    published and found cells compete at equal size. A search looks at cross entropy on its validation part; a
    training and the test count wrong answers.
    """
    search_data, data = _data(config, "search"), _data(config, "train")  # both first: an error in the second would come after hours of search
    with torch.random.fork_rng(devices=phases.random_devices(device)):
        searched = phases.search(
            config, lambda nodes: search_network(config, search_data, nodes).to(memory_format=CHANNELS_LAST),
            ImageTask(search_data, config.batch_size, measure="loss", device=device), checkpoints, progress)
        task = AuxiliaryTask(data, config.train_batch_size, cutout_length=config.cutout_length, device=device)

        def train(genotype: ConvolutionalGenotype, phase: str, epochs: int) -> tuple[FixedImageNetwork, int, Fit]:
            channels = phases.largest_width(lambda C: network(config, data, genotype, C, auxiliary=False),
                                            config.parameters, step=2)
            phases.seed(config, "train")
            fixed = network(config, data, genotype, channels, auxiliary=config.auxiliary).to(device, memory_format=CHANNELS_LAST)
            return fixed, channels, fit(
                fixed, list(fixed.parameters()), task, config.model_copy(update={"train_epochs": epochs}),
                phases.checkpoint(config, phase, checkpoints), label=f"{config.method} C={channels} {phase}",
                progress=progress, validate=config.train_portion < 1,
                on_epoch=lambda epoch: schedule_drop_path(fixed, epoch, epochs, config.drop_path))

        draws = []
        if config.method == "random":
            phases.seed(config, "draws")
            for i, cell in enumerate([random_cells(config) for _ in range(config.draws)]):
                try:
                    fitted = train(cell, f"draw {i}", config.trial_epochs)[2]
                    draws.append({"genotype": cell.to_dict(), "validation_error": fitted.validation_error, "seconds": fitted.seconds})
                except DivergenceError:
                    draws.append({"genotype": cell.to_dict(), "validation_error": None, "seconds": 0.0})
            trials = [(ConvolutionalGenotype.from_dict(draw["genotype"]), draw["validation_error"]) for draw in draws]
        else:
            trials = [(searched.result.genotype if searched else CIFAR10_DARTS_V2, None)]
        genotype, (fixed, channels, trained), _ = phases.best_trained(trials, lambda cell, phase: train(cell, phase, config.train_epochs))
        fits = {str(channels): trained}
    started = time.perf_counter()
    mistakes = task.mistakes(fixed, "test")
    return phases.record(config, data.hashes, searched, fits, time.perf_counter() - started, {
        "test_error": mistakes.double().mean().item(), "test_images": len(mistakes),
        "mistakes": mistakes.nonzero().flatten().tolist(), "source": data.source,
        "validation_error": fits[str(channels)].validation_error,
        "images": {part: len(getattr(data, part).y) for part in ("train", "validation", "test")},
        "parameters": sum(p.numel() for name, p in fixed.named_parameters() if not name.startswith("auxiliary")),
        "hidden": channels, "genotype": genotype.to_dict(), **({"draws": draws} if draws else {})}, device)


def random_cells(config: ImageRun) -> ConvolutionalGenotype:
    """A uniform draw: the number of nodes; for every node of both cells two states before it, each with an operation besides `none`."""
    operations = [name for name in config.operations if name != "none"]
    nodes = int(torch.randint(1, config.max_nodes + 1, ()))

    def cell() -> tuple[tuple[str, int], ...]:
        return tuple((operations[int(torch.randint(len(operations), ()))], state) for node in range(nodes)
                     for state in sorted(torch.randperm(node + 2)[:2].tolist()))

    concat = tuple(range(2, nodes + 2))
    return ConvolutionalGenotype(cell(), concat, cell(), concat)


def _data(config: ImageRun, phase: str) -> ImageData:
    """The images of a phase, "search" or "train"."""
    n, portion = getattr(config, f"{phase}_images"), getattr(config, f"{phase}_portion")
    try:
        return load_images(config.dataset, train_portion=portion, n_images=n, start=config.start())
    except DataError as error:
        raise DataError(f"with '{phase}_images' = {n} and '{phase}_portion' = {portion}: {error}") from error


def search_network(config: ImageRun, data: ImageData, n_nodes: int) -> SearchImageNetwork:
    """The searchable network for images like those of `data`."""
    image_channels, image_size = data.train.x.shape[1:3]
    return SearchImageNetwork(config.channels, len(data.classes), config.n_cells, n_nodes, config.operations,
                              image_channels=image_channels, image_size=image_size)


def network(config: ImageRun, data: ImageData, genotype: ConvolutionalGenotype, channels: int, *,
            auxiliary: bool) -> FixedImageNetwork:
    """The network that is trained from scratch."""
    image_channels, image_size = data.train.x.shape[1:3]
    kind = AuxiliaryNetwork if auxiliary else FixedImageNetwork
    return kind(genotype, channels, len(data.classes), config.train_cells, image_channels=image_channels, image_size=image_size)


def schedule_drop_path(network: FixedImageNetwork, epoch: int, epochs: int, highest: float) -> None:
    """Set the probability of `epoch` (from 0) of `epochs`: it grows linearly from 0 towards `highest`, as in DARTS."""
    network.drop_path = highest * epoch / epochs
