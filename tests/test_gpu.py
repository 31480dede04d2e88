"""On a GPU, by `make gpu`: what is captured is what is computed, searches end, resume elsewhere and repeat themselves."""

import copy
import math

import pytest
import torch

from benchmarks.sizes import TOY
from benchmarks.steps import search_step, subject
from growdarts.devices.captured import Graphs
from growdarts.checkpoints import Checkpoint
from growdarts.search import Search
from growdarts_study import records
from test_devices import SPACES, made, search_steps, optimizers, settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU (or it is hidden: GPU_TESTS=1)")


def losses(space, order, captured):
    """Of 50 and more steps."""
    network, task = made(space, "cuda", random_length=True)
    chosen, graphs, found = settings(), Graphs(), []
    torch.manual_seed(1)
    both = optimizers(network, chosen)
    while len(found) < 50:
        if captured:
            with graphs.of(network):
                found += search_steps(network, task, *both, order)
        else:
            found += search_steps(network, task, *both, order)
    assert (graphs.replays > 50) == captured == graphs.on
    return torch.stack(found).tolist()


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_captured_steps_have_the_losses_of_computed_ones(space, order):
    assert losses(space, order, True) == pytest.approx(losses(space, order, False), rel=1e-3)


@pytest.mark.parametrize("grow_operations", ["off", "morphism", "splitting"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_a_search_repeats_itself_and_goes_on_from_its_checkpoint(space, order, grow_operations, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # as the study has it
    chosen = settings(order=order, search_epochs=4, grow_operations=grow_operations, duplicate_above=0.2)

    def searched(path=None, stop=None):
        network, task = made(space, "cuda", random_length=True)
        search = Search(network, task, chosen, checkpoint=Checkpoint(path, "me"))
        if stop is not None:
            search._search_epoch, epochs = lambda: next(epochs)(), iter([Search._search_epoch.__get__(search)] * stop)
        result = search.run()
        assert {x.device.type for x in network.parameters()} == {"cuda"}
        assert search.graphs.replays > 0 and search.graphs.on  # no capture has failed, of none of the structures
        return records.without_timing([result.history, result.events])

    expected = searched()
    assert searched() == expected
    with pytest.raises(StopIteration):
        searched(tmp_path / "search.pt", stop=2)
    assert searched(tmp_path / "search.pt") == expected


@pytest.mark.parametrize("space", SPACES)
def test_a_checkpoint_of_the_gpu_goes_on_on_the_cpu(space, tmp_path):
    for device, epochs in (("cuda", 2), ("cpu", 4)):
        network, task = made(space, device)
        result = Search(network, task, settings(search_epochs=epochs, prune="none", patience=9),
                        checkpoint=Checkpoint(tmp_path / "search.pt", "me")).run()
        assert result.epochs == epochs and {x.device.type for x in network.parameters()} == {device}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("space", ["recurrent", "two_input"])
def test_steps_run_in_both_precisions(space, precision):
    subjected, graphs = subject(TOY[space], "cuda"), Graphs()
    step = search_step(subjected, 2, precision)
    with graphs.of(subjected.network):
        for _ in range(4):
            step()
    assert graphs.replays > 0 and graphs.on and all(p.isfinite().all() for p in subjected.network.theta_parameters())


def test_a_loss_that_reads_a_number_is_computed_without_graphs():
    """And torch draws numbers, and captures, as if no capture had failed."""
    network, task = made("recurrent", "cuda", random_length=True)
    batch, graphs = next(iter(task.train_batches())), Graphs()

    def reads(batch):
        loss = task.loss(network, batch)
        return (loss * (1 + 0 * loss.item()),)

    with graphs.of(network):
        found = [graphs.run(reads, copy.deepcopy(batch))[0].item() for _ in range(3)]
    assert not graphs.on and all(map(math.isfinite, found))
    assert losses("recurrent", 1, True) == pytest.approx(losses("recurrent", 1, False), rel=1e-3)


def test_nothing_of_a_step_waits_for_the_gpu():
    network, task = made("recurrent", "cuda")
    both = optimizers(network, settings())
    search_steps(network, task, *both, 2)
    batches = list(task.search_batches())
    still = type("Still", (), {"search_batches": lambda self: batches, "loss": task.loss})()
    torch.cuda.set_sync_debug_mode("error")
    try:
        search_steps(network, still, *both, 2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
