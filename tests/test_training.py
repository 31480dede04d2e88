"""Training from scratch: optimisers against loops by hand, the averaging, schedules, resuming."""

import itertools
import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from growdarts import search as search_module
from growdarts import training
from growdarts.checkpoints import Checkpoint
from growdarts_study.config import TimeSeriesRun
from growdarts.criteria import averaging_starts
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts_study.records import without_timing
from growdarts.search import Search
from growdarts.training import DivergenceError, fit, learning_rate
from stepping import stored

SGD = dict(optimizer="sgd", momentum=0.9, schedule="cosine", learning_rate=0.02)
AVERAGED = dict(optimizer="nt_asgd", learning_rate=0.2, patience=100, train_epochs=12)
STALLING = AVERAGED | dict(learning_rate=0.5, grad_clip=3.0)
STALLED = [1.0, *[2.0] * 6]  # the seventh error is the first that is worse than one more than five before it


@dataclass
class Line:
    """Noisy linear regression, 24 examples in batches of 8; notes the weights that it is asked to evaluate."""

    scripted: list[float] = field(default_factory=list)  # validation errors, told beforehand
    evaluated: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(48, 3, dtype=torch.float64, generator=generator)
        self.y = self.x.sum(1, keepdim=True) + torch.randn(48, 1, dtype=torch.float64, generator=generator)

    def train_batches(self):
        for index in torch.randperm(24).split(8):
            yield self.x[index], self.y[index]

    def loss(self, network, batch):
        return nn.functional.mse_loss(network(batch[0]), batch[1])

    @torch.no_grad()
    def evaluate(self, network, part):
        assert part == "validation"
        self.evaluated.append(flat(network))
        if self.scripted:
            return self.scripted[len(self.evaluated) - 1]
        return nn.functional.mse_loss(network(self.x[24:]), self.y[24:]).item()


def line():
    """Linear network, and the random state that everything here starts from."""
    torch.manual_seed(1)
    return nn.Linear(3, 1).double()


def flat(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def run(settings, task=None, path=None, network=None, **options):
    network = network or line()
    return fit(network, list(network.parameters()), task or Line(), settings, Checkpoint(path, "me"),
               **options), network


def iterates(settings, optimizer, epochs):
    """Weights after every step of an optimiser of torch, clipped by hand, in the batches that `fit` sees."""
    network, task, found = line(), Line(), []
    optimizer = optimizer(network.parameters())
    for _ in range(epochs):
        for batch in task.train_batches():
            optimizer.zero_grad()
            task.loss(network, batch).backward()
            norm = torch.cat([p.grad.flatten() for p in network.parameters()]).norm()
            for p in network.parameters():
                p.grad *= min(1.0, settings.grad_clip / (norm.item() + 1e-6))
            optimizer.step()
            found.append(flat(network))
    return torch.stack(found)  # (steps, parameters)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


# Optimisers and schedules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad_clip", [0.5, 100.0])
def test_adam_is_torchs_at_a_constant_rate(settings, grad_clip):
    config = TimeSeriesRun.of(settings | dict(grad_clip=grad_clip, patience=4))
    task = Line()
    found, network = run(config, task)
    expected = iterates(config, lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=1e-3), 4)
    close(torch.stack(task.evaluated), expected[2::3])
    best = min(range(4), key=found.errors.__getitem__)
    assert found.validation_error == found.errors[best] and torch.equal(flat(network), task.evaluated[best])


@pytest.mark.parametrize("grad_clip", [0.5, 100.0])
def test_sgd_with_momentum_and_cosine_by_hand(settings, grad_clip):
    config = TimeSeriesRun.of(settings | SGD | dict(grad_clip=grad_clip, patience=9, train_epochs=5))
    task, network = Line(), line()
    w, expected, velocity = flat(network), [], torch.zeros(4, dtype=torch.float64)
    for epoch in range(5):
        rate = 0.02 * math.cos(math.pi * epoch / 10) ** 2  # (1 + cos 2a) / 2 = cos^2 a
        for x, y in task.train_batches():
            residual = x @ w[:3] + w[3] - y[:, 0]
            gradient = 2 * torch.cat([residual @ x, residual.sum()[None]]) / 8
            gradient = gradient * min(1.0, grad_clip / (gradient.norm().item() + 1e-6))
            velocity = 0.9 * velocity + gradient + 1e-3 * w
            w = w - rate * velocity
        expected.append(w)
    task = Line()
    run(config, task)
    close(torch.stack(task.evaluated), torch.stack(expected))


