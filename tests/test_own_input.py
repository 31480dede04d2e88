"""What users hand over: nothing trains in silence, nothing of another run is taken, and every refusal names the thing."""

import multiprocessing
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from growdarts import Checkpoint, ForecastTask, Search, SearchSettings, derived_forecaster, fit
from growdarts import series_from_returns, two_input_forecaster
from growdarts.checkpoints import CheckpointError
from growdarts.settings import DataError
from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, convolutional
from growdarts.spaces.two_input.cell import TwoInputCell
from growdarts.spaces.two_input.genotype import Genotype
from growdarts.spaces.two_input.operations import TWO_INPUT, two_input

RETURNS = np.random.default_rng(0).normal(size=(90, 3))
CUTS = (50, 70, 90)
SETTINGS = SearchSettings.usual(search_epochs=2, train_epochs=2, operations=["add_tanh", "add_identity", "carry"])


def task_of(returns=RETURNS):
    return ForecastTask(series_from_returns(returns, 3, CUTS), 25)


def network():
    torch.manual_seed(0)
    return two_input_forecaster(3, 4, 1, 1, SETTINGS.operations)


def cell():
    torch.manual_seed(0)
    return derived_forecaster(Genotype(((("gate",), ("add_tanh",)),)), 3, 4)


# Nothing trains in silence ------------------------------------------------------------------------------------

@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_trained(context):
    with context(), pytest.raises(RuntimeError, match="gradients are switched off"):
        Search(network(), task_of(), SETTINGS).run()
    with context(), pytest.raises(RuntimeError, match="gradients are switched off"):
        trained = cell()
        fit(trained, trained.theta_parameters(), task_of(), SETTINGS)


def test_parameters_of_another_network_are_refused():
    with pytest.raises(ValueError, match="8 of 8 parameters do not belong to the network"):
        fit(cell(), cell().theta_parameters(), task_of(), SETTINGS)


def test_a_loss_that_reaches_no_parameter_is_refused():
    class Detached(ForecastTask):
        def loss(self, network, batch):
            return super().loss(network, batch).detach()

    task, trained = Detached(task_of().series, 25), cell()
    with pytest.raises(ValueError, match="depends on none of the 8 parameters"):
        fit(trained, trained.theta_parameters(), task, SETTINGS)
    with pytest.raises(ValueError, match="depends on none of the 1 parameters"):
        Search(network(), task, SETTINGS).run()


# Series -------------------------------------------------------------------------------------------------------

def test_a_feature_that_does_not_vary_beyond_rounding_is_refused_by_name():
    constant = RETURNS.copy()
    constant[:, 1] = 0.1  # its deviation is 1e-17, not 0
    assert constant[:50, 1].std() > 0
    with pytest.raises(DataError, match="feature 'b' does not vary in the training part"):
        series_from_returns(constant, 3, CUTS, features=["a", "b", "c"])


@pytest.mark.parametrize("scale", [1e154, 1e-200, 1e60, 1e-60])
def test_a_feature_whose_deviation_cannot_be_represented_is_refused_by_name(scale):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match="feature 'z1' .*scale it"):
            series_from_returns(RETURNS * scale, 3, CUTS)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_any_other_scale_gives_the_same_standardised_series(scale):
    found, expected = (series_from_returns(r, 3, CUTS) for r in (RETURNS * scale, RETURNS))
    torch.testing.assert_close(found.test.x, expected.test.x)


def test_names_of_any_kind_of_sequence_in_the_right_number():
    frame = pd.DataFrame(RETURNS, columns=["a", "b", "c"], index=pd.date_range("2020-01-01", periods=90).astype(str))
    series = series_from_returns(frame, 3, CUTS, features=frame.columns, labels=frame.index)
    assert series.features == ("a", "b", "c") and series.test.dates[0] == "2020-03-11"
    assert series_from_returns(RETURNS, 3, CUTS, labels=np.arange(90)).test.dates[0] == "70"
    for wrong, message in ((dict(features=["a"]), "1 features for returns of shape .90, 3.: allowed are 3"),
                           (dict(labels=["a"] * 10), "10 labels .*: allowed are 90")):
        with pytest.raises(DataError, match=message):
            series_from_returns(RETURNS, 3, CUTS, **wrong)


