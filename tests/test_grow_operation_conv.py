"""Duplicating operations of convolutional cells: the function stays, splitting lowers the loss as predicted."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.optim import SGD, Adam

from growdarts.space import OperationOwner
from growdarts.spaces.darts_conv.operations import CONVOLUTIONAL, convolutional
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork, last_convolutions
from growdarts.growth import growable_operations, grow_operation, operation_owner
from growdarts.forms import plain_forms
from growdarts.pruning import prune
from growdarts.splitting import possible_splits, select_operation, splitting_matrices
from stepping import dense, step

OPERATIONS = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
# of the network below: mixtures 0 and 1 belong to the normal cell, 2 and 3 to the reduction cells
WITH_WEIGHTS = [(0, "sep_conv_3x3"), (1, "dil_conv_3x3"), (2, "skip_connect"), (3, "sep_conv_3x3"), (3, "dil_conv_3x3")]


def loss(network, batch):
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


def trained(operations=OPERATIONS, steps=10, n=8, channels=2, n_nodes=1, optimizer=SGD):
    """A float64 network of three cells and its optimisers in the middle of a training, and a batch."""
    network = SearchImageNetwork(channels, 4, 3, n_nodes, operations, image_size=8).double()
    theta = optimizer(network.theta_parameters(), lr=0.05, **{"momentum": 0.9} if optimizer is SGD else {})
    alpha = Adam(network.alpha_parameters(), lr=0.1)
    batch = torch.randn(n, 3, 8, 8, dtype=torch.float64), torch.arange(n) % 4
    for _ in range(steps):
        update(network, theta, alpha, batch)
    return network, theta, alpha, batch


def update(network, theta, alpha, batch):
    step(loss(network, batch), theta, alpha)


def test_the_network_owns_its_operations():
    network, *_ = trained(steps=0)
    assert isinstance(network, OperationOwner)
    assert all(operation_owner(network, mixture) is network for mixture in network.mixtures())
    names = {operation: list(network.operation_weights(list(network.mixtures())[operation[0]], operation[1]))
             for operation in WITH_WEIGHTS}
    assert names[1, "dil_conv_3x3"] == ["cell 0.op.1.weight", "cell 0.op.2.weight"]
    assert names[2, "skip_connect"] == [f"cell {k}.conv_{i}.weight" for k in (1, 2) for i in (1, 2)]
    assert set(growable_operations(network)) == {(i, key) for i in range(4) for key in OPERATIONS[3:]} | {
        (2, "skip_connect"), (3, "skip_connect")}


@pytest.mark.parametrize("mixture, key", WITH_WEIGHTS)
@pytest.mark.parametrize("train", [True, False])
def test_output_unchanged(mixture, key, train):
    """A batch norm divides by the length of a row, which is about 0.6: half of the noise that other spaces bear."""
    for epsilon in (1e-2, 1e-4):
        network, theta, alpha, (x, _) = trained()
        network.train(train)
        before = network(x)
        for n in (2, 3):
            grow_operation(network, theta, alpha, mixture=mixture, key=key, step=0.25 * epsilon**0.5)
            assert f"{key}#{n}" in list(network.mixtures())[mixture].keys
            after = network(x)
            assert (after - before).norm() <= epsilon * before.norm()
            before = after


@pytest.mark.parametrize("mixture, key", WITH_WEIGHTS)
@pytest.mark.parametrize("train", [True, False])
def test_kept_to_first_order_in_delta(mixture, key, train):
    """A tenth of delta, a hundredth of the change; somewhat more where a relu between two weights has its kink."""
    network, theta, alpha, (x, _) = trained()
    network.train(train)
    before = network(x)

    def change(step):
        grown, *optimizers = copy.deepcopy((network, theta, alpha))
        torch.manual_seed(5)
        grow_operation(grown, *optimizers, mixture=mixture, key=key, step=step)
        return (grown(x) - before).norm().item()

    assert change(0.0) < 1e-12
    if not train and key == "skip_connect":  # divided by fixed deviations: affine in the weights
        assert change(1e-2) < 1e-12
    elif key == "sep_conv_3x3":
        assert change(1e-3) / change(1e-4) > 10**1.3
    else:
        assert change(1e-3) / change(1e-4) == pytest.approx(100, rel=0.05)


def test_copies_hold_weights_and_statistics_of_every_cell():
    network, theta, alpha, _ = trained()
    before = copy.deepcopy(network)
    grow_operation(network, theta, alpha, mixture=3, key="sep_conv_3x3", step=0.1)
    mixture = list(network.mixtures())[3]
    weight = list(before.mixtures())[3].named_weights()["sep_conv_3x3"]
    assert mixture.named_weights()["sep_conv_3x3"] == pytest.approx(weight / 2)
    assert mixture.named_weights()["sep_conv_3x3#2"] == pytest.approx(weight / 2)
    assert network.cells[0].edges[1].operations.keys() == before.cells[0].edges[1].operations.keys()  # a normal cell
    for k in (1, 2):
        old, one, two = (cells[k].edges[1].operations[key] for cells, key in (
            (before.cells, "sep_conv_3x3"), (network.cells, "sep_conv_3x3"), (network.cells, "sep_conv_3x3#2")))
        for buffer, *copies in zip(old.buffers(), one.buffers(), two.buffers(), strict=True):
            assert all(torch.equal(buffer, c) for c in copies) and len({c.data_ptr() for c in copies}) == 2
        for p, minus, plus in zip(old.parameters(), one.parameters(), two.parameters(), strict=True):
            torch.testing.assert_close((plus + minus) / 2, p)
            rows = (plus - p).flatten(1)
            assert rows.norm(dim=1).mean().item() == pytest.approx(0.1, rel=0.7) and rows.all()
    assert network.theta_parameters() == theta.param_groups[0]["params"]
    assert network.alpha_parameters() == alpha.param_groups[0]["params"]


def test_inherited_parameters_and_moments_are_bit_identical():
    network, theta, alpha, batch = trained()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    moments = {name: theta.state[p]["momentum_buffer"].clone() for name, p in network.named_parameters()
               if p in theta.state}
    grow_operation(network, theta, alpha, mixture=2, key="skip_connect", step=0.1)
    touched = {name for name in before if "edges.0.operations.skip_connect." in name} | {"reduce.0.alpha"}
    assert len(touched) == 5
    for name, p in network.named_parameters():
        if name in before and name not in touched:
            assert torch.equal(p, before[name])
            assert name not in moments or torch.equal(theta.state[p]["momentum_buffer"], moments[name])
        elif p in theta.state:
            assert torch.equal(theta.state[p]["momentum_buffer"], moments[name.replace("#2", "")] / 2)
    copies = {name: p.detach().clone() for name, p in network.named_parameters() if "#2" in name}
    update(network, theta, alpha, batch)
    assert len(copies) == 4 and all(not torch.equal(dict(network.named_parameters())[name], p)
                                    for name, p in copies.items())


def test_grown_network_is_stored_pruned_grown_and_derived():
    network, theta, alpha, batch = trained()
    grow_operation(network, theta, alpha, mixture=0, key="sep_conv_3x3", step=0.1)
    grow_operation(network, theta, alpha, mixture=2, key="skip_connect", step=0.1)
    network.grow_node(morphism=True, epsilon=1e-3, noise=0.1)
    network(batch[0])
    network.eval()
    assert network.structure()["normal"][0] == [*OPERATIONS, "sep_conv_3x3#2"]
    assert network.structure()["reduce"][0] == [*OPERATIONS, "skip_connect#2"]
    assert "cells.0.edges.0.operations.sep_conv_3x3#2.op.6.weight" in network.state_dict()
    again = SearchImageNetwork(2, 4, 3, 1, OPERATIONS, image_size=8).double().eval()
    again.restructure(network.structure())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(batch[0]), network(batch[0]))
    assert [p.shape for p in again.theta_parameters()] == [p.shape for p in network.theta_parameters()]
    assert again.flops() == network.flops() > SearchImageNetwork(2, 4, 3, 2, OPERATIONS, image_size=8).flops()
    mixture = network.normal[0]
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([0, 0, 1.0, 0.7, 0, 0.7]))
    assert ("sep_conv_3x3", 0) in network.genotype().normal[:2]
    with torch.no_grad():
        mixture.alpha.copy_(torch.tensor([0, 0, 1.0, -9.0, 0, 0.7]))
    dropped = prune(network, Adam(network.theta_parameters()), Adam(network.alpha_parameters()),
                    prune_below=0.01, keep_all_above=0.9)
    assert dropped == ["normal 2 <- 0: sep_conv_3x3"]
    assert list(network.cells[0].edges[0].operations) == [*OPERATIONS[:3], "dil_conv_3x3", "sep_conv_3x3#2"]
    assert network.duplicate_operation(mixture, "sep_conv_3x3#2").key == "sep_conv_3x3#3"
    assert network(batch[0]).isfinite().all()


def test_what_has_no_weights_is_named():
    network, theta, alpha, _ = trained(steps=0)
    with pytest.raises(ValueError, match="'skip_connect' of mixture 0 owns no weights"):  # of stride 1
        grow_operation(network, theta, alpha, mixture=0, key="skip_connect", step=0.1)
    assert network.structure() == SearchImageNetwork(2, 4, 3, 1, OPERATIONS, image_size=8).structure()


# Splitting ----------------------------------------------------------------------------------------------------

def loss_after_splitting(network, batch, operation, places):
    """The loss by the deltas of all places, one after the other; also how long each is."""
    grown = copy.deepcopy(network)
    duplicate = grown.duplicate_operation(list(grown.mixtures())[operation[0]], operation[1])
    names = {id(p): name for name, p in grown.named_parameters()}
    sizes = [place.pack(place.trace.weights).numel() for place in places]

    def value(delta):
        changed = {}
        for place, part in zip(places, delta.split(sizes), strict=True):
            for name, d in place.unpack(part.view(place.trace.units, -1)).items():
                original, twin = duplicate.weights[name]
                changed[names[id(original)]], changed[names[id(twin)]] = original - d, twin + d
        with plain_forms():  # differentiated twice
            logits = torch.func.functional_call(grown, changed, batch[0])
        return nn.functional.cross_entropy(logits, batch[1])

    return value, sum(sizes)


@pytest.mark.parametrize("operation", WITH_WEIGHTS)
def test_matrices_are_the_blocks_of_the_hessian_by_delta(operation):
    """No gradient, nothing between units or cells, and within a unit nothing but S."""
    network, *_, batch = trained(steps=3)
    places = [m for m in splitting_matrices(network, loss, batch) if m.operation == operation]
    assert len(places) == (1 if operation[0] < 2 else 2) * (2 if operation[1] == "skip_connect" else 1)
    value, size = loss_after_splitting(network, batch, operation, places)
    zero = torch.zeros(size, dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.functional.jacobian(value, zero), zero, rtol=0, atol=1e-13)
    expected = torch.block_diag(*[S for place in places for S in dense(place)])
    assert expected.any()
    torch.testing.assert_close(hessian(value, zero), expected, rtol=1e-8, atol=1e-10 * expected.abs().max().item())


def test_a_split_lowers_the_loss_as_predicted():
    """Actual / predicted -> 1, the rest going down with step^2."""
    network, theta, alpha, batch = trained(channels=4, steps=3)
    splits = possible_splits(splitting_matrices(network, loss, batch), tolerance=1e-10)
    assert {split.operation for split in splits} == set(growable_operations(network))
    assert select_operation(splits) is not None
    for split in splits:
        error = {}
        for step in (0.02, 0.01, 0.005):
            grown, *optimizers = copy.deepcopy((network, theta, alpha))
            position, key = split.operation
            grow_operation(grown, *optimizers, mixture=position, key=key, step=step, direction=split.direction)
            error[step] = (loss(grown, batch) - loss(network, batch)).item() / split.predicted_change(step) - 1
        assert abs(error[0.02]) < 0.02 and abs(error[0.005]) < 1e-3
        assert abs(error[0.005]) < abs(error[0.02]) / 4


def test_a_row_can_change_its_length_for_nothing():
    r"""o(t theta) = o(theta), up to the epsilon of the norm: $\theta^T S \theta = 0$ and $S \theta = - dG/d\theta$."""
    network, *_, batch = trained(channels=4, steps=3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14
    for place in splitting_matrices(network, loss, batch):
        rows, S = place.pack(place.trace.weights).detach(), dense(place)
        image, trace = torch.einsum("uij,uj->ui", S, rows), place.trace
        gradient = torch.autograd.grad((trace.function(place.trace.weights) * trace.gradient).sum(),
                                       list(place.trace.weights.values()))
        torch.testing.assert_close(image, -place.pack(dict(zip(place.trace.weights, gradient, strict=True))))
        torch.testing.assert_close((rows * image).sum(dim=1), torch.zeros(place.trace.units, dtype=rows.dtype),
                                   rtol=0, atol=1e-8 * S.abs().max().item())


def test_eval_mode_has_nothing_to_split():
    network, *_, batch = trained(steps=3)
    network.eval()
    assert select_operation(possible_splits(splitting_matrices(network, loss, batch))) is None


def test_asking_changes_nothing():
    network, *_, batch = trained(steps=3)
    for p in network.parameters():
        p.grad = None
    state = copy.deepcopy(network.state_dict())
    matrices = splitting_matrices(network, loss, batch)
    with torch.no_grad():
        expected = [dense(m) for m in matrices]
        network.eval()  # the question was asked in train mode, and so it is answered
        assert all(torch.equal(dense(m), S) for m, S in zip(matrices, expected, strict=True))
    network.train()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_a_users_operation_grows_as_well():
    @convolutional
    def squashed_conv(channels, stride, affine):
        return nn.Sequential(nn.Conv2d(channels, channels, 3, stride=stride, padding=1), nn.Tanh())

    try:
        operation = CONVOLUTIONAL["squashed_conv"](2, 1, False)
        assert last_convolutions(operation) == {"0": slice(None)}
        network, *_, batch = trained(("squashed_conv", "skip_connect"), steps=3)
        places = [m for m in splitting_matrices(network, loss, batch) if m.operation == (3, "squashed_conv")]
        assert list(places[1].trace.weights) == ["cell 2.0.weight", "cell 2.0.bias"]
        value, size = loss_after_splitting(network, batch, (3, "squashed_conv"), places)
        torch.testing.assert_close(hessian(value, torch.zeros(size, dtype=torch.float64)), torch.block_diag(
            *[S for place in places for S in dense(place)]), rtol=1e-8, atol=1e-12)
    finally:
        del CONVOLUTIONAL["squashed_conv"]
