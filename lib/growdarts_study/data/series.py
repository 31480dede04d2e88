"""Name of a series -> daily closes -> log returns -> standardised windows, split in time order.

Shapes: T days in a window, n windows, F features (indices of stock exchanges).
"""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from growdarts_study.data.files import DATA, fetch, sha256
from growdarts.settings import DataError
from growdarts.tasks.series import Series, series_from_returns

# ---- closes ------------------------------------------------------------------------------------

FIRST_DAY, LAST_DAY = "2010-01-04", "2021-11-26"  # of g7_brics, both included

# Two layouts of the source files: column of the close, format of the date.
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


def country_closes(country: str) -> pd.Series:
    """Cleaned daily closes of one country's index (local currency) by date, oldest first."""
    file, (column, date_format), drop = G7_BRICS[country]
    table = pd.read_csv(fetch(f"g7_brics/{file}"), skipinitialspace=True, thousands=",", encoding="utf-8-sig")
    days = pd.to_datetime(table["Date"], format=date_format)
    closes = pd.Series(table[column].to_numpy(float), index=days, name=country).sort_index()
    if drop == CARRIED_FORWARD:
        closes = closes[closes != closes.shift()]
    elif drop:
        closes = closes.drop(pd.Timestamp(drop))
    return closes[FIRST_DAY:LAST_DAY]


def load_closes(name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    """Closes, a row a common day labelled by its date, and the sha256 of each file read."""
    if name == "g7_brics":
        countries = [country_closes(country) for country in G7_BRICS]
        closes = pd.concat(countries, axis=1, join="inner").sort_index()
        closes = closes[closes.index.day_of_week < 5]
        closes.index = closes.index.strftime("%Y-%m-%d")
        files = [f"g7_brics/{file}" for file, _, _ in G7_BRICS.values()]
        return closes, {file: sha256(fetch(file)) for file in files}
    path = DATA / "embedded" / EU_FILE
    found = sha256(path)
    if found != EU_SHA256:
        raise DataError(f"{path} has sha256 {found}, expected {EU_SHA256}; restore it with git checkout")
    return pd.read_csv(path, dtype={"time": str}, index_col="time"), {f"embedded/{EU_FILE}": found}


# ---- a series whose best possible error is known -----------------------------------------------

VAR_MATRIX = np.array(  # z_t = VAR_MATRIX z_{t-1} + VAR_FACTOR e_t, spectral radius 0.798
    [[0.55, 0.33, 0.0, 0.0], [-0.22, 0.55, 0.33, 0.0], [0.0, 0.22, 0.44, -0.33], [0.33, 0.0, 0.22, 0.55]])
VAR_FACTOR = 0.01 * np.array(  # lower Cholesky factor of the innovations' covariance
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.8, 0.0, 0.0], [0.3, 0.2, 0.9, 0.0], [0.2, 0.1, 0.3, 0.7]])
VAR_SEED, VAR_DAYS, VAR_BURN_IN = 2021, 1500, 200


def synthetic_var() -> np.ndarray:
    """The `(1500, 4)` array of a stationary Gaussian VAR(1), the same on every machine."""
    # RandomState's stream is frozen by numpy's policy, a Generator's is not. Products are written
    # as sums and the result is rounded, so that no linear algebra kernel can move a bit of it.
    random, n_features = np.random.RandomState(VAR_SEED), len(VAR_MATRIX)
    noise = random.standard_normal((VAR_BURN_IN + VAR_DAYS, n_features))
    state, states = np.zeros(n_features), []
    for e in noise:
        state = (VAR_MATRIX * state).sum(axis=1) + (VAR_FACTOR * e).sum(axis=1)
        states.append(state)
    return np.round(states[VAR_BURN_IN:], 10)


# ---- windows -----------------------------------------------------------------------------------

SERIES = ("synthetic_var", "eu_stock_markets", "g7_brics")  # names that `load_series` knows
MIN_TRAIN = 250  # training windows below which an origin is refused: a little over a year


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
    if name == "synthetic_var":
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


def load_series(name: str, window: int, origin: int | None = None, *, dtype: torch.dtype = torch.float32) -> Series:
    """Windows of `window` days of a series' returns and the day that follows each.

    A window belongs to the part of its *target* day: its inputs may reach back into an earlier
    part (that is the past), never forward. Mean and standard deviation come from the returns
    before the first validation target only.

    Parameters
    ----------
    name : one of `SERIES`
    window : T, number of days in a window
    origin : None for 60/20/20 % of the days in time order; else the calendar year to test on, with
        the year before for validation and everything before that for training

    Raises
    ------
    DataError
        Unknown name, impossible window or origin, or files that are damaged or out of reach.
    """
    if name not in SERIES:
        raise DataError(f"series {name!r} is unknown: allowed are {', '.join(SERIES)}")
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise DataError(f"window={window!r} is not possible: allowed are whole numbers of days from 1")
    if name == "synthetic_var":
        returns = synthetic_var()
        labels = [str(i) for i in range(len(returns))]
        features = tuple(f"z{i + 1}" for i in range(returns.shape[1]))
        hashes = {name: hashlib.sha256(returns.astype("<f8").tobytes()).hexdigest()}
    else:
        closes, hashes = load_closes(name)
        # The return of a day is from the common day before it. One memory layout, whatever
        # the frame's: the order of a sum moves its last bit.
        returns = np.ascontiguousarray(np.diff(np.log(closes.to_numpy()), axis=0))
        labels, features = list(closes.index[1:]), tuple(closes.columns)

    cuts = split_days(name, labels, window, origin)
    series = series_from_returns(returns, window, cuts, features, labels, name=name, hashes=hashes, dtype=dtype)
    if name != "synthetic_var":
        return series
    std = returns[: cuts[0]].std(axis=0)
    return replace(series, floor=float(((VAR_FACTOR**2).sum(axis=1) / std**2).mean()))