def test_learning_rate_is_torchs_cosine(settings):
    config = TimeSeriesRun.of(settings | SGD)
    optimizer = torch.optim.SGD(line().parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7)
    for epoch in range(7):
        assert learning_rate(config, epoch, 7) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        scheduler.step()
    assert learning_rate(config, 0, 7) == 0.02 and learning_rate(config, 6, 7) > 0
    assert {learning_rate(TimeSeriesRun.of(settings), epoch, 7) for epoch in range(7)} == {0.03}


# Averaging --------------------------------------------------------------------------------------------------------


def test_averaging_starts_where_the_original_does():
    generator = torch.Generator().manual_seed(2)
    found = set()
    for n in (0, 1, 5):
        for _ in range(20):
            errors = torch.rand(10, generator=generator).tolist()
            logs = []  # as main.py of AWD-LSTM: compare, then note
            for k, error in enumerate(errors):
                original = len(logs) > n and error > min(logs[:-n] if n else logs)
                logs.append(error)
                assert averaging_starts(errors[:k + 1], n) == original
                found.add((n, original))
    assert len(found) == 6


def test_nt_asgd_is_sgd_and_then_the_mean_of_its_iterates(settings):
    config = TimeSeriesRun.of(settings | AVERAGED | dict(train_epochs=10))
    task = Line([*STALLED, 2.0, 0.8, 0.7])  # still stalled in the first averaged epoch: the average goes on
    found, network = run(config, task)
    steps = iterates(config, lambda p: torch.optim.SGD(p, lr=0.2, weight_decay=1e-3), 10)
    expected = [*steps[2:21:3], *(steps[21:end].mean(0) for end in (24, 27, 30))]
    close(torch.stack(task.evaluated), torch.stack(expected))
    close(flat(network), steps[21:].mean(0))  # left, as the average is the best
    assert found.validation_error == 0.7 and (flat(network) - steps[-1]).norm() > 1e-3
    _, network = run(config, Line([*STALLED, 2.0, 2.0, 2.0]))  # the best came before the averaging
    close(flat(network), steps[2])


def test_patience_ends_an_averaged_training_too(settings):
    config = TimeSeriesRun.of(settings | AVERAGED | dict(patience=8))
    found, _ = run(config, Line([*STALLED, 2.0, 2.0, 2.0, 2.0, 2.0]))
    assert found.errors == [1.0] + 8 * [2.0]
    found, _ = run(config, Line([*STALLED, 0.9, 2.0, 2.0, 2.0, 2.0]))
    assert len(found.errors) == 12


# Without validation, a call before every epoch ----------------------------------------------------------------------


class Unvalidated(Line):
    def evaluate(self, network, part):
        raise AssertionError("there is no validation part")


def test_without_validation_all_epochs_are_run_and_the_last_weights_left(settings):
    config = TimeSeriesRun.of(settings | dict(patience=1, train_epochs=6))
    found, network = run(config, Unvalidated(), validate=False)
    close(flat(network), iterates(config, lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=1e-3), 6)[-1])
    assert found.validation_error is None and found.errors == [] and found.seconds > 0
    with pytest.raises(ValueError, match="optimizer = 'nt_asgd' without a validation part"):
        run(TimeSeriesRun.of(settings | AVERAGED), Unvalidated(), validate=False)


def test_divergence_without_validation(settings, tmp_path):
    task = Unvalidated()
    loss, calls = task.loss, itertools.count()
    task.loss = lambda *arguments: loss(*arguments) * (math.nan if next(calls) == 7 else 1)
    with pytest.raises(DivergenceError, match=r"epoch 3: loss = nan; the last good checkpoint is .*fit\.pt"):
        run(TimeSeriesRun.of(settings), task, tmp_path / "fit.pt", validate=False)
    assert stored(tmp_path / "fit.pt")["epoch"] == 2


def test_divergence_names_the_error_that_is_not_finite(settings):
    """The loss of the training may still be finite when the validation error no longer is."""
    task = Line()
    task.evaluate = lambda *_: math.inf
    with pytest.raises(DivergenceError, match="epoch 1: loss = inf; no checkpoint was kept"):
        run(TimeSeriesRun.of(settings), task)


