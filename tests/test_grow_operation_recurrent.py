"""Duplicating operations of DARTS' recurrent cell, which leave the shared W; language models around both cells."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.optim import Adam

from growdarts.space import OperationOwner
from growdarts.spaces.two_input.network import two_input_layers
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS
from growdarts.tasks.language import Dropout, LanguageModel, LanguageTask, Memory, Window
from growdarts.growth import growable_operations, grow_operation, operation_owner
from growdarts.forms import plain_forms
from growdarts.pruning import prune
from growdarts.splitting import possible_splits, select_operation, splitting_matrices
from test_darts_recurrent import hand_loop
from stepping import dense, step

T, B, I, H = 3, 5, 3, 2
WITH_WEIGHTS = ["tanh", "relu", "sigmoid", "identity"]


def loss(network, batch):
    x, y, *masks = batch
    return nn.functional.mse_loss(network(x, None, *masks)[-1], y)


def problem(hidden=H, n_nodes=2, masks=False, operations=RECURRENT_OPERATIONS):
    """A float64 cell with large weights, so that it is curved, and a batch, with dropout masks if asked for."""
    cell = RecurrentSearchCell(I, hidden, n_nodes, operations).double()
    with torch.no_grad():
        for W in cell.theta_parameters():
            W.normal_()
        for alpha in cell.alpha_parameters():
            alpha.normal_()
    batch = torch.randn(T, B, I, dtype=torch.float64), torch.randn(B, hidden, dtype=torch.float64)
    drawn = [1.5 * torch.randint(0, 2, (B, width)).double() for width in (I, hidden)] if masks else []
    return cell, (*batch, *drawn)


def trained(steps=10, **options):
    cell, batch = problem(**options)
    theta, alpha = Adam(cell.theta_parameters(), lr=0.01), Adam(cell.alpha_parameters(), lr=0.05)
    for _ in range(steps):
        update(cell, theta, alpha, batch)
    return cell, theta, alpha, batch


def update(cell, theta, alpha, batch):
    step(loss(cell, batch), theta, alpha)


def is_the_hand_loop(cell, x):
    expected, _ = hand_loop(cell.eval(), x, torch.ones(B, I), torch.ones(B, cell.hidden))
    torch.testing.assert_close(cell(x), expected, rtol=0, atol=1e-12)


def test_private_weights_match_a_hand_loop():
    cell, theta, alpha, batch = trained(n_nodes=3)
    for mixture, key in ((0, "tanh"), (2, "relu"), (2, "relu"), (4, "identity"), (4, "tanh")):
        grow_operation(cell, theta, alpha, mixture=mixture, key=key, step=0.5)
    cell.keep_operations(list(cell.mixtures())[2], [0, 1, 4, 5])  # none, tanh, identity, relu#2
    assert [node.own() for node in cell.nodes] == [
        [["tanh", "tanh#2"]], [[], ["relu#2"]], [[], ["tanh", "identity", "identity#2", "tanh#2"], []]]
    is_the_hand_loop(cell, batch[0])


def test_a_node_all_of_whose_operations_left_the_shared_weights():
    cell, theta, alpha, batch = trained(n_nodes=1, operations=("none", "tanh"))
    grow_operation(cell, theta, alpha, mixture=0, key="tanh", step=0.5)
    is_the_hand_loop(cell, batch[0])
    update(cell, theta, alpha, batch)


def test_the_cell_owns_its_operations():
    cell, theta, alpha, _ = trained(steps=0)
    assert isinstance(cell, OperationOwner)
    assert list(growable_operations(cell)) == [(i, key) for i in range(3) for key in WITH_WEIGHTS]
    mixtures = list(cell.mixtures())
    assert cell.operation_weights(mixtures[0], "none") == {}
    assert cell.operation_weights(mixtures[2], "relu")["W"] is cell.nodes[1].W
    grow_operation(cell, theta, alpha, mixture=2, key="relu", step=0.1)
    assert cell.operation_weights(mixtures[2], "relu")["W"] is cell.nodes[1].private[1]["relu"]
    assert cell.operation_weights(mixtures[1], "relu")["W"] is cell.nodes[1].W
    assert (2, "relu") not in growable_operations(cell, max_copies=2)


@pytest.mark.parametrize("key", WITH_WEIGHTS)
@pytest.mark.parametrize("train", [True, False])
def test_output_unchanged(key, train):
    for epsilon in (1e-2, 1e-4):
        cell, theta, alpha, (x, _) = trained(hidden=8)
        cell.train(train)
        before = cell(x)
        for n in (2, 3):
            assert grow_operation(cell, theta, alpha, mixture=2, key=key,
                                  step=0.5 * epsilon**0.5) == f"{key}#{n}"
            after = cell(x)
            assert (after - before).norm() <= epsilon * before.norm()
            before = after


@pytest.mark.parametrize("key", WITH_WEIGHTS)
@pytest.mark.parametrize("train", [True, False])
def test_kept_to_first_order_in_delta(key, train):
    """A tenth of delta, a hundredth of the change; relu gives more where its kink is crossed."""
    cell, theta, alpha, (x, _) = trained()
    cell.train(train)
    before = cell(x)

    def change(step):
        grown, *optimizers = copy.deepcopy((cell, theta, alpha))
        torch.manual_seed(5)
        grow_operation(grown, *optimizers, mixture=1, key=key, step=step)
        return (grown(x) - before).norm().item()

    assert change(0.0) < 1e-12
    ratio = change(1e-2) / change(1e-3)
    assert ratio > 10**1.3 if key == "relu" else ratio == pytest.approx(100, rel=0.03)


def test_all_other_operations_keep_the_shared_weights_and_their_moments():
    cell, theta, alpha, _ = trained()
    before = {name: p.detach().clone() for name, p in cell.named_parameters()}
    moments = {name: copy.deepcopy(theta.state[p]) for name, p in cell.named_parameters() if p in theta.state}
    direction = {"W": torch.randn(H, 2 * H, dtype=torch.float64)}
    grow_operation(cell, theta, alpha, mixture=2, key="tanh", step=0.1, direction=direction)
    now = dict(cell.named_parameters())
    assert set(now) - set(before) == {"nodes.1.private.1.tanh", "nodes.1.private.1.tanh#2"}
    assert torch.equal(now["nodes.1.private.1.tanh"], before["nodes.1.W"] - 0.1 * direction["W"])
    assert torch.equal(now["nodes.1.private.1.tanh#2"], before["nodes.1.W"] + 0.1 * direction["W"])
    for name in moments:
        assert torch.equal(now[name], before[name])
        assert torch.equal(theta.state[now[name]]["exp_avg_sq"], moments[name]["exp_avg_sq"])
    assert set(theta.state) == {now[name] for name in moments}  # the two that are new start without
    assert theta.param_groups[0]["params"] == cell.theta_parameters()
    theta.state[now["nodes.1.private.1.tanh"]] = {"step": torch.tensor(1.0), "exp_avg": direction["W"].clone(),
                                                  "exp_avg_sq": direction["W"].square()}
    grow_operation(cell, theta, alpha, mixture=2, key="tanh", step=0.1)  # now they are its own
    for key in ("tanh", "tanh#3"):
        assert torch.equal(theta.state[cell.nodes[1].private[1][key]]["exp_avg"], direction["W"] / 2)


def test_grown_cell_is_stored_pruned_grown_and_derived():
    cell, theta, alpha, batch = trained()
    for mixture, key in ((2, "relu"), (2, "tanh"), (2, "tanh"), (0, "sigmoid")):
        grow_operation(cell, theta, alpha, mixture=mixture, key=key, step=0.3)
    cell.grow_node(morphism=True, epsilon=1e-3, noise=0.1)
    theta, alpha = Adam(cell.theta_parameters()), Adam(cell.alpha_parameters())
    update(cell, theta, alpha, batch)
    again = RecurrentSearchCell(I, H, 1).double()
    again.restructure(cell.structure())
    again.load_state_dict(cell.state_dict())
    assert again.structure() == cell.structure()
    assert torch.equal(again(batch[0]), cell(batch[0]))
    for p, q in zip(cell.theta_parameters(), again.theta_parameters(), strict=True):
        assert torch.equal(p, q)
    plain = RecurrentSearchCell(I, H, 3)
    assert cell.flops() == plain.flops() + 7 * 2 * H * 2 * H
    mixture = list(cell.mixtures())[2]
    assert mixture.keys == [*RECURRENT_OPERATIONS, "relu#2", "tanh#2", "tanh#3"]
    with torch.no_grad():
        for other in cell.mixtures():
            other.alpha.zero_()
        mixture.alpha.copy_(torch.tensor([0, 0, 0, 0, 0.5, 0, 0, 0]))  # identity is the largest single one
    assert cell.genotype().recurrent[1] == ("tanh", 1)
    with torch.no_grad():
        mixture.alpha[1], mixture.alpha[6] = -9.0, -9.0
    dropped = prune(cell, theta, alpha, prune_below=0.001, keep_all_above=0.9)
    assert sorted(dropped) == ["edge 2 <- 1: tanh", "edge 2 <- 1: tanh#2"]
    assert list(cell.nodes[1].private[1]) == ["relu", "relu#2", "tanh#3"]
    assert grow_operation(cell, theta, alpha, mixture=2, key="tanh#3", step=0.1) == "tanh#2"  # free again
    update(cell, theta, alpha, batch)
    assert "private" in cell.structure()[1]
    assert RecurrentSearchCell(I, H, 2).structure()[1] == {
        "edges": [list(RECURRENT_OPERATIONS)] * 2, "weighted": False, "private": [[], []]}


def test_structures_without_private_weights_are_read():
    cell, _ = problem()
    cell.restructure([{"edges": [["tanh", "none"]], "weighted": False}])
    assert cell.structure() == [{"edges": [["tanh", "none"]], "weighted": False, "private": [[]]}]
    for node in ({"edges": [["tanh", "tanh#2"]]}, {"edges": [["none"]], "private": [["none"]]},
                 {"edges": [["sine"]], "private": [["sine"]]}):
        with pytest.raises(ValueError, match=r"unknown operations \['(tanh#2|none|sine)'\]"):
            cell.restructure([{"weighted": False, **node}])


def test_none_is_refused():
    cell, theta, alpha, _ = trained(steps=0)
    with pytest.raises(ValueError, match="'none' of mixture 0 owns no weights"):
        grow_operation(cell, theta, alpha, mixture=0, key="none", step=0.1)


# Splitting ----------------------------------------------------------------------------------------------------

def loss_after_splitting(network, batch, loss, matrices):
    """The loss by delta (U * D), the original being theta - delta and the copy theta + delta."""
    grown = copy.deepcopy(network)
    mixture = list(grown.mixtures())[matrices.operation[0]]
    duplicate = operation_owner(grown, mixture).duplicate_operation(mixture, matrices.operation[1])

    def value(delta):
        parts, kept = matrices.unpack(delta.view(matrices.trace.units, -1)), {}
        for module in grown.modules():
            for name, p in list(module._parameters.items()):
                for part, pair in duplicate.weights.items():
                    for sign, weight in zip((-1, 1), pair, strict=True):
                        if p is weight:
                            kept[module, name] = p
                            module._parameters[name] = p + sign * parts[part]
        try:
            return loss(grown, batch)
        finally:
            for (module, name), p in kept.items():
                module._parameters[name] = p

    return value, torch.zeros(matrices.pack(matrices.trace.weights).numel(), dtype=torch.float64)


@plain_forms()
def check_blocks(network, batch, loss, matrices):
    value, zero = loss_after_splitting(network, batch, loss, matrices)
    expected = torch.block_diag(*dense(matrices))
    torch.testing.assert_close(jacobian(value, zero), zero, rtol=0, atol=1e-13)
    torch.testing.assert_close(hessian(value, zero), expected, rtol=1e-9, atol=1e-12)
    return expected.abs().max().item()


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_matrices_are_the_blocks_of_the_hessian_by_delta(train, masks):
    """Of shared operations, of copies and under dropout; no gradient, and nothing between units."""
    cell, batch = problem(masks=masks)
    cell.train(train)
    cell.duplicate_operation(list(cell.mixtures())[2], "tanh")
    found = splitting_matrices(cell, loss, batch)
    assert [m.operation for m in found] == list(growable_operations(cell))
    assert all(check_blocks(cell, batch, loss, matrices) > 1e-7 for matrices in found)


def test_asking_changes_nothing():
    cell, batch = problem()
    state = copy.deepcopy(cell.state_dict())
    select_operation(possible_splits(splitting_matrices(cell, loss, batch)))
    assert all(torch.equal(value, state[name]) for name, value in cell.state_dict().items())
    assert all(p.grad is None for p in cell.parameters())


# Language models ----------------------------------------------------------------------------------------------

def language_model(kind, dropout):
    cell = (RecurrentSearchCell(4, 4, 2) if kind == "darts" else
            two_input_layers(4, 2, 1, ("add_tanh", "gate", "carry")))
    model = LanguageModel(7, cell, dropout).double()
    with torch.no_grad():
        for p in model.theta_parameters():
            p.normal_()
    return model


@pytest.mark.parametrize("kind, dropout", [
    ("darts", Dropout(word=0.2, embedding=0.2, inputs=0.2, hidden=0.3, outputs=0.2)),
    ("two_input", Dropout(word=0.2, embedding=0.2, inputs=0.2, outputs=0.2))])
@pytest.mark.parametrize("train", [True, False])
def test_language_models_split_exactly_also_under_dropout(kind, dropout, train):
    """Masks of words, inputs and outputs lie outside of the cells, those of hidden units in the trace."""
    model, task = language_model(kind, dropout).train(train), LanguageTask(None, 5, 3, 0.5, 0.5)
    words = torch.randint(7, (4, 5))
    start = torch.randn(5, 4, dtype=torch.float64)
    window = Window(words[:-1], words[1:], Memory(start if kind == "darts" else (start, -start)), True)
    found = splitting_matrices(model, task.loss, window)
    assert [m.operation for m in found] == list(growable_operations(model))
    assert max(check_blocks(model, window, task.loss, matrices) for matrices in found) > 1e-3
    (split, *_) = possible_splits(found, tolerance=1e-10)
    before = task.loss(model, window)
    optimizers = Adam(model.theta_parameters()), Adam(model.alpha_parameters())
    position, key = split.operation
    grow_operation(model, *optimizers, mixture=position, key=key, step=0.01, direction=split.direction)
    assert (task.loss(model, window) - before).item() == pytest.approx(split.predicted_change(0.01), rel=0.02)
    task.loss(model, window).backward()
    optimizers[0].step()
    again = language_model(kind, dropout)
    again.restructure(model.structure())
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(words).logits, model.eval()(words).logits)
