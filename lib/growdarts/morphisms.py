"""Growth that keeps the function, and what an optimiser remembers of the parameters that stay."""

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from growdarts.cells import SearchSpace


def grow_node(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
              morphism: bool, epsilon: float, noise: float) -> None:
    """Add a node to every cell; inherited parameters and their moments are untouched [JG Alg. 3].

    Parameters
    ----------
    morphism : initialise the new node function-preserving; otherwise with fresh random weights.
    epsilon : most relative change of the network's output.
    noise : deviation of the additive noise on the new weights, in units of epsilon.
    """
    network.grow_node(morphism=morphism, epsilon=epsilon, noise=noise)
    follow(theta_optimizer, network.theta_parameters())
    follow(alpha_optimizer, network.alpha_parameters())


def follow(optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
    """Let `optimizer` train exactly `parameters`: moments of those it knows stay, vanished ones go."""
    (group,) = optimizer.param_groups
    group["params"] = list(parameters)
    for gone in set(optimizer.state) - set(parameters):
        del optimizer.state[gone]


def carry_moments(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, index: list[int]) -> None:
    """Hand the moments of entries `index` of `old` to `new`, which replaces it."""
    state = optimizer.state.pop(old, None)
    if state is not None:
        optimizer.state[new] = {
            name: value[index].clone() if isinstance(value, Tensor) and value.shape == old.shape else value
            for name, value in state.items()}


@torch.no_grad()
def net2wider(first: nn.Linear, second: nn.Linear, width: int) -> tuple[nn.Linear, nn.Linear]:
    """Widen the layer between two linear maps to `width` units without changing the function [Net2Net].

    New units copy random old ones; the outgoing weights of a unit are divided by its number of copies.
    Exact for any elementwise activation between the two.
    """
    old = first.out_features
    if width < old:
        raise ValueError(f"width = {width}: allowed is at least the present {old}")
    source = torch.cat([torch.arange(old), torch.randint(old, (width - old,))])
    copies = torch.bincount(source, minlength=old)[source]
    wide_first = nn.Linear(first.in_features, width).to(first.weight)
    wide_second = nn.Linear(width, second.out_features).to(second.weight)
    wide_first.weight.copy_(first.weight[source])
    wide_first.bias.copy_(first.bias[source])
    wide_second.weight.copy_(second.weight[:, source] / copies)
    wide_second.bias.copy_(second.bias)
    return wide_first, wide_second


@torch.no_grad()
def net2deeper(width: int, like: Tensor) -> nn.Linear:
    """An identity layer of `width` units [Net2Net]; exact where the activation before it is idempotent (relu)."""
    layer = nn.Linear(width, width).to(like)
    layer.weight.copy_(torch.eye(width))
    layer.bias.zero_()
    return layer
