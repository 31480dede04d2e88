"""Without a GPU: nothing of a step is on another device or read by the host, graphs are replayed as they should, devices are
named, and checkpoints of a GPU serve on a CPU."""

import copy
import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from growdarts.bilevel import VirtualStep, alpha_gradient
from growdarts.devices import captured
from growdarts.devices.captured import CudaGraph, Graphs
from growdarts.checkpoints import Checkpoint
from growdarts.devices import find_device, to_device
from growdarts.growth import grow_node, grow_operation
from growdarts.pruning import prune
from growdarts.search import Search
from growdarts.settings import ConfigError, SearchSettings
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts.tasks.images import ImageData, Images, ImageTask
from growdarts.tasks.language import Dropout, LanguageModel, LanguageTask
from growdarts.tasks.series import ForecastTask
from growdarts.tasks.text import Text
from growdarts.training import MeanLoss, theta_optimizer, theta_step
from growdarts_study import grids, records
from growdarts_study.config import TimeSeriesConfig
from growdarts_study.data.series import load_series
from growdarts_study.experiments import run, run_all

SPACES = ["recurrent", "two_input", "convolutional"]


class Watching(TorchDispatchMode):
    """Notes what makes a GPU wait: operations on tensors of two devices, and readings of a number."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)}
        read = str(function).startswith(("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.is_nonzero"))
        if "meta" in devices and (len(devices) > 1 or read):
            self.found.append(str(function))
        return result


def images(n=8):
    x, y = torch.randint(256, (n, 3, 8, 8), dtype=torch.uint8), torch.randint(3, (n,))
    part = Images(x, y)
    return ImageData("noise", ("a", "b", "c"), part, part, part, (0.5,) * 3, (0.25,) * 3, "", {}, padding=1, flip=True)


def made(space, device="cpu", random_length=False):
    """A tiny network and its task on a device."""
    torch.manual_seed(0)
    if space == "convolutional":
        network = SearchImageNetwork(2, 3, 3, 1, ["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"], image_size=8)
        return network.to(device), ImageTask(images(), 4, cutout_length=2, measure="loss", device=device)
    if space == "two_input":
        series = load_series("synthetic_var", 2)
        series = replace(series, train=replace(series.train, x=series.train.x[:, :40], y=series.train.y[:40]))
        task = ForecastTask(series, 16, device)
        return two_input_forecaster(len(series.features), 3, 1, 1, DEFAULT_TWO_INPUT).to(device), task
    words = torch.randint(7, (64,))
    task = LanguageTask(Text("noise", tuple("abcdefg"), words, words[:40], words[:40], None, {}), 4, 3, 0.1, 0.1,
                        random_length, eval_batch_size=4, device=device)
    cell = RecurrentSearchCell(4, 4, 1, ["none", "tanh", "relu", "identity"])
    return LanguageModel(7, cell, Dropout(0.2, 0.2, 0.2, 0.2, 0.2)).to(device), task


def settings(**changes):
    return SearchSettings.usual(**{
        "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, "search_epochs": 3, "patience": 1, "max_nodes": 2,
        "tune_epochs": 1, "prune_below": 0.3} | changes)


def optimizers(network, chosen):
    return theta_optimizer(network.theta_parameters(), chosen), torch.optim.Adam(network.alpha_parameters(), lr=0.1)


def search_steps(network, task, theta_optimizer, alpha_optimizer, order):
    """As `growdarts.search` takes them, over one epoch; the losses."""
    losses = []
    for train, validation in task.search_batches():
        step = VirtualStep(theta_optimizer, network.theta_parameters(), 1.0)
        found = alpha_gradient(network, task.loss, train, validation, order=order, step=step, radius=0.01)
        for alpha, g in zip(network.alpha_parameters(), found, strict=True):
            alpha.grad = g
        alpha_optimizer.step()
        losses.append(theta_step(network, task, theta_optimizer, train, 1.0))
    return losses


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("space", SPACES)
def test_an_epoch_on_a_device_needs_nothing_from_another(space, optimizer, order):
    network, task = made(space, "meta")
    both = optimizers(network, settings(optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0))
    search_steps(network, task, *both, order)  # what is copied once
    batches = iter(list(task.search_batches()))
    still = type("Still", (), {"search_batches": lambda self: batches, "loss": task.loss})()
    with Watching() as watching:
        losses = search_steps(network, still, *both, order)
    assert watching.found == [] and {x.device.type for x in losses} == {"meta"}
    assert {p.device.type for p in network.parameters()} == {"meta"} == {x.device.type for x in task.tensors()}
    mean = MeanLoss()
    mean.add(losses[0], 3)
    mean.add(losses[-1], 3)
    with pytest.raises((RuntimeError, NotImplementedError)):  # read once, at the end
        mean.value()


@pytest.mark.parametrize("space", SPACES)
def test_batches_are_drawn_where_the_data_are(space):
    """The order of the samples is copied once an epoch, and image changes are drawn by the GPU's own generator, which the meta
    device has none of: everything else stays there."""
    network, task = made(space, "meta")
    list(task.search_batches())
    with Watching() as watching:
        n = len(list(task.search_batches()))
    drawn = {"recurrent": 0, "two_input": 2, "convolutional": 2 * (1 + 4 * n)}[space]
    assert len(watching.found) <= drawn and set(watching.found) <= {"aten._to_copy.default"}


@pytest.mark.parametrize("space", SPACES)
def test_a_network_grows_and_is_pruned_and_stored_where_it_is(space, tmp_path):
    network, task = made(space, "meta")
    chosen = settings()
    both = optimizers(network, chosen)
    search_steps(network, task, *both, 1)
    # how large new columns of an image network are, and which operations are affine, depends on values
    grow_node(network, *both, morphism=space == "recurrent", epsilon=1e-3, noise=0.1)
    index, mixture = next((i, m) for i, m in enumerate(network.mixtures()) if len(m.keys) > 2)
    key = {"recurrent": "tanh", "two_input": "add_tanh", "convolutional": "sep_conv_3x3"}[space]
    twin = grow_operation(network, *both, mixture=index, key=key, step=0.1)
    old, new = network.keep_operations(mixture, [mixture.keys.index(key), mixture.keys.index(twin)])
    assert mixture.keys == [key, twin] and new.device.type == "meta"
    both = optimizers(network, chosen)
    search_steps(network, task, *both, 2)
    assert {x.device.type for x in [*network.parameters(), *network.buffers()]} == {"meta"}
    structure = copy.deepcopy(network.structure())
    network.restructure(structure)
    assert network.structure() == structure and {x.device.type for x in network.parameters()} == {"meta"}
    search_steps(network, task, *optimizers(network, chosen), 1)


# ---- graphs --------------------------------------------------------------------------------------


class Repeated:
    """A graph's stand-in on a CPU. Like one it does nothing when it is recorded, and overwrites what it returned before."""

    def __init__(self, function):
        self.function, self.returned = function, None

    @staticmethod
    def warm_up(function):
        return function()

    def replay(self):
        fresh = self.function()
        if self.returned is not None:
            for old, new in zip(tree_leaves(self.returned), tree_leaves(fresh), strict=True):
                if isinstance(new, torch.Tensor):
                    old.data.copy_(new)
        else:
            self.returned = fresh
        return self.returned


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("space", SPACES)
def test_a_replayed_search_is_the_computed_one_bit_for_bit(space, order):
    """Also through growth, pruning, tuning and restored weights; with windows of many lengths, masks and a carried state."""
    def searched(graphs=None):
        network, task = made(space, random_length=True)
        search = Search(network, task, settings(order=order, search_epochs=5, min_gain=0.5, prune_below=0.2,
                                                keep_all_above=0.9))
        search.graphs = graphs or search.graphs
        found = search.run()
        return records.without_timing([found.history, found.events, found.validation_error]), network.state_dict()

    (expected, weights), graphs = searched(), Graphs(Repeated, "cpu")
    found, replayed = searched(graphs)
    assert graphs.replays > 0
    assert {event["kind"] for event in found[1]} >= {"grow_node", "prune", "stage"}
    assert found == expected and weights.keys() == replayed.keys()
    assert all(torch.equal(weights[name], replayed[name]) for name in weights)


