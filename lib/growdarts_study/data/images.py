"""Name of an image data set -> verified uint8 images and labels, split into training, validation and test.

Shapes: n images, C channels, H = W pixels. A pixel stays a whole number of 0 .. 255 until a batch is made of it.
"""

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from numbers import Integral
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from growdarts_study.data.files import fetch
from growdarts.settings import DataError
from growdarts.tasks.images import ImageData, Images

Arrays = tuple[np.ndarray, np.ndarray]  # images (n, C, H, W) uint8, labels (n,)
IMAGE_SETS = ("digits", "cifar10", "cifar10_held_out")  # names that `load_images` knows


# ---- digits ------------------------------------------------------------------------------------

DIGITS_SEED, DIGITS_TEST = 2021, 36  # of the split; test images a class, a fifth
DIGITS = 1797


def read_digits() -> tuple[Arrays, Arrays]:
    """The handwritten digits that scikit-learn carries: (1437, 1, 8, 8) to train on and (360, 1, 8, 8) to test.

    36 random images a class are the test part. The others take turns, class by class, so that every stretch of
    them is balanced. The order is frozen.
    """
    from sklearn.datasets import load_digits  # slow to import, and for this only

    digits = load_digits()
    images, labels = digits.images, digits.target.astype(np.int64)
    if images.shape != (DIGITS, 8, 8) or images.min() < 0 or images.max() > 16:
        raise DataError(f"scikit-learn's digits have shape {images.shape} and values {images.min():g} to "
                        f"{images.max():g}, expected ({DIGITS}, 8, 8) and 0 to 16; reinstall scikit-learn")
    x = np.round(images * (255 / 16)).astype(np.uint8)[:, None]
    random = np.random.RandomState(DIGITS_SEED)  # its stream is frozen by numpy's policy
    by_class = [random.permutation(np.flatnonzero(labels == k)) for k in range(10)]
    test = np.stack([index[:DIGITS_TEST] for index in by_class], axis=1).ravel()
    turns = [(turn, k, i) for k, index in enumerate(by_class) for turn, i in enumerate(index[DIGITS_TEST:])]
    rest = np.array([i for _, _, i in sorted(turns)])
    return (x[rest], labels[rest]), (x[test], labels[test])


# ---- CIFAR-10 ----------------------------------------------------------------------------------

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES, PER_FILE = 51, 1_000  # the last of the files begins the test images
HELD_OUT = 10  # the last training files, the test part of `cifar10_held_out`, which neither trains nor validates on them


