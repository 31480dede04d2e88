"""Generated series: an oracle written anew, from what was observed only, reaches the floor, and nothing beats it."""

import hashlib
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from growdarts_study.config import TimeSeriesRun
from growdarts_study.data.processes import PROCESSES, VAR_FACTOR, VAR_MATRIX
from growdarts_study.data.series import load_series
from growdarts_study import experiments

N, SKIP = 60_000, 100  # days of a test; the first have no forecast

# ---- the conditional mean of each process, looping over observed days; p is what a variation changes ----


def linear_var(x, p=(1.0, 1.0)):
    for t in range(SKIP, N - 1):
        yield [p[0] * (0.55 * x[t, 0] + 0.33 * x[t, 1]), -0.22 * x[t, 0] + 0.55 * x[t, 1] + p[1] * 0.33 * x[t, 2],
               0.22 * x[t, 1] + 0.44 * x[t, 2] - 0.33 * x[t, 3], 0.33 * x[t, 0] + 0.22 * x[t, 2] + 0.55 * x[t, 3]]


def garch(x, p=(0.0, 0.0)):
    for t in range(SKIP, N - 1):
        yield [p[0] * r + p[1] for r in x[t]]


def bilinear(x, p=(0.2, 0.6, 0.5)):
    for t in range(SKIP, N - 1):
        y, u = x[t]
        yield [p[0] * y + p[1] * y * u + p[2] * u]


def setar(x, p=(1.0, 0.6, 0.0)):
    for t in range(SKIP, N - 1):
        above = x[t - 1, 0] > p[2]
        yield [-p[0] - p[1] * x[t, 0] if above else p[0] + p[1] * x[t, 0]]


def narma10(x, p=(0.3, 0.05, 1.5)):
    state = [0.2] * 10  # of ten days, the last one today's; only inputs are read
    for t in range(9, N - 1):
        new = min(0.9, p[0] * state[-1] + p[1] * state[-1] * sum(state) + p[2] * x[t, 1] * x[t - 9, 1] + 0.1)
        state = [*state[1:], new]
        if t >= SKIP:
            yield [new]


def mackey_glass(x, p=(0.9, 0.2, 10.0)):
    for t in range(SKIP, N - 6):
        path = list(x[t - 17 : t + 1, 0])
        for _ in range(6):
            path.append(p[0] * path[-1] + p[1] * path[-18] / (1 + path[-18] ** p[2]))
        yield [path[-1]]


def henon_lattice(x, p=(1.4, 0.2, 0.3)):
    for t in range(SKIP, N - 1):
        today, before = x[t].tolist(), x[t - 1].tolist()
        inner = [(1 - p[1]) * today[i] + p[1] * (today[i - 1] + today[(i + 1) % 12]) / 2 for i in range(12)]
        yield [max(-1.8, p[0] - inner[i] ** 2 + p[2] * before[i]) for i in range(12)]


def sample_and_hold(x, p=(1.0, 0.0)):
    for t in range(SKIP, N - 1):
        trigger = next(s for s in range(t, t - 20, -1) if x[s, 2] == 1)  # at most twenty days back
        yield [p[0] * x[trigger, 1] + p[1] * x[t, 0]]


ORACLES = {  # the conditional mean, variations of it, and the process's variance where a formula gives it
    "linear_var": (linear_var, [(0.9, 1), (1.1, 1), (1, 0.9), (1, 1.1)],
                   np.diag(solve_discrete_lyapunov(VAR_MATRIX, VAR_FACTOR @ VAR_FACTOR.T))),
    "garch": (garch, [(0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05)], 1.0),
    "bilinear": (bilinear, [(0.17, 0.6, 0.5), (0.2, 0.55, 0.5), (0.2, 0.65, 0.5), (0.2, 0.6, 0.55)],
                 (0.5**2 + 0.2**2) / (1 - 0.2**2 - 0.6**2)),
    "setar": (setar, [(0.9, 0.6, 0), (1, 0.65, 0), (1, 0.6, 0.1), (1, 0.6, -0.1)], None),
    "narma10": (narma10, [(0.27, 0.05, 1.5), (0.3, 0.04, 1.5), (0.3, 0.05, 1.45), (0.29, 0.05, 1.5)], None),
    "mackey_glass": (mackey_glass, [(0.89, 0.2, 10), (0.9, 0.21, 10), (0.9, 0.19, 10), (0.9, 0.2, 8)], None),
    "henon_lattice": (henon_lattice, [(1.35, 0.2, 0.3), (1.4, 0.15, 0.3), (1.4, 0.25, 0.3), (1.4, 0.2, 0.25)], None),
    "sample_and_hold": (sample_and_hold, [(0.9, 0), (1.1, 0), (0.9, 0.1), (0.95, 0.05)], 1 + 0.2**2),
}  # fmt: skip


