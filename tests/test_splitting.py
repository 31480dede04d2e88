"""Splitting matrices against brute force, their eigenpairs against LAPACK, the predicted against the actual change."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian

from growdarts.tracing import OperationTrace, record_calls
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.mixture import Mixture
from growdarts.growth import grow_operation, operation_owner
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.forms import plain_forms
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT, TWO_INPUT, two_input
from growdarts.splitting import (Split, SplittingMatrices, all_operations, lowest_eigenpairs, possible_splits, select_operation,
                                 splitting_matrices)

T, B, F, H = 3, 5, 2, 2
CURVED = ["add_tanh", "add_sigmoid", "hadamard", "gate", "gated_update"]
from stepping import dense


def loss(network, batch):
    x, y = batch
    return nn.functional.mse_loss(network(x), y)


def problem(operations=DEFAULT_TWO_INPUT, n_layers=2, n_nodes=2, T=T, hidden=H, spread=2.0):
    """A float64 network with large weights, so that it is curved, and a batch."""
    network = two_input_forecaster(F, hidden, n_layers, n_nodes, operations).double()
    with torch.no_grad():
        for p in network.theta_parameters():
            p.mul_(spread)
        for mixture in network.mixtures():
            mixture.alpha.normal_()
    return network, (torch.randn(T, B, F, dtype=torch.float64), torch.randn(B, F, dtype=torch.float64))


def unit_output(name, theta, x, s, u, inputs):
    """o_u for one sample from the unit's weights alone: [W rows, U rows, b], as the packed row has them."""
    blocks = 2 if name == "gated_update" else 1
    W, U, b = theta.split([blocks * inputs, blocks * H, blocks])
    wx, us = W.view(blocks, inputs) @ x + b, U.view(blocks, H) @ s
    a = wx + us
    if name == "gated_update":
        return (1 - a[0].sigmoid()) * s[u] + a[0].sigmoid() * a[1].tanh()
    return {"add_tanh": a.tanh(), "add_sigmoid": a.sigmoid(), "add_relu": a.relu(), "add_identity": a,
            "hadamard": wx * us, "gate": a.sigmoid() * s[u]}[name][0]


def brute_force(network, batch):
    """By (position, key) the matrices (U, D, D): one small autograd Hessian a sample, time step and unit."""
    x, y = batch
    rows = {}
    nodes = [node for cell in network.cells for node in cell.nodes]
    for i, node in enumerate(nodes):
        for key in node.W:
            blocks = node.W[key].shape[0] // H
            rows[i, key] = torch.stack([torch.cat([part[key].detach().view(blocks, H, -1)[:, u].flatten()
                                                   for part in (node.W, node.U, node.b)]) for u in range(H)])
    terms = []  # operation, extra output e (B, H) that the loss is differentiated by, inputs
    sequence, position = list(x), 0
    for cell in network.cells:
        h, states = x.new_zeros(len(y), H), []
        for x_t in sequence:
            for i, node in enumerate(cell.nodes, start=position):
                mixed = 0
                for key, weight in zip(node.mixture.keys, node.mixture.weights(), strict=True):
                    out = h
                    if key in node.W:
                        inputs = x_t.shape[1]
                        e = torch.zeros(len(y), H, dtype=x.dtype, requires_grad=True)
                        out = e + torch.stack([torch.stack([unit_output(key, rows[i, key][u], x_t[n], h[n], u, inputs)
                                                            for u in range(H)]) for n in range(len(y))])
                        terms.append(((i, key), e, x_t.detach(), h.detach()))
                    mixed = mixed + weight * out
                h = mixed
            states.append(h)
        sequence, position = states, position + len(cell.nodes)
    value = nn.functional.mse_loss(network.head(sequence[-1]), y)
    assert value.item() == pytest.approx(loss(network, batch).item(), rel=1e-12)
    gradients = torch.autograd.grad(value, [e for _, e, _, _ in terms])
    total = {operation: torch.zeros(H, row.shape[1], row.shape[1], dtype=x.dtype) for operation, row in rows.items()}
    for ((i, key), _, x_t, s), g in zip(terms, gradients, strict=True):
        for n in range(len(y)):
            for u in range(H):
                total[i, key][u] += g[n, u] * hessian(
                    lambda theta: unit_output(key, theta, x_t[n], s[n], u, x_t.shape[1]), rows[i, key][u])
    return total


