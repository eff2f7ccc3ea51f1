"""JSON that anybody may have written: it is parsed, and its values are checked, before the program relies on them."""

from __future__ import annotations

import functools
import json
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

Made = TypeVar("Made")


def parse_json(text: bytes | str) -> Any:
    """The value of a JSON text; raises ValueError whatever is wrong with it, also if it is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def from_json(kind: type[Made], entry: Any) -> Made:
    """A dataclass from a JSON object with its fields.

    Parameters
    ----------
    kind
        The dataclass; its fields are of str, int, float, None, mappings and tuples of them. Numbers must be finite.
    entry
        The object. Names that are no fields are ignored; fields with defaults may be missing.

    Raises
    ------
    ValueError
        It is not an object, a field is missing, or a value is of another type.
    """
    if not isinstance(entry, dict):
        raise ValueError("not a JSON object")
    fields = {name: hint for name, hint in _hints(cast(Any, kind)).items() if name in entry}
    for name, hint in fields.items():
        if not _fits(entry[name], hint):
            raise ValueError(f"{name} has a value of the wrong type")
    try:
        return kind(**{name: _tuples(entry[name], hint) for name, hint in fields.items()})
    except TypeError as error:
        raise ValueError(str(error)) from None


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _fits(value: object, hint: Any) -> bool:
    """Whether a value of JSON can be one of a type."""
    if hint is Any:
        return True
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is Ellipsis:
            return all(_fits(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if origin is Mapping and isinstance(value, dict):
        return all(_fits(one, arguments[1]) for one in value.values())
    if isinstance(value, int) and not isinstance(value, bool):
        return (hint is int or hint is float) and abs(value) < 2**63
    if isinstance(value, float):
        return hint is float and math.isfinite(value)
    return isinstance(value, str) if hint is str else hint is types.NoneType and value is None


def _tuples(value: object, hint: Any) -> object:
    """Lists of JSON as the tuples that the field has."""
    return tuple(value) if isinstance(value, list) and hint is not Any else value
