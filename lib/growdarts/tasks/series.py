"""Returns -> windows, batches and loss of forecasting the next day of a multivariate series.

Shapes: n days, F features, F_out of them forecast (all, if nothing else is said), T window length (days), B batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from operator import index

import numpy as np
import torch
from torch import Tensor, nn

from growdarts.devices import find_device, to_device
from growdarts.settings import DataError
from growdarts.training import Batch


@dataclass(frozen=True, eq=False)
class Windows:
    """Inputs and targets of one part of a series.

    x: ``(T, n, F)`` standardised log returns, oldest first; y: ``(n, F_out)`` the next day's;
    dates: n labels of the target days (ISO date, decimal year or index).
    """

    x: Tensor
    y: Tensor
    dates: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Series:
    """A series of F features, cut in time order.

    targets: names of the F_out features that are forecast; mean, std: ``(F,)`` of the training part's
    returns, in raw units; floor: the best possible expected mean squared error in standardised units,
    where it is known (generated series); hashes: file -> sha256 of the bytes used.
    """

    name: str
    features: tuple[str, ...]
    targets: tuple[str, ...]
    train: Windows
    validation: Windows
    test: Windows
    mean: Tensor
    std: Tensor
    floor: float | None
    hashes: dict[str, str]


def series_from_returns(
    returns: np.ndarray, window: int, cuts: tuple[int, int, int], features: Sequence[str] | None = None,
    labels: Sequence[str] | None = None, *, name: str = "own", hashes: dict[str, str] | None = None,
    dtype: torch.dtype | None = None, targets: Sequence[int] | None = None, horizon: int = 1,
) -> Series:  # fmt: skip
    """Your own series: ``(n, F)`` returns, oldest first, cut in time order and standardised.

    cuts: index of the first validation day, of the first test day, and of the day after the last test day;
    targets: which features are forecast, the others are inputs only (None: all); horizon: days from the last
    day of a window to its target; features, labels: names of the features and of the days, numbers by default; dtype:
    None for torch's default.
    """
    try:
        numbers, whole = np.asarray(returns), [_whole(n) for n in (window, horizon, *cuts)]
        if numbers.dtype.kind not in "biuf" or len(whole) != 5:
            raise TypeError(f"entries of type {numbers.dtype}, {len(whole) - 2} cuts")
    except (TypeError, ValueError) as error:
        raise DataError(f"returns, window={window!r}, horizon={horizon!r}, cuts={cuts!r:.200}: allowed are a matrix of real "
                        f"numbers, and whole numbers, three of them in cuts ({error})") from None
    returns, dtype = numbers.astype(float), dtype or torch.get_default_dtype()
    if returns.ndim != 2 or not returns.shape[1] or not np.isfinite(returns).all():
        raise DataError(f"returns of shape {returns.shape} are not possible: allowed is a finite (days, features) matrix of at "
                        "least one feature")
    n_days, n_features = returns.shape
    validation, test, end = cuts
    reach = window + horizon - 1  # days before its target at which a window begins
    if not (window >= 1 and horizon >= 1 and reach < validation < test < end <= n_days):
        raise DataError(f"cuts={cuts} with window={window}, horizon={horizon} are not possible for {n_days} days: allowed are "
                        "window and horizon from 1, window + horizon - 1 < first validation day < first test day < end <= "
                        "number of days")
    features = [f"z{i + 1}" for i in range(n_features)] if features is None else [str(name) for name in features]
    labels = [str(day) for day in range(n_days)] if labels is None else [str(label) for label in labels]
    for what, names, n in (("features", features, n_features), ("labels", labels, n_days)):
        if len(names) != n:
            raise DataError(f"{len(names)} {what} for returns of shape {returns.shape}: allowed are {n}")
    chosen = list(range(n_features) if targets is None else targets)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(n_features)):
        raise DataError(f"targets={chosen} are not possible: allowed are different features from 0 to {n_features - 1}")
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = returns[:validation].mean(axis=0), returns[:validation].std(axis=0)
    largest, limits = np.abs(returns[:validation]).max(axis=0, initial=0), torch.finfo(dtype)
    for feature, deviation, size in zip(features, std, largest, strict=True):
        if not max(1e-12 * size, limits.tiny) < deviation < limits.max:
            raise DataError(f"feature {feature!r} does not vary in the training part, or numbers of type {dtype} cannot hold its "
                            f"deviation {deviation:.3g} (largest value {size:.3g}): leave it out, or scale it")
    z = torch.tensor((returns - mean) / std, dtype=dtype)  # (days, F)

    def windows(first: int, last: int) -> Windows:  # target days first .. last - 1
        past = z[first - reach : last - horizon].unfold(0, window, 1)  # (n, F, T), ends a horizon before its target
        return Windows(past.permute(2, 0, 1).contiguous(), z[first:last, chosen].contiguous(), tuple(labels[first:last]))

    return Series(
        name, tuple(features), tuple(features[i] for i in chosen), windows(reach, validation),
        windows(validation, test), windows(test, end), torch.tensor(mean, dtype=dtype),
        torch.tensor(std, dtype=dtype), None, hashes or {},
    )  # fmt: skip


def _whole(n: int) -> int:
    if isinstance(n, bool):
        raise TypeError(f"{n} is no number")
    return index(n)


@dataclass(frozen=True)
class ForecastTask:
    """Batches, loss and evaluation of one-step-ahead forecasting of `series`.

    `device` is where the network is, see `growdarts.devices`; the series moves there once, batches are drawn there.
    """

    series: Series
    batch_size: int
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", find_device(self.device))
        object.__setattr__(self, "series", to_device(self.series, self.device))

    def tensors(self) -> Iterator[Tensor]:
        """All data, which a checkpoint belongs to."""
        for part in (self.series.train, self.series.validation, self.series.test):
            yield from (part.x, part.y)

    def train_batches(self) -> Iterator[Batch]:
        """The training windows in a new random order."""
        return self._batches(self.series.train)

    def search_batches(self) -> Iterator[tuple[Batch, Batch]]:
        """Training batches, each with a validation batch for the alpha step."""
        return zip(self.train_batches(), cycle(self._batches(self.series.validation)))

    def _batches(self, windows) -> Iterator[Batch]:
        for index in torch.randperm(len(windows.y)).to(self.device).split(self.batch_size):
            yield windows.x[:, index], windows.y[index]

    def loss(self, network: nn.Module, batch: Batch) -> Tensor:
        """Mean squared error in standardised units."""
        x, y = batch
        return nn.functional.mse_loss(network(x), y)

    @torch.no_grad()
    def squared_errors(self, network: nn.Module, part: str) -> Tensor:
        """(n, F_out) squared errors on `part`: "train", "validation" or "test"."""
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
