"""Growing nodes and operations, and carrying the optimisers' state over to the new parameters."""

import math
from collections import Counter
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from growdarts.criteria import Operation
from growdarts.space import OperationOwner, SearchSpace
from growdarts.mixture import Mixture, operation_name
from growdarts.settings import SearchSettings
from growdarts.splitting import LANCZOS_STEPS, Split, all_operations, possible_splits, select_operation, splitting_matrices
from growdarts.training import Task

# Powers of the gradient that optimisers of torch.optim keep averages of.
MOMENTS = {"exp_avg": 1, "momentum_buffer": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2}


def grow_node(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
              morphism: bool, epsilon: float, noise: float) -> None:
    """Add a node to every cell; inherited parameters and their moments are untouched [JG Alg. 3].

    Parameters
    ----------
    morphism : initialise the new node function-preserving; otherwise with fresh random weights.
    epsilon : scale of the relative change of the network's output; how strict it is says the space.
    noise : deviation of the additive noise on the new weights, in units of epsilon.
    """
    for old, new, index in network.grow_node(morphism=morphism, epsilon=epsilon, noise=noise) or ():
        carry_moments(theta_optimizer, old, new, place=index)
    replace_parameters(network, theta_optimizer, alpha_optimizer)


@torch.no_grad()
def grow_operation(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
                   mixture: int, key: str, step: float, direction: Mapping[str, Tensor] | None = None) -> str:
    r"""Duplicate an operation; the copy gets theta + delta, the original theta - delta [JG Alg. 4].

    With mixture weight $w/2$ each (both alphas are $\alpha - \log 2$, all other weights stay) the two give

    $$ \tfrac w2\, o(\theta + \delta) + \tfrac w2\, o(\theta - \delta)
       = w\, o(\theta) + \tfrac w2\, \delta^\top \nabla^2 o\, \delta + O(|\delta|^4) , $$

    so the function is kept to first order in $\delta$, and exactly where o is affine in theta.

    Each of the two gets half the gradient that the original would have got, for theta as for alpha. So both start with
    half the first and a quarter of the second moments of the optimisers; without weight decay Adam then moves the function
    as if nothing had been duplicated. Weights that had been shared with other operations start without moments. Whatever
    does not fit is a ValueError before anything is changed.

    Parameters
    ----------
    mixture, key : position in `network.mixtures()` and key of the operation. The copy's key is returned.
    step : length of delta for every unit. The output changes by $\tfrac12 o''\, (\delta^\top z)^2$, so one of noise * sqrt(epsilon)
        changes it by at most about epsilon; as short as the noise of a new node, it would leave the copies needlessly alike.
    direction : by name of the weight, unit vectors of units that are split and zeros
        (`growdarts.splitting.Split.direction`); None: random normal, the morphism.
    """
    name = f"operation {key!r} of mixture {mixture}"
    mixtures = list(network.mixtures())
    if not 0 <= mixture < len(mixtures) or key not in mixtures[mixture].keys:
        held = {i: m.keys for i, m in enumerate(mixtures) if i == mixture} or f"0 to {len(mixtures) - 1}"
        raise ValueError(f"there is no {name}: allowed are {held}")
    owner = operation_owner(network, mixtures[mixture])
    before = owner.operation_weights(mixtures[mixture], key)
    if not before:
        raise ValueError(f"{name} owns no weights, so a copy of it could never differ from it")
    delta = _random_direction(before) if direction is None else direction
    unfit = sorted(part for part in delta if part not in before or delta[part].shape != before[part].shape)
    if unfit:
        raise ValueError(f"the direction's {', '.join(unfit)} do not fit the weights of {name}: "
                         f"{ {part: tuple(weight.shape) for part, weight in before.items()} }")
    grown = owner.duplicate_operation(mixtures[mixture], key)
    for part, (original, copy) in grown.weights.items():
        if part in delta:
            copy.add_(step * delta[part])
            original.sub_(step * delta[part])
        if original is before[part] and original in theta_optimizer.state:
            _scale_moments(theta_optimizer, original, 0.5)
            theta_optimizer.state[copy] = deepcopy(theta_optimizer.state[original])
    i = mixtures[mixture].keys.index(key)
    carry_moments(alpha_optimizer, grown.old_alpha, grown.alpha, [*range(len(grown.old_alpha)), i])
    half = torch.ones_like(grown.alpha)
    half[[i, -1]] = 0.5
    _scale_moments(alpha_optimizer, grown.alpha, half)
    replace_parameters(network, theta_optimizer, alpha_optimizer)
    return grown.key