def test_graphs_of_another_structure_or_shape_are_not_replayed():
    network, task = made("two_input")
    graphs, batches = Graphs(Repeated, "cpu"), list(task.train_batches())  # 16, 16, 8 days

    def epoch():
        with graphs.of(network):
            return [graphs.run(lambda batch: (task.loss(network, batch),), batch)[0].item() for batch in batches]

    def expected():
        return [task.loss(network, batch).item() for batch in batches]

    assert epoch() == expected() and graphs.replays == 1
    assert epoch() == expected() and graphs.replays == 4
    both = optimizers(network, settings())
    grow_node(network, *both, morphism=False, epsilon=1e-3, noise=0.1)
    assert epoch() == expected() and graphs.replays == 5
    prune(network, *both, prune_below=0.13, keep_all_above=0.9)
    assert epoch() == expected() and graphs.replays == 6
    network.load_state_dict(copy.deepcopy(network.state_dict()), assign=True)
    assert epoch() == expected() and graphs.replays == 7


def test_where_nothing_can_be_captured_everything_is_computed(caplog):
    class Refused(Repeated):
        def __init__(self, function):
            raise RuntimeError("operation not permitted when stream is capturing")

    network, task = made("two_input")
    batches, graphs = list(task.train_batches()), Graphs(Refused, "cpu")
    with graphs.of(network):
        found = [graphs.run(lambda batch: (task.loss(network, batch),), batch)[0].item() for batch in batches]
    assert found == [task.loss(network, batch).item() for batch in batches] and graphs.replays == 0
    assert "not permitted" in caplog.text


