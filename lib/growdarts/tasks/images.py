"""The image classification task: batches, loss and evaluation, for the search and for training from scratch.

Shapes: B batch, C channels, H = W pixels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from growdarts.tasks.augmentation import augment, normalise
from growdarts.devices import find_device, to_device
from growdarts.settings import DataError
from growdarts.training import Batch

EVALUATION_BATCH = 500  # images at once where no gradient is needed


@dataclass(frozen=True, eq=False)
class Images:
    """One part of a data set: x (n, C, H, W) uint8, y (n,) int64 labels from 0."""

    x: Tensor
    y: Tensor


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images of `classes`, split.

    mean, std: of every channel over the training part, pixels in 0 .. 1; source: where the bytes came from, for
    the record; hashes: part -> sha256 of its images and labels, so that two sources can be compared;
    padding, flip: random changes of a training image that leave its class what it is, see `growdarts.tasks.augmentation.augment`.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    hashes: dict[str, str]
    padding: int
    flip: bool


@dataclass(frozen=True)
class ImageTask:
    """Batches, loss and evaluation of the classification of `data`; a batch is normalised images (B, C, H, W), labels (B,).

    Every pass over the data has a generator of its own, seeded by one draw from torch's global one: a search
    that goes on from a checkpoint, which stores the state of that one, sees the same batches.

    Parameters
    ----------
    batch_size : B; a last batch of a single image is left out, batch normalisation has nothing to compare it with.
    cutout_length : side of the square that is cut out of training images, pixels; 0 for none.
    measure : what `evaluate` returns: "error", the share of wrong answers, or "loss", the mean cross entropy (nats).
    device : where the network is, see `growdarts.devices`. The images move there once, as uint8; batches are drawn there.
    """

    data: ImageData
    batch_size: int
    cutout_length: int = 0
    measure: Literal["error", "loss"] = "error"
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise ValueError(f"batch_size = {self.batch_size}: allowed is at least 2")
        if self.measure not in ("error", "loss"):
            raise ValueError(f"measure = {self.measure!r}: allowed are 'error' and 'loss'")
        object.__setattr__(self, "device", find_device(self.device))
        object.__setattr__(self, "data", to_device(self.data, self.device))

    def tensors(self) -> Iterator[Tensor]:
        """All data, which a checkpoint belongs to."""
        for part in (self.data.train, self.data.validation, self.data.test):
            yield from (part.x, part.y)

    def train_batches(self) -> Iterator[Batch]:
        """The training images in a new random order, changed at random."""
        return self._pass(self.data.train)

    def search_batches(self) -> Iterator[tuple[Batch, Batch]]:
        """Training batches, each with a validation batch for the alpha step, also changed at random as in DARTS.

        The validation images come in a new order whenever all have been used.
        """
        images = self._part("validation")
        if len(images.y) < 2:
            raise DataError(f"{len(images.y)} validation images are not possible for a search: allowed are at least 2")
        return zip(self.train_batches(), chain.from_iterable(map(self._pass, repeat(images))))

    def _pass(self, images: Images) -> Iterator[Batch]:
        draws = self.device if self.device.type == "cuda" else "cpu"
        generator = Generator(draws).manual_seed(int(torch.randint(2**62, ())))
        order = torch.randperm(len(images.y), generator=generator, device=draws).to(self.device)
        for index in order.split(self.batch_size):
            if len(index) > 1:
                x, data = self._pixels(images.x[index]), self.data
                yield augment(x, generator, mean=data.mean, std=data.std, padding=data.padding, flip=data.flip,
                              cutout_length=self.cutout_length), images.y[index]

    def _pixels(self, x: Tensor) -> Tensor:
        """uint8 images as numbers in 0 .. 1."""
        return x.to(torch.get_default_dtype()) / 255

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy (nats)."""
        x, y = batch
        return cross_entropy(network(x), y)

    @torch.no_grad()
    def logits(self, network: nn.Module, part: str) -> Tensor:
        """(n, K) logits, in eval mode and on unchanged images, of `part`: "train", "validation" or "test"."""
        images, training = self._part(part), network.training
        network.eval()
        try:
            return torch.cat([network(normalise(self._pixels(x), self.data.mean, self.data.std))
                              for x in images.x.split(EVALUATION_BATCH)])
        finally:
            network.train(training)

    def _part(self, part: str) -> Images:
        if part not in ("train", "validation", "test"):
            raise DataError(f"part {part!r} is unknown: allowed are train, validation and test")
        images = getattr(self.data, part)
        if not len(images.y):
            raise DataError(f"{self.data.name} has no {part} images: its train_portion leaves none")
        return images

    def mistakes(self, network: nn.Module, part: str) -> Tensor:
        """(n,) bool: which images of `part` get another class than theirs."""
        return self.logits(network, part).argmax(1) != self._part(part).y

    def evaluate(self, network: nn.Module, part: str) -> float:
        """Share of wrong answers or mean cross entropy on `part`, as `measure` says."""
        if self.measure == "error":
            return self.mistakes(network, part).double().mean().item()
        return cross_entropy(self.logits(network, part), self._part(part).y).item()

    def flops(self, network: nn.Module) -> int:
        """Floating-point operations of one forward pass over the training images."""
        return len(self.data.train.y) * network.flops()
