"""A stream: windows that are known day by day, in units of its first part.

A window and the day that it forecasts have one number, that of the day. At day t whatever has a number below t is
known.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from growdarts.tasks.series import ForecastTask, Series, Windows
from growdarts_study.data.series import load_stream
from growdarts_study.stream_settings import StreamRun

HELD_OUT = 0.2  # of the days of a search, the last ones, are for alpha and for everything that is chosen


@dataclass(frozen=True)
class Stream:
    """x (T, days, F), the window before every day, and y (days, F_out), standardised by the first part. `starts`:
    searches of the first part that are done, by nodes of a fixed backbone, morphism and pruning."""

    config: StreamRun
    x: Tensor
    y: Tensor
    floor: float | None
    changes: tuple[int, ...]
    labels: list[str]
    hashes: dict[str, str]
    starts: dict[tuple[int | None, bool, bool], Any] = field(default_factory=dict)

    @classmethod
    def load(cls, config: StreamRun, values: np.ndarray | None = None) -> "Stream":
        """The stream of a run; `values` (days, F) in place of its own."""
        source, window = load_stream(config.dataset, config.draw()), config.window
        values = source.values[: config.days] if values is None else values
        mean, std = values[: config.first].mean(0), values[: config.first].std(0)
        z = torch.tensor((values - mean) / std, dtype=torch.float32)
        outputs = len(source.floors or source.features)
        x = torch.cat([z.new_zeros(window, window, z.shape[1]), z[:-1].unfold(0, window, 1).permute(2, 0, 1)], dim=1)
        floor = float((source.floors / std[:outputs] ** 2).mean()) if source.floors else None
        return cls(config, x.contiguous(), z[:, :outputs].contiguous(), floor, source.changes, source.labels[: config.days], source.hashes)

    def windows(self, start: int, end: int) -> Windows:
        """Those of days from start to before end."""
        return Windows(self.x[:, start:end], self.y[start:end], tuple(self.labels[start:end]))

    def task(self, start: int, end: int, device: torch.device) -> ForecastTask:
        """For a search that knows the days from start to before end."""
        start = max(start, self.config.window)
        cut = end - round(HELD_OUT * (end - start))
        held_out, none = self.windows(cut, end), torch.zeros(self.x.shape[2])
        return ForecastTask(Series(self.config.dataset, ("",) * self.x.shape[2], ("",) * self.y.shape[1], self.windows(start, cut),
                                   held_out, held_out, none, none + 1, None, {}), self.config.batch_size, device)
