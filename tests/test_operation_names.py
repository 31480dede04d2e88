"""Operations of one's own may be called like a method of torch's containers; searches take them in plain and fast form."""

import contextlib

import pytest
import torch

from growdarts import Checkpoint, ForecastTask, Search, SearchImageNetwork, SearchSettings
from growdarts import genotype_from_dict, plain_forms, series_from_returns, two_input_forecaster
from growdarts.growth import grow_operation
from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, SeparableConv, convolutional
from growdarts.spaces.two_input.operations import TWO_INPUT, two_input

NAMES = ["update", "copy", "training", "forward"]
FORMS = {"fast": contextlib.nullcontext, "plain": plain_forms}


@pytest.fixture(params=NAMES)
def name(request):
    def function(wx, us, s):
        return torch.sin(wx + us)

    def build(channels, stride, affine):
        return SeparableConv(channels, 3, stride, affine)

    function.__name__ = build.__name__ = request.param
    two_input(blocks=1)(function)
    convolutional(build)
    yield request.param
    del TWO_INPUT[request.param], CONVOLUTIONAL[request.param]


@pytest.mark.parametrize("form", FORMS)
def test_a_search_grows_prunes_duplicates_resumes_and_derives(name, form, tmp_path):
    returns = torch.randn(90, 2, dtype=torch.float64).numpy()
    task = ForecastTask(series_from_returns(returns, 3, (50, 70, 90)), batch_size=25)
    settings = SearchSettings.usual(operations=[name, "add_identity", "hadamard"], max_nodes=2, search_epochs=3, patience=1,
                                    prune_below=0.34, tune_epochs=1, grow_operations="morphism", duplicate_above=0.33)

    def search(path=None):
        torch.manual_seed(1)
        network = two_input_forecaster(2, 4, 1, 1, settings.operations)
        return Search(network, task, settings, checkpoint=Checkpoint(path, "names"))

    with FORMS[form]():
        expected = search().run()
        first = search(tmp_path / "search.pt")
        first._train_backbone()  # a stage, with its checkpoints; then the process ends
        resumed = search(tmp_path / "search.pt").run()
    assert resumed.genotype == expected.genotype and resumed.stage_errors == expected.stage_errors
    assert {"prune", "grow_operation"} <= {event["kind"] for event in expected.events}
    assert genotype_from_dict(expected.genotype.to_dict()) == expected.genotype


def test_weights_of_such_an_operation_are_kept_duplicated_and_dropped(name):
    network = two_input_forecaster(2, 4, 1, 1, [name, "carry"])
    node, names = network.cells[0].nodes[0], set(network.state_dict())
    optimizers = [torch.optim.SGD(p, lr=0.1) for p in (network.theta_parameters(), network.alpha_parameters())]
    assert grow_operation(network, *optimizers, mixture=0, key=name, step=0.1) == f"{name}#2"
    weights = [network.operation_weights(node.mixture, key) for key in (name, f"{name}#2")]
    assert all(not torch.equal(weights[0][part], weights[1][part]) for part in "WUb")
    assert len(set(network.state_dict()) - names) == 3
    network.keep_operations(node.mixture, [1])
    assert node.mixture.keys == ["carry"] and not node.theta_parameters()


@pytest.mark.parametrize("form", FORMS)
def test_a_convolutional_network_holds_such_an_operation(name, form):
    network = SearchImageNetwork(4, 3, 3, n_nodes=1, operations=["none", "skip_connect", name], image_size=8)
    theta, alpha = (torch.optim.SGD(p, lr=0.1) for p in (network.theta_parameters(), network.alpha_parameters()))
    grow_operation(network, theta, alpha, mixture=0, key=name, step=0.1)
    with FORMS[form]():
        network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    weights = network.operation_weights(network.normal[0], name)
    assert weights and all(weight.grad is not None for weight in weights.values())
    network.keep_operations(network.normal[0], [1])
    assert not network.operation_weights(network.normal[0], "skip_connect")
    network.restructure(network.structure())
    assert network(torch.randn(4, 3, 8, 8)).shape == (4, 3)