def operation_owner(network: SearchSpace, mixture: Mixture) -> OperationOwner:
    """The part of `network` that owns the weights of a mixture's operations."""
    for module in network.modules():
        if isinstance(module, OperationOwner) and any(mixture is held for held in module.mixtures()):
            return module
    raise ValueError(f"{type(network).__name__} has no part that can duplicate the operations {mixture.keys}")


def growable_operations(network: SearchSpace, *, max_copies: float = math.inf) -> dict[Operation, float]:
    """Mixture weights of all operations that own weights and of which the mixture holds fewer than `max_copies`."""
    found: dict[Operation, float] = {}
    for i, mixture in enumerate(network.mixtures()):
        owner, copies = operation_owner(network, mixture), Counter(map(operation_name, mixture.keys))
        found |= {(i, key): weight for key, weight in mixture.named_weights().items()
                  if copies[operation_name(key)] < max_copies and owner.operation_weights(mixture, key)}
    return found


def _random_direction(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A normal direction, scaled by the root of the fan-in, so that every unit's vector has a length of about 1.

    Weights whose names share a prefix belong to one layer: `"op.1.weight"` and `"op.1.bias"`, or `"W"` and `"U"`.
    """
    fan_in: Counter[str] = Counter()
    for name, weight in weights.items():
        fan_in[name.rpartition(".")[0]] += weight[0].numel()
    return {name: torch.randn_like(weight) / fan_in[name.rpartition(".")[0]] ** 0.5
            for name, weight in weights.items()}


def _scale_moments(optimizer: Optimizer, parameter: nn.Parameter, factor: Tensor | float) -> None:
    """Moments as if every gradient of `parameter` so far had been `factor` times as large."""
    for name, value in optimizer.state.get(parameter, {}).items():
        if name in MOMENTS and value is not None:
            value.mul_(factor**MOMENTS[name])


def replace_parameters(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer) -> None:
    """Replace the optimisers' lists of parameters by the network's. The state of parameters that are gone is deleted."""
    for optimizer, parameters in ((theta_optimizer, network.theta_parameters()),
                                  (alpha_optimizer, network.alpha_parameters())):
        (group,) = optimizer.param_groups
        group["params"] = list(parameters)
        for gone in set(optimizer.state) - set(parameters):
            del optimizer.state[gone]


def carry_moments(optimizer: Optimizer, old: nn.Parameter, new: nn.Parameter, taken: Any = ..., place: Any = ...) -> None:
    """Hand the moments of entries `taken` of `old` to entries `place` of `new`, which replaces it; others start at zero."""
    state = optimizer.state.pop(old, None)
    if state is not None:
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[name] = torch.zeros_like(new)
                state[name][place] = value[taken]
        optimizer.state[new] = state


def steepest_descent(network: SearchSpace, task: Task, settings: SearchSettings) -> tuple[list[Split], float]:
    """The operation whose split lowers the training loss in the most units, or all whose split lowers it [JG criteria].

    The loss is that of one training batch, in the network's present mode: only in train mode is a convolution with its batch norm
    curved, since it is then divided by the deviation of the batch. There are no splits if every operation has `max_copies`
    copies, or no eigenvalue is negative. The second result is what the choice cost in forward passes over the training data,
    at most.
    """
    growable = growable_operations(network, max_copies=settings.max_copies)
    if not growable:
        return [], 0.0
    batches = task.train_batches()
    first = next(batches)
    passes = (3 + 2 * LANCZOS_STEPS) / (1 + sum(1 for _ in batches))
    splits = possible_splits(place for place in splitting_matrices(network, task.loss, first) if place.operation in growable)
    if settings.grow_operations == "splitting_all":
        return all_operations(splits), passes
    best = select_operation(splits)
    return [] if best is None else [best], passes
