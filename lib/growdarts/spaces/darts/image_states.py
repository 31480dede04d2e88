"""State dicts of the original DARTS image networks: read and written under its parameter names.

    ours, searchable    cells.0.edges.3.operations.sep_conv_3x3.op.1.weight
    the original's      cells.0._ops.3._ops.4.op.1.weight
    ours, fixed         cells.0.operations.3.op.1.weight
    the original's      cells.0._ops.3.op.1.weight

All other names are equal. The original keeps alpha outside of its state dict, as one matrix a kind.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS
from growdarts.spaces.darts_conv.network import ImageNetwork
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts.interop import StateDictError, load_tensors


def original_name(name: str) -> str:
    """The original's name of our parameter or buffer `name`.

    Raises
    ------
    StateDictError
        an operation that the original does not have on a search edge: a copy or one of your own.
    """

    def edge(match: re.Match) -> str:
        key = match["key"]
        if key not in CONVOLUTIONAL_OPERATIONS:
            raise StateDictError(f"{name}: the original has no operation {key!r} on an edge, "
                             f"only {', '.join(CONVOLUTIONAL_OPERATIONS)}")
        return f"{match['cell']}_ops.{match['edge']}._ops.{CONVOLUTIONAL_OPERATIONS.index(key)}"

    name = re.sub(r"^(?P<cell>cells\.\d+\.)edges\.(?P<edge>\d+)\.operations\.(?P<key>[^.]+)", edge, name)
    return re.sub(r"^(cells\.\d+\.)operations\.", r"\1_ops.", name)


def _by_original_name(network: ImageNetwork) -> dict[str, Tensor]:
    return {original_name(name): tensor for name, tensor in network.state_dict().items()
            if not name.endswith(".alpha")}


def export_original(network: ImageNetwork) -> dict[str, Tensor]:
    """The state dict as the original would have saved it; alpha is in `export_alphas`."""
    return {name: tensor.clone() for name, tensor in _by_original_name(network).items()}


def load_original(network: ImageNetwork, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict of the original into `network`, all of it or, on an error, nothing.

    Raises
    ------
    StateDictError
        missing keys, left-over keys or wrong shapes, all of them listed.
    """
    own = _by_original_name(network)
    counters = [name for name in own if name.endswith("num_batches_tracked")]  # PyTorch 0.3 did not store them
    load_tensors(own, state, optional=counters)


def export_alphas(network: SearchImageNetwork) -> tuple[Tensor, Tensor]:
    """The original's `alphas_normal` and `alphas_reduce`, (E, K) each, of a network without a pruned edge.

    Raises
    ------
    StateDictError
        an edge that does not hold all operations of the original, in its order.
    """
    if any(tuple(mixture.keys) != CONVOLUTIONAL_OPERATIONS for mixture in network.mixtures()):
        raise StateDictError(f"the original keeps alpha as a matrix: every edge must hold "
                             f"{', '.join(CONVOLUTIONAL_OPERATIONS)}")
    normal, reduce = (torch.stack([mixture.alpha.detach().clone() for mixture in kind])
                      for kind in (network.normal, network.reduce))
    return normal, reduce


@torch.no_grad()
def load_alphas(network: SearchImageNetwork, normal: Tensor, reduce: Tensor) -> None:
    """Copy the original's `alphas_normal` and `alphas_reduce`, (E, K) each, into the mixtures.

    Raises
    ------
    StateDictError
        another number of edges or of operations.
    """
    for kind, matrix in (("normal", normal), ("reduce", reduce)):
        mixtures = getattr(network, kind)
        shapes = {tuple(mixture.alpha.shape) for mixture in mixtures}
        if len(matrix) != len(mixtures) or shapes != {tuple(matrix.shape[1:])}:
            sizes = ", ".join(str(k) for (k,) in sorted(shapes))
            raise StateDictError(f"alphas_{kind} of shape {tuple(matrix.shape)}: this network has "
                             f"{len(mixtures)} edges of {sizes} operations")
    for kind, matrix in (("normal", normal), ("reduce", reduce)):
        for mixture, row in zip(getattr(network, kind), matrix, strict=True):
            mixture.alpha.copy_(row)