@pytest.mark.parametrize("window, cuts", [(0, CUTS), (-1, CUTS), (2.0, CUTS), (True, CUTS), (3, (50.0, 70, 90)), (3, (50, 70))])
def test_windows_and_cuts_are_whole_numbers(window, cuts):
    with pytest.raises(DataError, match="window=.*cuts=|cuts=.*window="):
        series_from_returns(RETURNS, window, cuts)


def test_torchs_default_type_is_that_of_the_series():
    torch.set_default_dtype(torch.float64)
    try:
        assert Search(network(), task_of(), SETTINGS).run().genotype
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_types_that_cells_do_not_take_are_named(dtype):
    with pytest.raises(TypeError, match=f"inputs of type {dtype}: allowed are torch.float32 and torch.float64"):
        network()(torch.ones(3, 2, 3, dtype=dtype))


# Checkpoints --------------------------------------------------------------------------------------------------

def test_a_checkpoint_belongs_to_its_data(tmp_path):
    keep = Checkpoint(tmp_path / "search.pt", "mine")
    Search(network(), task_of(), SETTINGS, checkpoint=keep).run()
    with pytest.raises(CheckpointError, match="search.pt was written by another run: its data is"):
        Search(network(), task_of(RETURNS + 1e-3 * RETURNS**2), SETTINGS, checkpoint=keep).run()


def test_a_checkpoint_belongs_to_its_kind_of_work_and_may_be_a_string(tmp_path):
    keep = Checkpoint(str(tmp_path / "run.pt"), "mine")
    Search(network(), task_of(), SETTINGS, checkpoint=keep).run()
    trained = cell()
    with pytest.raises(CheckpointError, match="its kind is 'search', expected 'training'"):
        fit(trained, trained.theta_parameters(), task_of(), SETTINGS, keep)


@pytest.mark.parametrize("content", [3, [1, 2], {}, {"owner": "mine"}, None])
def test_what_is_no_checkpoint_is_refused_without_advice_to_trust_it(tmp_path, content):
    file = tmp_path / "search.pt"
    torch.save(content, file)
    with pytest.raises(CheckpointError, match="is damaged or no checkpoint") as error:
        Search(network(), task_of(), SETTINGS, checkpoint=Checkpoint(file, "mine")).run()
    assert "weights_only" not in str(error.value)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    keep = Checkpoint(tmp_path / "search.pt", "mine")
    Search(network(), task_of(), SETTINGS, checkpoint=keep).run()
    before = (tmp_path / "search.pt").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match=r"search.pt cannot be written \(OSError\): is there space"):
        keep.save("search", "", {})
    assert (tmp_path / "search.pt").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


# Operations ---------------------------------------------------------------------------------------------------

def in_place(wx, us, s):
    return wx.add_(us)


def random(wx, us, s):
    return wx + us + torch.rand_like(s)


@pytest.mark.parametrize("function, name, blocks, message", [
    (lambda wx, us, s: wx + us, "a.b", 1, "'a.b': allowed are the names"),
    (lambda wx, us, s: wx + us, "a#2", 1, "'a#2': allowed are the names"),
    (lambda wx, us, s: wx + us, "", 1, "'': allowed are the names"),
    (lambda wx, us, s: wx + us, "gate", 1, "'gate' is registered twice"),
    (lambda wx, us, s: wx + us, "mine", 1.5, "blocks = 1.5 of operation 'mine'"),
    (lambda wx, us, s: wx + us, "mine", -1, "blocks = -1 of operation 'mine'"),
    (lambda wx, us, s: wx + us, "mine", True, "blocks = True of operation 'mine'"),
    (lambda wx, us, s: wx + us, "mine", 2, r"'mine' returns shape \(5, 4\) for s of shape \(5, 2\)"),
    (lambda wx, us, s: wx[:, :1], "mine", 1, r"'mine' returns shape \(5, 1\)"),
    (lambda wx, us, s: wx @ us, "mine", 1, "'mine' fails for wx and us of shape"),
    (lambda wx, us, s: None, "mine", 1, "'mine' fails"),
    (in_place, "mine", 1, "'mine' changes its arguments in place"),
    (random, "mine", 1, "'mine' is random"),
    (lambda wx, us, s: wx + us.mean(-1, keepdim=True), "mine", 1, "'mine' mixes units")])
