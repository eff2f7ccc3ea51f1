"""CryoSPARC's interface as cryosparc-tools describes it: ``cryosparc/api.pyi``, evaluated with the package's models.

Nothing about a call's parameters is written down here a second time: the routes of the fake server get their
signatures from this file, so that the server cannot come to agree with our own idea of the interface.
"""

from __future__ import annotations

import ast
import datetime
import importlib
import inspect
import typing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Operation:
    """One function of the interface.

    Attributes
    ----------
    name : "namespace.function", the summary of the operation in openapi.json
    path, body, query : parameters: positional-only, either, keyword-only
    returns : the evaluated return annotation
    """

    name: str
    path: tuple[inspect.Parameter, ...]
    body: tuple[inspect.Parameter, ...]
    query: tuple[inspect.Parameter, ...]
    returns: Any


@lru_cache(maxsize=1)
def operations() -> dict[str, Operation]:
    """Every operation of ``api.pyi`` by name."""
    package = importlib.import_module("cryosparc")
    assert package.__file__ is not None
    tree = ast.parse((Path(package.__file__).parent / "api.pyi").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"datetime": datetime}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module("." * node.level + node.module, "cryosparc" if node.level else None)
            names.update({alias.asname or alias.name: getattr(module, alias.name) for alias in node.names})
    namespaces = {"APIClient": ""}
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in classes["APIClient"].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            namespaces[ast.unparse(node.annotation)] = node.target.id + "."
    found = {}
    for class_name, prefix in namespaces.items():
        for node in classes[class_name].body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                operation = _operation(prefix + node.name, node, names)
                found[operation.name] = operation
    return found


def _operation(name: str, node: ast.FunctionDef, names: dict[str, Any]) -> Operation:
    def value(expression: ast.expr | None) -> Any:
        return None if expression is None else eval(compile(ast.Expression(expression), "api.pyi", "eval"), names)

    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    kinds: dict[str, list[inspect.Parameter]] = {"path": [], "body": [], "query": []}
    for number, argument in enumerate(positional):
        if argument.arg == "self":
            continue
        kind = "path" if number < len(arguments.posonlyargs) else "body"
        kinds[kind].append(_parameter(argument, defaults[number], value))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults):
        kinds["query"].append(_parameter(argument, default, value))
    returns = typing.Any if node.returns is None else value(node.returns)
    return Operation(name, tuple(kinds["path"]), tuple(kinds["body"]), tuple(kinds["query"]), returns)


def _parameter(argument: ast.arg, default: ast.expr | None, value: Any) -> inspect.Parameter:
    return inspect.Parameter(
        argument.arg,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if default is None else value(default),
        annotation=value(argument.annotation),
    )
