"""The files of CIFAR-10, as PNG or in the official binary archive, decoded to images and labels.

Shapes: n images of 3 channels, 32 x 32 pixels, uint8; labels 0 .. 9.
"""

import re
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from growdarts_study.data.files import fetch, sha256
from growdarts.settings import DataError

Arrays = tuple[np.ndarray, np.ndarray]  # images (n, 3, 32, 32) uint8, labels (n,)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILES, PER_FILE = 51, 1_000  # the last of the files begins the test images
ARCHIVE_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
ARCHIVE_IMAGES = 10_000  # of each of its files
PIXELS = 3 * 32 * 32


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


def read_png(n_images: int | None) -> tuple[Arrays, Arrays]:
    """The registered copy: training images in the official order and the first 1,000 test images.

    Reads no more of the training files than the first `n_images` need.
    """
    last = FILES - 1
    needed = last if n_images is None else min(last, max(1, -(-n_images // PER_FILE)))
    labels = parse_labels(fetch("cifar10/cifar10_labels.js").read_text(), FILES * PER_FILE)
    images = [decode_png(fetch(f"cifar10/cifar10_batch_{k}.png")) for k in (*range(needed), last)]
    return ((np.concatenate(images[:-1]), labels[:needed * PER_FILE]), (images[-1], labels[last * PER_FILE:]))


def read_archive(path: Path) -> tuple[Arrays, Arrays]:
    """The official binary archive: 50,000 training and 10,000 test images; nothing is unpickled or unpacked."""
    found = sha256(path)
    if found != ARCHIVE_SHA256:
        raise DataError(f"{path} ({path.stat().st_size} bytes) has sha256 {found}, expected {ARCHIVE_SHA256}; "
                        f"download it again from {ARCHIVE_URL}")
    names = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]
    try:
        with tarfile.open(path, "r:gz") as archive:
            batches = [_archive_batch(archive, f"cifar-10-batches-bin/{name}.bin") for name in names]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}); download it again from {ARCHIVE_URL}") from error
    x, y = (np.concatenate(parts) for parts in zip(*batches[:-1], strict=True))
    return (x, y), batches[-1]


def _archive_batch(archive: tarfile.TarFile, name: str) -> Arrays:
    """One file of the archive: records of a label byte and 3,072 bytes, red, green, blue, row by row."""
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise DataError(f"{archive.name} has no file {name}")
    data, expected = file.read(), ARCHIVE_IMAGES * (1 + PIXELS)
    if len(data) != expected:
        raise DataError(f"{name} in {archive.name} has {len(data)} bytes, expected {expected}: {ARCHIVE_IMAGES} "
                        "images of 32 x 32")
    records = np.frombuffer(data, np.uint8).reshape(ARCHIVE_IMAGES, 1 + PIXELS)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)