class FakeCuda:
    """Streams, graphs and the pools of their memory, as far as torch has rules for them.

    A graph is captured on the stream that is current. A pool without any graph is gone; a capture into it fails
    (`use_count > 0 INTERNAL ASSERT FAILED` in c10/cuda/CUDACachingAllocator.cpp), as does one into a pool in which another
    has failed (`already recording to mempool_id`). A failed capture leaves its stream and the generator as they are.
    """

    def __init__(self):
        self.now, self.waited, self.users, self.stuck, self.pools = "default", [], {}, set(), 0
        self.default_generators, fake = [self], self
        self.capturing = False

        class Graph:
            used = None

            def pool(self):
                return self.used

            def replay(self):
                pass

            def __del__(self):
                if self.used in fake.users:
                    fake.users[self.used] -= 1

        class Stream:
            def wait_stream(self, other):
                fake.waited.append((self, other))

        self.CUDAGraph, self.Stream = Graph, Stream

    def current_stream(self):
        return self.now

    def set_stream(self, stream):
        self.now = stream

    def current_device(self):
        return 0

    def clone_state(self):
        return "a state that is not capturing"

    def graphsafe_set_state(self, state):
        self.capturing = state != "a state that is not capturing"

    @contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextmanager
    def graph(self, graph, pool=None, stream=None):
        if pool in self.stuck or pool is not None and not self.users[pool]:
            raise RuntimeError("the pool is being recorded to, or is gone")
        if pool is None:
            self.pools += 1
            pool = self.pools
        graph.used, self.users[pool] = pool, self.users.get(pool, 0) + 1
        before, self.now, self.capturing = self.now, stream, True
        try:
            yield
        except RuntimeError:
            self.stuck.add(pool)
            raise
        self.now, self.capturing = before, False


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    fake.default = fake.now = fake.Stream()
    monkeypatch.setattr(captured, "torch", type("Torch", (), {"cuda": fake, "clone": torch.clone}))
    monkeypatch.setattr(CudaGraph, "first", None)
    yield fake
    CudaGraph.first = CudaGraph.stream = None


