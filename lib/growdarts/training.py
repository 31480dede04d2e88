"""What a task offers, steps of the weights, and training a network from scratch with early stopping."""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_swa_avg_fn
from tqdm import tqdm

from growdarts.checkpoints import Checkpoint, fingerprint
from growdarts.settings import SearchSettings
from growdarts.criteria import averaging_starts, stage_is_over
from growdarts.bilevel import gradient

Batch = tuple[Tensor, Tensor]  # as the task makes it; entry 1 holds the targets

if hasattr(os, "register_at_fork"):  # a forked child has none of OpenMP's threads, and would wait for them for ever
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))

NON_MONOTONE = 5  # epochs whose validation errors nt_asgd disregards, as in AWD-LSTM


class DivergenceError(RuntimeError):
    """A loss, or an error on validation data, is not finite. The checkpoint of the epoch before, if kept, is untouched."""

    def __init__(self, epoch: int, value: float, checkpoint: Checkpoint) -> None:
        kept = f"the last good checkpoint is {checkpoint.path}" if checkpoint.path else "no checkpoint was kept"
        super().__init__(f"training diverged in epoch {epoch}: loss = {value}; {kept}. "
                         "Lower learning_rate or grad_clip.")


class Task(Protocol):
    """What search and training need to know of data and loss; batches are (inputs, targets, ...).

    A task may also have `tensors()`, all its data: then a checkpoint is refused where the data are others.
    """

    def train_batches(self) -> Iterator[Any]:
        """The training data in a new random order."""

    def search_batches(self) -> Iterator[tuple[Any, Any]]:
        """Training batches, each with a validation batch for the alpha step."""

    def loss(self, network: nn.Module, batch: Any) -> Tensor:
        """Scalar loss of a batch."""

    def evaluate(self, network: nn.Module, part: str) -> float:
        """Error on "validation" or "test", lower is better."""

    def flops(self, network: Any) -> int:
        """Floating-point operations of one forward pass over the training data."""


def theta_optimizer(parameters: list[nn.Parameter], settings: SearchSettings) -> Optimizer:
    """Adam or SGD for the weights, in the search as in training from scratch; one parameter group."""
    if settings.optimizer == "adam":
        fused = parameters[0].is_cpu or None  # one call a weight
        return torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=fused)
    return torch.optim.SGD(parameters, lr=settings.learning_rate, momentum=settings.momentum,
                           weight_decay=settings.weight_decay)


def learning_rate(settings: SearchSettings, epoch: int, epochs: int) -> float:
    r"""Of `epoch`, from 0, of `epochs`: constant, or $\eta\, (1 + \cos(\pi\, epoch / epochs)) / 2$ as in DARTS."""
    if settings.schedule == "constant":
        return settings.learning_rate
    return settings.learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def theta_step(network: nn.Module, task: Task, optimizer: Optimizer, batch: Batch, grad_clip: float) -> Tensor:
    """One weight step; returns the loss () before it, where the network is. alpha gets no gradient."""
    parameters = optimizer.param_groups[0]["params"]
    value, gradients = gradient(network, task.loss, batch, parameters)
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = g
    nn.utils.clip_grad_norm_(parameters, grad_clip)
    optimizer.step()
    return value


class MeanLoss:
    """Mean loss of an epoch, NaN or inf if it diverged. It is summed where the losses are and read once: a GPU would wait
    for every reading."""

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.count = 0

    def add(self, loss: Tensor, n: int) -> None:
        """The mean loss () of n more samples. Of losses that are not finite the first counts."""
        loss = loss.double() * n
        self.total = loss if self.total is None else torch.where(self.total.isfinite(), self.total + loss, self.total)
        self.count += n

    def value(self) -> float:
        return self.total.item() / self.count