def test_on_epoch_comes_before_each_epoch(settings):
    calls, task = [], Line()
    batches, evaluate = task.train_batches, task.evaluate
    task.train_batches = lambda: calls.append("train") or batches()
    task.evaluate = lambda *arguments: calls.append("evaluate") or evaluate(*arguments)
    run(TimeSeriesRun.of(settings | dict(train_epochs=3, patience=3)), task, on_epoch=calls.append)
    assert calls == [0, "train", "evaluate", 1, "train", "evaluate", 2, "train", "evaluate"]


# Resuming -----------------------------------------------------------------------------------------------------------


def killed_after(stop, monkeypatch, action):
    """Run `action` until it has stored `stop` checkpoints."""
    save, counter = Checkpoint.save, itertools.count(1)

    def saves(self, *arguments):
        save(self, *arguments)
        if next(counter) == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoint, "save", saves)
        action()


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a if key != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("changes, validate", [
    (SGD | dict(patience=9, train_epochs=6), True), (SGD | dict(train_epochs=6), False), (STALLING, True),
    (STALLING | dict(momentum=0.5, schedule="cosine"), True), (dict(patience=4), True)])
def test_a_killed_training_ends_with_the_same_bits(settings, tmp_path, monkeypatch, changes, validate):
    monkeypatch.setattr(training, "NON_MONOTONE", 1)  # here the error stalls early
    config, calls = TimeSeriesRun.of(settings | changes), []
    options = dict(validate=validate, on_epoch=calls.append)
    whole, network = run(config, path=tmp_path / "whole.pt", **options)
    state, averaging = stored(tmp_path / "whole.pt"), set()
    for stop in range(1, config.train_epochs + 1):
        path = tmp_path / f"{stop}.pt"
        killed_after(stop, monkeypatch, lambda path=path: run(config, path=path, **options))
        averaging.add(stored(path)["averaged"] is not None)
        calls.clear()
        resumed_network = line()
        torch.manual_seed(999)  # nothing may depend on what another process drew
        resumed, _ = run(config, path=path, network=resumed_network, **options)
        assert resumed.errors == whole.errors and resumed.validation_error == whole.validation_error
        assert torch.equal(flat(resumed_network), flat(network))
        assert same(stored(path), state)
        assert calls == list(range(stop, config.train_epochs))
    assert averaging == ({False, True} if config.optimizer == "nt_asgd" else {False})


def test_a_search_follows_the_cosine_with_both_steps_also_after_a_restart(settings, task, tmp_path, monkeypatch):
    config = TimeSeriesRun.of(settings | SGD | dict(order=2, search_epochs=4, min_gain=0.5))
    rates = {"theta": [], "virtual": []}
    theta_step, alpha_gradient = search_module.theta_step, search_module.alpha_gradient

    def noting_step(network, task, optimizer, *rest):
        rates["theta"].append(optimizer.param_groups[0]["lr"])
        return theta_step(network, task, optimizer, *rest)

    def noting_gradient(*arguments, step, **rest):
        rates["virtual"].append(step.xi)
        return alpha_gradient(*arguments, step=step, **rest)

    monkeypatch.setattr(search_module, "theta_step", noting_step)
    monkeypatch.setattr(search_module, "alpha_gradient", noting_gradient)

    def search(path):
        torch.manual_seed(3)
        network = two_input_forecaster(len(task.series.features), 4, 1, 1, config.operations)
        return Search(network, task, config, checkpoint=Checkpoint(path, "me")).run()

    whole = search(None)
    assert whole.epochs == 4 and "grow_node" in [event["kind"] for event in whole.events]
    steps = len(list(task.train_batches()))
    expected = [learning_rate(config, epoch, 4) for epoch in range(4) for _ in range(steps)]
    assert rates["theta"] == rates["virtual"] == expected
    for stop in range(1, 4):
        path = tmp_path / f"{stop}.pt"
        killed_after(stop, monkeypatch, lambda path=path: search(path))
        rates["theta"].clear()
        torch.manual_seed(999)
        assert without_timing(search(path).history) == without_timing(whole.history)
        assert rates["theta"] == expected[stop * steps:]
