"""What several tests do: a training step to get away from the start, splitting matrices written out, a checkpoint's content."""

import io
from pathlib import Path

import torch


def step(loss, *optimizers):
    """Let every optimiser follow the gradient of `loss` once."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def dense(matrices):
    """All splitting matrices of an operation, (U, D, D)."""
    multiply, D = matrices.product(), matrices.pack(matrices.trace.weights).shape[1]
    basis = torch.eye(D).to(next(iter(matrices.trace.weights.values())))
    return torch.stack([multiply(e.expand(matrices.trace.units, -1)) for e in basis], dim=-1)


def stored(path):
    """The content of a checkpoint, whose checksum comes first."""
    return torch.load(io.BytesIO(Path(path).read_bytes()[32:]), weights_only=True)
