"""Every search space under every pruning, growth of operations, order and refilling: what must happen, and what must not."""

import copy
import functools
import itertools
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from growdarts.spaces.two_input.network import derived_layers, two_input_layers
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts_study.config import TimeSeriesRun
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS, ConvolutionalGenotype, RecurrentGenotype
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.images import ImageTask
from growdarts_study.data.images import load_images
from growdarts.tasks.language import LanguageModel, LanguageTask
from growdarts.mixture import operation_name
from growdarts.spaces.two_input.network import derived_forecaster, two_input_forecaster
from growdarts.search import Search
from growdarts_study.data.series import load_series
from growdarts_study.data.text import load_text
from growdarts.tasks.series import ForecastTask

H = 3
TWO_INPUT = ("add_tanh", "add_identity", "gate", "carry")
IMAGES = ("none", "skip_connect", "sep_conv_3x3", "avg_pool_3x3")


class Forecasts:
    operations, form = TWO_INPUT, Genotype

    def __init__(self):
        series = load_series("synthetic_var", 3)
        few = {part: replace(w, x=w.x[:, :80], y=w.y[:80], dates=w.dates[:80])
               for part, w in (("train", series.train), ("validation", series.validation))}
        self.task, self.features = ForecastTask(replace(series, **few), batch_size=40), len(series.features)

    def network(self):
        return two_input_forecaster(self.features, H, 1, 1, self.operations)

    def output(self, genotype):
        return derived_forecaster(genotype, self.features, H)(self.task.series.validation.x)


class Language:
    def __init__(self):
        text = load_text("grammar")
        self.words = len(text.vocabulary)
        self.task = LanguageTask(replace(text, train=text.train[:110], validation=text.validation[:80]), 10, 10)

    def network(self):
        return LanguageModel(self.words, self.cell())

    def output(self, genotype):
        return LanguageModel(self.words, self.fixed(genotype))(self.task.text.validation[:20].view(5, 4)).logits


class TwoInputLanguage(Language):
    operations, form = TWO_INPUT, Genotype

    def cell(self):
        return two_input_layers(H, 1, 1, self.operations)

    def fixed(self, genotype):
        return derived_layers(genotype, H)


class RecurrentLanguage(Language):
    operations, form = RECURRENT_OPERATIONS, RecurrentGenotype

    def cell(self):
        return RecurrentSearchCell(H, H, 1)

    def fixed(self, genotype):
        return RecurrentCell(H, H, genotype)


class Digits:
    operations, form = IMAGES, ConvolutionalGenotype

    def __init__(self):
        self.task = ImageTask(load_images("digits", n_images=24, train_portion=0.5), batch_size=12, measure="loss")

    def network(self):
        return SearchImageNetwork(2, 10, 3, 1, self.operations, image_channels=1, image_size=8)

    def output(self, genotype):
        return FixedImageNetwork(genotype, 2, 10, 3, image_channels=1, image_size=8)(torch.randn(4, 1, 8, 8))


@functools.cache
def space_of(kind):
    return kind()


def search(space, settings, **changes):
    """A search in which every stage ends after an epoch without a gain of half the error, and so each has two.

    With `resample` the mixtures start without their last candidate, which can then come in.
    """
    torch.manual_seed(1)
    network, n = space.network(), len(space.operations)
    if changes.get("resample"):
        n -= 1
        for mixture in network.mixtures():
            network.keep_operations(mixture, list(range(n)))
    config = TimeSeriesRun.of(settings | dict(
        hidden=H, operations=list(TWO_INPUT), max_nodes=2, search_epochs=4, patience=1, min_gain=0.5,
        prune_below=1 / n - 1e-3, keep_all_above=1.0, alpha_learning_rate=0.3,
        learning_rate=0.01, duplicate_above=0.01) | changes)
    return Search(network, copy.copy(space.task), config)


@pytest.mark.parametrize("growth", ["off", "morphism", "splitting"])
@pytest.mark.parametrize("prune", ["stage", "end", "none"])
@pytest.mark.parametrize("kind", [Forecasts, TwoInputLanguage, RecurrentLanguage, Digits])
def test_every_combination(settings, kind, prune, growth):
    space, changed = space_of(kind), Counter()  # how often something was changed
    for order, refill in itertools.product([1, 2], [False, True]):
        searched = search(space, settings, prune=prune, grow_operations=growth, order=order, resample=refill)
        result = searched.run()
        changed += check(space, searched, result)
        kinds = Counter(event["kind"] for event in result.events)
        assert kinds["stage"] == len(result.stage_errors) == 2 and kinds["grow_node"] == 1
        assert kinds["prune"] == {"stage": 2, "end": 1, "none": 0}[prune]
        assert growth != "off" or not kinds["grow_operation"]
        assert (refill and prune != "none") or not kinds["resample"]
        assert prune == "stage" or (prune == "end" and refill) or not kinds["tune"]
    expected = {"stage": True, "grow_node": True, "prune": prune != "none", "tune": prune != "none",
                "resample": prune != "none", "grow_operation": growth != "off"}
    assert {what: changed[what] > 0 for what in expected} == expected


def check(space, searched, result):
    """What holds whatever the settings; how many events of every kind changed something."""
    network, settings = searched.network, searched.settings
    numbers = [result.validation_error, *result.stage_errors, *(row["train_loss"] for row in result.history),
               *(row["validation_error"] for row in result.history),
               *(event[when] for event in result.events for when in ("validation_before", "validation_after"))]
    assert all(map(math.isfinite, numbers)) and result.flops > 0 and result.epochs == len(result.history)
    for mixtures in [entry["weights"] for entry in (*result.history, *result.events)]:
        for weights in mixtures.values():
            assert weights and sum(weights.values()) == pytest.approx(1, abs=0.01)
            copies = Counter(map(operation_name, weights))
            assert set(copies) <= set(space.operations) and max(copies.values()) <= settings.max_copies
    assert all(mixture.weights().sum().item() == pytest.approx(1) and len(mixture.alpha) == len(mixture.keys)
               for mixture in network.mixtures())
    assert result.validation_error == searched.validation_error()
    for optimizer, trained in ((searched.theta_optimizer, network.theta_parameters()),
                               (searched.alpha_optimizer, network.alpha_parameters())):
        assert list(map(id, optimizer.param_groups[0]["params"])) == list(map(id, trained))
        assert set(map(id, optimizer.state)) <= set(map(id, trained))
    assert {*map(id, network.parameters())} == {*map(id, network.theta_parameters() + network.alpha_parameters())}
    assert isinstance(result.genotype, space.form) and result.genotype == network.genotype()
    assert space.output(result.genotype).isfinite().all()
    kept = [e for e in result.events if e["kind"] in ("grow_node", "grow_operation")]
    assert all(e["validation_after"] == pytest.approx(e["validation_before"], rel=1e-2) for e in kept)
    return Counter(event["kind"] for event in result.events if event["what"])
