"""The classification task: what a batch holds, what is measured, and that searches learn, repeat and resume."""

import copy
import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from growdarts import training
from growdarts_study import published
from growdarts.tasks.augmentation import augment, normalise
from growdarts.checkpoints import Checkpoint
from growdarts_study.config import TimeSeriesRun
from growdarts.spaces.darts.genotypes import ConvolutionalGenotype
from growdarts.settings import DataError
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.images import EVALUATION_BATCH, ImageTask
from growdarts_study.experiments.auxiliary import AuxiliaryNetwork, AuxiliaryTask
from growdarts_study.experiments.images import schedule_drop_path
from growdarts_study.data.images import images_from_arrays, load_images
from growdarts_study.records import without_timing
from growdarts.search import Search
from stepping import stored

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3")


@functools.cache
def digits(n_images=400, train_portion=0.5):
    return load_images("digits", n_images=n_images, train_portion=train_portion)


def unchanged(data):
    """The same images, which no training changes at random."""
    return replace(data, padding=0, flip=False)


def small(n_nodes=1, channels=4):
    return SearchImageNetwork(channels, 10, 3, n_nodes, OPERATIONS, image_channels=1, image_size=8)


@pytest.fixture
def task():
    return ImageTask(digits(), batch_size=32)


def colours(n=24, size=8):
    random = np.random.RandomState(1)
    x, y = random.randint(256, size=(n, 3, size, size)).astype(np.uint8), np.arange(n) % 4
    return images_from_arrays((x, y), (x[:5], y[:5]), "abcd", padding=2, flip=True)