def test_captures_follow_the_rules_of_torch(cuda, caplog):
    """Each on the stream of its warm-up, which waits for the other and is waited for; in a pool that is never without a graph,
    though growth drops all."""
    network, task = made("two_input")
    graphs, streams, batches = Graphs(CudaGraph, "cpu"), [], list(task.train_batches())

    def loss(batch):
        streams.append((cuda.now, cuda.capturing))
        return (task.loss(network, batch),)

    for _ in range(2):
        for _ in range(3):
            with graphs.of(network):
                graphs.run(loss, batches[0])
        grow_node(network, *optimizers(network, settings()), morphism=False, epsilon=1e-3, noise=0.1)
    assert graphs.on and graphs.replays == 4 and cuda.pools == 1, caplog.text
    side = CudaGraph.stream
    assert streams == [(side, False), (side, True)] * 2 and cuda.now is cuda.default
    assert cuda.waited == [(side, cuda.default), (cuda.default, side)] * 2


def test_after_a_capture_that_failed_torch_can_go_on(cuda):
    """On the stream as before, with a generator that draws, and with captures in another pool."""
    def reads(batch):
        if cuda.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return (batch.sum(),)

    network, _ = made("two_input")
    for _ in range(2):
        graphs = Graphs(CudaGraph, "cpu")
        with graphs.of(network):
            assert [graphs.run(reads, torch.ones(n)[:2])[0].item() for n in (2, 2, 2)] == [2.0] * 3
        assert not graphs.on and cuda.now is cuda.default and not cuda.capturing
    graphs = Graphs(CudaGraph, "cpu")
    with graphs.of(network):
        for _ in range(2):
            graphs.run(lambda batch: (batch.sum(),), torch.ones(2))
    assert graphs.on and graphs.replays == 1


def test_on_a_cpu_nothing_is_captured():
    network, task = made("two_input")
    search = Search(network, task, settings(search_epochs=2))
    search.run()
    assert search.graphs.replays == 0 and not search.graphs.passes


# ---- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("losses, value", [
    ([1.5, 2.25, 0.1], (1.5 * 3 + 2.25 * 4 + torch.tensor(0.1).item() * 5) / 12),
    ([1.0, float("inf"), float("nan")], float("inf")), ([1.0, float("-inf"), float("inf")], float("-inf")),
    ([float("nan"), 1.0, float("inf")], float("nan"))])
def test_a_mean_loss_is_that_of_all_samples_or_the_first_that_is_none(losses, value):
    mean = MeanLoss()
    for n, loss in enumerate(losses, start=3):
        mean.add(torch.tensor(loss), n)
    assert mean.value() == value or value != value and mean.value() != mean.value()


# ---- names ---------------------------------------------------------------------------------------


def test_an_absent_device_is_one_error_that_names_what_is_there(settings_of_a_grid):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert find_device("auto") == torch.device("cpu")
    for name in ("cuda", "cuda:3", "gpu", ""):
        with pytest.raises(ConfigError, match=f"device = {name!r}: allowed are 'auto' and the devices .* finds here, cpu$"):
            find_device(name)
    config = TimeSeriesConfig.of(settings_of_a_grid | {"device": "cuda"})
    for call in (lambda: run_all(config), lambda: run(config.runs()[0], device="cuda")):
        with pytest.raises(ConfigError, match="device = 'cuda'"):
            call()
    with pytest.raises(ConfigError, match="parameter 'device' = 'tpu'"):
        TimeSeriesConfig.of(settings_of_a_grid | {"device": "tpu"})