@pytest.mark.parametrize("T, n_layers, n_nodes", [(1, 1, 1), (3, 1, 2), (2, 2, 1)])
def test_matrices_match_brute_force(T, n_layers, n_nodes):
    """Sum over samples, time steps and units of dL/do times the Hessian of o, each by autograd alone."""
    network, batch = problem(n_layers=n_layers, n_nodes=n_nodes, T=T)
    expected = brute_force(network, batch)
    found = {m.operation: dense(m) for m in splitting_matrices(network, loss, batch)}
    assert list(found) == list(expected) and len(found) == 7 * n_layers * n_nodes
    for operation, S in found.items():
        torch.testing.assert_close(S, expected[operation], rtol=1e-9, atol=1e-13)
        if T > 1:  # at first the state is zero, and so are hadamard and gate
            assert bool(S.any()) == (operation[1] in CURVED), operation


def loss_after_splitting(network, batch, position, key, matrices):
    """The loss as a function of delta (U * D), the original being theta - delta and the copy theta + delta."""
    grown = copy.deepcopy(network)
    mixture = list(grown.mixtures())[position]
    duplicate = operation_owner(grown, mixture).duplicate_operation(mixture, key)
    names = {id(p): name for name, p in grown.named_parameters()}

    def value(delta):
        parts, changed = matrices.unpack(delta.view(matrices.trace.units, -1)), {}
        for name, (original, twin) in duplicate.weights.items():
            changed[names[id(original)]] = original - parts[name]
            changed[names[id(twin)]] = twin + parts[name]
        return nn.functional.mse_loss(torch.func.functional_call(grown, changed, batch[0]), batch[1])

    return value


@pytest.mark.parametrize("key", [name for name in DEFAULT_TWO_INPUT if name != "carry"])
def test_they_are_the_blocks_of_the_hessian_by_delta(key):
    """All of the second order, also over time: no gradient, nothing between units, nothing but S within one."""
    network, batch = problem()
    for matrices in splitting_matrices(network, loss, batch):
        if matrices.operation[1] == key:
            value = loss_after_splitting(network, batch, *matrices.operation, matrices)
            zero = torch.zeros_like(matrices.pack(matrices.trace.weights)).flatten()
            with plain_forms():
                gradient, curvature = torch.func.grad(value)(zero), hessian(value, zero)
            torch.testing.assert_close(gradient, zero, rtol=0, atol=1e-14)
            torch.testing.assert_close(curvature, torch.block_diag(*dense(matrices)), rtol=1e-9, atol=1e-13)


def test_pack_and_unpack_are_inverse_and_follow_the_units():
    network, batch = problem(hidden=4)
    for matrices in splitting_matrices(network, loss, batch):
        rows = matrices.pack(matrices.trace.weights)
        for name, tensor in matrices.unpack(rows).items():
            assert torch.equal(tensor, matrices.trace.weights[name])
        marked = matrices.unpack(torch.arange(4.0)[:, None].expand_as(rows).contiguous())
        for name, tensor in marked.items():
            assert all((row == r % 4).all() for r, row in enumerate(tensor)), name


def symmetric(kind, U=6, D=24):
    Q = torch.linalg.qr(torch.randn(U, D, D, dtype=torch.float64))[0]
    values = {"indefinite": torch.randn(U, D), "positive": 1 + torch.rand(U, D), "zero": torch.zeros(U, D),
              "one": torch.cat([-torch.ones(U, 1), torch.zeros(U, D - 1)], dim=1),
              "few": torch.randint(-1, 3, (U, D)).float(), "tiny": 1e-12 * torch.randn(U, D),
              "mixed": torch.cat([torch.zeros(2, D), torch.rand(2, D), -torch.rand(2, D)])}[kind].double()
    return Q @ torch.diag_embed(values) @ Q.mT


def as_matrices(A):
    """A given batch of matrices (U, D, D) in the form of an operation: a quadratic function of its weights."""
    theta = nn.Parameter(torch.randn(A.shape[:2], dtype=A.dtype))
    trace = OperationTrace(Mixture(["quadratic"]), "quadratic", {"theta": theta},
                           lambda t: torch.einsum("ui,uij,uj->u", t["theta"], A, t["theta"]) / 2,
                           torch.ones(len(A), dtype=A.dtype), len(A))
    return SplittingMatrices((0, "quadratic"), trace)


