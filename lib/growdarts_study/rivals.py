"""Rivals of the found cells: the historical mean, VAR(1) by least squares, torch.nn's recurrent layers."""

import torch
from torch import Tensor, nn

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
