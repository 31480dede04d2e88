"""Steps of a search and of a training, as the library takes them and as the plain references do.

A search step is one alpha step and one weight step, with their optimisers; batches are synthetic.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from original_states import export_alphas, original_tensors
from reference_darts_conv import copied, fixed_network, search_network
from reference_darts_conv import leaves as copies
from reference_darts_recurrent import fixed_language_loss as fixed_recurrent_loss
from reference_darts_recurrent import language_loss as recurrent_loss
from reference_two_input import language_loss as two_input_loss
from torch import Tensor, nn

from benchmarks.sizes import Size
from growdarts.bilevel import VirtualStep, alpha_gradient
from growdarts.space import SearchSpace
from growdarts.spaces.two_input.network import derived_layers, two_input_layers
from growdarts_study.experiments.rivals import LSTM
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.spaces.darts.genotypes import RECURRENT_OPERATIONS
from growdarts.spaces.darts_conv.network import FixedImageNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.tasks.images import ImageTask
from growdarts.tasks.images import ImageData, Images
from growdarts.tasks.language import LanguageModel, LanguageTask, Memory, Window
from growdarts.mixture import operation_name
from growdarts.growth import operation_owner
from growdarts_study.precision import MixedPrecisionTask, Precision
from growdarts.tasks.text import Text
from growdarts.training import Task, theta_step

CLIP, RADIUS, CLASSES = 0.25, 1e-2, 10
RATES = {"theta": 1e-6, "alpha": 1e-6}  # so small that a hundred steps measure the same network


class Reference(NamedTuple):
    """A plain reference of the tests: its loss of a batch (x, y), its weights and its architecture logits."""

    loss: Callable[[Tensor, Tensor], Tensor]
    theta: list[Tensor]
    alpha: list[Tensor]


@dataclass(frozen=True)
class Subject:
    """A search network with what its steps need.

    batch : a fresh batch, of the training part if True, else of the validation part; always the same data.
    task : the task in a precision.
    reference : the same network written out.
    fixed : the network of the derived architecture, and that network written out.
    """

    size: Size
    network: SearchSpace
    batch: Callable[[bool], Any]
    task: Callable[[Precision], Task]
    reference: Reference
    fixed: Callable[[], tuple[nn.Module, Reference]]


def subject(size: Size, device: str = "cpu") -> Subject:
    """Build it, from a fixed seed."""
    torch.manual_seed(0)
    return _images(size, device) if size.space == "convolutional" else _language(size, device)


def _language(size: Size, device: str) -> Subject:
    H, B, V = size.width, size.batch, size.words
    if size.space == "recurrent":
        cell = RecurrentSearchCell(H, H, size.nodes, size.candidates())
    else:
        cell = two_input_layers(H, 1, size.nodes, size.candidates())
    rows = export_alphas(cell)[0].detach().to(device) if size.space == "recurrent" else None
    network = LanguageModel(V, cell).to(device)
    data = {train: torch.randint(V, (2, size.length, B)).to(device) for train in (True, False)}
    h = torch.zeros(B, H, device=device)
    if size.space == "recurrent":
        columns = [RECURRENT_OPERATIONS.index(name) for name in size.candidates()]
        alpha = [nn.Parameter(rows[:, columns])]
        loss = partial(recurrent_loss, original_tensors(cell), network.embedding, network.bias, alpha[0],
                       size.candidates(), h=h)
    else:
        nodes = two_input_nodes(network)
        alpha = [logit for node in nodes for *_, logit in node]
        loss = partial(two_input_loss, nodes, network.embedding, network.bias, h=h)

    def fixed() -> tuple[LanguageModel, Reference]:
        genotype = network.genotype()
        if size.space == "recurrent":
            cell = RecurrentCell(H, H, genotype)
            model = LanguageModel(V, cell).to(device)
            loss = partial(fixed_recurrent_loss, original_tensors(cell), model.embedding, model.bias, genotype.recurrent,
                           genotype.concat, h=h)
        else:
            model = LanguageModel(V, derived_layers(genotype, H)).to(device)
            loss = partial(two_input_loss, two_input_nodes(model), model.embedding, model.bias, h=h)
        return model, Reference(loss, weights_of(model), [])

    return Subject(size, network, lambda train: Window(*data[train], Memory(None), train),
                   lambda precision: MixedPrecisionTask(None, B, size.length, precision=precision, device=device),
                   Reference(loss, network.theta_parameters(), alpha), fixed)


def two_input_nodes(network: LanguageModel) -> list[list[tuple[str, dict[str, nn.Parameter], nn.Parameter]]]:
    """Name, weights and a logit of its own of every operation, node by node, for `reference_two_input`."""
    return [[(operation_name(key), operation_owner(network, mixture).operation_weights(mixture, key),
              nn.Parameter(logit.clone())) for key, logit in zip(mixture.keys, mixture.alpha.detach(), strict=True)]
            for mixture in network.mixtures()]


def _images(size: Size, device: str) -> Subject:
    shape = dict(image_channels=3, image_size=size.pixels)

    def stored(network: nn.Module) -> nn.Module:  # as `growdarts_study.experiments.images` does
        return network.to(memory_format=torch.channels_last)

    network = SearchImageNetwork(size.width, CLASSES, size.cells, size.nodes, size.candidates(), **shape).to(device)
    state, normal, reduce, leaves = copies(network)  # before its weights are stored in another order
    network = stored(network)
    data = {train: (torch.randn(size.batch, 3, size.pixels, size.pixels).to(device),
                    torch.randint(CLASSES, (size.batch,)).to(device)) for train in (True, False)}
    task = ImageTask(None, size.batch, device=device)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(search_network(state, normal, reduce, x), y)

    reference = Reference(loss, *([leaf for name, leaf in leaves.items() if name.endswith(".alpha") == is_alpha]
                                  for is_alpha in (False, True)))

    def fixed() -> tuple[FixedImageNetwork, Reference]:
        genotype = network.genotype()
        found = FixedImageNetwork(genotype, size.width, CLASSES, size.cells, **shape).to(device)
        state, parameters = copied(found)
        kinds = (genotype.normal, genotype.normal_concat), (genotype.reduce, genotype.reduce_concat)
        return stored(found), Reference(lambda x, y: nn.functional.cross_entropy(fixed_network(state, *kinds, x), y),
                                        list(parameters.values()), [])

    return Subject(size, network, lambda train: data[train], lambda precision: task, reference, fixed)


def pipeline(size: Size) -> Task:
    """A task with data enough for some batches: text in memory, or images as bytes, which are changed at random."""
    torch.manual_seed(0)
    if size.space == "convolutional":
        x = torch.randint(256, (16 * size.batch, 3, size.pixels, size.pixels), dtype=torch.uint8)
        part = Images(x, torch.randint(CLASSES, (len(x),)))
        return ImageTask(ImageData("noise", (), part, part, part, (0.5,) * 3, (0.25,) * 3, "", {}, padding=4, flip=True),
                         size.batch, cutout_length=size.pixels // 2)
    ids = torch.randint(size.words, (16 * size.batch * size.length,))
    return LanguageTask(Text("noise", (), ids, ids, ids, None, {}), size.batch, size.length)


# ---- steps of the library ----------------------------------------------------------------------


def search_step(subject: Subject, order: int, precision: Precision = "float32") -> Callable[[], None]:
    """As `growdarts.search` takes them."""
    network, task = subject.network, subject.task(precision)
    alphas = network.alpha_parameters()
    theta_optimizer, alpha_optimizer = optimizers(network.theta_parameters(), alphas)

    def step() -> None:
        train = subject.batch(True)
        virtual = VirtualStep(theta_optimizer, network.theta_parameters(), CLIP) if order == 2 else None
        gradients = alpha_gradient(network, task.loss, train, subject.batch(False), order=order, step=virtual,
                                   radius=RADIUS)
        for alpha, g in zip(alphas, gradients, strict=True):
            alpha.grad = g
        alpha_optimizer.step()
        theta_step(network, task, theta_optimizer, train, CLIP)

    return step


def weight_step(network: nn.Module, subject: Subject) -> Callable[[], None]:
    """A weight step of any network on the batches of `subject`."""
    optimizer, _ = optimizers(weights_of(network), [])
    task = subject.task("float32")
    return lambda: theta_step(network, task, optimizer, subject.batch(True), CLIP)


def weights_of(network: nn.Module) -> list[nn.Parameter]:
    """All parameters but architecture logits."""
    return network.theta_parameters() if hasattr(network, "theta_parameters") else list(network.parameters())


def lstm_step(subject: Subject) -> Callable[[], None]:
    """A weight step of torch.nn.LSTM, of as many units, in the same language model."""
    size = subject.size
    network = LanguageModel(size.words, LSTM(size.width, size.width)).to(subject.reference.theta[0].device)
    return weight_step(network, subject)


def reference_weight_step(reference: Reference, subject: Subject) -> Callable[[], None]:
    """A weight step of a network written out."""
    optimizer, _ = optimizers(reference.theta, [])

    def step() -> None:
        loss = reference.loss(*subject.batch(True)[:2])
        gradients = torch.autograd.grad(loss, reference.theta, allow_unused=True, materialize_grads=True)
        for parameter, g in zip(reference.theta, gradients, strict=True):
            parameter.grad = g
        nn.utils.clip_grad_norm_(reference.theta, CLIP)
        optimizer.step()

    return step


def optimizers(theta: Sequence[Tensor],
               alpha: Sequence[Tensor]) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer | None]:
    """SGD of the weights and Adam of the logits, None without any."""
    return (torch.optim.SGD(theta, lr=RATES["theta"]),
            torch.optim.Adam(alpha, lr=RATES["alpha"], betas=(0.5, 0.999)) if alpha else None)


# ---- the reference's ---------------------------------------------------------------------------


def reference_step(subject: Subject, order: int) -> Callable[[], None]:
    """As the original's code takes them: both passes of a step get the gradients of all weights by autograd.

    Second order: gradients at the virtual step for weights and alpha, then of alpha in the two passes of the finite
    difference, in which the original asks autograd for no others either.
    """
    loss, theta, alpha = subject.reference
    theta_optimizer, alpha_optimizer = optimizers(theta, alpha)

    def gradients(train: bool, parameters: list[Tensor]) -> list[Tensor]:
        # materialised: an edge of a single operation has no say in the loss
        return list(torch.autograd.grad(loss(*subject.batch(train)[:2]), parameters, materialize_grads=True))

    @torch.no_grad()
    def assign(values: Sequence[Tensor]) -> None:
        for parameter, value in zip(theta, values, strict=True):
            parameter.copy_(value)

    def second_order() -> list[Tensor]:
        saved, xi = [p.detach().clone() for p in theta], RATES["theta"]
        inner = gradients(True, theta)
        assign([p - xi * g for p, g in zip(saved, inner, strict=True)])
        found = gradients(False, alpha + theta)
        direct, vector = found[:len(alpha)], found[len(alpha):]
        epsilon = RADIUS / torch.cat([v.flatten() for v in vector]).norm()
        sides = []
        for sign in (1, -1):
            assign([p + sign * epsilon * v for p, v in zip(saved, vector, strict=True)])
            sides.append(gradients(True, alpha))
        assign(saved)
        return [d - xi * (plus - minus) / (2 * epsilon) for d, plus, minus in zip(direct, *sides, strict=True)]

    def step() -> None:
        found = gradients(False, alpha + theta)[:len(alpha)] if order == 1 else second_order()
        for parameter, g in zip(alpha, found, strict=True):
            parameter.grad = g
        alpha_optimizer.step()
        for parameter, g in zip(alpha + theta, gradients(True, alpha + theta), strict=True):
            parameter.grad = g
        nn.utils.clip_grad_norm_(theta, CLIP)
        theta_optimizer.step()

    return step
