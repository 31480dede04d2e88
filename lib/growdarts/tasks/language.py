"""Word-level language model around any recurrent cell, and the task of training it.

Shapes: T window length (tokens), B columns of text, E embedding, H hidden (E = H, the decoder is tied), V words.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from itertools import chain, count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import register_dataclass, tree_map

from growdarts.devices.captured import Graphs
from growdarts.training import MeanLoss
from growdarts.spaces.darts_recurrent.highway import masked, uniform
from growdarts.devices import find_device, to_device
from growdarts.forms import has_fast_form
from growdarts.tasks.text import Text, batchify, windows

State = Tensor | tuple[Tensor, ...]  # each (B, H)

# What `growdarts.space.SearchSpace` asks of a network and only the cell can answer.
OF_THE_CELL = ("operations", "alpha_parameters", "mixtures", "mixture_names", "n_nodes", "grow_node", "keep_operations",
               "add_operation", "structure", "restructure", "genotype")


@dataclass(frozen=True)
class Dropout:
    """Rates of dropout, 0 to below 1, by what is dropped, and their names in DARTS and AWD-LSTM.

    word: whole words, `dropoute`; embedding: units of the embedded text, `dropouti`; inputs: units of the cell's
    inputs, on top of that, `dropoutx`; hidden: units of the states within the cell, `dropouth`; outputs: units of the
    states that the decoder reads, `dropout`.
    """

    word: float = 0.0
    embedding: float = 0.0
    inputs: float = 0.0
    hidden: float = 0.0
    outputs: float = 0.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < 1:
                raise ValueError(f"dropout {field.name} = {getattr(self, field.name)}: allowed is 0 to below 1")


class Masks(NamedTuple):
    """Dropout masks, of entries 0 or 1 / (1 - rate), for all time steps of a window; None where nothing is dropped."""

    word: Tensor | None = None  # (V, 1)
    embedding: Tensor | None = None  # (B, E)
    inputs: Tensor | None = None  # (B, E)
    hidden: Tensor | None = None  # (B, H)
    outputs: Tensor | None = None  # (B, H)


class Output(NamedTuple):
    """What a language model computes from a window: logits, or in their place the loss where the targets are given."""

    logits: Tensor | None  # (T, B, V), for the word that follows
    loss: Tensor | None  # mean negative log likelihood, nats a word
    states: Tensor  # (T, B, H) of the cell
    dropped: Tensor  # the same after dropout, what the decoder reads
    carried: State  # what the next window starts from, not detached


class LanguageModel(nn.Module):
    r"""Embedding, cell and decoder that share one matrix: logits $= s_t W^\top + b$ with $x_t = W_{w_t}$.

    It is a search space (`growdarts.space.SearchSpace`) if its cell is one. W is one entry of `theta_parameters`, so a
    virtual step moves embedding and decoder together (the original's virtual model leaves out its tied embedding).

    Parameters
    ----------
    words : how many there are, V.
    cell : module with `inputs` = `hidden` = H and forward(x, h) -> states (T, B, H), or the states and what to carry
        over, if that is more than the last one; forward(x, h, x_mask, h_mask) where hidden units are to be dropped.
    """

    def __init__(self, words: int, cell: nn.Module, dropout: Dropout = Dropout()) -> None:
        super().__init__()
        if cell.inputs != cell.hidden:
            raise ValueError(f"the cell has {cell.inputs} inputs and {cell.hidden} hidden units: embedding and decoder "
                             "share their weights, so both must be the same")
        self.takes_masks = "h_mask" in inspect.signature(cell.forward).parameters
        if dropout.hidden and not self.takes_masks:
            raise ValueError(f"dropout hidden = {dropout.hidden}: allowed is 0, {type(cell).__name__} takes no mask")
        self.embedding = uniform(words, cell.inputs)  # (V, E)
        self.bias = nn.Parameter(torch.zeros(words))
        self.cell, self.dropout = cell, dropout

    def forward(self, x: Tensor, h: State | None = None, masks: Masks = Masks(), y: Tensor | None = None) -> Output:
        """Word numbers (T, B) -> logits (T, B, V) and states, starting from `h`, default zero.

        With the words `y` (T, B) that follow it is their loss instead, and logits are not kept. The masks are applied
        as given, whatever the mode.
        """
        embedded = nn.functional.embedding(x, self.embedding)  # (T, B, E)
        if masks.word is not None:
            embedded = embedded * masks.word[x]
        embedded = masked(embedded, masks.embedding)
        if self.takes_masks:
            result = self.cell(embedded, h, masks.inputs, masks.hidden)
        else:
            result = self.cell(masked(embedded, masks.inputs), h)
        states, carried = result if isinstance(result, tuple) else (result, result[-1])
        dropped = masked(states, masks.outputs)
        if y is None:
            return Output(nn.functional.linear(dropped, self.embedding, self.bias), None, states, dropped, carried)
        loss = vocabulary_loss(dropped.flatten(0, 1), self.embedding, self.bias, y.flatten())
        return Output(None, loss, states, dropped, carried)

    def draw_masks(self, batch_size: int) -> Masks:
        """Fresh masks for a window of `batch_size` columns, for all passes that belong together: the original draws new
        ones for each pass of a finite difference, which is then mostly noise."""
        V, E = self.embedding.shape
        shapes = Masks((V, 1), *[(batch_size, E)] * 4)
        return Masks(*[self._mask(shape, getattr(self.dropout, name)) for name, shape in shapes._asdict().items()])

    def _mask(self, shape: tuple[int, int], rate: float) -> Tensor | None:
        if rate == 0:
            return None
        draws = torch.rand(shape, dtype=torch.float32, device=self.embedding.device)
        return (draws >= rate).to(self.embedding) / (1 - rate)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cell, name) if name in OF_THE_CELL else super().__getattr__(name)

    def theta_parameters(self) -> list[nn.Parameter]:
        """Weights of the cell, the embedding, which is the decoder too, once, and the decoder's bias."""
        cell = self.cell.theta_parameters() if hasattr(self.cell, "theta_parameters") else self.cell.parameters()
        return [*cell, self.embedding, self.bias]

    def flops(self) -> int:
        """Floating-point operations of one forward pass a token."""
        return self.cell.flops() + 2 * self.embedding.numel()


@has_fast_form
def vocabulary_loss(x: Tensor, W: Tensor, b: Tensor, y: Tensor) -> Tensor:
    r"""Mean cross entropy in nats of the words y (n,) under the logits $x W^\top + b$; x (n, H), W (V, H), b (V,)."""
    return nn.functional.cross_entropy(nn.functional.linear(x, W, b), y)


@dataclass
class Memory:
    """What the passes over one window share: the state before it, its masks, the state that the last pass ended in."""

    before: State | None
    masks: Masks | None = None  # drawn by the first pass in training mode
    after: State | None = field(default=None, init=False)


register_dataclass(Memory)  # for `growdarts.devices.captured`


class Window(NamedTuple):
    """A batch: inputs and targets (T, B), and what its passes share."""

    x: Tensor
    y: Tensor
    memory: Memory
    regularised: bool  # whether its loss includes the activation regularisation


@dataclass(frozen=True)
class LanguageTask:
    """Windows, loss and evaluation of predicting the next word of `text`; all losses in nats a token.

    Parameters
    ----------
    batch_size, length : columns B and (base of the random) length T of the training windows, in tokens.
    act_reg, temporal_act_reg : factors of the mean square of the dropped states and of the states' change from one
        step to the next, `alpha` and `beta` in AWD-LSTM (Merity, McCann & Socher 2017).
    random_length : draw lengths around `length`, see `growdarts.tasks.text.windows`.
    eval_batch_size : columns of an evaluation; each column starts from the zero state and its first token is not
        predicted, nor are the up to B - 1 tokens left over, so few columns evaluate nearly all tokens.
    device : where the network is, see `growdarts.devices`; the text moves there once.
    """

    text: Text
    batch_size: int
    length: int
    act_reg: float = 0.0
    temporal_act_reg: float = 0.0
    random_length: bool = True
    eval_batch_size: int = 10
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", find_device(self.device))
        object.__setattr__(self, "text", to_device(self.text, self.device))

    def tensors(self) -> tuple[Tensor, ...]:
        """All data, which a checkpoint belongs to."""
        return self.text.train, self.text.validation, self.text.test

    def train_batches(self) -> Iterator[Window]:
        """The training text once, in order; every window starts from the state that the one before ended in."""
        return self._windows("train", regularised=True)

    def search_batches(self) -> Iterator[tuple[Window, Window]]:
        """Training windows, each with a validation window for the alpha step, whose states are carried over as well."""
        validation = chain.from_iterable(self._windows("validation", regularised=False) for _ in count())
        return zip(self.train_batches(), validation, strict=False)

    def _windows(self, part: str, *, regularised: bool) -> Iterator[Window]:
        columns, before = batchify(getattr(self.text, part), self.batch_size), None
        # seeded by torch's random state, which checkpoints keep: a resumed run draws the same lengths
        generator = torch.Generator().manual_seed(int(torch.randint(2**31 - 1, ()))) if self.random_length else None
        for x, y in windows(columns, self.length, generator):
            window = Window(x, y, Memory(before), regularised)
            yield window
            before = window.memory.after

    def loss(self, network: LanguageModel, window: Window) -> Tensor:
        r"""Mean negative log likelihood, plus, on training windows, the activation regularisation.

        $$ -\frac{1}{TB} \sum \log p(y_t) + \text{act\_reg}\; \overline{\tilde h_t^2}
           + \text{temporal\_act\_reg}\; \overline{(h_{t+1} - h_t)^2} $$

        In training mode all passes over a window share its masks, drawn by the first; the last one's end is carried on.
        """
        memory = window.memory
        if network.training and memory.masks is None:
            memory.masks = network.draw_masks(window.x.shape[1])
        output = network(window.x, memory.before, memory.masks if network.training else Masks(), window.y)
        memory.after, loss = tree_map(Tensor.detach, output.carried), output.loss
        if window.regularised and self.act_reg:
            loss = loss + self.act_reg * output.dropped.square().mean()
        if window.regularised and self.temporal_act_reg and len(output.states) > 1:
            loss = loss + self.temporal_act_reg * output.states.diff(dim=0).square().mean()
        return loss

    @torch.no_grad()
    def evaluate(self, network: LanguageModel, part: str) -> float:
        """Mean negative log likelihood a token of `part`: "train", "validation" or "test", without dropout."""
        def passed(window: tuple[Tensor, Tensor, State | None]) -> tuple[Tensor, State]:
            x, y, h = window
            output = network(x, h, y=y)
            return output.loss, output.carried

        columns, h, losses = batchify(getattr(self.text, part), self.eval_batch_size), None, MeanLoss()
        training, graphs = network.training, Graphs()
        network.eval()
        with graphs.of(network):
            for x, y in windows(columns, self.length):
                loss, h = graphs.run(passed, (x, y, h))
                losses.add(loss, y.numel())
        network.train(training)
        return losses.value()

    def flops(self, network: LanguageModel) -> int:
        """Floating-point operations of one forward pass over the training text."""
        return len(self.text.train) * network.flops()
