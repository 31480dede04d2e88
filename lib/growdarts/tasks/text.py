"""Word numbers -> windows of a language model's inputs and targets.

Shapes: n tokens, T window length (tokens), B columns of text read side by side, V words of the vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from growdarts.settings import DataError


@dataclass(frozen=True, eq=False)
class Text:
    """A text cut in order.

    train, validation, test: `(n,)` word numbers, int64, places in `vocabulary` (V words); floor: the best possible
    expected perplexity, where it is known (the grammar); hashes: file -> sha256 of the bytes used.
    """

    name: str
    vocabulary: tuple[str, ...]
    train: Tensor
    validation: Tensor
    test: Tensor
    floor: float | None
    hashes: dict[str, str]


SPREAD, SHORTEST, LONGEST = 5, 5, 20  # of random lengths: deviation, least length, most tokens above the base


def batchify(ids: Tensor, batch_size: int) -> Tensor:
    """`(n,)` -> `(n // B, B)`: column b is the b-th consecutive stretch of the text; what is left over is dropped."""
    n = len(ids) // batch_size if batch_size > 0 else 0
    if n < 2:  # a single row has no target
        raise DataError(f"batch_size = {batch_size} is not possible with {len(ids)} tokens: "
                        f"allowed are 1 to {len(ids) // 2}")
    return ids[:n * batch_size].view(batch_size, n).t().contiguous()


def windows(columns: Tensor, length: int, generator: torch.Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets `(T, B)`, window after window: every row but the first is a target once.

    Parameters
    ----------
    columns : `(n, B)` of `batchify`.
    length : T, except that the last window may be shorter.
    generator : with one, lengths are random as in AWD-LSTM and DARTS: `length` in 95 % of windows and half of it
        otherwise, plus normal noise of deviation 5, cut to 5 .. length + 20; so targets meet other windows' ends
        in every epoch.
    """
    if length < 1:
        raise DataError(f"window length {length} is not possible: allowed are whole numbers of tokens from 1")
    start = 0
    while start < len(columns) - 1:
        T = length if generator is None else _random_length(length, generator)
        stop = min(start + T, len(columns) - 1)
        yield columns[start:stop], columns[start + 1:stop + 1]
        start = stop


def _random_length(length: int, generator: torch.Generator) -> int:
    base = length if torch.rand((), generator=generator) < 0.95 else length / 2
    return min(max(SHORTEST, int(base + SPREAD * torch.randn((), generator=generator))), length + LONGEST)