@pytest.mark.parametrize("kind", ["indefinite", "positive", "zero", "one", "few", "tiny", "mixed"])
def test_lowest_eigenpairs_match_lapack(kind):
    A = symmetric(kind)
    torch.testing.assert_close(dense(as_matrices(A)), A)
    found, directions = lowest_eigenpairs(as_matrices(A), tolerance=1e-12)
    values, vectors = torch.linalg.eigh(A)
    size = A.abs().amax().item()
    torch.testing.assert_close(found, values[:, 0], rtol=1e-9, atol=1e-12 * size)
    torch.testing.assert_close(directions.norm(dim=1), torch.ones(len(A), dtype=A.dtype))
    image = torch.einsum("uij,uj->ui", A, directions)
    torch.testing.assert_close(image, found[:, None] * directions, rtol=0, atol=1e-9 * size)
    if kind == "indefinite":  # distinct eigenvalues: the same vectors up to their sign
        assert ((directions * vectors[:, :, 0]).sum(dim=1).abs() > 1 - 1e-9).all()


def test_rounding_is_not_taken_for_a_negative_eigenvalue():
    low_rank = torch.randn(8, 40, 5)
    values, vectors = lowest_eigenpairs(as_matrices(low_rank @ low_rank.mT))
    residuals = torch.einsum("uij,uj->ui", low_rank @ low_rank.mT, vectors).norm(dim=1)
    assert (values == 0).all() and (residuals < 1e-2).all()  # of matrices of norm 60 or so


def test_eigenpairs_of_a_wide_cell_take_few_products():
    """Default tolerance, float32, 201 weights a unit: as many products as a small fraction of that."""
    network = two_input_forecaster(F, 100, 2, 1, DEFAULT_TWO_INPUT)
    batch = torch.randn(10, 32, F), torch.randn(32, F)
    random = torch.get_rng_state()
    for matrices in splitting_matrices(network, loss, batch)[7:]:
        products, make = [], matrices.product

        def counted():
            multiply = make()
            return lambda V: products.append(1) or multiply(V)

        matrices.product = counted
        values, _ = lowest_eigenpairs(matrices)
        assert len(products) <= 40
        if matrices.operation[1] in ("add_tanh", "gate"):
            matrices.product = make
            exact = torch.linalg.eigvalsh(dense(matrices)[:10].double())
            rounding = 1e-4 * exact.abs().amax(dim=1)  # of float32
            assert ((values[:10] - exact[:, 0]).abs() <= 0.01 * exact[:, 0].abs() + rounding).all()
    assert torch.equal(torch.get_rng_state(), random)  # a search goes on as without the question


def change(network, batch, split, step, direction):
    """Loss after duplicating along `direction` minus before."""
    grown = copy.deepcopy(network)
    optimizers = [torch.optim.Adam(p) for p in (grown.theta_parameters(), grown.alpha_parameters())]
    position, key = split.operation
    grow_operation(grown, *optimizers, mixture=position, key=key, step=step, direction=direction)
    return (loss(grown, batch) - loss(network, batch)).item()


@pytest.mark.parametrize("key", CURVED)
@pytest.mark.parametrize("T", [1, 4])
def test_a_split_lowers_the_loss_as_predicted(key, T):
    """Actual / predicted -> 1, the rest going down with step^2: the next order of the loss is the fourth."""
    network, batch = problem(T=T, hidden=4)
    splits = [s for s in possible_splits(splitting_matrices(network, loss, batch), tolerance=1e-10)
              if s.operation[1] == key and s.predicted_change(1.0) < -1e-5]  # else the change is rounding
    assert splits
    for split in splits:
        error = {step: change(network, batch, split, step, split.direction) / split.predicted_change(step) - 1
                 for step in (0.04, 0.02, 0.01)}
        assert abs(error[0.01]) < 0.01
        assert error[0.04] / error[0.02] == pytest.approx(4, rel=0.15)
        assert error[0.02] / error[0.01] == pytest.approx(4, rel=0.15)


