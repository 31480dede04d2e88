"""The forecasting task, and training a network from scratch with early stopping."""

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from growdarts.checkpoints import Checkpoint
from growdarts.settings import SearchSettings
from growdarts.criteria import stage_is_over
from growdarts.series import Series

Batch = tuple[Tensor, Tensor]  # windows (T, B, F), targets (B, F)


class DivergenceError(RuntimeError):
    """A loss is not finite. The checkpoint of the epoch before, if kept, is untouched."""

    def __init__(self, epoch: int, value: float, checkpoint: Checkpoint) -> None:
        kept = f"the last good checkpoint is {checkpoint.path}" if checkpoint.path else "no checkpoint was kept"
        super().__init__(f"training diverged in epoch {epoch}: loss = {value}; {kept}. "
                         "Lower learning_rate or grad_clip.")


class Task(Protocol):
    """What search and training need to know of data and loss; batches are (inputs, targets, ...)."""

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


@dataclass(frozen=True)
class ForecastTask:
    """Batches, loss and evaluation of one-step-ahead forecasting of `series`."""

    series: Series
    batch_size: int

    def train_batches(self) -> Iterator[Batch]:
        """The training windows in a new random order."""
        return self._batches(self.series.train)

    def search_batches(self) -> Iterator[tuple[Batch, Batch]]:
        """Training batches, each with a validation batch for the alpha step."""
        return zip(self.train_batches(), cycle(self._batches(self.series.validation)))

    def _batches(self, windows) -> Iterator[Batch]:
        for index in torch.randperm(len(windows.y)).split(self.batch_size):
            yield windows.x[:, index], windows.y[index]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error in standardised units."""
        x, y = batch
        return nn.functional.mse_loss(network(x), y)

    @torch.no_grad()
    def squared_errors(self, network: nn.Module, part: str) -> Tensor:
        """(n, F) squared errors on `part`: "train", "validation" or "test"."""
        windows = getattr(self.series, part)
        network.eval()
        error = (network(windows.x) - windows.y) ** 2
        network.train()
        return error

    def evaluate(self, network: nn.Module, part: str) -> float:
        """Mean squared error on `part`."""
        return self.squared_errors(network, part).mean().item()

    def flops(self, network: nn.Module) -> int:
        """Floating-point operations of one forward pass of a search space over the training windows."""
        return len(self.series.train.y) * network.flops(self.series.train.x.shape[0])


def theta_optimizer(parameters: list[nn.Parameter], settings: SearchSettings) -> Optimizer:
    """Adam for the weights, in the search as in training from scratch."""
    return torch.optim.Adam(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)


def theta_step(network: nn.Module, task: Task, optimizer: Optimizer, batch: Batch,
               grad_clip: float) -> float:
    """One weight step; returns the loss before it. alpha gets no gradient."""
    parameters = optimizer.param_groups[0]["params"]
    loss = task.loss(network, batch)
    value = loss.item()
    if math.isfinite(value):
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, materialize_grads=True),
                                       strict=True):
            parameter.grad = gradient
        nn.utils.clip_grad_norm_(parameters, grad_clip)
        optimizer.step()
    return value


def theta_epoch(network: nn.Module, task: Task, optimizer: Optimizer, grad_clip: float) -> float:
    """One pass of weight steps over the training data; mean loss, NaN or inf if it diverged."""
    total = count = 0
    for batch in task.train_batches():
        value = theta_step(network, task, optimizer, batch, grad_clip)
        if not math.isfinite(value):
            return value
        total, count = total + value * len(batch[1]), count + len(batch[1])
    return total / count


@dataclass(frozen=True)
class Fit:
    """Outcome of `fit`: best validation error, per-epoch validation errors, seconds."""

    validation_error: float
    errors: list[float]
    seconds: float


def fit(network: nn.Module, parameters: list[nn.Parameter], task: Task, settings: SearchSettings,
        checkpoint: Checkpoint = Checkpoint(None, ""), *, label: str = "training", progress: bool = False) -> Fit:
    """Train from scratch until `patience` epochs bring no validation gain; leaves the best weights.

    Any gain counts, however small: `min_gain` is for the stages of a search. Resumes from `checkpoint` and
    then ends with the same numbers as an uninterrupted run.

    Parameters
    ----------
    network, parameters : what is trained, and its weights.
    label : names the fit in the progress bar.

    Raises
    ------
    DivergenceError
        the loss is not finite.
    """
    optimizer = theta_optimizer(parameters, settings)
    errors: list[float] = []
    best, spent = copy.deepcopy(network.state_dict()), 0.0
    if (state := checkpoint.load()) is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        errors, best, spent = state["errors"], state["best"], state["seconds"]
    started = time.perf_counter()
    with tqdm(total=settings.train_epochs, initial=len(errors), desc=label, leave=False,
              disable=None if not progress else False) as bar:
        while len(errors) < settings.train_epochs and not stage_is_over(errors, settings.patience, 0.0):
            loss = theta_epoch(network, task, optimizer, settings.grad_clip)
            error = task.evaluate(network, "validation")
            if not math.isfinite(loss + error):
                raise DivergenceError(len(errors) + 1, loss, checkpoint)
            if error < min(errors, default=math.inf):
                best = copy.deepcopy(network.state_dict())
            errors.append(error)
            bar.update()
            bar.set_postfix(validation=f"{error:.4f}")
            checkpoint.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                             "errors": errors, "best": best,
                             "seconds": spent + time.perf_counter() - started})
    network.load_state_dict(best)
    return Fit(min(errors), errors, spent + time.perf_counter() - started)
