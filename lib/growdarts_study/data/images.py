"""Name of an image data set -> verified uint8 images and labels, split into training, validation and test.

Shapes: n images, C channels, H = W pixels. A pixel stays a whole number of 0 .. 255 until a batch is made of it.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from growdarts_study.data import cifar10
from growdarts.settings import DataError
from growdarts.tasks.images import ImageData, Images

Arrays = tuple[np.ndarray, np.ndarray]  # images (n, C, H, W) uint8, labels (n,)


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


# ---- split -------------------------------------------------------------------------------------


def image_names() -> tuple[str, ...]:
    """Names that `load_images` knows."""
    return ("digits", "cifar10")


def load_images(name: str, *, train_portion: float = 0.5, n_images: int | None = None,
                archive: Path | str | None = None) -> ImageData:
    """A data set by name.

    Parameters
    ----------
    name : "digits" (offline, one channel, 8 x 8) or "cifar10" (32 x 32)
    train_portion, n_images : see `images_from_arrays`. In a search the first half trains the weights, the second
        alpha, as in DARTS; 1.0 leaves no validation part, as in DARTS' training of the final network
    archive : the official binary archive of CIFAR-10, with all 10,000 test images; without it the registered copy
        is read, which has the first 1,000 of them

    Raises
    ------
    DataError
        Unknown name, impossible split, or files that are damaged or out of reach.
    """
    readers: dict[str, Callable[[], tuple[Arrays, Arrays]]] = {
        "digits": read_digits,
        "cifar10": lambda: cifar10.read_archive(Path(archive)) if archive else cifar10.read_png(n_images)}
    if name not in readers:
        raise DataError(f"images {name!r} are unknown: allowed are {', '.join(readers)}")
    if archive and name != "cifar10":
        raise DataError(f"archive={str(archive)!r} is not possible for {name}: it is for cifar10")
    train, test = readers[name]()
    if name == "digits":
        return images_from_arrays(train, test, tuple("0123456789"), train_portion=train_portion, n_images=n_images,
                                  name=name, source="scikit-learn", padding=1)
    source = "official binary archive, 10,000 test images" if archive else "PNG copy, the first 1,000 test images"
    return images_from_arrays(train, test, cifar10.CLASSES, train_portion=train_portion, n_images=n_images,
                              name=name, source=source, padding=4, flip=True)


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
    if not 2 <= n <= len(train[0]):
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
