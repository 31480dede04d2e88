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
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from growdarts.mixture import Mixture, operation_name
from growdarts.spaces.darts.genotypes import CONVOLUTIONAL_OPERATIONS, RECURRENT_OPERATIONS
from growdarts.spaces.darts_conv.search_network import SearchImageNetwork
from growdarts.spaces.darts_recurrent.cell import RecurrentSearchCell
from growdarts.spaces.darts_recurrent.highway import RecurrentCell
from growdarts.tasks.language import LanguageModel

COUNTER = "num_batches_tracked"  # PyTorch 0.3 did not store it


class StateDictError(ValueError):
    """A state dict does not fit, or the original has no place for what is to be written."""


def original_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of a cell, a language model or an image network by the original's names; writing to them writes to it.

    Raises
    ------
    StateDictError
        nodes or operations that the original does not have.
    """
    if isinstance(module, LanguageModel):
        return {"encoder.weight": module.embedding, "decoder.weight": module.embedding, "decoder.bias": module.bias,
                **{f"rnns.0.{name}": tensor for name, tensor in original_tensors(module.cell).items()}}
    if isinstance(module, RecurrentCell):
        return {"_W0": module.W0, **{f"_Ws.{i}": W for i, W in enumerate(module.Ws)}}
    if isinstance(module, RecurrentSearchCell):
        weighted = [i for i, node in enumerate(module.nodes, start=1) if node.output_weight is not None]
        if weighted:
            raise StateDictError(f"nodes {weighted} have output weights, which the original's cell does not know")
        own = {name: keys for name, keys in zip(
            module.mixture_names(), (keys for node in module.nodes for keys in node.own()), strict=True) if keys}
        if own:
            raise StateDictError(f"the original's cell knows no operations with weights of their own: {own}")
        return {"_W0": module.W0, **{f"_Ws.{i}": node.W for i, node in enumerate(module.nodes)},
                **{f"bn.{name}": buffer for name, buffer in module.bn.named_buffers()}}
    return {_of_image_networks(name): tensor for name, tensor in module.state_dict().items() if not name.endswith(".alpha")}


def _of_image_networks(name: str) -> str:
    """The original's name of the parameter or buffer `name` of an image network."""

    def edge(match: re.Match) -> str:
        key = match["key"]
        if key not in CONVOLUTIONAL_OPERATIONS:
            raise StateDictError(f"{name}: the original has no operation {key!r} on an edge, "
                                 f"only {', '.join(CONVOLUTIONAL_OPERATIONS)}")
        return f"{match['cell']}_ops.{match['edge']}._ops.{CONVOLUTIONAL_OPERATIONS.index(key)}"

    name = re.sub(r"^(?P<cell>cells\.\d+\.)edges\.(?P<edge>\d+)\.operations\.(?P<key>[^.]+)", edge, name)
    return re.sub(r"^(cells\.\d+\.)operations\.", r"\1_ops.", name)


def export_original(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state dict as the original would have saved it."""
    return {name: tensor.detach().clone() for name, tensor in original_tensors(module).items()}


@torch.no_grad()
def load_original(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict of the original into `module`; nothing is written unless everything fits.

    Raises
    ------
    StateDictError
        lists the names that are missing and left over, and wrong shapes; or encoder and decoder, which are one matrix
        here, differ.
    """
    targets, tied = original_tensors(module), ("encoder.weight", "decoder.weight")
    missing = [name for name in targets if name not in state and not name.endswith(COUNTER)]
    left_over = [name for name in state if name not in targets]
    shapes = [f"{name} {tuple(state[name].shape)} instead of {tuple(target.shape)}"
              for name, target in targets.items() if name in state and state[name].shape != target.shape]
    if missing or left_over or shapes:
        raise StateDictError(f"the state dict does not fit: missing {missing}, left over {left_over}, "
                             f"wrong shapes [{', '.join(shapes)}]")
    if tied[0] in state and not torch.equal(*(state[name] for name in tied)):
        raise StateDictError(f"{' and '.join(tied)} differ: allowed is one matrix, they are tied")
    for name in state:
        targets[name].copy_(state[name])


def _alphas(network: RecurrentSearchCell | SearchImageNetwork) -> tuple[list[list[Mixture]], tuple[str, ...]]:
    """The mixtures that share a matrix of the original, and the operations of its columns."""
    kinds, columns = (([network.normal, network.reduce], CONVOLUTIONAL_OPERATIONS)
                      if isinstance(network, SearchImageNetwork) else ([network.mixtures()], RECURRENT_OPERATIONS))
    copies = {name: mixture.keys for name, mixture in zip(network.mixture_names(), network.mixtures(), strict=True)
              if len(mixture.operation_weights()) < len(mixture.keys)}
    if copies:
        raise StateDictError(f"the original's alpha has one column an operation, no place for copies: {copies}")
    return [list(kind) for kind in kinds], columns


def export_alphas(network: RecurrentSearchCell | SearchImageNetwork) -> tuple[Tensor, ...]:
    """The original's alpha, (edges, operations): one of a recurrent cell; those of normal and of reduction cells.

    It is -inf where an edge does not hold an operation. Copies are a StateDictError.
    """
    kinds, columns = _alphas(network)
    found = []
    for mixtures in kinds:
        matrix = mixtures[0].alpha.new_full((len(mixtures), len(columns)), float("-inf"))
        for row, mixture in zip(matrix, mixtures, strict=True):
            row[[columns.index(operation_name(key)) for key in mixture.keys]] = mixture.alpha.detach()
        found.append(matrix)
    return tuple(found)


@torch.no_grad()
def load_alphas(network: RecurrentSearchCell | SearchImageNetwork, *matrices: Tensor) -> None:
    """Copy what `export_alphas` gives into the mixtures.

    Raises
    ------
    StateDictError
        copies, or a matrix of another shape; nothing is written then.
    """
    kinds, columns = _alphas(network)
    shapes = [(len(mixtures), len(columns)) for mixtures in kinds]
    if [tuple(matrix.shape) for matrix in matrices] != shapes:
        raise StateDictError(f"alpha of shapes {[tuple(matrix.shape) for matrix in matrices]}: expected {shapes}")
    for matrix, mixtures in zip(matrices, kinds, strict=True):
        for row, mixture in zip(matrix, mixtures, strict=True):
            mixture.alpha.copy_(row[[columns.index(operation_name(key)) for key in mixture.keys]])
