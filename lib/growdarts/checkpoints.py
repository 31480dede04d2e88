"""Checkpoints: written whole or not at all, read without unpickling code."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or belongs to another configuration."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """Where one phase of a run keeps its state; `path` None keeps nothing.

    `owner` is the hash of the configuration: a state of another one is refused.
    """

    path: Path | None
    owner: str

    def save(self, state: dict[str, Any]) -> None:
        """Store tensors and plain values, with torch's random state, atomically."""
        if self.path is not None:
            with replacing(self.path) as temporary:
                torch.save({"owner": self.owner, "random": torch.get_rng_state(), **state}, temporary)

    def load(self) -> dict[str, Any] | None:
        """The stored state, or None if there is none; sets torch's random state to the stored one."""
        if self.path is None or not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception as error:
            raise CheckpointError(f"{self.path} cannot be read ({error}); delete it to start again") from error
        if state.get("owner") != self.owner:
            raise CheckpointError(f"{self.path} was written by configuration {state.get('owner')}, "
                                  f"not by {self.owner}; delete it to start again")
        torch.set_rng_state(state["random"])
        return state
