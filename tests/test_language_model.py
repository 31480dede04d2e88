"""The language model by hand: shared masks, tied weights, carry-over, loss; and a search over it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from growdarts_study import published
from growdarts.bilevel import VirtualStep, alpha_gradient, hessian_vector_product
from growdarts.spaces.two_input.network import derived_layers, two_input_layers
from growdarts_study.experiments.rivals import LSTM
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts_study.config import TimeSeriesRun
from growdarts.tasks.language import Dropout, LanguageModel, LanguageTask, Masks, Memory, Window
from growdarts_study.experiments.language import perplexity
from growdarts.forms import plain_forms
from growdarts_study.precision import products_in, used_precision
from growdarts.spaces.two_input.operations import DEFAULT_TWO_INPUT
from growdarts.search import Search
from growdarts_study.data.text import load_text
from growdarts.training import theta_optimizer, theta_step

V, H, B, T = 11, 6, 4, 7


def cross_entropy(logits, y):
    return nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())


EVERYWHERE = Dropout(word=0.3, embedding=0.3, inputs=0.3, hidden=0.3, outputs=0.3)
CELLS = {
    "search": lambda: RecurrentSearchCell(H, H, 2), "fixed": lambda: RecurrentCell(H, H, published.PTB_DARTS_V2),
    "lstm": lambda: LSTM(H, H), "two_input": lambda: two_input_layers(H, 2, 2, DEFAULT_TWO_INPUT)}  # fmt: skip


def model(cell="search", dropout=Dropout()):
    network = LanguageModel(V, CELLS[cell](), dropout).double()
    for p in network.parameters():  # the usual start is so small that little would depend on anything
        nn.init.normal_(p, std=0.4)
    return network


def window(regularised=True, before=None, seed=1):
    x, y = torch.randint(V, (2, T, B), generator=torch.Generator().manual_seed(seed))
    return Window(x, y, Memory(before), regularised)


@pytest.fixture(scope="module")
def grammar():
    return load_text("grammar")


@pytest.fixture
def small(grammar):
    return replace(grammar, train=grammar.train[:3000], validation=grammar.validation[:1000],
                   test=grammar.test[:1000])


# Dropout --------------------------------------------------------------------------------------------------------

def test_masks_drop_whole_columns_and_keep_the_mean():
    network = LanguageModel(4000, RecurrentSearchCell(50, 50, 1), Dropout(0.1, 0.2, 0.3, 0.4, 0.5))
    masks = network.draw_masks(80)
    assert [tuple(mask.shape) for mask in masks] == [(4000, 1)] + [(80, 50)] * 4
    for mask, rate in zip(masks, (0.1, 0.2, 0.3, 0.4, 0.5), strict=True):
        assert mask.unique().tolist() == pytest.approx([0, 1 / (1 - rate)])
        assert (mask == 0).double().mean() == pytest.approx(rate, abs=0.03)
    assert network.draw_masks(80)[1].ne(masks[1]).any()
    assert model().draw_masks(3) == Masks()


def test_dropped_units_are_those_of_the_masks_at_every_step():
    network, (x, *_) = model(dropout=EVERYWHERE), window()
    seen = []
    network.cell.register_forward_hook(lambda cell, arguments, _: seen.append(arguments))
    masks = network.draw_masks(B)
    output = network(x, None, masks)
    embedded, _, inputs, hidden = seen[0]
    for t in range(T):
        for b in range(B):
            word = x[t, b]
            expected = network.embedding[word] * masks.word[word] * masks.embedding[b]
            assert torch.equal(embedded[t, b], expected)
        assert torch.equal(output.dropped[t], output.states[t] * masks.outputs)
    assert inputs is masks.inputs and hidden is masks.hidden
    torch.testing.assert_close(output.logits, output.dropped @ network.embedding.t() + network.bias)


def test_passes_over_a_window_share_its_masks_and_windows_do_not(small):
    task, network = LanguageTask(small, 10, 8), LanguageModel(len(small.vocabulary), CELLS["search"](), EVERYWHERE)
    batches = task.train_batches()
    first = next(batches)
    assert first.memory.masks is None
    losses = [task.loss(network, first).item() for _ in range(3)]
    assert losses[0] == losses[1] == losses[2]
    second = next(batches)
    task.loss(network, second)
    assert not torch.equal(first.memory.masks.inputs, second.memory.masks.inputs)
    network.eval()
    plain = task.loss(network, first)
    torch.testing.assert_close(plain, cross_entropy(network(first.x).logits, first.y))


def test_impossible_models():
    with pytest.raises(ValueError, match="dropout hidden = 1.0: allowed is 0 to below 1"):
        Dropout(hidden=1.0)
    with pytest.raises(ValueError, match="TwoInputLayers takes no mask"):
        model("two_input", EVERYWHERE)
    with pytest.raises(ValueError, match="3 inputs and 4 hidden units"):
        LanguageModel(V, LSTM(3, 4))


# Cells and their states -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("cell", CELLS)
def test_carry_over_is_one_long_pass(cell):
    network, (x, *_) = model(cell).eval(), window()  # batch statistics of the search cell would differ in training
    whole = network(x)
    first = network(x[:3])
    second = network(x[3:], tree_map(torch.Tensor.detach, first.carried))
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits, rtol=0, atol=1e-12)
    assert not torch.allclose(network(x[3:]).logits, second.logits)
    assert whole.states.shape == (T, B, H) and whole.logits.shape == (T, B, V)


@pytest.mark.parametrize("random_length", [True, False])
def test_the_task_carries_states_over_detached(small, random_length):
    task = LanguageTask(small, 10, 8, random_length=random_length)
    network = LanguageModel(len(small.vocabulary), CELLS["lstm"]())
    rows, before = [], None
    for batch in task.train_batches():
        assert (batch.memory.before is None) == (before is None)
        assert before is None or all(torch.equal(a, b) and not a.requires_grad
                                     for a, b in zip(batch.memory.before, before, strict=True))
        task.loss(network, batch)
        before = network(batch.x, batch.memory.before).carried
        rows.append(batch.y)
    assert torch.equal(torch.cat(rows), small.train.view(10, 300).t()[1:])
    pairs = list(task.search_batches())  # the shorter validation text starts anew, from the zero state
    assert len(pairs) >= 30 and sum(len(v.x) for _, v in pairs) > 99
    assert {t.regularised for t, _ in pairs} == {True} and {v.regularised for _, v in pairs} == {False}


def test_lstm_is_torchs_with_and_without_masks():
    ours, torchs = LSTM(H, H).double(), nn.LSTM(H, H).double()
    torchs.load_state_dict({name.removeprefix("layer."): p for name, p in ours.state_dict().items()})
    x, h, c = torch.randn(T, B, H).double(), torch.randn(B, H).double(), torch.randn(B, H).double()
    for start in (None, (h, c)):
        expected, (h_n, c_n) = torchs(x, None if start is None else (h[None], c[None]))
        for mask in (None, torch.ones(B, H).double()):
            states, last = ours(x, start, None, mask)
            for found, right in ((states, expected), (last[0], h_n[0]), (last[1], c_n[0])):
                torch.testing.assert_close(found, right, rtol=0, atol=1e-12)
    # masked by hand: an input that is dropped does not matter, a state that is dropped does not feed back
    zero, half = torch.zeros(B, H).double(), torch.ones(B, H).double()
    half[:, 0] = 0
    torch.testing.assert_close(ours(x, None, half)[0], torchs(x * half)[0])
    single = torch.cat([torchs(x[t:t + 1])[0] for t in range(2)])
    torch.testing.assert_close(ours(x[:1], (h, zero), None, zero)[0], single[:1])
    assert LanguageModel(V, ours).flops() == 2 * (8 * H * H + V * H)


def test_derived_two_input_layers():
    network = model("two_input")
    genotype = network.genotype()
    fixed = LanguageModel(V, derived_layers(genotype, H)).double()
    assert fixed.structure() == [[[name] for (name,) in nodes] for nodes in genotype.layers]
    assert fixed(window().x).logits.isfinite().all()
    assert network.mixture_names()[-1] == "layer 2, node 2" and fixed.flops() < network.flops()


# Tied weights ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_counts_once(cell):
    network = model(cell)
    theta = network.theta_parameters()
    alpha = network.alpha_parameters() if hasattr(network.cell, "alpha_parameters") else []
    assert len({id(p) for p in theta}) == len(theta)
    assert {id(p) for p in theta + alpha} == {id(p) for p in network.parameters()}
    assert sum(p.shape == (V, H) for p in theta) == 1
    x, y, *_ = window()
    cross_entropy(network(x).logits, y).backward()
    assert (network.embedding.grad != 0).all()  # of words that the window lacks too, from the decoder


def test_gradient_of_the_tied_weight_is_the_sum_of_both_uses():
    network, (x, y, *_) = model(), window()
    cross_entropy(network(x).logits, y).backward()
    encoder, decoder = (network.embedding.detach().clone().requires_grad_() for _ in range(2))
    states = network.cell(nn.functional.embedding(x, encoder))
    cross_entropy(states @ decoder.t() + network.bias.detach(), y).backward()
    torch.testing.assert_close(network.embedding.grad, encoder.grad + decoder.grad)
    assert encoder.grad.norm() > 1e-3 and decoder.grad.norm() > 1e-3


XI, DECAY = 0.3, 0.01


@pytest.mark.parametrize(("cell", "radius", "dropout"), [
    ("two_input", 1e-2, Dropout()), ("two_input", 1e-2, replace(EVERYWHERE, hidden=0.0)),
    ("search", 1e-5, Dropout()), ("search", 1e-5, EVERYWHERE)])
def test_second_order_matches_double_backward_with_masks_and_tied_weights(small, dropout, cell, radius):
    # batch norm of few and similar states is so curved that its cell needs a finer difference (see the test below)
    torch.manual_seed(3)
    smooth = {"two_input": lambda: two_input_layers(H, 1, 2, ("add_tanh", "gate", "gated_update", "carry")),
              "search": lambda: RecurrentSearchCell(H, H, 2, ("none", "tanh", "sigmoid", "identity"))}
    network = LanguageModel(V, smooth[cell](), dropout).double()
    for p in network.parameters():
        nn.init.normal_(p, std=0.4)
    task = LanguageTask(small, B, T, act_reg=0.3, temporal_act_reg=0.2)
    h = torch.randn(B, H, dtype=torch.float64)
    h = (h,) if cell == "two_input" else h
    train, validation = window(True, h, 1), window(False, h, 2)
    weights = network.theta_parameters()
    step = VirtualStep(torch.optim.SGD(weights, lr=XI, weight_decay=DECAY), weights, None)
    found = torch.cat(alpha_gradient(network, task.loss, train, validation, order=2, step=step, radius=radius))

    def double_backward(moved):
        gradient = torch.autograd.grad(task.loss(network, train), moved, create_graph=True)
        virtual = {id(p): p - XI * (g + DECAY * p) for p, g in zip(moved, gradient, strict=True)}
        named = {name: virtual.get(id(p), p) for name, p in network.named_parameters()}
        output = functional_call(network, named, (validation.x, h, validation.memory.masks))
        error = cross_entropy(output.logits, validation.y)
        return torch.cat(torch.autograd.grad(error, network.alpha_parameters()))

    theta = network.theta_parameters()
    with plain_forms():
        expected = double_backward(theta)
        untied = double_backward([p for p in theta if p is not network.embedding])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 * expected.norm().item())
    assert (untied - expected).norm() > 1e-3 * expected.norm()  # leaving the embedding out would show
    first = torch.cat(alpha_gradient(network, task.loss, train, validation, order=1, step=step, radius=radius))
    assert (first - expected).norm() > 1e-2 * expected.norm()


def test_finite_difference_is_of_second_order_with_shared_masks_and_noise_without():
    torch.manual_seed(3)
    network = model(dropout=EVERYWHERE)
    network.cell = RecurrentSearchCell(H, H, 2, ("none", "tanh", "sigmoid", "identity")).double()
    task, batch = LanguageTask(load_text("grammar"), B, T), window()
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    vector = torch.autograd.grad(task.loss(network, batch), theta)
    with plain_forms():
        gradient = torch.autograd.grad(task.loss(network, batch), theta, create_graph=True)
        exact = torch.cat(torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector, strict=True)), alpha))

    def fresh(network, batch):  # what the original does
        return task.loss(network, batch._replace(memory=Memory(None)))

    def error(loss, radius):
        found = torch.cat(hessian_vector_product(network, loss, batch, vector, radius))
        return ((found - exact).norm() / exact.norm()).item()

    assert error(task.loss, 1e-4) / error(task.loss, 5e-5) == pytest.approx(4, rel=0.1)
    assert error(task.loss, 1e-4) < 1e-2
    assert error(fresh, 1e-4) > 10


# Loss and evaluation --------------------------------------------------------------------------------------------

def test_loss_by_hand(small):
    network, batch = model(dropout=EVERYWHERE), window()
    plain = LanguageTask(small, B, T)
    regularised = replace(plain, act_reg=2.0, temporal_act_reg=3.0)
    found, with_regularisation = plain.loss(network, batch), regularised.loss(network, batch)
    output = network(batch.x, None, batch.memory.masks)
    logs = output.logits.log_softmax(-1)
    by_hand = -sum(logs[t, b, batch.y[t, b]] for t in range(T) for b in range(B)) / (T * B)
    torch.testing.assert_close(found, by_hand)
    torch.testing.assert_close(found, nn.functional.cross_entropy(output.logits.view(T * B, V), batch.y.view(-1)))
    change = sum((output.states[t + 1] - output.states[t]).square().mean() for t in range(T - 1)) / (T - 1)
    torch.testing.assert_close(with_regularisation, found + 2 * output.dropped.square().mean() + 3 * change)
    torch.testing.assert_close(regularised.loss(network, batch._replace(regularised=False)), found)
    short = Window(batch.x[:1], batch.y[:1], Memory(None), True)
    assert regularised.loss(network, short).isfinite()  # one step has no change


@pytest.mark.parametrize("cell", ["fixed", "lstm"])
def test_evaluation_does_not_depend_on_windows_or_mode(small, cell):
    network = LanguageModel(len(small.vocabulary), CELLS[cell](), EVERYWHERE if cell == "lstm" else Dropout())
    found = [LanguageTask(small, 5, length, eval_batch_size=1).evaluate(network, "test") for length in (7, 100)]
    assert found[0] == pytest.approx(found[1], rel=1e-5) and network.training
    logits = network.eval()(small.test[:-1, None]).logits[:, 0]
    assert found[0] == pytest.approx(nn.functional.cross_entropy(logits, small.test[1:]).item(), rel=1e-5)
    task = LanguageTask(small, 5, 20, eval_batch_size=1)
    assert task.evaluate(network, "test") == pytest.approx(found[0], rel=1e-5) and not network.training
    assert perplexity(math.log(50)) == pytest.approx(50) and perplexity(1e4) == math.inf
    assert task.flops(network) == 3000 * network.flops()


# Training and search --------------------------------------------------------------------------------------------

def unigram_perplexity(text):
    """Of the test text under the frequencies of the training text."""
    share = text.train.bincount(minlength=len(text.vocabulary)) / len(text.train)
    return math.exp(-share[text.test].log().mean())


def test_an_lstm_learns_the_grammar(grammar, config):
    network = LanguageModel(len(grammar.vocabulary), LSTM(16, 16), Dropout(outputs=0.1))
    task = LanguageTask(grammar, 40, 10)
    optimizer = theta_optimizer(network.theta_parameters(), config.model_copy(update={"weight_decay": 0.0}))
    for _ in range(3):
        for batch in task.train_batches():
            theta_step(network, task, optimizer, batch, 1.0)
    found = perplexity(task.evaluate(network, "test"))
    assert 0.97 * grammar.floor < found < 1.15 * grammar.floor < unigram_perplexity(grammar) / 2


def toy_network(kind, width, words):
    cells = {"search": lambda: RecurrentSearchCell(width, width, 1),
             "two_input": lambda: two_input_layers(width, 1, 1, DEFAULT_TWO_INPUT)}
    return LanguageModel(words, cells[kind](), Dropout(word=0.05, embedding=0.05, inputs=0.05, outputs=0.05))


@pytest.mark.parametrize("kind", ["search", "two_input"])
def test_a_search_nears_the_floor(settings, small, kind):
    config = TimeSeriesRun.of(settings | dict(search_epochs=5, prune_below=0.05, weight_decay=0.0, learning_rate=0.02))
    found = []
    for seed in range(3):  # of twelve one or two stay above: batch norms of an evaluation do not keep a state from growing
        torch.manual_seed(seed)
        network = toy_network(kind, 16, len(small.vocabulary))
        result = Search(network, LanguageTask(small, 10, 10, act_reg=0.01, temporal_act_reg=0.01), config).run()
        found.append(perplexity(result.validation_error))
        assert result.flops > 0 and perplexity(LanguageTask(small, 10, 10).evaluate(network, "test")) > 0.9 * small.floor
    assert sorted(found)[1] < unigram_perplexity(small) / 2


@pytest.mark.parametrize("cell, hidden", [("search", 0.0), ("search", 0.3), ("fixed", 0.0), ("fixed", 0.3), ("lstm", 0.0),
                                          ("lstm", 0.3), ("two-input", 0.0)])
def test_every_cell_is_trained_with_products_in_bfloat16(cell, hidden):
    """The gradient is that of float32 but for rounding; parameters and gradients stay in float32."""
    if (cell, hidden) == ("lstm", 0.0) and used_precision("bfloat16") == "float32":
        pytest.skip("torch's LSTM does not run in bfloat16 here; the next test looks at what is computed instead")
    torch.manual_seed(2)  # with some seeds the loss rounds to the same in both
    kinds = CELLS | {"lstm": lambda: LSTM(H, H), "two-input": lambda: two_input_layers(H, 1, 2, DEFAULT_TWO_INPUT)}
    network = LanguageModel(V, kinds[cell](), Dropout(hidden=hidden))
    x, y = torch.randint(V, (2, 20, B))
    masks = network.draw_masks(B)
    found = {}
    for precision in ("float32", "bfloat16"):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = network(x, None, masks, y).loss
        found[precision] = [loss, *torch.autograd.grad(loss, network.theta_parameters(), materialize_grads=True)]
    for a, b in zip(*found.values(), strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert 0 < (a - b).norm() < 0.1 * a.norm() + 1e-4


@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_where_bfloat16_cannot_be_had_the_parameter_changes_nothing(hidden, monkeypatch):
    monkeypatch.setattr("growdarts_study.precision._has_bfloat16", lambda: False)
    torch.manual_seed(0)
    network = LanguageModel(V, LSTM(H, H), Dropout(hidden=hidden))
    x, y = torch.randint(V, (2, 20, B))
    masks = network.draw_masks(B)
    with products_in("bfloat16"):
        found = network(x, None, masks, y).loss
    assert used_precision("bfloat16") == "float32"
    assert found == network(x, None, masks, y).loss