def decode_png(path: Path) -> np.ndarray:
    """(1000, 3, 32, 32) uint8 images of a PNG that holds one image a row, its 1,024 pixels in reading order."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode != "RGB" or picture.size != (1024, PER_FILE):
                raise DataError(f"{path} is {picture.mode} of {picture.size[0]} x {picture.size[1]} pixels, expected "
                                f"RGB of 1024 x {PER_FILE}: one image of 32 x 32 a row")
            pixels = np.asarray(picture)
    except (OSError, SyntaxError) as error:  # Pillow's complaints about a damaged PNG
        raise DataError(f"{path} cannot be decoded ({error})") from error
    return np.ascontiguousarray(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


def parse_labels(text: str, count: int) -> np.ndarray:
    """The `count` labels of `var labels=[...];`. The file is data, it is not run."""
    found = re.fullmatch(r"\s*var\s+labels\s*=\s*\[\s*([0-9]{1,9}(?:\s*,\s*[0-9]{1,9})*)\s*\]\s*;?\s*", text)
    if not found:
        raise DataError(f"labels that begin {text[:40]!r} are not of the form 'var labels=[6, 9, ...];'")
    labels = np.array([int(label) for label in found[1].split(",")])
    if len(labels) != count:
        raise DataError(f"the file has {len(labels)} labels, expected {count}")
    return labels


def read_cifar10(start: int, n: int) -> Arrays:
    """Images `start` to `start + n - 1` of the registered copy, which has the training images in the official order and then the first 1,000 test images.

    Only the files that hold them are read.
    """
    labels = parse_labels(fetch("cifar10/cifar10_labels.js").read_text(), FILES * PER_FILE)
    files = range(start // PER_FILE, -(-(start + n) // PER_FILE))
    images = np.concatenate([decode_png(fetch(f"cifar10/cifar10_batch_{k}.png")) for k in files])
    return images[start - files[0] * PER_FILE:][:n], labels[start:start + n]


# ---- split -------------------------------------------------------------------------------------


def load_images(name: str, *, train_portion: float = 0.5, n_images: int | None = None, start: int = 0) -> ImageData:
    """A data set by name.

    Parameters
    ----------
    name : "digits" (offline, one channel, 8 x 8), "cifar10" (32 x 32; the registered copy has 1,000 test images), or
        "cifar10_held_out" (tested on the last 10,000 training images, on which it neither trains nor validates)
    train_portion, n_images : see `images_from_arrays`. In a search the first half trains the weights, the second
        alpha, as in DARTS; 1.0 leaves no validation part, as in DARTS' training of the final network
    start : of "cifar10_held_out" the number of the first training image that is read

    Raises
    ------
    DataError
        Unknown name, impossible split, or files that are damaged or out of reach.
    """
    if name not in IMAGE_SETS:
        raise DataError(f"images {name!r} are unknown: allowed are {', '.join(IMAGE_SETS)}")
    if name == "digits":
        return images_from_arrays(*read_digits(), tuple("0123456789"), train_portion=train_portion, n_images=n_images,
                                  name=name, source="scikit-learn", padding=1)
    held_out, end = name == "cifar10_held_out", (FILES - 1) * PER_FILE
    end, n_test = (end - HELD_OUT * PER_FILE, HELD_OUT * PER_FILE) if held_out else (end, PER_FILE)
    n = min(end - start, max(1, end if n_images is None else n_images))
    return images_from_arrays(read_cifar10(start, n), read_cifar10(end, n_test), CIFAR10,
                              train_portion=train_portion, n_images=n_images, name=name, padding=4, flip=True,
                              source=f"PNG copy, the {'last 10,000 training' if held_out else 'first 1,000 test'} images")


@cache
def image_hashes(name: str, n_images: int | None, start: int = 0) -> dict[str, str]:
    """The sha256 of the images that `load_images` gives, which it has to decode: once in a process."""
    return load_images(name, n_images=n_images, start=start).hashes


def images_from_arrays(train: Arrays, test: Arrays, classes: Sequence[str], *, train_portion: float = 0.5,
                       n_images: int | None = None, name: str = "own", source: str = "arrays", padding: int = 0,
                       flip: bool = False) -> ImageData:
    """Your own images: (n, C, H, W) uint8, H = W a multiple of 4, and labels 0 .. len(classes) - 1.

    Parameters
    ----------
    train_portion : share of the training images, from the first on, that trains; the others validate
    n_images : only the first so many training images are used; None for all

    Raises
    ------
    DataError
        Arrays of another type or shape, labels out of range, an impossible split, a channel that never changes.
    """
    train, test = ((np.asarray(x), np.asarray(y)) for x, y in (train, test))
    for part, (x, y) in (("training", train), ("test", test)):
        _check(part, x, y, len(classes), train[0].shape[1:])
    n = len(train[0]) if n_images is None else n_images
    if not (isinstance(n, Integral) and 2 <= n <= len(train[0])):
        raise DataError(f"n_images={n_images} is not possible for {name}: allowed are None and 2 to the "
                        "number of its training images")
    if not (0 < train_portion <= 1 and (cut := round(train_portion * n)) >= 1):
        raise DataError(f"train_portion={train_portion} is not possible for {n} images: allowed is above 0, at most "
                        "1, and at least one image")
    pool, held_out = (Images(torch.tensor(x[:end]), torch.tensor(y[:end], dtype=torch.int64))
                      for (x, y), end in ((train, n), (test, None)))
    training = Images(pool.x[:cut], pool.y[:cut])
    mean, std = channel_moments(training.x)
    if min(std) == 0:
        raise DataError(f"channel {std.index(0)} of {name} never changes in the training part: leave it out")
    return ImageData(name, tuple(classes), training, Images(pool.x[cut:], pool.y[cut:]), held_out, mean, std, source,
                     {"training and validation": _hash(pool), "test": _hash(held_out)}, padding, flip)


def channel_moments(x: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of every channel of (n, C, H, W) uint8 images, in 0 .. 1; from the counts of its values."""
    value = torch.arange(256, dtype=torch.float64) / 255
    shares = [torch.bincount(x[:, c].flatten(), minlength=256).double() / x[:, c].numel() for c in range(x.shape[1])]
    means = [(share * value).sum().item() for share in shares]
    return tuple(means), tuple((share * (value - mean) ** 2).sum().sqrt().item()
                               for share, mean in zip(shares, means, strict=True))


def _check(part: str, x: np.ndarray, y: np.ndarray, n_classes: int, shape: tuple[int, ...]) -> None:
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[2] != x.shape[3] or x.shape[2] % 4 or 0 in x.shape:
        raise DataError(f"{part} images of type {x.dtype} and shape {x.shape}: allowed is uint8 (n, C, H, W) with "
                        "H = W a multiple of 4")
    if x.shape[1:] != shape:
        raise DataError(f"{part} images have shape {x.shape[1:]}, the training images {shape}: they must agree")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        raise DataError(f"{part} labels of type {y.dtype} and shape {y.shape}: allowed are {len(x)} whole numbers, "
                        "one an image")
    if (wrong := np.flatnonzero((y < 0) | (y >= n_classes))).size:
        raise DataError(f"{part} image {wrong[0]} has label {y[wrong[0]]}: allowed are 0 to {n_classes - 1}")


def _hash(images: Images) -> str:
    """SHA-256 of the pixels in the order (n, C, H, W), followed by the labels as 64-bit integers."""
    digest = hashlib.sha256(images.x.numpy().tobytes())
    digest.update(images.y.numpy().astype("<i8").tobytes())
    return digest.hexdigest()
