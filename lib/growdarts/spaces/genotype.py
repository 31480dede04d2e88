"""What the discrete architectures of all spaces share: their JSON form, and how one is found by the name of its space."""

import json
from collections.abc import Callable
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeVar

G = TypeVar("G", bound="JsonForm")


class GenotypeError(ValueError):
    """The text or structure is not a genotype of the space it names."""


class JsonForm:
    """JSON text of a dataclass whose fields are tuples, nested or not. Records also count its `n_nodes`, those of the
    deepest cell, and `operations`, those of all nodes or edges."""

    space: ClassVar[str]  # set by `genotypes_of`

    def to_dict(self) -> dict[str, Any]:
        """The space and the fields, as plain lists."""
        return {"space": self.space} | {field.name: _lists(getattr(self, field.name)) for field in fields(self)}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Inverse of `to_json`."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise GenotypeError(f"not a genotype: {text!r:.200} ({error})") from None
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict`."""
        if not isinstance(data, dict) or "space" not in data:
            raise GenotypeError(f"not a genotype: {data!r:.200} (it names no space)")
        if data["space"] != cls.space:
            raise GenotypeError(f"a genotype of space {data['space']!r}: expected {cls.space!r}")
        values = {name: value for name, value in data.items() if name != "space"}
        names = [field.name for field in fields(cls)]
        if values.keys() != set(names):
            raise GenotypeError(f"not a genotype of space {cls.space!r}: "
                                f"missing {[name for name in names if name not in values]}, "
                                f"left over {[name for name in values if name not in names]}")
        return cls(**values)


def _lists(value: Any) -> Any:
    """Tuples, also those within tuples, as lists."""
    return list(map(_lists, value)) if isinstance(value, tuple) else value


SPACES: dict[str, type[JsonForm]] = {}  # name of a space -> its genotypes


def genotypes_of(space: str) -> Callable[[type[G]], type[G]]:
    """Decorator of a `JsonForm`: its objects are the genotypes of `space`, by which name `genotype_from_dict` finds them."""

    def register(kind: type[G]) -> type[G]:
        SPACES[space], kind.space = kind, space
        return kind

    return register


def genotype_from_dict(data: dict[str, Any]) -> JsonForm:
    """The genotype of whichever space `data` names; a GenotypeError if it is none, or the space is unknown."""
    space = data.get("space") if isinstance(data, dict) else None
    if not isinstance(space, str) or space not in SPACES:
        raise GenotypeError(f"space {space!r}: allowed are {', '.join(sorted(SPACES))}")
    return SPACES[space].from_dict(data)


def require_space(genotype: Any, space: str) -> None:
    """Raises GenotypeError if `genotype` is not one of `space`."""
    found = getattr(genotype, "space", None)
    if found != space:
        raise GenotypeError(f"a genotype of space {found!r}: expected {space!r}")
