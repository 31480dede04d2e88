"""DARTS' recurrent search cell as one scan: against the loop written out, its own plain form, and in short types."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn.functional import cross_entropy

from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS, RecurrentGenotype
from growdarts.tasks.language import LanguageModel
from growdarts.forms import plain_forms
from growdarts_fast import recurrent
from reference_darts_recurrent import language_loss, search_cell
from original_states import export_alphas, original_tensors

T, B, H = 35, 16, 8


def inputs(dtype=torch.float64, seed=3):
    generator = torch.Generator().manual_seed(seed)
    x, h, weight = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
                    [(T, B, H), (B, H), (T, B, H)])
    x_mask, h_mask = ((torch.rand(B, H, generator=generator) > 0.3).double() / 0.7 for _ in range(2))
    return [value.to(dtype) for value in (x, h, weight, x_mask, h_mask)]


def cell_of(n_nodes, dtype=torch.float64, seed=2):
    """With larger weights than at the start; much larger ones make a cell in which rounding grows from step to step."""
    torch.manual_seed(seed)
    cell = RecurrentSearchCell(H, H, n_nodes).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.copy_(torch.randn_like(parameter) * (1.0 if parameter.ndim == 1 else 0.2))
    return cell.to(dtype)


def reference(cell, x, h, weight, *masks):
    """States of the loop written out, and its gradients by alpha, x, h and every weight."""
    tensors = {name: value.detach().clone().requires_grad_() for name, value in original_tensors(cell).items()
               if not name.startswith("bn")}
    alpha, x, h = (value.detach().clone().requires_grad_() for value in (export_alphas(cell)[0], x, h))
    states = search_cell(tensors, alpha, RECURRENT_OPERATIONS, x, h, *masks)
    return states, torch.autograd.grad((states * weight).sum(), [alpha, x, h, *tensors.values()])


def ours(cell, x, h, weight, *masks):
    x, h = x.detach().requires_grad_(), h.detach().requires_grad_()
    states = cell(x, h, *masks)
    alphas = cell.alpha_parameters()
    found = torch.autograd.grad((states * weight).sum(), [*alphas, x, h, cell.W0, *(node.W for node in cell.nodes)])
    return states, [torch.stack(found[:len(alphas)]), *found[len(alphas):]]


@pytest.fixture(params=["one call", "a product of the library each"])
def paths(request, monkeypatch):
    """The two ways of the scan; which of them is the faster one depends on the sizes."""
    if request.param != "one call":
        monkeypatch.setattr(recurrent, "SMALL", 0)


@pytest.mark.parametrize("n_nodes", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_loop_written_out(n_nodes, masked, paths):
    cell, (x, h, weight, *masks) = cell_of(n_nodes), inputs()
    masks = masks if masked else []
    states, gradients = ours(cell, x, h, weight, *masks)
    expected, expected_gradients = reference(cell, x, h, weight, *masks)
    assert "MixedScan" in type(states.grad_fn).__name__
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-9)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_gates_and_activations_may_be_saturated():
    cell, (x, h, weight, *_) = cell_of(3), inputs()
    with torch.no_grad():
        for parameter in cell.theta_parameters():
            parameter.mul_(300)
    x, weight = x[:2], weight[:2]
    states, gradients = ours(cell, x, h, weight)
    expected, expected_gradients = reference(cell, x, h, weight)
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-9)
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_in_float32_it_is_on_average_no_further_from_float64_than_the_loop_is():
    """Over networks: in a single one rounding decides which is the nearer, often by a factor of two."""
    ratios = []
    for seed in range(40):
        x, h, weight, *_ = inputs(seed=seed)
        states, gradients = reference(cell_of(4, seed=seed), x, h, weight)
        distances = {}
        for way in (ours, reference):
            found, by = way(cell_of(4, torch.float32, seed), *(value.float() for value in (x, h, weight)))
            distances[way] = torch.stack([(a - b).norm().detach() / b.norm().detach()
                                          for a, b in zip([found, *by], [states, *gradients], strict=True)])
        assert (distances[reference] > 0).all()
        ratios.append((distances[ours] / distances[reference]).log())
    by_part = torch.stack(ratios).mean(dim=0).exp()  # over 300 networks: 0.89 (states), 0.90 (gradients)
    assert by_part[0] < 1.3 and by_part.mean() < 1.55  # between three and four standard deviations of these means


@pytest.mark.parametrize("training", [True, False])
def test_grown_pruned_and_copied_cells_are_their_plain_form(training):
    cell, (x, h, weight, *masks) = cell_of(2), inputs()
    cell.grow_node(morphism=True, epsilon=0.5, noise=0.5)
    mixtures = list(cell.mixtures())
    cell.keep_operations(mixtures[1], [0, 2])
    cell.keep_operations(mixtures[3], [0])
    duplicate = cell.duplicate_operation(mixtures[4], "relu")
    with torch.no_grad():
        for _, copy in duplicate.weights.values():
            copy.add_(0.1 * torch.randn_like(copy))
    cell.bn.running_var.fill_(0.7)
    cell.train(training)
    outcomes, statistics = [], []
    for plain in (False, True):
        cell.bn.reset_running_stats() if training else None
        parameters = [*cell.alpha_parameters(), *cell.theta_parameters()]
        if plain:
            with plain_forms():
                states = cell(x, h, *masks)
        else:
            states = cell(x, h, *masks)
        outcomes.append((states, *torch.autograd.grad((states * weight).sum(), parameters, materialize_grads=True)))
        statistics.append([buffer.clone() for buffer in cell.bn.buffers()])
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    for found, expected in zip(*statistics, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_statistics_as_a_plain_mean():
    cell, (x, h, *_) = cell_of(2), inputs()
    cell.bn.momentum = None
    found = []
    for way in (cell, plain_forms()(cell)):
        cell.bn.reset_running_stats()
        way(x, h), way(x[:7], h)
        found.append([buffer.clone() for buffer in cell.bn.buffers()])
    for fast, plain in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-12)


def test_only_what_is_asked_for_has_a_gradient():
    cell, (x, h, weight, *masks) = cell_of(3), inputs()
    everything = torch.autograd.grad((cell(x, h, *masks) * weight).sum(), cell.alpha_parameters())
    for parameter in cell.theta_parameters():
        parameter.requires_grad_(False)
    alone = torch.autograd.grad((cell(x, h, *masks) * weight).sum(), cell.alpha_parameters())
    assert all(torch.equal(a, b) for a, b in zip(everything, alone, strict=True))


def test_the_language_model_around_it_is_the_loop_written_out():
    torch.manual_seed(0)
    model, (_, h, *_) = LanguageModel(50, cell_of(3)).double(), inputs()
    x, y = torch.randint(50, (2, T, B))
    parameters = [model.embedding, model.bias, model.cell.W0]
    found = torch.autograd.grad(model(x, h, y=y).loss, parameters)
    tensors = original_tensors(model.cell)
    expected = torch.autograd.grad(language_loss(tensors, model.embedding, model.bias, export_alphas(model.cell)[0],
                                                 RECURRENT_OPERATIONS, x, y, h), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    with plain_forms():
        logits = model(x, h).logits
    torch.testing.assert_close(model(x, h, y=y).loss, cross_entropy(logits.flatten(0, 1), y.flatten()), rtol=1e-12, atol=0)


@pytest.mark.parametrize("plain", [False, True])
def test_products_in_bfloat16_leave_the_rest_in_float32(plain):
    cell, (x, h, weight, *masks) = cell_of(3, torch.float32), inputs(torch.float32)
    exact, exact_gradients = ours(cell, x, h, weight, *masks)
    with torch.autocast("cpu", torch.bfloat16), plain_forms() if plain else nullcontext():
        states, gradients = ours(cell, x, h, weight, *masks)
    assert {value.dtype for value in (states, *gradients)} == {torch.float32}
    assert 1e-5 < (states - exact)[:3].norm() / exact[:3].norm() < 0.05  # later ones drift away from each other
    assert all(0 < (a - b).norm() for a, b in zip(gradients, exact_gradients, strict=True))


def test_it_refuses_a_second_derivative_and_a_second_backward_pass():
    cell, (x, h, *_) = cell_of(2), inputs()
    with pytest.raises(RuntimeError, match="plain_forms"):
        torch.autograd.grad(cell(x, h).sum(), cell.W0, create_graph=True)
    loss = cell(x, h).sum()
    torch.autograd.grad(loss, cell.W0, retain_graph=True)
    with pytest.raises(RuntimeError, match="run that again"):
        torch.autograd.grad(loss, cell.W0)


@pytest.mark.parametrize("masked", [False, True])
def test_a_derived_cell_is_its_plain_form(masked, paths):
    genotype = RecurrentGenotype((("sigmoid", 0), ("relu", 1), ("tanh", 1), ("identity", 2)), (1, 3, 4))
    x, h, weight, *masks = inputs()
    torch.manual_seed(0)
    cell = RecurrentCell(H, H, genotype).double()
    with torch.no_grad():
        for parameter in cell.parameters():
            parameter.mul_(10)

    def outcome():
        leaves = [value.detach().requires_grad_() for value in (x, h)]
        states = cell(*leaves, *(masks if masked else []))
        return states, torch.autograd.grad((states * weight).sum(), [*leaves, *cell.theta_parameters()])

    states, gradients = outcome()
    assert "MixedScan" in type(states.grad_fn).__name__
    with plain_forms():
        expected, expected_gradients = outcome()
    torch.testing.assert_close(states, expected, rtol=0, atol=1e-12)
    for found, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)
