"""Estimates that take one day after another: a detector of drift, and least squares with forgetting."""

from dataclasses import dataclass

import numpy as np


@dataclass
class PageHinkley:
    """Alarm when a mean has risen: sum of (x - mean so far - tolerance) above its least value by more than the
    threshold [Page 1954; Gama et al. 2014]. `since`: values since the least sum, by which the change began."""

    tolerance: float
    threshold: float
    n: int = 0
    mean: float = 0.0
    total: float = 0.0
    least: float = 0.0
    since: int = 0

    def alarm(self, x: float) -> bool:
        """Take the next value; after an alarm all is forgotten but `since`."""
        self.n += 1
        self.mean += (x - self.mean) / self.n
        self.total += x - self.mean - self.tolerance
        self.since += 1
        if self.total <= self.least:
            self.least, self.since = self.total, 0
        if self.total - self.least <= self.threshold:
            return False
        self.n, self.mean, self.total, self.least = 0, 0.0, 0.0, 0.0
        return True


def recursive_least_squares(x: np.ndarray, y: np.ndarray, factor: float, start: int = 0) -> tuple[np.ndarray, float]:
    """Forecast of every day by least squares on the days before it, each of which counts `factor` times the next
    [Haykin 2002, ch. 9].

    Parameters
    ----------
    x : (days, D) regressors of a day, known before it; a constant is added. y : (days, F_out).
    start : days before it are not forecast, nor learnt from.

    Returns
    -------
    (days, F_out), and the floating-point operations of a day's products.
    """
    x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    size, outputs = x.shape[1], y.shape[1]
    P, A, forecasts = 100.0 * np.eye(size), np.zeros((size, outputs)), np.zeros_like(y)
    for day in range(start, len(y)):
        row = x[day]
        forecasts[day] = row @ A
        Px = P @ row
        gain = Px / (factor + row @ Px)
        A += np.outer(gain, y[day] - forecasts[day])
        P = (P - np.outer(gain, Px)) / factor
    return forecasts, 4.0 * size**2 + 4.0 * size * outputs
