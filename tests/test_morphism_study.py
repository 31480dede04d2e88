"""The numbers of notebook 01 hold what its text says of them."""

import pytest

from growdarts_study.page_settings import MorphismConfig
from growdarts_study.studies.morphisms import study
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT


@pytest.fixture(scope="module")
def result():
    return study(MorphismConfig.of(dict(
        seed=0, window=3, hidden=6, operations=list(DEFAULT_TWO_INPUT), epochs_before=3, epochs_after=2,
        epsilons=[1e-4, 1e-2], noises=[0.1, 0.5], draws=2)))


def test_changes_stay_below_epsilon_and_scale_with_it(result):
    assert (result.changes.change <= result.changes.epsilon).all()
    mean = result.changes.groupby("epsilon").change.mean()
    assert mean[1e-2] / mean[1e-4] == pytest.approx(100, rel=0.5)
    assert result.fresh_change > 0.05


def test_errors_meet_at_the_growth_and_jump_with_fresh_weights(result):
    at = result.errors.iloc[result.grown_after - 1:result.grown_after + 1]
    assert at.morphism.iloc[1] == pytest.approx(at.morphism.iloc[0], rel=1e-3)
    assert at.fresh.iloc[1] > at.fresh.iloc[0] * 1.01
    assert len(result.errors) == 3 + 1 + 2


def test_net2net_columns(result):
    table = result.net2net
    for name in ("tanh", "relu"):
        assert (table[f"{name}: Net2Wider"] - table[f"{name}: before"]).abs().max() < 1e-12
    assert (table["relu: Net2Deeper"] - table["relu: before"]).abs().max() < 1e-12
    assert (table["tanh: Net2Deeper"] - table["tanh: before"]).abs().max() > 0.01
