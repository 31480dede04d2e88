"""Forecasts with a closed form, the rivals of every trained network.

Shapes: T time steps of a window, n windows, F features, F_out targets (the first features).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from growdarts.settings import DataError
from growdarts.tasks.series import Series, Windows


class HistoricalMean(nn.Module):
    """Forecasts the mean of the training targets whatever the window holds."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", y.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        return self.mean.expand(x.shape[1], -1)


class HeterogeneousAutoregression(nn.Module):
    """HAR: each feature from its own last day, week (mean of 5 days) and month (22), by least squares [Corsi 2009].

    Parameters
    ----------
    x : (T, n, F) training windows of 22 days or more.
    y : (n, F) targets.

    Raises
    ------
    DataError
        Windows shorter than a month, or targets that are not the features.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        if len(x) < 22 or x.shape[2] != y.shape[1]:
            raise DataError(f"HAR is not possible for windows of {len(x)} days, {x.shape[2]} features and {y.shape[1]} "
                            "targets: allowed are 22 days or more, and every feature a target")
        solution = torch.linalg.lstsq(self.regressors(x).double(), y.t()[..., None].double()).solution
        self.register_buffer("coefficients", solution.to(x.dtype))  # (F, 4, 1): day, week, month, constant

    @staticmethod
    def regressors(x: Tensor) -> Tensor:
        """(T, n, F) -> (F, n, 4)."""
        return torch.stack([x[-1], x[-5:].mean(0), x[-22:].mean(0), torch.ones_like(x[-1])], dim=-1).transpose(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F)."""
        return (self.regressors(x) @ self.coefficients)[..., 0].t()


class LinearForecast(nn.Module):
    """y = A r(x) + c with `regressors` r, functions of a window: (T, n, F) -> (n, D)."""

    def __init__(self, regressors: Callable[[Tensor], Tensor], A: Tensor, c: Tensor) -> None:
        super().__init__()
        self.regressors = regressors
        self.register_buffer("A", A)
        self.register_buffer("c", c)

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        return (self.regressors(x).double() @ self.A.T + self.c).to(x.dtype)


def least_squares(windows: Windows, regressors: Callable[[Tensor], Tensor]) -> Callable[[float], LinearForecast]:
    """The (ridge) least-squares fit to `windows`, x (T, n, F) and y (n, F_out), for any penalty.

    The penalty is the factor of the squared coefficients of regressors scaled to variance 1, per window; the constant has none.
    """
    design, y = regressors(windows.x).double(), windows.y.double()
    center, scale = design.mean(0), design.std(0).clamp_min(1e-12)
    design = (design - center) / scale
    gram, moments = design.T @ design / len(design), design.T @ (y - y.mean(0)) / len(design)

    def fitted(penalty: float) -> LinearForecast:
        ridge = max(penalty, 1e-10) * torch.eye(len(gram)).to(gram)
        solution = torch.linalg.solve(gram + ridge, moments) / scale[:, None]  # (D, F_out)
        return LinearForecast(regressors, solution.T, y.mean(0) - center @ solution)

    return fitted


def lags(order: int) -> Callable[[Tensor], Tensor]:
    """The last `order` steps of a window: (T, n, F) -> (n, order F)."""
    return lambda x: x[-order:].transpose(0, 1).flatten(1)


MOST_PRODUCTS = 2000  # of two lags


def products(features: int, window: int) -> Callable[[Tensor], Tensor]:
    """All lags, and all products of two of the last ones, of as many steps as give at most `MOST_PRODUCTS`."""
    order = max(p for p in range(1, window + 1) if p == 1 or p * features * (p * features + 1) <= 2 * MOST_PRODUCTS)
    rows, columns = torch.triu_indices(order * features, order * features)

    def regressors(x: Tensor) -> Tensor:
        last = lags(order)(x)
        return torch.cat([lags(window)(x), last[:, rows] * last[:, columns]], dim=1)

    return regressors


def by_bic(series: Series) -> LinearForecast:
    """(V)AR of the order, at most a window, with the least Bayesian information criterion on the training part."""
    n, targets = series.train.y.shape

    def criterion(order: int) -> float:
        residual = series.train.y - least_squares(series.train, lags(order))(0.0)(series.train.x)
        covariance = residual.double().T @ residual.double() / n
        return covariance.logdet().item() + math.log(n) / n * targets * (order * len(series.features) + 1)

    return least_squares(series.train, lags(min(range(1, len(series.train.x) + 1), key=criterion)))(0.0)


PENALTIES = tuple(10.0**k for k in range(-6, 3))


def ridge(series: Series, regressors: Callable[[Tensor], Tensor]) -> LinearForecast:
    """Of the `PENALTIES` the one with the least error on the validation part."""
    fitted = least_squares(series.train, regressors)

    def error(penalty: float) -> float:
        return float((fitted(penalty)(series.validation.x) - series.validation.y).square().mean())

    return fitted(min(PENALTIES, key=error))


class StepsAgo(nn.Module):
    """Forecasts the value that the targets had `steps` before the target day."""

    def __init__(self, steps: int, outputs: int) -> None:
        super().__init__()
        self.steps, self.outputs = steps, outputs

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        return x[-self.steps, :, : self.outputs]


def baselines(series: Series, season: int | None = None) -> dict[str, nn.Module]:
    """All that a series allows, fitted: "mean", "last", "season", "var_bic", "ridge", "quadratic_ridge", "har".

    season : steps of a period, at most a window, where there is one.
    """
    window, _, features = series.train.x.shape
    outputs = len(series.targets)
    found: dict[str, nn.Module] = {
        "mean": HistoricalMean(series.train.y), "last": StepsAgo(1, outputs), "var_bic": by_bic(series),
        "ridge": ridge(series, lags(window)), "quadratic_ridge": ridge(series, products(features, window))}
    if season is not None:
        found["season"] = StepsAgo(season, outputs)
    if window >= 22 and features == outputs:
        found["har"] = HeterogeneousAutoregression(series.train.x, series.train.y)
    return found