def test_a_process_computes_on_torchs_current_gpu(monkeypatch):
    for name, value in (("is_available", True), ("device_count", 2), ("current_device", 1)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    assert [find_device(name).type for name in ("auto", "cuda", "cuda:1")] == ["cuda"] * 3
    with pytest.raises(ConfigError, match="'cuda:0': .* here, cpu, cuda, cuda:1; CUDA_VISIBLE_DEVICES chooses another GPU"):
        find_device("cuda:0")


@pytest.fixture
def settings_of_a_grid():
    return grids.defaults("time_series") | {"methods": ["mean"]}


def test_the_device_is_outside_of_every_hash(settings_of_a_grid):
    configs = [TimeSeriesConfig.of(settings_of_a_grid | {"device": device}) for device in ("auto", "cpu", "cuda")]
    assert len({config.hash() for config in configs}) == 1
    assert len({config.runs()[0].hash() for config in configs}) == 1 and "device" not in configs[0].runs()[0].model_dump()
    jobs = {device: grids.jobs("language", "reduced", device=device) for device in (None, "cuda")}
    assert [job.name for job in jobs[None]] == [job.name for job in jobs["cuda"]]
    assert {job.config.device for job in jobs["cuda"]} == {"cuda"} and jobs["cuda"][0].overrides["device"] == "cuda"


def test_data_move_once():
    _, task = made("recurrent", "meta")
    assert task.text.train.device.type == "meta" and task.text.name == "noise"
    again = to_device(task.text, torch.device("meta"))
    assert again.train is task.text.train and to_device(None, torch.device("meta")) is None


def test_a_record_of_a_gpu_names_it(monkeypatch):
    made_on = records.provenance({})["hardware"]
    assert made_on["memory_gib"] > 0.1 and "gpu" not in made_on
    properties = type("Properties", (), {"name": "H100", "total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(records.subprocess, "run", lambda command, **_: type("Done", (), {
        "stdout": "550.54.15\n" if command[0] == "nvidia-smi" else ""}))
    found = records.provenance({}, torch.device("cuda"))["hardware"]
    assert (found["gpu"], found["gpu_memory_gib"], found["driver"]) == ("H100", 80.0, "550.54.15")
    json.dumps(found)


# ---- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_of_a_gpu_is_loaded_on_a_cpu(tmp_path, monkeypatch):
    """torch marks a tensor of a GPU by its location, and refuses to load it elsewhere unless told where."""
    file = Checkpoint(tmp_path / "search.pt", "me")
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        patched.setattr(torch.cuda, "is_initialized", lambda: True)
        patched.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
        file.save("search", "", {"weights": torch.arange(3.0)})
    content = (tmp_path / "search.pt").read_bytes()[32:]
    (tmp_path / "plain.pt").write_bytes(content)
    with pytest.raises(RuntimeError, match="CUDA device"):
        torch.load(tmp_path / "plain.pt", weights_only=True)
    state = file.load("search", "")
    assert torch.equal(state["weights"], torch.arange(3.0)) and state["weights"].device.type == "cpu"


@pytest.mark.parametrize("space", SPACES)
def test_a_search_that_goes_on_elsewhere_has_its_network_there(space):
    """What a checkpoint holds is on the CPU, wherever the search is: it moves to the network."""
    network, task = made(space)
    search = Search(network, task, settings())
    search._search_epoch()
    stored = search._snapshot()
    elsewhere, data = made(space, "meta")
    resumed = Search(elsewhere, data, settings())
    resumed._restore(stored)
    assert {x.device.type for x in [*elsewhere.parameters(), *elsewhere.buffers()]} == {"meta"}
    state = resumed.theta_optimizer.state
    assert {value.device.type for entry in state.values() for value in entry.values() if value is not None} == {"meta"}
    search_steps(elsewhere, data, resumed.theta_optimizer, resumed.alpha_optimizer, 2)
