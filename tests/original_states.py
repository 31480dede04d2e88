"""State dicts and alphas of the original DARTS code, read and written under its own names.

    image networks, searchable   cells.0.edges.3.operations.sep_conv_3x3.op.1.weight
    the original's               cells.0._ops.3._ops.4.op.1.weight
    image networks, fixed        cells.0.operations.3.op.1.weight
    the original's               cells.0._ops.3.op.1.weight
    recurrent cells              W0, nodes.0.W (searchable), Ws.0 (fixed)
    the original's               _W0, _Ws.0

All other names are equal. The original keeps alpha outside of its state dict, one row an edge, one column an operation.
"""

import re

import torch

from growdarts.mixture import operation_name
from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell


def original_tensors(module):
    """The tensors of a cell or an image network by the original's names; writing to them writes to it."""
    if isinstance(module, RecurrentCell):
        return {"_W0": module.W0, **{f"_Ws.{i}": W for i, W in enumerate(module.Ws)}}
    if isinstance(module, RecurrentSearchCell):
        return {"_W0": module.W0, **{f"_Ws.{i}": node.W for i, node in enumerate(module.nodes)},
                **{f"bn.{name}": buffer for name, buffer in module.bn.named_buffers()}}
    return {_of_image_networks(name): tensor for name, tensor in module.state_dict().items() if not name.endswith(".alpha")}


def _of_image_networks(name):
    name = re.sub(r"^(cells\.\d+)\.edges\.(\d+)\.operations\.([^.]+)",
                  lambda m: f"{m[1]}._ops.{m[2]}._ops.{CONVOLUTIONAL_OPERATIONS.index(m[3])}", name)
    return re.sub(r"^(cells\.\d+\.)operations\.", r"\1_ops.", name)


@torch.no_grad()
def load_original(module, state):
    """Copy a state dict of the original, with all names but the counters of an old torch, into `module`."""
    targets = original_tensors(module)
    assert {name for name in targets if not name.endswith("num_batches_tracked")} <= state.keys() <= targets.keys()
    assert all(state[name].shape == targets[name].shape for name in state)
    for name in state:
        targets[name].copy_(state[name])


def _alphas(network):
    """The mixtures that share a matrix of the original, and the operations of its columns."""
    if isinstance(network, SearchImageNetwork):
        return [network.normal, network.reduce], CONVOLUTIONAL_OPERATIONS
    return [list(network.mixtures())], RECURRENT_OPERATIONS


def export_alphas(network):
    """The original's alpha, (edges, operations): one of a recurrent cell; those of normal and of reduction cells.

    It is -inf where an edge does not hold an operation.
    """
    kinds, columns = _alphas(network)
    found = [mixtures[0].alpha.new_full((len(mixtures), len(columns)), float("-inf")) for mixtures in kinds]
    for matrix, mixtures in zip(found, kinds, strict=True):
        for row, mixture in zip(matrix, mixtures, strict=True):
            row[[columns.index(operation_name(key)) for key in mixture.keys]] = mixture.alpha.detach()
    return found


@torch.no_grad()
def load_alphas(network, *matrices):
    """Copy what `export_alphas` gives into the mixtures."""
    kinds, columns = _alphas(network)
    for matrix, mixtures in zip(matrices, kinds, strict=True):
        for row, mixture in zip(matrix, mixtures, strict=True):
            mixture.alpha.copy_(row[[columns.index(operation_name(key)) for key in mixture.keys]])
