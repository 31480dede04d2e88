"""Dropping weak operations from a mixture, and refilling their slots."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from growdarts.space import SearchSpace, named_mixtures
from growdarts.criteria import operations_to_prune
from growdarts.mixture import Mixture, operation_name
from growdarts.growth import carry_moments, replace_parameters
from growdarts.training import Task


def prune(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
          prune_below: float, keep_all_above: float) -> list[str]:
    """Prune every mixture once; the dropped weight goes to the others by the softmax [JG pruning].

    Inherited parameters and their moments are untouched. Returns what was dropped, as `"mixture: key"`.
    """
    dropped = []
    for name, mixture in named_mixtures(network).items():
        weak = operations_to_prune(mixture.named_weights(), prune_below, keep_all_above)
        if weak:
            dropped += [f"{name}: {key}" for key in weak]
            keep(network, mixture, [key for key in mixture.keys if key not in weak], alpha_optimizer)
    replace_parameters(network, theta_optimizer, alpha_optimizer)
    return dropped


def keep(network: SearchSpace, mixture: Mixture, keys: Sequence[str], alpha_optimizer: Optimizer) -> None:
    """Keep the operations `keys` of a mixture, with their moments. Call `replace_parameters` afterwards."""
    index = [mixture.keys.index(key) for key in keys]
    old, new = network.keep_operations(mixture, index)
    carry_moments(alpha_optimizer, old, new, index)


def held_operations(network: SearchSpace) -> dict[str, list[str]]:
    """Keys of every mixture by its name."""
    return {name: list(mixture.keys) for name, mixture in named_mixtures(network).items()}


def resample(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
             before: Mapping[str, Sequence[str]], weight: float) -> list[str]:
    """Refill every slot that was taken `before`, see `held_operations`, and is free after a pruning.

    Each gets an operation drawn uniformly from the candidates that the mixture neither holds nor held before, if there
    is one, with fresh weights, at mixture weight `weight`; the others keep their ratios and moments. Returns what was
    added, as `"mixture: key"`.
    """
    added = []
    for name, mixture in named_mixtures(network).items():
        former = set(map(operation_name, before[name]))
        for _ in set(before[name]) - set(mixture.keys):
            choice = [candidate for candidate in network.operations
                      if candidate not in former.union(map(operation_name, mixture.keys))]
            if not choice:
                break
            chosen = choice[int(torch.randint(len(choice), ()))]
            old, new = network.add_operation(mixture, chosen, weight)
            carry_moments(alpha_optimizer, old, new, place=slice(0, len(old)))
            added.append(f"{name}: {chosen}")
    replace_parameters(network, theta_optimizer, alpha_optimizer)
    return added


@torch.no_grad()
def renew_statistics(network: nn.Module, task: Task) -> bool:
    """Let batch norms forget their running statistics, which are the unpruned network's, and average anew over one pass
    of the training batches. Returns whether there is any batch norm; without one, nothing is done or drawn."""
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return False
    momenta, training = [norm.momentum for norm in norms], network.training
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of all batches
    network.train()
    for batch in task.train_batches():
        task.loss(network, batch)
    network.train(training)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return True
