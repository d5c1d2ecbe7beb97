"""Dotted keys of a config: setting one, and naming the one that is wrong."""

import difflib
import types
import typing
from typing import Any

from pydantic import BaseModel, ValidationError

from core.errors import InputError


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key` of nested `data`; InputError where a value stands in a section's place."""
    *parents, leaf = key.split(".")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise InputError(f"--set {key}: {parent} is a value, not a section")
    data[leaf] = value


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first problem: the dotted key, what is wrong, what would be right."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        valid = _keys_beside(location, model)
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0)
        hint = f"did you mean {'.'.join([*location[:-1], near[0]])}?" if near else "remove it"
        return f"unknown key {key}; {hint}"
    if problem["type"] == "missing":
        return f"{key} is missing: set it"
    if problem["type"] == "value_error":
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}"
    return f"{key}: {problem['msg'].lower()}, got {problem['input']!r}"


def _keys_beside(location: list[str], model: Any) -> list[str]:
    for part in location[:-1]:
        field = model.model_fields.get(part)
        if field is None:
            return []
        model = _section_of(field.annotation)
        if model is None:
            return []
    return list(model.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)
