"""Checkpoints: written whole or not at all, read without unpickling code, checked by a checksum."""

import contextlib
import hashlib
import io
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
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        temporary = Path(file.name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(task: Any) -> str:
    """Hash of a task's data, from its `tensors()`, if it has that method; else empty."""
    digest = hashlib.sha256()
    for tensor in task.tensors() if hasattr(task, "tensors") else ():
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return digest.hexdigest() if hasattr(task, "tensors") else ""


@dataclass(frozen=True)
class Checkpoint:
    """Where one phase of a run keeps its state; `path` None keeps nothing.

    `owner` is the hash of the configuration: a state of another one is refused, as is one of another kind of work
    ("search", "training") or of other data (`fingerprint`).
    """

    path: Path | str | None
    owner: str

    def save(self, kind: str, data: str, state: dict[str, Any]) -> None:
        """Store tensors and plain values, with torch's random states, whole or not at all."""
        if self.path is None:
            return
        content, random = io.BytesIO(), {"random": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            random["random_cuda"] = torch.cuda.get_rng_state()
        try:
            torch.save({"owner": self.owner, "kind": kind, "data": data, **random, **state}, content)
            with replacing(Path(self.path)) as temporary:
                temporary.write_bytes(hashlib.sha256(content.getbuffer()).digest() + content.getbuffer())
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be written ({type(error).__name__}): is there space, and may this "
                                  "user write there? What was there before is untouched") from error

    def load(self, kind: str, data: str) -> dict[str, Any] | None:
        """The stored state, its tensors on the CPU, or None if there is none; sets torch's random states to the stored ones."""
        if self.path is None or not Path(self.path).exists():
            return None
        try:
            content = Path(self.path).read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("its checksum is that of other bytes")
            state = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
            found = {name: state[name] for name in ("owner", "kind", "data")}
            torch.set_rng_state(state["random"])
            if "random_cuda" in state and torch.cuda.is_available():
                torch.cuda.set_rng_state(state["random_cuda"])
        except Exception as error:
            raise CheckpointError(f"{self.path} is damaged or no checkpoint ({type(error).__name__}); delete it to start "
                                  "again") from error
        for name, wanted in (("owner", self.owner), ("kind", kind), ("data", data)):
            if found[name] != wanted:
                raise CheckpointError(f"{self.path} was written by another run: its {name} is {found[name]!r}, expected "
                                      f"{wanted!r}; delete it to start again")
        return state
