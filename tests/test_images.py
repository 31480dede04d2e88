"""Image data sets: decoding pixel by pixel, frozen balanced splits, clear errors."""

import functools

import numpy as np
import pytest
import torch
from PIL import Image

from growdarts_study.data import images
from growdarts_study.data.files import cache_folder
from growdarts.settings import DataError
from growdarts_study.data.images import channel_moments, images_from_arrays, load_images

REAL = cache_folder()[0] / "cifar10"
needs_cifar10 = pytest.mark.skipif(not all((REAL / f"cifar10_batch_{k}.png").is_file() for k in range(51)),
                                   reason=f"CIFAR-10 is not in {REAL}: set GROWDARTS_DATA to a folder that holds it")
CIFAR10_MEAN = (0.49139968, 0.48215827, 0.44653124)  # DARTS', of the training images in 0 .. 1: red, green, blue
CIFAR10_STD = (0.24703233, 0.24348505, 0.26158768)


def arrays(n=20, classes=4, channels=3, size=8, seed=0):
    random = np.random.RandomState(seed)
    return random.randint(256, size=(n, channels, size, size)).astype(np.uint8), np.arange(n) % classes


# Digits -------------------------------------------------------------------------------------------------------


@functools.cache
def digits(**options):
    return load_images("digits", **options)


def test_digits_are_scikit_learns_split_and_balanced():
    from sklearn.datasets import load_digits

    data, original = digits(), load_digits()
    assert data.test.y.bincount().tolist() == [36] * 10
    assert max(data.train.y.bincount()) - min(data.train.y.bincount()) <= 1
    assert [len(part.y) for part in (data.train, data.validation, data.test)] == [718, 719, 360]
    found = sorted((label, *image.flatten().tolist()) for part in (data.train, data.validation, data.test)
                   for image, label in zip(part.x, part.y.tolist(), strict=True))
    expected = sorted((label, *np.round(image.ravel() * 255 / 16).astype(int).tolist())
                      for image, label in zip(original.images, original.target.tolist(), strict=True))
    assert found == expected


def test_the_split_of_the_digits_is_frozen():
    assert digits().hashes == {
        "training and validation": "1b05d0a176ac0bd1158c998c0be36885794d7468966a1c8011dfba2dcd69f865",
        "test": "0c1c19c12002e74328b605f14f528477d05ccde08c29ea744e501de6b163be74"}


def test_portions_and_fewer_images_keep_the_order_and_the_test_part():
    data, few = digits(train_portion=1.0), digits(train_portion=0.8, n_images=100)
    assert len(data.validation.y) == 0
    assert torch.equal(torch.cat([few.train.x, few.validation.x]), data.train.x[:100])
    assert len(few.train.y) == 80 and few.train.y.bincount().tolist() == [8] * 10
    assert torch.equal(few.test.x, data.test.x)


# Own arrays ---------------------------------------------------------------------------------------------------


def test_mean_and_deviation_are_those_of_the_training_part():
    (x, y), test = arrays(), arrays(6, seed=1)
    data = images_from_arrays((x, y), test, "abcd", train_portion=0.6)
    training = x[:12].astype(float) / 255
    np.testing.assert_allclose(data.mean, training.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, training.std((0, 2, 3)), rtol=1e-12)
    assert data.train.x.dtype == torch.uint8 and data.train.y.dtype == torch.int64
    assert torch.equal(data.validation.x, torch.tensor(x[12:])) and data.validation.y.tolist() == y[12:].tolist()


def test_moments_of_a_picture_that_can_be_done_by_head():
    x = torch.tensor([0, 255, 0, 255], dtype=torch.uint8).view(1, 1, 2, 2)
    assert channel_moments(x) == ((0.5,), (0.5,))


@pytest.mark.parametrize("change, message", [
    (dict(train=(arrays()[0].astype(float), arrays()[1])), "type float64 and shape .*allowed is uint8"),
    (dict(train=arrays(size=6)), r"shape \(20, 3, 6, 6\): allowed is .* multiple of 4"),
    (dict(train=(arrays()[0][..., :4], arrays()[1])), r"shape \(20, 3, 8, 4\): allowed"),
    (dict(test=arrays(size=12)), r"test images have shape \(3, 12, 12\), the training images \(3, 8, 8\)"),
    (dict(test=arrays(0)), r"test images of type uint8 and shape \(0, 3, 8, 8\)"),
    (dict(train=(arrays()[0], arrays()[1][:-1])), r"training labels .* shape \(19,\): allowed are 20"),
    (dict(train=(arrays()[0], arrays()[1] / 2)), "training labels of type float64"),
    (dict(train=arrays(classes=5)), "training image 4 has label 4: allowed are 0 to 3"),
    (dict(test=(arrays()[0], arrays()[1] - 1)), "test image 0 has label -1"),
    (dict(train=(arrays()[0] * np.uint8([1, 0, 1])[:, None, None], arrays()[1])), "channel 1 of own never changes"),
    (dict(train_portion=0.0), "train_portion=0.0 is not possible"), (dict(train_portion=1.1), "train_portion=1.1"),
    (dict(train_portion=0.01), "train_portion=0.01 .* at least one image"),
    (dict(n_images=21), "n_images=21 is not possible"), (dict(n_images=1), "n_images=1 is not possible"),
    (dict(n_images=10.0), "n_images=10.0 is not possible"), (dict(n_images=True), "n_images=True is not possible")])
def test_impossible_arrays_and_splits(change, message):
    with pytest.raises(DataError, match=message):
        images_from_arrays(**dict(train=arrays(), test=arrays(), classes="abcd") | change)


def test_unknown_names():
    with pytest.raises(DataError, match="'mnist' are unknown: allowed are digits, cifar10"):
        load_images("mnist")


