"""Rivals of the found cells: the historical mean, VAR(1) and HAR by least squares, torch.nn's recurrent layers."""

import torch
from torch import Tensor, nn

from growdarts.settings import DataError
from growdarts.spaces.two_input.network import Forecaster

RECURRENT = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class HistoricalMean(nn.Module):
    """Forecasts the mean of the training targets whatever the window holds."""

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", y.mean(0))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        return self.mean.expand(x.shape[1], -1)


class VectorAutoregression(nn.Module):
    """VAR(1): y_{t+1} = A y_t + c, fitted by ordinary least squares on the training windows.

    Parameters
    ----------
    x : (T, n, F) training windows, of which the last day is used.
    y : (n, F_out) targets.
    """

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        design = torch.cat([x[-1], torch.ones_like(x[-1, :, :1])], dim=1).double()  # (n, F + 1)
        solution = torch.linalg.lstsq(design, y.double()).solution  # (F + 1, F_out)
        self.register_buffer("A", solution[:-1].t().to(x.dtype))
        self.register_buffer("c", solution[-1].to(x.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """(T, B, F) -> (B, F_out)."""
        return x[-1] @ self.A.t() + self.c


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


class TorchRecurrent(nn.Module):
    """torch.nn's RNN, GRU or LSTM as a cell: (T, B, I) -> (T, B, H)."""

    def __init__(self, kind: str, inputs: int, hidden: int, n_layers: int) -> None:
        super().__init__()
        self.layer = RECURRENT[kind](inputs, hidden, n_layers)

    def forward(self, x: Tensor) -> Tensor:
        """States of the last layer."""
        return self.layer(x)[0]


def recurrent_forecaster(kind: str, features: int, hidden: int, n_layers: int,
                         outputs: int | None = None) -> Forecaster:
    """A forecaster around torch.nn's RNN, GRU or LSTM; `outputs` are as many as features if None."""
    return Forecaster([TorchRecurrent(kind, features, hidden, n_layers)], hidden, outputs or features)