@pytest.mark.parametrize("key", CURVED)
def test_no_other_direction_lowers_it_more(key):
    network, batch = problem(hidden=3)
    matrices = [m for m in splitting_matrices(network, loss, batch) if m.operation[1] == key][-1]
    (split,) = possible_splits([matrices], tolerance=1e-10)
    best = change(network, batch, split, 0.01, split.direction)
    assert best < 0
    for trial in range(50):
        rows = torch.randn_like(matrices.pack(matrices.trace.weights))
        if trial % 2:  # also close to the best one
            rows = matrices.pack(split.direction) + 0.1 * rows
        direction = matrices.unpack(rows / rows.norm(dim=1, keepdim=True))
        assert change(network, batch, split, 0.01, direction) > best


def test_units_without_a_negative_eigenvalue_are_not_split():
    A = symmetric("mixed")
    matrices = as_matrices(A)
    (split,) = possible_splits([matrices], tolerance=1e-10)
    negative = torch.linalg.eigvalsh(A)[:, 0] < -1e-9
    assert negative.sum() == 2
    assert torch.equal(split.direction["theta"].norm(dim=1) > 0.5, negative)
    assert not split.direction["theta"][~negative].any()
    assert split.predicted_change(0.1) == pytest.approx(
        0.005 * torch.linalg.eigvalsh(A)[negative, 0].sum().item())


def test_selected_operation_is_the_rule_written_out():
    def selected(**eigenvalues):
        found = select_operation(Split((0, key), values, {}) for key, values in eigenvalues.items())
        return None if found is None else found.operation[1]

    assert selected(a=[-1.0, 2.0, -1.0], b=[-0.1, -0.1, -0.1]) == "b"
    assert selected(a=[-1.0, 9.0], b=[-2.0, 9.0], c=[-1.5, -9.0]) == "c"
    assert selected(a=[-1.0, 9.0], b=[-2.0, 99.0]) == "b"  # of negative ones only
    assert selected(a=[0.0, 1.0]) is None
    assert selected() is None
    network, batch = problem(hidden=4)
    splits = possible_splits(splitting_matrices(network, loss, batch))
    chosen = select_operation(splits)
    counts = {s.operation: sum(v < 0 for v in s.eigenvalues) for s in splits}
    assert counts[chosen.operation] == max(counts.values())
    assert chosen.predicted_change(1.0) == min(s.predicted_change(1.0) for s in splits
                                               if counts[s.operation] == max(counts.values()))
    affine, batch = problem(("add_identity", "add_relu", "carry"))
    assert select_operation(possible_splits(splitting_matrices(affine, loss, batch))) is None


def test_all_operations_that_lower_the_loss_are_those_of_the_hand_loop():
    network, batch = problem()
    by_hand = {operation: torch.linalg.eigvalsh(S)[:, 0] for operation, S in brute_force(network, batch).items()}
    expected = {operation: values[values < 0].sum().item() for operation, values in by_hand.items() if values.min() < -1e-9}
    found = all_operations(possible_splits(splitting_matrices(network, loss, batch), tolerance=1e-10))
    sums = {split.operation: sum(value for value in split.eigenvalues if value < 0) for split in found}
    assert sums == pytest.approx(expected) and 2 < len(sums) < len(by_hand)
    assert list(sums.values()) == sorted(sums.values())


@pytest.mark.parametrize("form", [plain_forms, nullcontext])
def test_splits_at_once_change_the_loss_by_the_sum_of_the_predictions(form):
    """Of several operations in both nodes, applied one after another; nothing of the second order is between them."""
    network, batch = problem(T=4, hidden=4, n_layers=1)
    splits = all_operations(possible_splits(splitting_matrices(network, loss, batch), tolerance=1e-10))
    assert {split.operation[0] for split in splits} == {0, 1} and len(splits) > 4

    def error(step):
        grown = copy.deepcopy(network)
        optimizers = [torch.optim.Adam(p) for p in (grown.theta_parameters(), grown.alpha_parameters())]
        for split in splits:
            position, key = split.operation
            grow_operation(grown, *optimizers, mixture=position, key=key, step=step, direction=split.direction)
        with form():
            changed = (loss(grown, batch) - loss(network, batch)).item()
        return changed / sum(split.predicted_change(step) for split in splits) - 1

    assert abs(error(0.01)) < 0.01 and error(0.04) / error(0.02) == pytest.approx(4, rel=0.15)


