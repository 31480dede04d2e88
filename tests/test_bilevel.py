"""Alpha gradients against automatic differentiation of the virtual step itself, in the three search spaces."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from growdarts.bilevel import VirtualStep, alpha_gradient, hessian_vector_product
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.language import Dropout, LanguageModel, LanguageTask, Memory, Window
from growdarts.spaces.two_input.network import two_input_forecaster
from growdarts.forms import plain_forms
from growdarts_study.data.text import grammar_text
from growdarts.training import theta_step

# Smooth operations only: at the kink of relu a finite difference has no order.
SMOOTH = ("add_tanh", "add_sigmoid", "add_identity", "hadamard", "gate", "gated_update", "carry")
V, H, B, T = 11, 6, 4, 7
XI, DECAY = 0.1, 0.01


def forecasting():
    network = two_input_forecaster(3, 4, 1, 2, SMOOTH).double()
    batches = [(torch.randn(3, 8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)) for _ in range(2)]
    return network, lambda network, batch: nn.functional.mse_loss(network(batch[0]), batch[1]), *batches


def language(activations=("none", "tanh", "sigmoid", "identity")):
    """Recurrent search cell with dropout everywhere and both regularisations."""
    network = LanguageModel(V, RecurrentSearchCell(H, H, 2, activations), Dropout(0.3, 0.3, 0.3, 0.3, 0.3)).double()
    for p in network.theta_parameters():  # the usual start is so small that little would depend on anything
        nn.init.normal_(p, std=0.4)
    task = LanguageTask(grammar_text(), B, T, act_reg=0.3, temporal_act_reg=0.2)
    batches = [Window(*torch.randint(V, (2, T, B)), Memory(torch.randn(B, H, dtype=torch.float64)), regularised)
               for regularised in (True, False)]
    return network, task.loss, *batches


def images(operations=tuple(name for name in CONVOLUTIONAL_OPERATIONS if name != "max_pool_3x3")):
    """Convolutional search network in train mode."""
    network = SearchImageNetwork(2, 4, 3, 1, operations, image_channels=1, image_size=8).double()
    batches = [(torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.randint(4, (6,))) for _ in range(2)]
    return network, lambda network, batch: nn.functional.cross_entropy(network(batch[0]), batch[1]), *batches


def mid_search(network, *rest):
    """The same problem, alpha no longer uniform."""
    for alpha in network.alpha_parameters():
        nn.init.normal_(alpha, std=0.5)
    return network, *rest


@pytest.fixture(params=["two_input", "recurrent", "convolutional"])
def problem(request, monkeypatch):
    """Smooth network, loss, training batch, validation batch."""
    if request.param != "convolutional":
        return mid_search(*{"two_input": forecasting, "recurrent": language}[request.param]())
    network, *rest = images()
    monkeypatch.setattr(torch, "relu", nn.functional.softplus)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus())
    return mid_search(network, *rest)


def plain_step(network, loss=None, batch=None, xi=XI, clip=None):
    """A step of SGD with weight decay and nothing else."""
    theta = network.theta_parameters()
    return VirtualStep(torch.optim.SGD(theta, lr=xi, weight_decay=DECAY), theta, clip)


def full_step(network, loss, batch):
    """A step with everything: momentum, weight decay, and a clip at half the gradient's norm."""
    theta = network.theta_parameters()
    optimizer = torch.optim.SGD(theta, lr=XI, momentum=0.9, weight_decay=DECAY)
    for p in theta:
        optimizer.state[p] = {"momentum_buffer": 0.3 * torch.randn_like(p)}
    return VirtualStep(optimizer, theta, 0.5 * flat(torch.autograd.grad(loss(network, batch), theta)).norm().item())


def adam_step(network, loss, batch):
    """A step of Adam in the midst of a training, with weight decay and a clip; some weights were grown just now."""
    theta = network.theta_parameters()
    size = flat(torch.autograd.grad(loss(network, batch), theta)).norm().item()
    optimizer = torch.optim.Adam(theta, lr=XI / 10, betas=(0.9, 0.999), eps=1e-3 * size, weight_decay=DECAY)
    for i, p in enumerate(theta):
        if i % 3 < 2:
            optimizer.state[p] = {"step": torch.tensor(11.0), "exp_avg": 0.1 * size * torch.randn_like(p),
                                  "exp_avg_sq": 0.01 * size**2 * torch.rand_like(p)}
    return VirtualStep(optimizer, theta, 0.5 * size)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


class Moved:
    """The network with other tensors in the place of its weights."""

    def __init__(self, network, weights):
        self.network = network
        self.weights = {name: weights[id(p)] for name, p in network.named_parameters() if id(p) in weights}

    def __call__(self, *inputs):
        return functional_call(self.network, self.weights, inputs)

    def __getattr__(self, name):
        return getattr(self.network, name)


