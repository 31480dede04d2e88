"""Candidate operations by name.

A two-input operation takes *both* inputs of a node, already transformed by the weights it owns,

    wx = W x_t + b   (B, blocks * H)      us = U s   (B, blocks * H)      s   (B, H)

and returns the node's candidate output (B, H), unit by unit: entry h depends on the entries h of `s` and h, H + h, ...
of `wx` and `us` only; all dimensions before the last are taken alike. To add one, write the function and its
`@two_input(blocks=...)` line; weights, mixing, growing and pruning then know it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TwoInputOperation:
    """A named interaction o(x_t, s) of a node [JG Eq. 3]; owns `blocks` pairs of (H, F), (H, H) weights."""

    name: str
    blocks: int
    function: Callable[[Tensor, Tensor, Tensor], Tensor]

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

    Raises
    ------
    ValueError
        the name is taken, or the function mixes units.
    """

    def register(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable:
        name = function.__name__
        if name in TWO_INPUT:
            raise ValueError(f"operation {name!r} is registered twice")
        if _mixes_units(function, blocks):
            raise ValueError(f"operation {name!r} mixes units: allowed are functions whose entry h depends on unit h only")
        TWO_INPUT[name] = TwoInputOperation(name, blocks, function)
        return function

    return register


def _mixes_units(function: Callable[[Tensor, Tensor, Tensor], Tensor], blocks: int) -> bool:
    """Whether unit 0 of the output changes with unit 1 of the arguments, at some numbers."""
    generator = torch.Generator().manual_seed(0)
    arguments = [torch.rand(5, rows, 2, generator=generator) for rows in (blocks, blocks, 1)]
    before = function(*(value.flatten(1) for value in arguments))
    for value in arguments:
        value[..., 1] += 1
    return not torch.equal(function(*(value.flatten(1) for value in arguments))[:, 0], before[:, 0])


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
