"""The auxiliary head of DARTS: a second classifier, in the middle of a network, whose loss counts while that is trained from scratch.

Shapes: B batch, C channels.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from growdarts.spaces.darts.genotypes import ConvolutionalGenotype
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.tasks.images import ImageTask
from growdarts.training import Batch

AUXILIARY_WEIGHT = 0.4  # of the auxiliary head's loss, as in DARTS


class AuxiliaryHead(nn.Module):
    """A small classifier of (B, C, 8, 8) to (B, C, 10, 10); layers and names are the original's for CIFAR."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(), nn.AvgPool2d(5, stride=3, count_include_pad=False),
            nn.Conv2d(channels, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False), nn.BatchNorm2d(768), nn.ReLU())
        self.classifier = nn.Linear(768, classes)

    def forward(self, x: Tensor) -> Tensor:
        """-> logits (B, classes)."""
        return self.classifier(self.features(x).flatten(1))


class AuxiliaryNetwork(FixedImageNetwork):
    """The network of a genotype with a second classifier at two thirds of its depth; images of 32 to 40 pixels."""

    def __init__(self, genotype: ConvolutionalGenotype, channels: int, classes: int, n_cells: int, *,
                 image_size: int = 32, **shape: Any) -> None:
        super().__init__(genotype, channels, classes, n_cells, image_size=image_size, **shape)
        if not 32 <= image_size <= 40:
            raise ValueError(f"image_size = {image_size}: an auxiliary head needs 32 to 40")
        self.auxiliary_head = AuxiliaryHead(self.cells[2 * n_cells // 3].width, classes)

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the network and of its auxiliary head, (B, classes) each."""
        outputs = list(self.cell_outputs(x))
        return self.classified(outputs[-1]), self.auxiliary_head(outputs[2 * self.n_cells // 3])


class AuxiliaryTask(ImageTask):
    """An image task whose loss counts the auxiliary head, if there is one."""

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy (nats); of an `AuxiliaryNetwork` in train mode plus that of its auxiliary head."""
        if not (network.training and isinstance(network, AuxiliaryNetwork)):
            return super().loss(network, batch)
        x, y = batch
        logits, auxiliary = network.with_auxiliary(x)
        return cross_entropy(logits, y) + AUXILIARY_WEIGHT * cross_entropy(auxiliary, y)
