"""Running statistics of batch norms after the architecture has changed."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from growdarts.training import Task


@torch.no_grad()
def renew_statistics(network: nn.Module, task: Task) -> bool:
    """Let all batch norms forget their running statistics and average anew over one pass of the training batches.

    What they knew is that of the old architecture, and a recurrent cell feeds what it normalises by them back. The
    weights stay. Returns whether there is any batch norm; without one, nothing is done or drawn.
    """
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