def by_blocks(squared):
    """Mean and its standard error from 50 blocks, whose means are all but independent."""
    means = [block.mean(0) for block in np.array_split(squared, 50)]
    return np.mean(means, axis=0), np.std(means, axis=0, ddof=1) / np.sqrt(50)


@pytest.fixture(scope="module", params=ORACLES)
def long(request):
    return request.param, PROCESSES[request.param].generate(N, seed=7)


def squared_errors(name, x, *p):
    targets = x[SKIP + PROCESSES[name].horizon :, : len(PROCESSES[name].floors)]
    return (np.array(list(ORACLES[name][0](x, *p))) - targets) ** 2


def test_every_process_has_an_oracle():
    assert set(ORACLES) == set(PROCESSES)
    for process in PROCESSES.values():
        assert len(process.floors) <= len(process.features)


def test_oracle_reaches_the_floor_and_no_variation_does(long):
    name, x = long
    squared = squared_errors(name, x)
    assert len(squared) >= 50_000
    error, margin = by_blocks(squared)
    np.testing.assert_array_less(abs(error - PROCESSES[name].floors), 4 * margin)
    assert (margin < 0.03 * error).all()  # the check is sharp
    for p in ORACLES[name][1]:
        varied = squared_errors(name, x, p)
        assert varied.mean() > squared.mean() and (by_blocks(varied)[0] > error - 4 * margin).all(), p


def test_mean_errs_by_the_variance(long):
    name, x = long
    targets = x[:, : len(PROCESSES[name].floors)]
    error, margin = by_blocks((targets - targets.mean(0)) ** 2)
    variance = ORACLES[name][2]
    if variance is not None:
        np.testing.assert_array_less(abs(error - variance), 4 * margin)
    if name != "garch":
        assert (error > 1.6 * np.array(PROCESSES[name].floors)).all()  # there is something to learn


# ---- what is needed: errors on the test part over the floor --------------------------------------


def fitted(loaded, days, quadratic):
    """Test error of ridge on the last days of the windows, or on all products of two of these as well."""
    designs = []
    for part in (loaded.train, loaded.test):
        lags = part.x[-days:].permute(1, 0, 2).flatten(1)
        i, j = torch.triu_indices(lags.shape[1], lags.shape[1])
        columns = [torch.ones_like(lags[:, :1]), lags, *([lags[:, i] * lags[:, j]] if quadratic else [])]
        designs.append(torch.cat(columns, dim=1))
    x, z = designs
    weights = torch.linalg.solve(x.T @ x + 1e-2 * torch.eye(x.shape[1]), x.T @ loaded.train.y)
    return ((z @ weights - loaded.test.y) ** 2).mean().item()


# days of the window used; bounds of ridge's and of quadratic ridge's error over the floor
NEEDS = {"linear_var": (1, (0.9, 1.1), (0.9, 1.1)), "garch": (2, (0.85, 1.15), (0.85, 1.15)),
         "bilinear": (2, (4, 10), (0.9, 1.1)), "setar": (3, (3, 6), (2, 5)), "narma10": (11, (3, 6), (0.9, 1.4)),
         "mackey_glass": (18, (5, 12), (1.3, 3)), "henon_lattice": (2, (10, 30), (0.9, 1.4)),
         "sample_and_hold": (3, (4, 12), (1.1, 1.6))}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
def test_what_a_process_needs(name):
    days, linear, quadratic = NEEDS[name]
    loaded = load_series(name, 20, dtype=torch.float64)
    mean = loaded.test.y.square().mean().item()
    ridge, volterra = fitted(loaded, days, False), fitted(loaded, days, True)
    assert linear[0] < ridge / loaded.floor < linear[1]
    assert quadratic[0] < volterra / loaded.floor < quadratic[1]
    if name == "garch":
        assert mean < min(ridge, volterra)
    else:
        assert max(ridge, volterra) < mean


def test_narma_needs_its_ten_days():
    loaded = load_series("narma10", 20, dtype=torch.float64)
    assert fitted(loaded, 9, True) > 2 * fitted(loaded, 10, True)


