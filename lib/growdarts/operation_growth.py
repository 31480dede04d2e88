"""Which operation a search duplicates, and in which direction [JG Alg. 4]."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from growdarts.space import SearchSpace
from growdarts.criteria import Operation, operation_to_duplicate
from growdarts.growth import grow_operation, growable_operations, growth_step
from growdarts.settings import SearchSettings
from growdarts.splitting import possible_splits, select_operation, splitting_matrices
from growdarts.training import Task

SPLIT_BATCHES = 1  # training batches that the splitting matrices are averaged over
LANCZOS_STEPS = 60  # most products with the matrices, each as dear as about two forward passes


class Duplication(NamedTuple):
    """An operation to be duplicated; the direction of `growdarts.growth.grow_operation`."""

    operation: Operation
    direction: Mapping[str, Tensor] | None = None


def refuse_weightless(network: SearchSpace, mode: str) -> None:
    """Raises ValueError if `network`, which still holds all its candidates, has no operation with weights."""
    if not growable_operations(network):
        raise ValueError(f"grow_operations = {mode!r}: allowed is 'off' with the operations "
                         f"{list(network.operations)}, none of which owns weights")


def largest_weight(network: SearchSpace, settings: SearchSettings) -> Duplication | None:
    """That of the largest mixture weight, if it surpasses `duplicate_above`, in a random direction [JG criteria]."""
    found = operation_to_duplicate(growable_operations(network, max_copies=settings.max_copies),
                                   settings.duplicate_above)
    return None if found is None else Duplication(found)


def steepest_descent(network: SearchSpace, task: Task, settings: SearchSettings) -> tuple[Duplication | None, float]:
    """That whose splitting lowers the training loss, and the cost of the answer [JG criteria].

    In the mode that the network is trained in, whose loss it is: what batch norm makes of a batch is all the
    curvature that convolutions have. The running statistics stay. None if nothing can be split: no such operation has
    fewer than `max_copies` copies, or none a negative eigenvalue.

    Returns
    -------
    What to duplicate, and the cost in forward passes over the training data, at most.
    """
    growable = growable_operations(network, max_copies=settings.max_copies)
    if not growable:
        return None, 0.0
    chosen, n_batches = [], 0
    for batch in task.train_batches():
        n_batches += 1
        if len(chosen) < SPLIT_BATCHES:
            chosen.append(batch)
    matrices = [place for place in splitting_matrices(network, task.loss, chosen) if place.operation in growable]
    split = select_operation(possible_splits(matrices, max_steps=LANCZOS_STEPS))
    passes = (3 + 2 * LANCZOS_STEPS) * len(chosen) / n_batches
    return (None if split is None else Duplication(split.operation, split.direction)), passes


def duplicate(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, chosen: Duplication,
              settings: SearchSettings) -> str:
    """Duplicate the operation; says so as `"mixture: key -> copy"` [JG Alg. 4]."""
    position, key = chosen.operation
    copy = grow_operation(network, theta_optimizer, alpha_optimizer, mixture=position, key=key,
                          step=growth_step(settings.epsilon, settings.noise), direction=chosen.direction,
                          max_copies=settings.max_copies)
    return f"{network.mixture_names()[position]}: {key} -> {copy}"