class Constant(nn.Module):
    """Answers the same class whatever it sees, and notes how many images it saw at once."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.sizes = answer, []

    def forward(self, x):
        self.sizes.append(len(x))
        return 2.0 * nn.functional.one_hot(torch.full((len(x),), self.answer), 10)


# Batches ------------------------------------------------------------------------------------------------------


def test_a_pass_has_every_training_image_once_unchanged_if_asked():
    task = ImageTask(unchanged(digits()), batch_size=32)
    x, y = (torch.cat(parts) for parts in zip(*task.train_batches(), strict=True))
    expected = normalise(digits().train.x / 255, digits().mean, digits().std)

    def rows(x, y):
        return sorted((label, *image.flatten().tolist()) for image, label in zip(x, y.tolist(), strict=True))

    assert rows(x, y) == rows(expected, digits().train.y)
    assert y.tolist() != digits().train.y.tolist()
    assert abs(x.mean()) < 1e-5 and abs(x.std() - 1) < 1e-3


def test_a_batch_is_what_augment_makes_of_it():
    task = ImageTask(colours(), batch_size=5, cutout_length=2)
    state = torch.get_rng_state()
    batches = list(task.train_batches())
    torch.set_rng_state(state)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    order = torch.randperm(12, generator=generator)
    assert [len(y) for _, y in batches] == [5, 5, 2]
    for (x, y), index in zip(batches, order.split(5), strict=True):
        expected = augment(task.data.train.x[index] / 255, generator, padding=2, flip=True, cutout_length=2,
                           mean=task.data.mean, std=task.data.std)
        assert torch.equal(x, expected) and torch.equal(y, task.data.train.y[index])


def test_the_global_seed_decides_and_a_pass_costs_it_one_draw(task):
    torch.manual_seed(5)
    first = [x for x, _ in task.train_batches()]
    second = [x for x, _ in task.train_batches()]
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip(first, (x for x, _ in task.train_batches()), strict=True))
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(5)
    torch.randint(2**62, ())
    assert torch.equal(second[0], next(task.train_batches())[0])


def test_search_batches_pair_the_parts_and_reorder_the_validation_images():
    task = ImageTask(unchanged(digits(100, 0.9)), batch_size=5)
    pairs = list(task.search_batches())
    assert len(pairs) == 18
    validation = normalise(task.data.validation.x / 255, task.data.mean, task.data.std)
    known = {tuple(image.flatten().tolist()) for image in validation}
    seen = [tuple(image.flatten().tolist()) for _, (x, _) in pairs for image in x]
    assert set(seen) == known and len(seen) == 90
    assert all(set(seen[i:i + 10]) == known for i in range(0, 90, 10))
    assert len({tuple(seen[i:i + 10]) for i in range(0, 90, 10)}) == 9


def test_a_last_batch_of_one_image_is_left_out():
    sizes = [len(y) for _, y in ImageTask(colours(26), batch_size=4).train_batches()]  # 13 of them train
    assert sizes == [4, 4, 4]


# Measures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_errors_and_losses_of_a_constant_answer(task, part):
    labels = getattr(digits(), part).y
    right = (labels == 3).double().mean().item()
    network = Constant(3).eval()
    assert task.evaluate(network, part) == pytest.approx(1 - right)
    assert torch.equal(task.mistakes(network, part), labels != 3) and not network.training
    by_hand = math.log(math.exp(2) + 9) - 2 * right
    assert ImageTask(digits(), 32, measure="loss").evaluate(network, part) == pytest.approx(by_hand, rel=1e-5)


def test_evaluation_is_batched_and_leaves_no_trace():
    data = digits(1437, 1.0)
    task, network, constant = ImageTask(data, batch_size=32), small().train(), Constant(0)
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    logits = task.logits(network, "train")
    assert network.training and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    task.evaluate(constant, "train")
    assert constant.sizes == [EVALUATION_BATCH, EVALUATION_BATCH, 437]
    whole = network.eval()(normalise(data.train.x / 255, data.mean, data.std))
    torch.testing.assert_close(logits, whole, rtol=1e-4, atol=1e-5)


def test_flops_are_those_of_a_pass_over_the_training_images(task):
    network = small()
    assert task.flops(network) == 200 * network.flops()


def test_the_auxiliary_loss_counts_in_training_only():
    network = AuxiliaryNetwork(published.CIFAR10_DARTS_V2, 4, 4, 3)
    task = AuxiliaryTask(colours(size=32), batch_size=6)
    x, y = batch = next(task.train_batches())
    cross_entropy = nn.functional.cross_entropy
    torch.manual_seed(0)
    loss = task.loss(network, batch)
    torch.manual_seed(0)
    logits, auxiliary = network.with_auxiliary(x)
    torch.testing.assert_close(loss, cross_entropy(logits, y) + 0.4 * cross_entropy(auxiliary, y))
    network.eval()
    assert torch.equal(task.loss(network, batch), cross_entropy(network(x), y))


def test_drop_path_grows_linearly():
    network = FixedImageNetwork(published.CIFAR10_DARTS_V2, 2, 4, 3)
    seen = []
    for epoch in range(4):
        schedule_drop_path(network, epoch, 4, 0.2)
        seen.append(network.drop_path)
    assert seen == pytest.approx([0, 0.05, 0.1, 0.15])
    schedule_drop_path(network, 1, 2, highest=0.6)
    assert network.drop_path == pytest.approx(0.3)


# Bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    (dict(batch_size=1), "batch_size = 1"),
    (dict(batch_size=8, measure="accuracy"), "measure = 'accuracy': allowed")])
def test_impossible_tasks(options, message):
    with pytest.raises(ValueError, match=message):
        ImageTask(digits(), **options)


def test_missing_parts():
    task = ImageTask(digits(100, 1.0), batch_size=8)
    with pytest.raises(DataError, match="digits has no validation images"):
        task.evaluate(small(), "validation")
    with pytest.raises(DataError, match="digits has no validation images"):
        task.search_batches()
    with pytest.raises(DataError, match="part 'dev' is unknown"):
        task.evaluate(small(), "dev")
    single = ImageTask(digits(100, 0.99), batch_size=8)
    with pytest.raises(DataError, match="1 validation images are not possible"):
        next(single.search_batches())


def test_images_of_another_size_are_refused_by_the_network(task):
    network = SearchImageNetwork(2, 10, 3, 1, OPERATIONS, image_channels=3, image_size=32)
    with pytest.raises(ValueError, match=r"images of shape \(200, 1, 8, 8\): this network takes \(B, 3, 32, 32\)"):
        task.evaluate(network, "validation")


# Through the search, and from scratch -------------------------------------------------------------------------


def search(settings, task, path=None, epochs=3, **changes):
    torch.manual_seed(settings["seed"])
    config = TimeSeriesRun.of(settings | dict(search_epochs=epochs, max_nodes=2, min_gain=0.0, prune_below=0.24,
                                          keep_all_above=1.0, grad_clip=5.0) | changes)
    network = small(config.initial_nodes)
    return Search(network, task, config, checkpoint=Checkpoint(path, "same")).run(), network


@pytest.mark.parametrize("measure", ["error", "loss"])
def test_a_search_learns_the_digits(settings, measure):
    task = ImageTask(digits(), batch_size=32, measure=measure)
    result, network = search(settings, task, epochs=6, patience=2, prune="none")
    assert isinstance(result.genotype, ConvolutionalGenotype) and result.flops > 0
    assert result.validation_error == task.evaluate(network, "validation")
    mistakes = task.mistakes(network, "test").double().mean().item()
    assert mistakes < 0.9 - 5 * math.sqrt(0.9 * 0.1 / 360)  # of guessing, less five standard deviations


@pytest.mark.parametrize("order, stops", [(1, (1, 3)), (2, (2,))])
def test_a_killed_search_goes_on_bit_for_bit(settings, tmp_path, monkeypatch, order, stops):
    task = ImageTask(digits(80), batch_size=20, cutout_length=2)
    options = dict(epochs=4, order=order, patience=1)
    whole, _ = search(settings, task, tmp_path / "whole.pt", **options)
    assert whole.epochs > max(stops) and "grow_node" in [event["kind"] for event in whole.events]
    save = Checkpoint.save
    for stop in stops:
        path, counter = tmp_path / f"{stop}.pt", itertools.count(1)

        def saves(self, *arguments, counter=counter, stop=stop):
            save(self, *arguments)
            if next(counter) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(Checkpoint, "save", saves)
        with pytest.raises(KeyboardInterrupt):
            search(settings, task, path, **options)
        monkeypatch.setattr(Checkpoint, "save", save)
        torch.manual_seed(999)
        resumed, _ = search(settings, task, path, **options)
        assert resumed.genotype == whole.genotype
        for part in ("history", "events", "stage_errors", "flops", "epochs", "validation_error"):
            assert without_timing(getattr(resumed, part)) == without_timing(getattr(whole, part))
        now, then = (stored(p)["now"]["network"] for p in (path, tmp_path / "whole.pt"))
        assert all(torch.equal(value, then[name]) for name, value in now.items())


def test_training_from_scratch_with_dropped_paths_learns_and_resumes(settings, tmp_path):
    """`training.fit` takes the task as it is; it knows no schedule, here the probability is fixed."""
    config = TimeSeriesRun.of(settings | dict(train_epochs=7, patience=7, learning_rate=0.01, grad_clip=5.0))
    task = ImageTask(digits(), batch_size=20)

    def fit(path, epochs):
        torch.manual_seed(1)
        network = FixedImageNetwork(published.CIFAR10_DARTS_V2, 4, 10, 3, image_channels=1, image_size=8)
        network.drop_path = 0.1
        limited = TimeSeriesRun.of(config.model_dump() | dict(train_epochs=epochs))
        return training.fit(network, list(network.parameters()), task, limited, Checkpoint(path, "same"),
                            label="digits", progress=False)

    whole = fit(None, 7)
    fit(tmp_path / "fit.pt", 2)
    assert fit(tmp_path / "fit.pt", 7).errors == whole.errors
    assert whole.validation_error < 0.9 - 5 * math.sqrt(0.9 * 0.1 / 200)
