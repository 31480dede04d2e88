"""Counting n-grams: probabilities by hand, sums, and a published perplexity."""

import math

import numpy as np
import pytest

from growdarts_study.data.files import cache_folder
from growdarts_study.data.text import load_text
from growdarts_study.experiments.kneser_ney import KneserNey


def test_bigrams_by_hand():
    """a b a b a c of four words a, b, c, d: too few for discounts of their own, so each is 0.5."""
    a, b, c, d = range(4)
    model = KneserNey([a, b, a, b, a, c], 2, 4)
    # Bigrams ab 2, ba 2, ac 1. Before a stands b; before b and before c stands a: each counts 1 of 3.
    one = (1 - 0.5) / 3 + 0.5 * 1 / 4  # of the three known words; half of all is left over
    assert model.probability((d,)) == pytest.approx(0.5 / 4)
    assert model.probability((b,)) == pytest.approx(one)
    assert model.probability((a, b)) == pytest.approx((2 - 0.5) / 3 + (0.5 + 0.5) / 3 * one)
    assert model.probability((a, d)) == pytest.approx(1 / 3 * 0.5 / 4)
    assert model.probability((d, b)) == model.probability((b,))  # d was never seen
    assert model.error([a, b, d]) == pytest.approx(-(math.log(model.probability((a, b))) + math.log(0.5 / 4 * 0.5 / 2)) / 2)
    assert model.counted() == 6


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one(order):
    ids = np.random.default_rng(0).zipf(1.5, 3000) % 12
    model = KneserNey(ids.tolist(), order, 13)
    for history in ([()] if order == 1 else [(), (1,), (1, 2, 1)[:order - 1], (12,) * (order - 1)]):
        assert sum(model.probability((*history, word)) for word in range(13)) == pytest.approx(1)


def test_discounts_are_those_of_the_counts_of_counts():
    """10, 6, 4 and 3 words that come once, twice, three and four times: Y = 10 / 22."""
    ids, word = [], 0
    for times, words in ((1, 10), (2, 6), (3, 4), (4, 3)):
        for _ in range(words):
            ids, word = ids + [word] * times, word + 1
    model, n, Y = KneserNey(ids, 1, word), len(ids), 10 / 22
    left = (10 * (1 - 2 * Y * 6 / 10) + 6 * (2 - 3 * Y * 4 / 6) + 7 * (3 - 4 * Y * 3 / 4)) / n
    assert model.probability((0,)) == pytest.approx((2 * Y * 6 / 10) / n + left / word)
    assert model.probability((word - 1,)) == pytest.approx((1 + 4 * Y * 3 / 4) / n + left / word)


def test_no_probability_is_negative():
    """1, 1, 5 and 1 words that come once to four times: the second discount would be 2 - 3 / 3 * 5 = -3, so each is 0.5."""
    ids = [word for word, times in enumerate((1, 2, 3, 3, 3, 3, 3, 4)) for _ in range(times)]
    model, left = KneserNey(ids, 1, 9), 8 * 0.5 / len(ids)
    assert model.probability((8,)) == pytest.approx(left / 9)  # never seen
    assert model.probability((1,)) == pytest.approx((2 - 0.5) / len(ids) + left / 9)


@pytest.mark.skipif(not (cache_folder()[0] / "ptb/ptb.train.txt").is_file(), reason="no Penn Treebank here: set GROWDARTS_DATA")
def test_a_published_perplexity():
    """141.2 for five words of Penn Treebank [Mikolov 2012, Table 4.1]."""
    text = load_text("penn_treebank")
    assert math.exp(KneserNey(text.train.tolist(), 5, 10_000).error(text.test.tolist())) == pytest.approx(141.2, abs=0.3)