@plain_forms()
def double_backward(network, loss, train_batch, validation_batch, step):
    """d/dalpha L_val(theta - xi (mu m + c dL_train/dtheta + lambda theta), alpha) through the step; c is a constant."""
    theta = network.theta_parameters()
    gradient = torch.autograd.grad(loss(network, train_batch), theta, create_graph=True)
    norm = sum(g.detach().square().sum() for g in gradient).sqrt()
    c = 1.0 if step.clip is None or norm + 1e-6 <= step.clip else step.clip / (norm + 1e-6)
    group, virtual = step.group, {}
    for p, g, kept in zip(theta, gradient, step.states, strict=True):
        h = c * g + group["weight_decay"] * p
        if "betas" not in group:
            virtual[id(p)] = p - group["lr"] * (group["momentum"] * kept.get("momentum_buffer", 0.0) + h)
        else:  # Kingma & Ba 2015, Algorithm 1; the root is a constant
            (beta1, beta2), t = group["betas"], 1 + kept.get("step", torch.tensor(0.0)).item()
            mean = (beta1 * kept.get("exp_avg", 0.0) + (1 - beta1) * h) / (1 - beta1**t)
            square = (beta2 * kept.get("exp_avg_sq", 0.0) + (1 - beta2) * h.detach()**2) / (1 - beta2**t)
            virtual[id(p)] = p - group["lr"] * mean / (square**0.5 + group["eps"])
    return flat(torch.autograd.grad(loss(Moved(network, virtual), validation_batch), network.alpha_parameters()))


def implicit_part(problem, step):
    """Size of what only the second order sees."""
    network, loss, train_batch, validation_batch = problem
    still = double_backward(network, loss, train_batch, validation_batch, step)
    theta = network.theta_parameters()
    gradient = torch.autograd.grad(loss(network, train_batch), theta)
    moved = {id(p): q for p, q in zip(theta, step.after(theta, gradient), strict=True)}
    return (still - flat(torch.autograd.grad(loss(Moved(network, moved), validation_batch),
                                             network.alpha_parameters()))).norm().item()


def test_first_order_is_the_plain_gradient(problem):
    network, loss, train_batch, validation_batch = problem
    expected = torch.autograd.grad(loss(network, validation_batch), network.alpha_parameters())
    found = alpha_gradient(network, loss, train_batch, validation_batch, order=1, step=plain_step(network), radius=1e-4)
    assert all(torch.equal(e, f) for e, f in zip(expected, found, strict=True))


@pytest.mark.parametrize("make", [plain_step, full_step, adam_step], ids=["plain", "sgd", "adam"])
def test_second_order_matches_double_backward(problem, make):
    agrees(problem, make(*problem[:3]), radius=1e-5)


@pytest.mark.parametrize("space", [language, images])
def test_second_order_matches_double_backward_with_all_operations(space):
    """Kinks do not matter to a step too short to meet one."""
    problem = mid_search(*space(RECURRENT_OPERATIONS if space is language else CONVOLUTIONAL_OPERATIONS))
    agrees(problem, full_step(*problem[:3]), radius=1e-6)


def agrees(problem, step, radius):
    found = flat(alpha_gradient(*problem[:4], order=2, step=step, radius=radius))
    expected, implicit = double_backward(*problem, step), implicit_part(problem, step)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * implicit)
    assert implicit > 1e-3 * expected.norm()  # so the agreement is not that of a small term


def test_error_of_the_second_order_falls_with_the_square_of_the_radius(problem):
    """... down to where rounding takes over, which grows as the radius falls."""
    step = full_step(*problem[:3])
    expected, implicit = double_backward(*problem, step), implicit_part(problem, step)

    def error(radius):
        return (flat(alpha_gradient(*problem, order=2, step=step, radius=radius)) - expected).norm().item() / implicit

    radii = np.geomspace(1e-3, 1e-4, 4)
    slope = np.polyfit(np.log(radii), [np.log(error(radius)) for radius in radii], 1)[0]
    assert slope == pytest.approx(2, abs=0.05)
    assert error(1e-10) > 10 * error(1e-5)


def test_hessian_vector_product_along_any_direction(problem):
    network, loss, batch, _ = problem
    theta, alpha = network.theta_parameters(), network.alpha_parameters()
    vector = [torch.randn_like(p) for p in theta]
    with plain_forms():
        gradient = torch.autograd.grad(loss(network, batch), theta, create_graph=True)
        exact = flat(torch.autograd.grad(sum((g * v).sum() for g, v in zip(gradient, vector, strict=True)), alpha))

    def error(radius):
        return (flat(hessian_vector_product(network, loss, batch, vector, radius)) - exact).norm().item()

    assert error(2e-3) / error(1e-3) == pytest.approx(4, rel=0.1)
    assert error(1e-4) < 1e-5 * exact.norm().item()


def test_zero_vector_gives_zero(problem):
    network, loss, batch, _ = problem
    zeros = [torch.zeros_like(p) for p in network.theta_parameters()]
    assert all((g == 0).all() for g in hessian_vector_product(network, loss, batch, zeros, 1e-4))


