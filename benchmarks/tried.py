"""What was tried and not kept: each beside what is kept, for the same inputs, as functions without arguments."""

import shutil
from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor, nn

from benchmarks.sizes import Size, convolutional, recurrent
from benchmarks.steps import search_step, subject
from growdarts_fast import products
from growdarts_fast import recurrent as mixed_scan
from growdarts.spaces.darts_recurrent.node import RecurrentNode
from growdarts.forms import plain_forms
from growdarts_fast.team import in_team, lanes, part
from growdarts.tasks.language import vocabulary_loss

TRIALS = 12  # of `trials`


class Trial(NamedTuple):
    """`what` at some `size`, and why it is not kept; both variants give the same to rounding.

    missing : why it cannot be tried here, or nothing.
    """

    what: str
    size: str
    why: str
    kept: Callable[[], Any]
    tried: Callable[[], Any]
    missing: str = ""


def trials(toy: bool) -> list[Trial]:
    """All of them; `toy`: at a size at which they take milliseconds."""
    torch.manual_seed(0)
    return [*_losses(toy), _other_library(toy), *_products(toy), _one_thread(toy), _compiled(toy), _plain_convolutions(toy)]


def _losses(toy: bool) -> list[Trial]:
    """Loss and gradients of 35 x B states of which a share of the units is dropped for all time steps of a column."""
    made = []
    for rate, H, B in ((0.75, 8, 4), (0.2, 8, 4)) if toy else ((0.75, 300, 64), (0.2, 64, 32)):
        T, V = (4, 40) if toy else (35, 10_000)
        s, W, b, y = torch.randn(T, B, H), 0.05 * torch.randn(V, H), torch.zeros(V), torch.randint(V, (T, B))
        mask = (torch.rand(B, H) >= rate).float() / (1 - rate)

        def kept(s=s, W=W, b=b, y=y, mask=mask) -> list[Tensor]:
            return _with_gradients(lambda s, W, b: vocabulary_loss((s * mask).flatten(0, 1), W, b, y.flatten()), s, W, b)

        def columns(s=s, W=W, b=b, y=y, mask=mask) -> list[Tensor]:
            return kept_columns_loss(s, W, b, y, mask)

        def whole(s=s, W=W, b=b, y=y, mask=mask) -> list[Tensor]:
            return _with_gradients(lambda s, W, b: nn.functional.cross_entropy(
                nn.functional.linear((s * mask).flatten(0, 1), W, b), y.flatten()), s, W, b)

        def chunked(s=s, W=W, b=b, y=y, mask=mask) -> list[Tensor]:
            return _with_gradients(lambda s, W, b: nn.functional.linear_cross_entropy(
                (s * mask).flatten(0, 1), W, y.flatten(), linear_bias=b, options=nn.LinearCrossEntropyOptions()), s, W, b)

        where = f"H = {H}, B = {B}, rate {rate:g}"
        made += [Trial("only the columns of the decoder whose unit a column of text keeps", where,
                       "each column of text needs a copy of its own part of the decoder", kept, columns),
                 Trial("torch's linear_cross_entropy in chunks", where, "with products in bfloat16 it rounds the loss too",
                       kept, chunked),
                 Trial("the loss with all its logits", where, "the plain form: it keeps them", kept, whole)]
    return made


def _with_gradients(loss: Callable[..., Tensor], *arguments: Tensor) -> list[Tensor]:
    leaves = [argument.detach().requires_grad_() for argument in arguments]
    value = loss(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves)]


def kept_columns_loss(s: Tensor, W: Tensor, b: Tensor, y: Tensor, mask: Tensor) -> list[Tensor]:
    """Mean cross entropy of y (T, B) under (s * mask) W^T + b and its gradients by s (T, B, H), W (V, H) and b (V,).

    For each column of text only the units that its mask (B, H) keeps enter the products.
    """
    (T, B, _), n, transposed = s.shape, y.numel(), W.t().contiguous()
    ds, dW, db, total = torch.zeros_like(s), torch.zeros_like(transposed), torch.zeros_like(b), 0.0
    logits = s.new_empty(T, len(W))
    for column in range(B):
        units, words = mask[column].nonzero().flatten(), y[:, column, None]
        part, read = transposed[units], s[:, column, units] * mask[column, units]
        e = torch.mm(read, part, out=logits).add_(b)
        largest, target = e.amax(dim=1, keepdim=True), e.gather(1, words)
        shares = e.sub_(largest).exp_().sum(dim=1, keepdim=True)
        total += (largest + shares.log() - target).sum()
        d = e.mul_(1 / (n * shares)).scatter_add_(1, words, e.new_full(words.shape, -1 / n))
        db += d.sum(dim=0)
        ds[:, column, units] = (d @ part.t()) * mask[column, units]
        dW.index_add_(0, units, read.t() @ d)
    return [total / n, ds, dW.t(), db]


