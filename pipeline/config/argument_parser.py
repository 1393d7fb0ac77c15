"""A command's own `key=value` arguments, and the messages that correct a wrong key or value.

Pure; knows neither Hydra nor files.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import enum
import inspect
import itertools
import types
import typing
from collections.abc import Iterable
from typing import Any, TypeVar

from pipeline.config.paths import ARGUMENTS, at_home
from pipeline.core.errors import ConfigError, must

T = TypeVar("T")


def keys(schema: type[Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted name → type of every value below a dataclass, in the order of its fields."""
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            found.update(keys(typing.cast(type[Any], hint), f"{prefix}{field.name}."))
        else:
            found[prefix + field.name] = hint
    return found


def near(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three known names that `name` was probably meant to be, best first."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.75) or [
        # A right key in the wrong section: `batch_size` for `training.batch_size`.
        other
        for other in names
        if other.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1] or other.startswith(name)
    ]
    return found[:3]


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `Did you mean …?`, or if no name is near, the known names of the same section, else the sections."""
    names = list(known)
    if found := near(name, names):
        return f"Did you mean {' or '.join(found)}?"
    section = name.rpartition(".")[0]
    inside = [other for other in names if section and other.startswith(section + ".")]
    return f"Choose among {', '.join(inside or dict.fromkeys(other.partition('.')[0] for other in names))}."


def rule(hint: Any) -> str:
    """Return what a value of this type must be, in words."""
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join("null" if option is type(None) else rule(option) for option in options)
    if typing.get_origin(hint) is list:
        return "a list such as [a,b]"
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(member.name for member in hint)
    words: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words.get(hint, str(hint))


def parse_arguments(schema: type[T], arguments: list[str]) -> T:
    """Parse a command's own `key=value` arguments into a dataclass; an empty value is None if that is allowed.

    Values are taken literally: a question may hold quotes, `$`, `=` and braces. Only `~` in paths is expanded.

    Raises:
        ConfigError: for an argument without `=`, an unknown or repeated key, a value of the wrong type, or a key
            that is missing.
    """
    known = keys(schema)
    usage = " ".join(f"{name}=" for name in known)
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals:
            raise ConfigError(must("an argument", "read key=value", repr(argument), f"The keys are {usage}"))
        if name not in known:
            raise ConfigError(must(name, f"be one of {usage}", repr(argument), nearest(name, known)))
        if name in given:
            raise ConfigError(must(name, "be given once", repr(argument), "Remove one of them."))
        value = _value(name, known[name], text)
        given[name] = at_home(value) if name in ARGUMENTS else value
    required = (dataclasses.MISSING, dataclasses.MISSING)
    for field in dataclasses.fields(typing.cast(Any, schema)):
        if field.name not in given and (field.default, field.default_factory) == required:
            raise ConfigError(must(field.name, "be given", "nothing", f"Pass {field.name}=<value>."))
    return schema(**given)


def described(schema: type[Any]) -> str:
    """Return the `--help` text of a command's arguments: for each, a line with rule and default, and its meaning."""
    lines = []
    known = meanings(schema)
    for field in dataclasses.fields(schema):
        default = "" if field.default is dataclasses.MISSING else f"; {_shown(field.default)} by default"
        lines += [
            f"{field.name}=  {rule(keys(schema)[field.name])}{default}",
            f"    {known[field.name].splitlines()[0]}",
        ]
    return "\n".join(lines)


def meanings(schema: type[Any], prefix: str = "") -> dict[str, str]:
    """Return dotted name → docstring of every value below a dataclass, in the order of its fields.

    The docstrings below fields are read from the source, since Python keeps none of them.
    """
    found: dict[str, str] = {}
    hints = typing.get_type_hints(schema)
    (body,) = (node.body for node in ast.parse(inspect.getsource(schema)).body if isinstance(node, ast.ClassDef))
    for field, following in itertools.pairwise([*body, ast.Pass()]):
        match field:
            case ast.AnnAssign(target=ast.Name(name)) if dataclasses.is_dataclass(hints[name]):
                found.update(meanings(typing.cast(type[Any], hints[name]), f"{prefix}{name}."))
            case ast.AnnAssign(target=ast.Name(name)):
                match following:
                    case ast.Expr(ast.Constant(str(docstring))):
                        found[prefix + name] = docstring
    return found


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "''"


def _value(name: str, hint: Any, text: str) -> Any:
    """Convert an argument's text to its field's type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if type(None) in options and text in ("", "null"):
        return None
    wanted = next(option for option in options if option is not type(None))
    truth = {"true": True, "false": False}
    try:
        if wanted is bool:
            return truth[text.lower()]
        if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
            return wanted[text]
        return wanted(text)
    except (KeyError, ValueError):
        raise ConfigError(must(name, f"be {rule(hint)}", repr(text), f"Pass {name}=<value>.")) from None
