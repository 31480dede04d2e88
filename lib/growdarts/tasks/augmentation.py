"""Random changes of training images, as tensor code with a generator of its own.

Images are (B, C, H, W). Every function leaves its input alone, keeps its memory format and draws from
`generator`, where that lives: on the device of the images, so that nothing is copied.
"""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from growdarts.devices import constant


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Every channel minus its mean, by its deviation."""
    mean_, std_ = (constant(tuple(v), images.dtype, images.device).view(-1, 1, 1) for v in (mean, std))
    return (images - mean_) / std_


def random_crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Every image shifted by up to `padding` pixels in both directions, zeros come in at the border."""
    B, _, H, W = images.shape
    shifts = torch.randint(2 * padding + 1, (2, B, 1), generator=generator, device=generator.device).to(images.device)
    padded = torch.nn.functional.pad(images, [padding] * 4)
    rows = shifts[0] + torch.arange(H, device=images.device)  # (B, H)
    columns = shifts[1] + torch.arange(W, device=images.device)  # (B, W)
    sample = torch.arange(B, device=images.device)[:, None, None]
    cropped = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]]  # (B, H, W, C)
    return torch.empty_like(images).copy_(cropped.permute(0, 3, 1, 2))


def random_flip(images: Tensor, generator: Generator) -> Tensor:
    """Every image mirrored left to right with probability 1/2."""
    flip = torch.rand(len(images), generator=generator, device=generator.device) < 0.5
    return torch.where(flip.to(images.device)[:, None, None, None], images.flip(3), images)


def cutout(images: Tensor, length: int, generator: Generator) -> Tensor:
    """A square of zeros around a random pixel of every image, cut off at the border [DeVries & Taylor 2017].

    `length` is its side; an odd one is rounded down to even, as in DARTS' code.
    """
    B, _, H, W = images.shape

    def covered(size: int) -> Tensor:
        centre = torch.randint(size, (B, 1), generator=generator, device=generator.device).to(images.device)
        pixel = torch.arange(size, device=images.device)
        return (pixel >= centre - length // 2) & (pixel < centre + length // 2)  # (B, size)

    rows, columns = covered(H), covered(W)
    return images.clone().masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0)


def augment(images: Tensor, generator: Generator, *, mean: Sequence[float], std: Sequence[float], padding: int = 4,
            flip: bool = True, cutout_length: int = 0) -> Tensor:
    """Training images in 0 .. 1 as DARTS feeds them: crop, flip, normalise, cutout.

    padding : most pixels of a shift; black comes in.
    cutout_length : side of the square set to the mean colour; 0 for none.
    """
    if padding < 0 or cutout_length < 0:
        raise ValueError(f"padding = {padding}, cutout_length = {cutout_length}: allowed is at least 0")
    if images.ndim != 4 or images.shape[1] != len(mean):
        raise ValueError(f"images of shape {tuple(images.shape)}: expected (B, {len(mean)}, H, W)")
    if padding:
        images = random_crop(images, padding, generator)
    if flip:
        images = random_flip(images, generator)
    images = normalise(images, mean, std)
    return cutout(images, cutout_length, generator) if cutout_length else images