def test_a_users_operation_needs_no_derivatives():
    @two_input(blocks=3)
    def sine(wx, us, s):
        a, b, c = (wx + us).chunk(3, dim=-1)
        return torch.sin(a) * s + b * torch.cos(c)

    try:
        network, batch = problem(("sine", "carry"))
        for matrices in splitting_matrices(network, loss, batch):
            value = loss_after_splitting(network, batch, *matrices.operation, matrices)
            zero = torch.zeros_like(matrices.pack(matrices.trace.weights)).flatten()
            with plain_forms():
                curvature = hessian(value, zero)
            torch.testing.assert_close(curvature, torch.block_diag(*dense(matrices)), rtol=1e-9, atol=1e-13)
    finally:
        del TWO_INPUT["sine"]


def convolution(theta, z):
    """A pointwise convolution with batch norm, as operations of convolutional cells end; a unit is a channel."""
    return nn.functional.batch_norm(nn.functional.conv2d(z, theta["weight"]), None, None, training=True)


def highway(theta, z):
    """o(s) = s + sigmoid(c) (tanh(u) - s), [c, u] = s W: the units are columns."""
    c, u = (z @ theta["weight"]).chunk(2, dim=-1)
    return torch.lerp(z, u.tanh(), c.sigmoid())


@pytest.mark.parametrize("function, z, weight, units, unit_dim", [
    (convolution, torch.randn(4, 3, 5, 5), torch.randn(2, 3, 1, 1), 2, 0),
    (highway, torch.randn(7, 3), torch.randn(3, 6), 3, 1)])
def test_other_spaces_fit_the_same_form(function, z, weight, units, unit_dim):
    """Operations of the convolutional and of DARTS' recurrent space, duplicated by hand."""
    z, weight = z.double(), nn.Parameter(weight.double())
    target = torch.randn_like(function({"weight": weight}, z))

    def value(one, two):
        return nn.functional.mse_loss((function({"weight": one}, z) + function({"weight": two}, z)) / 2, target)

    o = function({"weight": weight}, z)
    gradient = torch.autograd.grad(nn.functional.mse_loss(o, target), o)[0]
    matrices = SplittingMatrices((0, "op"), OperationTrace(
        Mixture(["op"]), "op", {"weight": weight}, lambda theta: function(theta, z), gradient, units, unit_dim))
    D = weight.numel() // units

    def by_delta(delta):
        part = matrices.unpack(delta.view(units, D))["weight"]
        return value(weight.detach() - part, weight.detach() + part)

    torch.testing.assert_close(hessian(by_delta, torch.zeros(units * D, dtype=z.dtype)),
                               torch.block_diag(*dense(matrices)), rtol=1e-9, atol=1e-13)


def test_recorded_gradients_are_total_and_hooks_are_gone():
    double, square = nn.Linear(1, 1, bias=False), nn.Identity()
    with torch.no_grad():
        double.weight.fill_(2.0)
    x = torch.ones(1, 1)
    calls = record_calls([double, square], lambda: square(double(double(x))).sum())
    assert [call.gradient.item() for call in calls[double]] == [2.0, 1.0]  # the first passes through the second
    assert [call.arguments[0].item() for call in calls[double]] == [1.0, 2.0]
    assert record_calls([square], lambda: square(double(x)).sum() * 0 + double(x).sum())[square][0].gradient == 0
    with pytest.raises(ZeroDivisionError):
        record_calls([double], lambda: 1 / 0)
    assert not double._forward_hooks and not square._forward_hooks


def test_nothing_to_split_is_an_error():
    network, batch = problem()
    bare, batch = problem(("carry",))
    with pytest.raises(ValueError, match=r"no operation of the network owns weights.*carry"):
        splitting_matrices(bare, loss, batch)
    pools = SearchImageNetwork(2, 3, 3, 1, ["none", "avg_pool_3x3"], image_size=4)
    images = torch.randn(2, 3, 4, 4), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"no operation of the network owns weights.*avg_pool_3x3"):
        splitting_matrices(pools, lambda n, b: nn.functional.cross_entropy(n(b[0]), b[1]), images)


def test_asking_changes_nothing():
    network, batch = problem()
    before, state = loss(network, batch), copy.deepcopy(network.state_dict())
    select_operation(possible_splits(splitting_matrices(network, loss, batch)))
    assert torch.equal(loss(network, batch), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