@pytest.mark.parametrize(("days", "above"), [(20, 0.0067), (30, 0.0008)])
def test_window_that_narma_needs(days, above):
    """Extended Kalman filter over a window, from the stationary distribution: its variance over the noise's."""
    y, u = PROCESSES["narma10"].generate().T
    lagged, noise = np.stack([y[9 - lag : len(y) - lag] for lag in range(10)], axis=1), 0.02**2
    left = []
    for t in np.random.default_rng(0).integers(100, 5900, 150):
        first = t - days + 1
        covariance = np.cov(lagged.T) - noise * np.eye(10)
        gain = covariance @ np.linalg.inv(covariance + noise * np.eye(10))
        s = y.mean() + gain @ (y[first : first + 10][::-1] - y.mean())  # of ten days, the last one first
        covariance = covariance - gain @ covariance
        for k in range(first + 9, t + 1):
            jacobian = np.eye(10, k=-1)
            jacobian[0] = 0.05 * s[0]
            jacobian[0, 0] += 0.3 + 0.05 * s.sum()
            s = np.array([0.3 * s[0] + 0.05 * s[0] * s.sum() + 1.5 * u[k] * u[k - 9] + 0.1, *s[:-1]])
            covariance = jacobian @ covariance @ jacobian.T
            left.append(covariance[0, 0] / noise if k == t else 0.0)
            gain = covariance[:, 0] / (covariance[0, 0] + noise)
            s, covariance = s + gain * (y[k + 1] - s[0]), covariance - np.outer(gain, covariance[0])
    assert sum(left) / 150 == pytest.approx(above, rel=0.2)


# ---- the same everywhere, and never out of bounds ------------------------------------------------

GOLDEN = {  # first digits of the sha256 of the bytes (little-endian float64)
    "linear_var": "c01cde5e428894d6", "garch": "931d889be068ff26", "bilinear": "52cd57d1c4f8c6bf",
    "setar": "c11a74607e0eb0e5", "narma10": "de787033be193e1f", "mackey_glass": "699be419206b2f41",
    "henon_lattice": "444cc1cf11b5ca1d", "sample_and_hold": "1b290ddc742beaf6"}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_bytes_everywhere(name):
    x = PROCESSES[name].generate()
    assert x.shape == (6000, len(PROCESSES[name].features)) and x.dtype == np.float64
    found = hashlib.sha256(x.astype("<f8").tobytes()).hexdigest()
    assert found.startswith(GOLDEN[name]) and load_series(name, 20).hashes == {name: found}
    assert (x[:50] != PROCESSES[name].generate(50, seed=1)).any()


@pytest.mark.parametrize("name", PROCESSES)
def test_twenty_seeds_stay_in_bounds(name):
    days = 30_000 if name in ("bilinear", "narma10") else 3000
    drawn = [PROCESSES[name].generate(days, seed) for seed in range(20)]
    spread = np.concatenate(drawn).std(0)
    for x in drawn:
        assert (abs(x - x.mean(0)) < 15 * spread).all()
        assert (x.std(0) > spread / 2).all() and (x.std(0) < 2 * spread).all()


def test_targets_of_a_loaded_process():
    loaded = load_series("sample_and_hold", 20)
    assert loaded.features == ("y", "u", "g") and loaded.targets == ("y",)
    assert loaded.train.x.shape == (20, 3580, 3) and loaded.test.y.shape == (1200, 1)
    x = PROCESSES["sample_and_hold"].generate()
    assert loaded.floor == pytest.approx(0.04 / x[:3600, 0].var())


def test_horizon_of_a_loaded_process():
    loaded, x = load_series("mackey_glass", 20, dtype=torch.float64), PROCESSES["mackey_glass"].generate()
    z = torch.tensor((x - x[:3600].mean()) / x[:3600].std())
    assert torch.allclose(loaded.validation.y[0], z[3600]) and torch.allclose(loaded.validation.x[-1, 0], z[3594])
    assert loaded.train.x.shape == (20, 3575, 1) and torch.allclose(loaded.train.y[0], z[25])


@pytest.mark.parametrize("method", ["mean", "var1", "lstm", "grow"])
def test_runs_forecast_the_targets_only(settings, method):
    settings |= dict(dataset="bilinear", method=method, search_epochs=2, train_epochs=2, sizes=[4], max_nodes=2)
    result = experiments.run(TimeSeriesRun.of(settings))["result"]
    assert result["features"] == ["y"] and len(result["feature_errors"]) == 1
    assert np.shape(result["daily_errors"]) == (1200, 1) and np.shape(result["forecast"]) == (60, 1)
    assert result["floor"] == load_series("bilinear", 3).floor


def test_processes_are_data_sets_of_a_configuration():
    assert set(PROCESSES) < set(get_args(TimeSeriesRun.model_fields["dataset"].annotation))
