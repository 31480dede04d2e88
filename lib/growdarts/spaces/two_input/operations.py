"""Candidate operations by name.

A two-input operation takes *both* inputs of a node, already transformed by the weights it owns,

    wx = W x_t + b   (B, blocks * H)      us = U s   (B, blocks * H)      s   (B, H)

and returns the node's candidate output (B, H), unit by unit: entry h depends on the entries h of `s` and h, H + h, ...
of `wx` and `us` only; all dimensions before the last are taken alike. To add one, write the function and its
`@two_input(blocks=...)` line; weights, mixing, growing and pruning then know it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear


@dataclass(frozen=True)
class TwoInputOperation:
    """A named interaction o(x_t, s) of a node [JG Eq. 3]; owns `blocks` pairs of (H, F), (H, H) weights."""

    name: str
    blocks: int
    function: Callable[[Tensor, Tensor, Tensor], Tensor]

    def output(self, x: Tensor, s: Tensor, theta: Mapping[str, Tensor]) -> Tensor:
        """o(x, s) of inputs (n, I) and states (n, H) with weights `W`, `U` and `b`."""
        return self.function(linear(x, theta["W"], theta["b"]), linear(s, theta["U"]), s)

    def admits_input(self) -> bool:
        """Whether the input gets through to the output while the state is zero, as it is at first.

        `carry`, `gate` and `hadamard` return zero then: a cell of nothing else never leaves the zero state.
        """
        zero = torch.zeros(1, 1)
        inputs = torch.ones(1, max(1, self.blocks))
        return bool(self.function(inputs, 0 * inputs, zero).any())


TWO_INPUT: dict[str, TwoInputOperation] = {}


def two_input(blocks: int) -> Callable:
    """Register the decorated function as a two-input operation that owns `blocks` weight pairs.

    It is tried on a few numbers: a ValueError says that it fails, returns another shape, changes its arguments, is
    random, or mixes units.
    """

    def register(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
        name = function.__name__
        if not name.isidentifier():
            raise ValueError(f"operation {name!r}: allowed are the names that a function can have")
        if name in TWO_INPUT:
            raise ValueError(f"operation {name!r} is registered twice")
        if type(blocks) is not int or blocks < 0:
            raise ValueError(f"blocks = {blocks!r} of operation {name!r}: allowed are whole numbers from 0")
        if problem := _problem(function, blocks):
            raise ValueError(f"operation {name!r} {problem}")
        TWO_INPUT[name] = TwoInputOperation(name, blocks, function)
        return function

    return register


def _problem(function: Callable[[Tensor, Tensor, Tensor], Tensor], blocks: int) -> str | None:
    """What is wrong with a function, by its outputs for some numbers (5 samples, 2 units)."""
    generator = torch.Generator().manual_seed(0)
    arguments = [torch.rand(5, rows, 2, generator=generator) for rows in (blocks, blocks, 1)]

    def output() -> Tensor:
        return function(*(value.flatten(1) for value in given))

    try:
        given = [value.clone() for value in arguments]
        first, second = output(), output()
        shape = tuple(first.shape)
    except Exception as error:
        return f"fails for wx and us of shape (5, {2 * blocks}) and s of shape (5, 2): {type(error).__name__}: {error}"
    if shape != (5, 2):
        return f"returns shape {shape} for s of shape (5, 2): allowed is the shape of s"
    if not all(map(torch.equal, given, arguments)):
        return "changes its arguments in place: allowed are functions that leave them as they are"
    if not torch.equal(first, second):
        return "is random: allowed are functions that return the same for the same arguments"
    for value in given:
        value[..., 1] += 1
    if not torch.equal(output()[:, 0], first[:, 0]):  # unit 0 must not change with unit 1 of the arguments
        return "mixes units: allowed are functions whose entry h depends on unit h only"
    return None


@two_input(blocks=1)
def add_tanh(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """tanh(W x + U s + b), the plain recurrent unit."""
    return torch.tanh(wx + us)


@two_input(blocks=1)
def add_sigmoid(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """sigmoid(W x + U s + b)."""
    return torch.sigmoid(wx + us)


@two_input(blocks=1)
def add_relu(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """relu(W x + U s + b)."""
    return torch.relu(wx + us)


@two_input(blocks=1)
def add_identity(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """W x + U s + b."""
    return wx + us


@two_input(blocks=1)
def hadamard(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """(W x + b) * (U s), the product that DARTS' backbone lacks."""
    return wx * us


@two_input(blocks=1)
def mul_identity(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """(W x + b) * (1 + U s): a product with a bias on both sides [Wu et al. 2016].

    The bias of the state's side may be 1, as any other but 0 can be moved into W, b and U. Unlike `hadamard` it lets the
    input through while the state is zero.
    """
    return wx * (1 + us)


@two_input(blocks=1)
def mul_tanh(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """tanh((W x + b) * (1 + U s))."""
    return torch.tanh(wx * (1 + us))


@two_input(blocks=1)
def mul_sigmoid(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """sigmoid((W x + b) * (1 + U s))."""
    return torch.sigmoid(wx * (1 + us))


@two_input(blocks=1)
def mul_relu(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """relu((W x + b) * (1 + U s))."""
    return torch.relu(wx * (1 + us))


@two_input(blocks=1)
def gate(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """sigmoid(W x + U s + b) * s, a forget gate."""
    return torch.sigmoid(wx + us) * s


@two_input(blocks=2)
def gated_update(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """(1 - z) * s + z * tanh(n) with z = sigmoid(...), as in a GRU without its reset gate."""
    z, n = (wx + us).chunk(2, dim=-1)
    return torch.lerp(s, torch.tanh(n), torch.sigmoid(z))


@two_input(blocks=0)
def carry(wx: Tensor, us: Tensor, s: Tensor) -> Tensor:
    """s itself; owns no weights."""
    return s


DEFAULT_TWO_INPUT = ("add_tanh", "add_sigmoid", "add_relu", "add_identity", "hadamard", "gate",
                     "gated_update", "carry")
