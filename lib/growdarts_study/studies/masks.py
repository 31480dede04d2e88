"""How noisy the second-order term of a language model is, with fresh or shared masks, with or without the embedding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from growdarts.bilevel import VirtualStep, alpha_gradient, direct_and_implicit
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts_study.report.figures import COLOURS
from growdarts.tasks.language import Dropout, LanguageModel, LanguageTask, Memory, Window
from growdarts_study.data.text import grammar_text
from growdarts.tasks.text import Text
from growdarts.training import theta_step

HIDDEN, NODES, COLUMNS, LENGTH = 32, 3, 32, 20
LEARNING_RATE = 2.0  # DARTS' recurrent search has 20, at which this small model diverges; the rest is DARTS'
DROPOUT = Dropout(embedding=0.2, inputs=0.75, hidden=0.25, outputs=0.75)
CLIP, WEIGHT_DECAY, TEMPORAL_ACT_REG, RADIUS = 0.25, 5e-7, 1e-3, 1e-2
EXACT_RADIUS = 1e-6  # in double precision as good as double backward, see tests/test_bilevel.py

VARIANTS = {"fresh": ("fresh masks in every pass,\nas in the original code", COLOURS[1], "s"),
            "untied": ("shared masks, embedding\nleft out, as in the original code", COLOURS[2], "^"),
            "shared": ("shared masks,\nembedding moved", COLOURS[0], "o")}


@dataclass(frozen=True)
class WithoutEmbedding(VirtualStep):
    """The virtual step of the original code, which leaves the tied embedding where it is."""

    def after(self, theta: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[Tensor]:
        """theta' of a language model, whose last two weights are embedding and bias."""
        *cell, _, bias = super().after(theta, gradient)
        return [*cell, theta[-2], bias]


def second_order_terms(seed: int = 0, text: Text | None = None, *, steps: int = 50, repeats: int = 16) -> pd.DataFrame:
    """The implicit term [DARTS Eq. 7] on one pair of windows, again and again with masks drawn anew.

    Parameters
    ----------
    text : what is read, default the grammar's. A recurrent search cell is trained on it for `steps` steps first.

    Returns
    -------
    A row a variant and repeat: `variant`; `repeat`, whose masks all variants start with; `norm` of the term; `cosine`
    between it and the exact term at these masks.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        text = grammar_text() if text is None else text
        task = LanguageTask(text, COLUMNS, LENGTH, temporal_act_reg=TEMPORAL_ACT_REG, random_length=False)
        network = LanguageModel(len(text.vocabulary), RecurrentSearchCell(HIDDEN, HIDDEN, NODES), DROPOUT).double()
        train, validation = _train(network, task, steps)
        rows = []
        for repeat in range(repeats):
            pair = [_redrawn(network, window) for window in (train, validation)]
            exact = _term("shared", network, task, *pair, EXACT_RADIUS)
            for variant in VARIANTS:
                term = _term(variant, network, task, *pair, RADIUS)
                rows.append({"variant": variant, "repeat": repeat, "norm": term.norm().item(),
                             "cosine": torch.cosine_similarity(term, exact, dim=0).item()})
        return pd.DataFrame(rows)


def _train(network: LanguageModel, task: LanguageTask, steps: int) -> tuple[Window, Window]:
    """Alternate steps of alpha, first order, and theta; the pair of windows that would come next."""
    alphas = network.alpha_parameters()
    theta = torch.optim.SGD(network.theta_parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    alpha = torch.optim.Adam(alphas, lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
    for done, (train, validation) in enumerate(_endless(task)):
        if done == steps:
            return train, validation
        gradient = alpha_gradient(network, task.loss, train, validation, order=1, step=VirtualStep(0.0), radius=RADIUS)
        for parameter, g in zip(alphas, gradient, strict=True):
            parameter.grad = g
        alpha.step()
        theta_step(network, task, theta, train, CLIP)


def _endless(task: LanguageTask) -> Iterator[tuple[Window, Window]]:
    while True:
        yield from task.search_batches()


def _redrawn(network: LanguageModel, window: Window) -> Window:
    """The same window and state with new masks."""
    return window._replace(memory=Memory(window.memory.before, network.draw_masks(window.x.shape[1])))


def _term(variant: str, network: LanguageModel, task: LanguageTask, train: Window, validation: Window,
          radius: float) -> Tensor:
    """The implicit term, flat. The first pass over a window uses its masks; later ones draw their own if "fresh"."""
    seen = []

    def loss(network: LanguageModel, window: Window) -> Tensor:
        first = not any(window is other for other in seen)
        seen.append(window)
        return task.loss(network, window if first or variant != "fresh" else _redrawn(network, window))

    kind = WithoutEmbedding if variant == "untied" else VirtualStep
    step = kind(LEARNING_RATE, WEIGHT_DECAY, clip=CLIP)
    _, implicit = direct_and_implicit(network, loss, train, validation, step, radius)
    return torch.cat(implicit)


def second_order_noise(terms: pd.DataFrame) -> Figure:
    """Every repeat of `second_order_terms`: size and direction of the term, bars are medians."""
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 2.9), sharey=True)
    rng = np.random.default_rng(0)  # spreads the points, so that none hides another
    for row, (variant, (_, colour, marker)) in enumerate(VARIANTS.items()):
        group = terms[terms.variant == variant]
        for ax, column in zip(axes, ("norm", "cosine"), strict=True):
            ax.plot(group[column], row + rng.uniform(-0.22, 0.22, len(group)), ls="", marker=marker, ms=5, alpha=0.7,
                    color=colour)
            ax.plot([group[column].median()] * 2, [row - 0.36, row + 0.36], color="black", lw=1.8)
    axes[0].set_xscale("log")
    axes[0].set(xlabel="norm of the term", yticks=range(len(VARIANTS)), yticklabels=[v[0] for v in VARIANTS.values()])
    axes[1].axvline(0, color=COLOURS[7], lw=1)
    axes[1].set(xlabel="cosine to the exact term", xlim=(-1.05, 1.05))
    axes[0].invert_yaxis()
    return figure
