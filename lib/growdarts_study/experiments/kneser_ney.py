"""A language model without a network, by counts of word sequences (n-grams): a network should be better."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np


class KneserNey:
    r"""Interpolated modified Kneser-Ney smoothing of n-grams [Chen & Goodman 1999].

    $$ p(w \mid h) = \frac{c(h w) - D_{c(h w)}}{c(h \cdot)} + \gamma(h)\, p(w \mid h') $$

    w is a word, h the history, which is the words before it, and $h'$ is h without its first word. For the longest n-grams c is how often
    they occur, for shorter ones how many different words stand before them. The discounts $D_1$, $D_2$ and $D_3$ (of counts of three and
    more) are estimated from how many n-grams occur once, twice, three and four times. $\gamma(h)$ is the share that they leave over. For a
    history that was never seen $p(w \mid h) = p(w \mid h')$; below the shortest history stands $1 / V$.

    Parameters
    ----------
    ids : `(n,)` word numbers of the training text, 0 to V - 1.
    order : words of the longest n-gram, from 1.
    words : V.
    """

    def __init__(self, ids: Sequence[int], order: int, words: int) -> None:
        self.order, self.words, ids = order, words, list(ids)
        counts = Counter(zip(*(ids[i:] for i in range(order)), strict=False))
        self.levels = []  # from the longest n-grams to single words: discounted shares by n-gram, gamma by history
        for _ in range(order):
            self.levels.append(_discounted(counts))
            counts = Counter(gram[1:] for gram in counts)

    def counted(self) -> int:
        """How many n-grams it has counted, of all lengths."""
        return sum(len(kept) for kept, _ in self.levels)

    def probability(self, gram: tuple[int, ...]) -> float:
        """Of the last word of `gram`, given the words before it; `gram` has at most `order` words."""
        found, weight = 0.0, 1.0
        for kept, rest in self.levels[self.order - len(gram):]:
            if (left := rest.get(gram[:-1])) is not None:
                found += weight * kept.get(gram, 0.0)
                weight *= left
            gram = gram[1:]
        return found + weight / self.words

    def error(self, ids: Sequence[int]) -> float:
        """Mean negative log likelihood of a text, nats a word; all words but its first, each after what comes before it."""
        ids = tuple(ids)
        return -float(np.mean([np.log(self.probability(ids[max(0, i + 1 - self.order):i + 1])) for i in range(1, len(ids))]))


def _discounted(counts: Counter) -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]:
    """By n-gram its discounted share among the n-grams with the same history; by history gamma, what the discounts leave over."""
    times = Counter(min(count, 5) for count in counts.values())
    discounts = [-1.0] * 3
    if all(times[k] for k in (1, 2, 3, 4)):
        Y = times[1] / (times[1] + 2 * times[2])
        discounts = [k - (k + 1) * Y * times[k + 1] / times[k] for k in (1, 2, 3)]
    if min(discounts) < 0:  # too few n-grams to estimate them; a negative one could make a probability negative
        discounts = [0.5] * 3
    totals, taken = defaultdict(int), defaultdict(float)
    for gram, count in counts.items():
        totals[gram[:-1]] += count
        taken[gram[:-1]] += discounts[min(count, 3) - 1]
    kept = {gram: (count - discounts[min(count, 3) - 1]) / totals[gram[:-1]] for gram, count in counts.items()}
    return kept, {history: taken[history] / total for history, total in totals.items()}