# CIFAR-10: a made-up copy -------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A folder in the form of the registered copy: two training files and one of test images, 4 images each."""
    x, y = arrays(12, classes=10, size=32)
    for k in range(3):
        rows = x[4 * k:4 * k + 4].transpose(0, 2, 3, 1).reshape(4, 1024, 3)
        Image.fromarray(rows).save(tmp_path / f"cifar10_batch_{k}.png")
    (tmp_path / "cifar10_labels.js").write_text(f"var labels={y.tolist()};\n")
    monkeypatch.setattr(images, "FILES", 3)
    monkeypatch.setattr(images, "PER_FILE", 4)
    monkeypatch.setattr(images, "fetch", lambda file: tmp_path / file.removeprefix("cifar10/"))
    return tmp_path, x, y


def test_png_copy_is_decoded_in_order(copy):
    _, x, y = copy
    data = load_images("cifar10")
    assert torch.equal(torch.cat([data.train.x, data.validation.x, data.test.x]), torch.tensor(x))
    assert torch.cat([data.train.y, data.validation.y, data.test.y]).tolist() == y.tolist()
    assert len(data.train.y) == 4 and "1,000 test images" in data.source
    assert data.hashes == images_from_arrays((x[:8], y[:8]), (x[8:], y[8:]), images.CIFAR10).hashes


def test_only_the_files_that_are_needed_are_read(copy):
    folder, x, _ = copy
    (folder / "cifar10_batch_1.png").unlink()
    data = load_images("cifar10", n_images=3, train_portion=1.0)
    assert torch.equal(data.train.x, torch.tensor(x[:3])) and torch.equal(data.test.x, torch.tensor(x[8:]))


@pytest.mark.parametrize("start, n, seen", [(0, None, slice(0, 4)), (1, 2, slice(1, 3)), (2, 2, slice(2, 4)), (1, 4, slice(1, 4))])
def test_held_out_training_images_are_the_test_part(copy, monkeypatch, start, n, seen):
    (folder, x, y), _ = copy, monkeypatch.setattr(images, "HELD_OUT", 1)
    (folder / "cifar10_batch_2.png").unlink()  # the test images proper are not read
    if n == 4:  # more than there are
        with pytest.raises(DataError, match="n_images=4 is not possible"):
            load_images("cifar10_held_out", n_images=n, start=start)
        return
    data = load_images("cifar10_held_out", n_images=n, train_portion=1.0, start=start)
    assert torch.equal(data.train.x, torch.tensor(x[seen])) and data.train.y.tolist() == y[seen].tolist()
    assert torch.equal(data.test.x, torch.tensor(x[4:8])) and data.test.y.tolist() == y[4:8].tolist()
    assert images.image_hashes.__wrapped__("cifar10_held_out", n, start) == data.hashes


@pytest.mark.parametrize("text, message", [
    ("var labels=[1, 2];", "2 labels, expected 12"), ("var labels=[];", "not of the form"),
    ("var labels=[1, alert(1)];", "not of the form"), ("labels = [1]", "not of the form"),
    ("var labels=[-1, 2];", "not of the form"), ("var labels=[1, 2]; import os", "not of the form"),
    ("var labels=[0,1,2,10,0,0,0,0,0,0,0,0]", "training image 3 has label 10: allowed are 0 to 9")])
def test_labels_are_parsed_as_data(copy, text, message):
    (copy[0] / "cifar10_labels.js").write_text(text)
    with pytest.raises(DataError, match=message):
        load_images("cifar10")


def test_pictures_of_another_form(copy):
    file = copy[0] / "cifar10_batch_1.png"
    for mode, size in (("RGB", (1024, 3)), ("RGB", (784, 4)), ("L", (1024, 4))):
        Image.new(mode, size).save(file)
        with pytest.raises(DataError, match=f"batch_1.png is {mode} of {size[0]} x {size[1]} pixels, expected"):
            load_images("cifar10")
    file.write_bytes(b"GIF89a")
    with pytest.raises(DataError, match="cannot be decoded"):
        load_images("cifar10")
    whole = (copy[0] / "cifar10_batch_0.png").read_bytes()
    file.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(DataError, match="cannot be decoded"):
        load_images("cifar10")


# CIFAR-10: the real files -------------------------------------------------------------------------------------


@needs_cifar10
def test_real_cifar10():
    data = load_images("cifar10", train_portion=1.0)
    assert data.train.x.shape == (50_000, 3, 32, 32) and data.test.x.shape == (1_000, 3, 32, 32)
    assert data.train.y.bincount().tolist() == [5_000] * 10
    np.testing.assert_allclose(data.mean, CIFAR10_MEAN, rtol=0, atol=1e-6)  # DARTS' were summed in float32
    np.testing.assert_allclose(data.std, CIFAR10_STD, rtol=0, atol=1e-6)
    # the first bytes of the official files: red, green, blue planes, row by row
    assert data.train.x[0, 0, 0, :8].tolist() == [59, 43, 50, 68, 98, 119, 139, 145]
    assert data.train.x[0, 2, -1, -3:].tolist() == [140, 84, 72]
    assert data.train.y[:4].tolist() == [6, 9, 9, 4] and data.test.y[:4].tolist() == [3, 8, 8, 0]


@needs_cifar10
def test_a_row_of_a_real_file_pixel_by_pixel():
    data, row = load_images("cifar10", n_images=500, train_portion=1.0), 321
    assert len(data.train.y) == 500
    with Image.open(REAL / "cifar10_batch_0.png") as picture:
        for position in range(1024):
            assert data.train.x[row, :, position // 32, position % 32].tolist() == list(
                picture.getpixel((position, row)))
