"""Dropping weak operations from a mixture."""

from torch.optim import Optimizer

from growdarts.cells import SearchSpace
from growdarts.criteria import operations_to_prune
from growdarts.morphisms import carry_moments, follow


def prune(network: SearchSpace, theta_optimizer: Optimizer, alpha_optimizer: Optimizer, *,
          prune_below: float, keep_all_above: float) -> list[str]:
    """Prune every mixture once; the dropped weight goes to the others by the softmax [JG pruning].

    Inherited parameters and their moments are untouched. Returns what was dropped, as `"mixture: key"`.
    """
    dropped = []
    for name, mixture in zip(network.mixture_names(), network.mixtures(), strict=True):
        weak = operations_to_prune(mixture.named_weights(), prune_below, keep_all_above)
        if not weak:
            continue
        keep = [i for i, key in enumerate(mixture.keys) if key not in weak]
        dropped += [f"{name}: {key}" for key in weak]
        old, new = network.keep_operations(mixture, keep)
        carry_moments(alpha_optimizer, old, new, keep)
    follow(theta_optimizer, network.theta_parameters())
    follow(alpha_optimizer, network.alpha_parameters())
    return dropped