def _other_library(toy: bool) -> Trial:
    """Large products by the library that was not chosen for this processor."""
    size = _recurrent(toy, 300, 64)
    step, chosen = search_step(subject(size), 1), products._linear

    def tried() -> None:
        products._linear = None if chosen else torch.ops.mkldnn._linear_pointwise
        try:
            step()
        finally:
            products._linear = chosen

    return Trial("large products by torch.mm" if chosen else "large products by oneDNN", _where(size),
                 "the processor's maker decides: MKL uses the widest vectors of Intel's alone", step, tried,
                 "" if torch.backends.mkldnn.is_available() else "torch was built without oneDNN")


@numba.njit
def _openblas_rows(lane: int, of: int, x: np.ndarray, W: np.ndarray, out: np.ndarray) -> None:
    first, stop = part(len(x), lane, of)
    np.dot(x[first:stop], W, out[first:stop])


@numba.njit
def _openblas(x: np.ndarray, W: np.ndarray, out: np.ndarray, n_lanes: int) -> None:
    in_team(_openblas_rows, (x, W, out), n_lanes)


def _products(toy: bool) -> list[Trial]:
    """The product of a recurrent cell's states, again and again."""
    n, k, m, times = (4, 8, 16, 2) if toy else (512, 300, 600, 100)
    x, W, out = torch.randn(n, k), torch.randn(k, m), torch.empty(n, m)

    def kept() -> Tensor:
        for _ in range(times):
            products.matmul(x, W, out=out)
        return out

    blas = ThreadpoolController()  # whose own threads, after a call, would take half of the processor from what is kept

    def by_openblas() -> Tensor:
        with blas.limit(limits=1, user_api="blas"):
            for _ in range(times):
                _openblas(x.numpy(), W.numpy(), out.numpy(), lanes(n))
        return out

    def in_halves() -> Tensor:
        for _ in range(times):
            products.matmul(x, W, out=out, halves=True)
        return out

    where = f"{times} times ({n}, {k}) x ({k}, {m})"
    return [Trial("products by scipy's OpenBLAS, on torch's threads", where, "one more library of products, for the same", kept,
                  by_openblas),
            Trial("products in two halves of their inner dimension", where,
                  "kept where states are made, whose digits count in all later steps; not for the gradients",
                  kept, in_halves, "" if products._linear else "torch.mm adds up long sums in parts of its own")]


def _one_thread(toy: bool) -> Trial:
    """The recurrent cell's kernels on the thread that calls them."""
    size = _recurrent(toy, 300, 64)
    step = search_step(subject(size), 1)

    def tried() -> None:
        usual, mixed_scan.lanes = mixed_scan.lanes, lambda rows: 1
        try:
            step()
        finally:
            mixed_scan.lanes = usual

    return Trial("the recurrent cell's kernels on one thread", _where(size), "torch's other threads only wait meanwhile",
                 step, tried)


def _compiled(toy: bool) -> Trial:
    """torch.compile of what a node mixes, in the plain form; its start-up is in the warm-up round and not counted."""
    size = _recurrent(toy, 128, 32)
    step = search_step(subject(size), 1)
    mix, compiled = RecurrentNode._mix, staticmethod(torch.compile(RecurrentNode._mix, dynamic=False))

    def tried() -> None:
        RecurrentNode._mix = compiled
        try:
            with plain_forms():
                step()
        finally:
            RecurrentNode._mix = staticmethod(mix)

    return Trial("torch.compile of a recurrent node's mixture, in a loop over time", _where(size),
                 "it has to compile anew whenever a node is grown or pruned, and needs a C++ compiler", step, tried,
                 "" if shutil.which("g++") else "torch.compile needs g++")


def _plain_convolutions(toy: bool) -> Trial:
    size = Size("convolutional", 4, 4, 2, 8, cells=3, pixels=8) if toy else convolutional(8, 5, 32)
    step = search_step(subject(size), 1)
    return Trial("convolutional cells operation by operation, channels side by side, no gradient that nobody asks for",
                 _where(size), "memory: autograd keeps what every operation computes", step, _plain(step))


def _recurrent(toy: bool, width: int, batch: int) -> Size:
    return Size("recurrent", 8, 4, 2, 5, length=4, words=40) if toy else recurrent(width, batch)


def _plain(step: Callable[[], Any]) -> Callable[[], None]:
    def run() -> None:
        with plain_forms():
            step()

    return run


def _where(size: Size) -> str:
    return f"{'C' if size.space == 'convolutional' else 'H'} = {size.width}, B = {size.batch}, {size.nodes} nodes"
