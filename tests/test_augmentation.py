"""Crop, flip and cutout against loops over single images and pixels."""

from functools import partial

import pytest
import torch

from growdarts.tasks import augmentation
from growdarts.tasks.augmentation import cutout, normalise, random_crop, random_flip

B, C, H, W = 40, 3, 7, 6
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
augment = partial(augmentation.augment, mean=MEAN, std=STD)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images():
    return torch.rand(B, C, H, W) + 0.1  # no zeros of their own


def test_crop_is_a_window_of_the_padded_image(images):
    cropped = random_crop(images, 2, generator())
    shifts = torch.randint(5, (2, B, 1), generator=generator())
    for b in range(B):
        for y in range(H):
            for x in range(W):
                row, column = y + shifts[0, b, 0].item() - 2, x + shifts[1, b, 0].item() - 2
                inside = 0 <= row < H and 0 <= column < W
                expected = images[b, :, row, column] if inside else torch.zeros(C)
                assert torch.equal(cropped[b, :, y, x], expected)
    assert {tuple(s) for s in shifts[:, :, 0].t().tolist()} > {(2, 2)}


def test_every_shift_occurs_and_none_further():
    image = torch.zeros(2000, 1, 9, 9)
    image[:, :, 4, 4] = 1
    places = random_crop(image, 2, generator()).mean(0)[0]
    assert (places[2:7, 2:7] > 0.02).all()
    assert places.sum() == pytest.approx(1, abs=1e-5)


def test_flip_mirrors_half_of_the_images(images):
    images = images.repeat(10, 1, 1, 1)
    flipped = random_flip(images, generator())
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(images, flipped, strict=True)]
    kept = [torch.equal(b, a) for a, b in zip(images, flipped, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 0.4 < sum(mirrored) / len(mirrored) < 0.6


@pytest.mark.parametrize("length", [2, 3, 4, 20])
def test_cutout_is_a_clipped_square(images, length):
    cut = cutout(images, length, generator())
    source = generator()
    rows, columns = torch.randint(H, (B, 1), generator=source), torch.randint(W, (B, 1), generator=source)
    for b in range(B):
        top, left = rows[b].item() - length // 2, columns[b].item() - length // 2
        expected = images[b].clone()
        expected[:, max(top, 0):top + 2 * (length // 2), max(left, 0):left + 2 * (length // 2)] = 0
        assert torch.equal(cut[b], expected)


def test_augment_is_crop_flip_normalise_cutout(images):
    source = generator()
    by_hand = random_flip(random_crop(images, 2, source), source)
    by_hand = cutout(normalise(by_hand, MEAN, STD), 4, source)
    assert torch.equal(augment(images, generator(), padding=2, cutout_length=4), by_hand)
    plain = augment(images, generator(), padding=0, flip=False)
    torch.testing.assert_close(plain.mean((0, 2, 3)) * torch.tensor(STD) + torch.tensor(MEAN),
                               images.mean((0, 2, 3)))


def test_the_generator_alone_decides(images):
    torch.manual_seed(1)
    state, before = torch.get_rng_state(), images.clone()
    first = augment(images, generator(), cutout_length=4)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(images, before)
    assert torch.equal(first, augment(images, generator(), cutout_length=4))
    assert not torch.equal(first, augment(images, generator(6), cutout_length=4))


def test_memory_format_is_kept_and_changes_nothing(images):
    last = images.contiguous(memory_format=torch.channels_last)
    result = augment(last, generator(), cutout_length=4)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, augment(images, generator(), cutout_length=4))


@pytest.mark.parametrize("change, message", [
    (dict(padding=-1), "padding = -1"), (dict(cutout_length=-2), "cutout_length = -2"),
    (dict(mean=(0.5,), std=(1.0,)), r"\(40, 3, 7, 6\): expected \(B, 1, H, W\)")])
def test_errors(images, change, message):
    with pytest.raises(ValueError, match=message):
        augment(images, generator(), **change)