def test_impossible_two_input_operations_are_refused_when_they_are_registered(function, name, blocks, message):
    before = dict(TWO_INPUT)
    function.__name__ = name
    with pytest.raises(ValueError, match=message):
        two_input(blocks=blocks)(function)
    assert TWO_INPUT == before


@pytest.mark.parametrize("build, name, message", [
    (lambda C, stride, affine: torch.nn.Identity(), "a.b", "'a.b': allowed are the names"),
    (lambda C, stride, affine: torch.nn.Identity(), "mine", r"'mine' with stride 2 returns shape \(2, 4, 8, 8\)"),
    (lambda C, stride, affine: torch.nn.Conv2d(C, 2 * C, 1, stride), "mine", r"'mine' with stride 1 returns shape \(2, 8"),
    (lambda C, stride, affine: torch.nn.Linear(3, 3), "mine", "'mine' fails with 4 channels and stride 1")])
def test_impossible_convolutional_operations_are_refused_when_they_are_registered(build, name, message):
    before, random = dict(CONVOLUTIONAL), torch.get_rng_state()
    build.__name__ = name
    with pytest.raises(ValueError, match=message):
        convolutional(build)
    assert CONVOLUTIONAL == before and torch.equal(torch.get_rng_state(), random)


# What looks at the operations themselves ------------------------------------------------------------------------

def test_hooks_on_nodes_fire():
    found, seen = TwoInputCell(3, 4, [["gate", "add_tanh"]] * 2), []
    x = torch.randn(5, 2, 3)
    expected = found(x)
    handle = found.nodes[1].register_forward_hook(lambda module, arguments, output: seen.append(output))
    torch.testing.assert_close(found(x), expected)
    assert len(seen) == 5
    handle.remove()
    found(x)
    assert len(seen) == 5


def test_a_derived_cell_can_be_traced_and_exported():
    trained, x = cell().eval(), torch.randn(3, 2, 3)
    expected = trained(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both warn of what they are
        traced = torch.jit.trace(trained, (x,))
        exported = torch.export.export(trained, (x,)).module()
    torch.testing.assert_close(traced(x), expected)
    torch.testing.assert_close(exported(x), expected)


@pytest.mark.skipif("WITHOUT_FAST" in os.environ, reason="there is no numba to switch off")
@pytest.mark.parametrize("switch, imported", [("NUMBA_DISABLE_JIT", True), ("GROWDARTS_PLAIN", False)])
def test_with_the_compiler_or_the_fast_package_switched_off_the_plain_forms_compute(switch, imported):
    code = """
import sys, torch, growdarts
states = growdarts.two_input_forecaster(2, 3, 1, 1, ["gate"]).cells[0](torch.ones(2, 1, 2))
print(type(states.grad_fn).__name__, "numba" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], env=os.environ | {switch: "1"}, capture_output=True, text=True,
                         timeout=300)
    assert run.stdout.split() == ["StackBackward0", str(imported)], run.stderr


def _loss():
    found = TwoInputCell(16, 64, [["gate", "add_tanh"]] * 2)
    found(torch.randn(9, 64, 16)).sum().backward()


def test_a_process_that_is_forked_after_threads_were_used_does_not_hang():
    torch.set_num_threads(2)
    _loss()
    (torch.randn(600, 600) @ torch.randn(600, 600)).exp().sum()
    child = multiprocessing.get_context("fork").Process(target=_loss)
    child.start()
    child.join(60)
    hangs = child.is_alive()
    child.kill()
    assert not hangs and child.exitcode == 0