def theta_epoch(network: nn.Module, task: Task, optimizer: Optimizer, grad_clip: float,
                averaged: AveragedModel | None = None) -> float:
    """One pass of weight steps over the training data, the weights after each into `averaged`; mean loss, NaN or inf if
    it diverged."""
    losses = MeanLoss()
    for batch in task.train_batches():
        losses.add(theta_step(network, task, optimizer, batch, grad_clip), len(batch[1]))
        if averaged is not None:
            averaged.update_parameters(network)
    return losses.value()


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`: best validation error, those of all epochs, seconds; None and [] without a validation part."""

    validation_error: float | None
    errors: list[float]
    seconds: float


def fit(network: nn.Module, parameters: list[nn.Parameter], task: Task, settings: SearchSettings,
        checkpoint: Checkpoint = Checkpoint(None, ""), *, label: str = "training", progress: bool = False,
        on_epoch: Callable[[int], None] | None = None, validate: bool = True) -> Fit:
    """Train from scratch until `patience` epochs bring no validation gain, however small; leaves the best weights.

    Resumes from `checkpoint` and then ends with the same numbers as an uninterrupted run. A loss that is not finite is
    a `DivergenceError`.

    With the optimiser "nt_asgd" (Merity, Keskar & Socher 2018) SGD goes on as before once the validation error has
    stalled, see `growdarts.criteria.averaging_starts`, but what is validated and left is the mean of the weights
    after every step since. `patience` counts on meanwhile: one below 7 may end the training before the averaging.

    Parameters
    ----------
    label : names the fit in the progress bar.
    on_epoch : called with the number of each epoch, from 0, before it starts.
    validate : False: there is no validation part; all `train_epochs` are run and the last weights are left.
    """
    if settings.optimizer == "nt_asgd" and not validate:
        raise ValueError("optimizer = 'nt_asgd' without a validation part: allowed are 'adam' and 'sgd'")
    own = set(map(id, network.parameters()))
    if strangers := sum(id(parameter) not in own for parameter in parameters):
        raise ValueError(f"{strangers} of {len(parameters)} parameters do not belong to the network: allowed are its own")
    optimizer, data = theta_optimizer(parameters, settings), fingerprint(task) if checkpoint.path else ""
    errors: list[float] = []
    averaged: AveragedModel | None = None
    best, epoch, spent = copy.deepcopy(network.state_dict()), 0, 0.0
    if (state := checkpoint.load("training", data)) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        if state["averaged"] is not None:
            averaged = AveragedModel(network, avg_fn=get_swa_avg_fn())
            averaged.load_state_dict(state["averaged"])
        errors, best, epoch, spent = state["errors"], state["best"], state["epoch"], state["seconds"]
    started = time.perf_counter()
    patience = settings.train_patience or settings.patience
    with tqdm(total=settings.train_epochs, initial=epoch, desc=label, leave=False,
              disable=None if not progress else False) as bar:
        while epoch < settings.train_epochs and not stage_is_over(errors, patience, 0.0):
            optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch, settings.train_epochs)
            if on_epoch is not None:
                on_epoch(epoch)
            if settings.optimizer == "nt_asgd" and averaged is None and averaging_starts(errors, NON_MONOTONE):
                averaged = AveragedModel(network, avg_fn=get_swa_avg_fn())
            loss = theta_epoch(network, task, optimizer, settings.grad_clip, averaged)
            kept = network if averaged is None else averaged.module
            error = task.evaluate(kept, "validation") if validate else 0.0
            if not math.isfinite(loss + error):
                raise DivergenceError(epoch + 1, error if math.isfinite(loss) else loss, checkpoint)
            if not validate or error < min(errors, default=math.inf):
                best = copy.deepcopy(kept.state_dict())
            if validate:
                errors.append(error)
            epoch += 1
            bar.update()
            bar.set_postfix({"validation": f"{error:.4f}"} if validate else {"loss": f"{loss:.4f}"})
            checkpoint.save("training", data, {"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                             "averaged": None if averaged is None else averaged.state_dict(),
                             "errors": errors, "best": best, "epoch": epoch,
                             "seconds": spent + time.perf_counter() - started})
    network.load_state_dict(best)
    return Fit(min(errors, default=None), errors, spent + time.perf_counter() - started)
