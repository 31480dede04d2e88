"""Shared masks make the second-order term of a language model repeatable; the study draws what it says."""

import matplotlib.pyplot as plt
import pytest
import torch

from growdarts.bilevel import VirtualStep
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.tasks.language import LanguageModel
from growdarts_study.studies.masks import VARIANTS, WithoutEmbedding, second_order_noise, second_order_terms


@pytest.fixture(scope="module")
def terms():
    state = torch.get_rng_state()
    table = second_order_terms(0, steps=15, repeats=6)
    assert torch.equal(state, torch.get_rng_state())
    return table


def test_shared_masks_give_the_exact_term_and_fresh_ones_noise(terms):
    by = terms.groupby("variant")
    norm, cosine = by.norm.median(), by.cosine
    assert set(terms.variant) == set(VARIANTS) and (by.size() == 6).all()
    assert norm["fresh"] > 5 * norm["shared"]
    assert cosine.median()["shared"] > 0.99
    assert cosine.min()["fresh"] < 0 and cosine.std()["fresh"] > 3 * cosine.std()["shared"]
    assert cosine.median()["fresh"] < cosine.median()["untied"] < cosine.median()["shared"]


def test_the_original_step_leaves_the_embedding_and_nothing_else():
    network = LanguageModel(7, RecurrentSearchCell(4, 4, 2))
    theta = network.theta_parameters()
    gradient = [torch.ones_like(p) for p in theta]
    moved = [not torch.equal(p, q) for p, q in zip(theta, WithoutEmbedding(0.1).after(theta, gradient), strict=True)]
    assert moved == [p is not network.embedding for p in theta]
    assert all(not torch.equal(p, q) for p, q in zip(theta, VirtualStep(0.1).after(theta, gradient), strict=True))


def test_figure_shows_every_repeat(terms):
    figure = second_order_noise(terms)
    for ax, column in zip(figure.axes, ("norm", "cosine"), strict=True):
        points = [x for line in ax.lines if line.get_marker() in "os^" for x in line.get_xdata()]
        assert sorted(points) == sorted(terms[column])
    plt.close(figure)
