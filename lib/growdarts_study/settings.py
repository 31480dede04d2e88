"""What the study's configurations have besides the library's settings: they are read from notebooks and have a hash."""

import ast
import hashlib
import json
from collections.abc import Iterable
from typing import Any, Self

from growdarts.settings import Settings

# Part of every configuration's hash: raised whenever a change of the code changes what a run computes, so that
# records and checkpoints made before are not taken for those of the new code. Another order of the same sums, which
# moves the last digits, is no such change: the commit in a record tells which code rounded.
# 3: order 2 with Adam, `resample`, growing cells of `darts_recurrent`; see `_results_version`.
RESULTS_VERSION = 3


def _results_version(values: dict[str, Any]) -> int:
    """The version that enters the hash. Version 3 changed three kinds of run only; the others keep version 2, and their
    records their names."""
    if RESULTS_VERSION != 3:
        return RESULTS_VERSION
    adam = values.get("order") == 2 and values.get("optimizer", "adam") == "adam"
    grown = values.get("space") == "darts_recurrent" and values.get("method") == "grow"
    return RESULTS_VERSION if adam or grown or values.get("resample", False) else 2


class StudySettings(Settings):
    """Base of the study's configurations."""

    @classmethod
    def from_notebook(cls, namespace: dict[str, Any]) -> Self:
        """Read a notebook's parameters from its `globals()`.

        The parameters are the names bound in cells made of literal assignments only: the cell tagged
        `parameters` and the one papermill injects after it. papermill only warns about a misspelled
        name and runs on with the default; here such a name is unknown and raises `ConfigError`.
        """
        names: set[str] = set()
        for source in reversed(namespace["In"]):  # the last run of cells of literals: corrected ones are history
            found = _assigned_literals(source)
            if not found and names:
                break
            names |= found
        if not names:  # nbval keeps no history of inputs: there, nothing but the parameters is bound yet
            plain = (bool, int, float, str, list, dict, type(None))
            names = {name for name, value in namespace.items() if isinstance(value, plain)
                     and not name.startswith("_") and name not in ("In", "Out")}
        return cls.of({name: namespace[name] for name in sorted(names)})

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the sorted JSON and the version of the results.

        `device` stays out of it: where a run computes is no part of what it computes, and its record says it.
        A field that came later has a default, which means what runs did before there was such a field: at that value
        it stays out of the hash, so that older records keep their names.
        """
        later = {name for name, field in type(self).model_fields.items()
                 if name == "device" or not field.is_required() and getattr(self, name) == field.default}
        version = _results_version(self.model_dump())
        text = json.dumps({**self.model_dump(exclude=later), "results_version": version}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _assigned_literals(source: str) -> set[str]:
    """Names assigned in `source` if it consists of literal assignments only, else none."""
    try:
        body = ast.parse(source).body
    except SyntaxError:  # a cell with magics is no parameters cell
        return set()
    names = set()
    for statement in body:
        targets = statement.targets if isinstance(statement, ast.Assign) else (
            [statement.target] if isinstance(statement, ast.AnnAssign) and statement.value else [])
        if not targets or not all(isinstance(target, ast.Name) for target in targets):
            return set()
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            if not (isinstance(statement.value, ast.Call)  # papermill writes float('nan') this way
                    and ast.unparse(statement.value).startswith("float(")):
                return set()
        names |= {target.id for target in targets}
    return names


def no_value_twice(name: str, values: list[Any]) -> None:
    """Raises ValueError if a list holds a value more than once."""
    if len(set(values)) < len(values):
        raise ValueError(f"parameter {name!r} = {values}: no value may stand twice")


def known_operations(operations: list[str], allowed: Iterable[str]) -> None:
    """Raises ValueError if an operation is not among `allowed`."""
    unknown = [name for name in operations if name not in allowed]
    if unknown:
        raise ValueError(f"parameter 'operations' = {unknown}: allowed are {', '.join(allowed)}")