def test_with_dropout_masks_of_their_own_the_passes_give_noise():
    """D14: the term of the original, whose passes draw new masks, against the exact one at the masks of the first pass."""
    network, loss, batch, other = mid_search(*language())
    loss(network, batch), loss(network, other)
    vector = torch.autograd.grad(loss(network, other), network.theta_parameters())

    def term(radius, own):
        def drawn(network, window):
            return loss(network, window._replace(memory=Memory(window.memory.before)) if own else window)

        return flat(hessian_vector_product(network, drawn, batch, vector, radius))

    longer, cosines, shared = [], [], []
    for _ in range(16):
        batch = batch._replace(memory=Memory(batch.memory.before, network.draw_masks(B)))
        exact, own = term(1e-5, own=False), term(1e-2, own=True)
        longer.append((own.norm() / exact.norm()).item())
        cosines.append(torch.cosine_similarity(own, exact, dim=0).item())
        shared.append(torch.cosine_similarity(term(1e-2, own=False), exact, dim=0).item())
    assert np.median(longer) > 10 and abs(np.median(cosines)) < 0.5 and np.median(shared) > 0.98


@pytest.mark.parametrize("fails", [False, True])
def test_weights_and_running_statistics_are_as_before(problem, fails):
    network, loss, train_batch, validation_batch = problem

    def fragile(network, batch):
        value = loss(network, batch)
        if fails and batch is validation_batch:
            raise ArithmeticError
        return value

    for _ in range(2):  # the statistics are not those of a new network
        loss(network, train_batch)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    try:
        alpha_gradient(network, fragile, train_batch, validation_batch, order=2, step=plain_step(network, clip=0.1), radius=1e-2)
    except ArithmeticError:
        assert fails
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("clip", [1e-3, 10.0])
def test_the_virtual_step_is_the_next_step_of_sgd(problem, momentum, clip):
    network, loss, train_batch, _ = problem
    theta = network.theta_parameters()
    optimizer = torch.optim.SGD(theta[::-1], lr=XI, momentum=momentum, weight_decay=DECAY)  # theirs is another order
    task = type("Task", (), {"loss": staticmethod(loss)})
    for _ in range(3):
        gradient = torch.autograd.grad(loss(network, train_batch), theta)
        expected = VirtualStep(optimizer, theta, clip).after([p.detach().clone() for p in theta], gradient)
        theta_step(network, task, optimizer, train_batch, clip)
        for found, p in zip(expected, theta, strict=True):
            torch.testing.assert_close(found, p.detach(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("clip", [1e-3, 10.0])
def test_the_virtual_step_is_the_next_step_of_adam(problem, clip):
    """Also of weights that were grown after the others' second step."""
    network, loss, train_batch, _ = problem
    theta = network.theta_parameters()
    optimizer = torch.optim.Adam(theta[:-2], lr=XI, weight_decay=DECAY)
    task = type("Task", (), {"loss": staticmethod(loss)})
    for step in range(4):
        if step == 2:
            optimizer.param_groups[0]["params"] = theta[::-1]
        if step >= 2:
            gradient = torch.autograd.grad(loss(network, train_batch), theta)
            expected = VirtualStep(optimizer, theta, clip).after([p.detach().clone() for p in theta], gradient)
        theta_step(network, task, optimizer, train_batch, clip)
        for found, p in zip(expected, theta, strict=True) if step >= 2 else ():
            torch.testing.assert_close(found, p.detach(), rtol=1e-9, atol=1e-12)


def test_with_adam_the_second_order_is_no_small_term():
    """The step of plain SGD, which an earlier version took in its place, was hundreds of times shorter."""
    network, loss, train_batch, validation_batch = mid_search(*forecasting())
    theta = network.theta_parameters()
    optimizer = torch.optim.Adam(theta, lr=0.003)
    task = type("Task", (), {"loss": staticmethod(loss)})
    for _ in range(20):
        theta_step(network, task, optimizer, train_batch, 1.0)
    before = [p.detach().clone() for p in theta]
    gradient = torch.autograd.grad(loss(network, train_batch), theta)
    moved = VirtualStep(optimizer, theta, 1.0).after(before, gradient)
    plain = plain_step(network, xi=0.003, clip=1.0).after(before, gradient)
    assert (flat(moved) - flat(before)).norm() > 10 * (flat(plain) - flat(before)).norm()


def test_a_weight_without_momentum_yet_has_none():
    old, new = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([old, new], lr=XI, momentum=0.5)
    old.grad = torch.full((2,), 4.0)
    optimizer.step()
    moved = VirtualStep(optimizer, [new, old], None).after([torch.ones(3), torch.ones(2)], [torch.ones(3), torch.ones(2)])
    assert [p.tolist() for p in moved] == [pytest.approx([1 - XI] * 3), pytest.approx([1 - XI * (0.5 * 4 + 1)] * 2)]
    assert new not in optimizer.state  # which nothing but a step of its own adds to
