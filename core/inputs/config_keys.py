"""Dotted keys of a config: setting one, and naming the one that is wrong."""

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from core.inputs.section import choices
from core.runtime.errors import InputError

_MOST_PARTS = 16
_NUMBER = re.compile(r"[0-9]+")
# Keys whose names are less alike have nothing to do with each other.
_LEAST_LIKENESS = 0.75
# How much the section counts beside the key's own name.
_SECTION_SHARE = 0.5
# What a message says in place of pydantic's own sentence.
_SAID = {
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "dict_type": "should be a section of keys",
    "model_type": "should be a section of keys",
    "string_type": "should be text",
    "int_parsing_size": "should be a number of fewer digits",
}
_VALUE = reprlib.Repr()
_VALUE.maxstring = _VALUE.maxother = 80
_VALUE.maxdict = _VALUE.maxlist = _VALUE.maxtuple = 6
_VALUE.maxlevel = 3


def set_value(data: dict[str, Any], key: str, value: Any) -> None:
    """Put `value` at the dotted `key` of nested `data`; InputError where a value stands in a section's place."""
    *parents, leaf = (part.strip() for part in key.split("."))
    if not all((*parents, leaf)) or len(parents) >= _MOST_PARTS:
        raise InputError(f"--set {key}: this is no key: write it as section.key, with dots between names")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise InputError(f"--set {key}: {parent} is a value, not a section")
    data[leaf] = value


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first problem: the dotted key, what is wrong, what would be right."""
    problem = error.errors(include_url=False)[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join(location)
    kind, given = problem["type"], problem["input"]
    if kind == "extra_forbidden":
        return f"unknown key {key}; {_hint(location, model)}"
    if kind == "missing":
        return f"{key} is missing: set it"
    if kind == "value_error":
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}"
    if kind == "literal_error":
        offered = choices(_annotation_at(location, model)) or (problem["ctx"]["expected"],)
        said = f"should be {_listed(offered)}"
    else:
        said = _SAID.get(kind, re.sub(r"^\w+ should", "should", problem["msg"]))
    if kind == "string_type" and isinstance(given, bool | int | float):
        said += f"; if it is, put it in quotes, in --set within the shell's: --set '{key}=\"{given}\"'"
    if kind in ("dict_type", "model_type") and type(None) in typing.get_args(_annotation_at(location, model)):
        said += " or null"
    if kind == "tuple_type":
        said = "should be a list, such as [1, 2]"
    return f"{key}: {said}, got {shown_value(given)}"


def shown_value(value: Any) -> str:
    """`value` as a short text, as YAML writes what Python writes otherwise."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return _VALUE.repr(value)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config of this kind, those of sections too."""
    for name, field in model.model_fields.items():
        yield prefix + name
        section = section_of(field.annotation)
        if section is not None:
            yield from keys_of(section, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds; None if it holds something else."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def _hint(location: list[str], model: type[BaseModel]) -> str:
    """The key that was probably meant, wherever in the config it is: the name counts first, then the section."""
    *sections, name = location
    if "." in name:
        return f"write {name.rpartition('.')[2]} inside the section {name.rpartition('.')[0]}"
    best, meant = 0.0, ""
    for known in keys_of(model):
        section, _, leaf = known.rpartition(".")
        likeness = difflib.SequenceMatcher(None, name.lower(), leaf).ratio()
        # What differs by its number alone is another thing, not a slip.
        if likeness < _LEAST_LIKENESS or (likeness < 1 and _NUMBER.sub("", leaf) == _NUMBER.sub("", name)):
            continue
        likeness += _SECTION_SHARE * difflib.SequenceMatcher(None, ".".join(sections), section).ratio()
        if likeness > best:
            best, meant = likeness, known
    return f"did you mean {meant}?" if meant else "no key is called alike: remove it"


def _annotation_at(location: list[str], model: type[BaseModel] | None) -> Any:
    annotation = None
    for part in location:
        field = model.model_fields.get(part) if model is not None else None
        if field is None:
            return annotation
        annotation, model = field.annotation, section_of(field.annotation)
    return annotation


def _listed(offered: tuple[Any, ...]) -> str:
    shown = [f"'{choice}'" if isinstance(choice, str) else shown_value(choice) for choice in offered]
    return " or ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
