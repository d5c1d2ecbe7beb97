"""Dotted keys of a config: setting one, and errors that name the wrong one."""

import difflib
import re
import reprlib
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from core.inputs.section import choices

_MOST_PARTS = 16
_NUMBER = re.compile(r"[0-9]+")
# Keys whose names are less similar are not suggested.
_LEAST_LIKENESS = 0.75
# Weight of the section beside the key's own name.
_SECTION_SHARE = 0.5
# Replaces pydantic's own sentence, by its type of error.
_SENTENCES = {
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
    """Set `value` at the dotted `key` of nested `data`; ValueError if that is not a key, or a value is on its way."""
    *parents, leaf = (part.strip() for part in key.split("."))
    if not all((*parents, leaf)) or len(parents) >= _MOST_PARTS:
        raise ValueError("this is not a key: write it as section.key, with dots between names")
    for parent in parents:
        if data.get(parent) is None:
            data[parent] = {}
        data = data[parent]
        if not isinstance(data, dict):
            raise ValueError(f"{parent} is a value, not a section")
    data[leaf] = value


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """One line for the first problem: the dotted key, what is wrong, and what is valid."""
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
        sentence = f"should be {_listed(offered)}"
    else:
        sentence = _SENTENCES.get(kind, re.sub(r"^\w+ should", "should", problem["msg"]))
    if kind == "string_type" and isinstance(given, bool | int | float):
        sentence += f"; if it is text, put it in quotes, and in --set in the shell's as well: --set '{key}=\"{given}\"'"
    if kind in ("dict_type", "model_type") and type(None) in typing.get_args(_annotation_at(location, model)):
        sentence += " or null"
    if kind == "tuple_type":
        sentence = "should be a list, such as [1, 2]"
    return f"{key}: {sentence}, got {shown_value(given)}"


def shown_value(value: Any) -> str:
    """`value` as short text, with null, true and false as YAML writes them."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return _VALUE.repr(value)


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a config of this kind, including keys of sections."""
    for name, field in model.model_fields.items():
        yield prefix + name
        section = section_of(field.annotation)
        if section is not None:
            yield from keys_of(section, f"{prefix}{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds; None if it does not hold one."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, BaseModel)), None)


def _hint(location: list[str], model: type[BaseModel]) -> str:
    """The key that was probably meant, anywhere in the config: one of the same name first, then the most similar."""
    *sections, name = location
    if "." in name:
        return f"write {name.rpartition('.')[2]} inside the section {name.rpartition('.')[0]}"
    best, meant = (False, 0.0, 0), ""
    for known in keys_of(model):
        section, _, leaf = known.rpartition(".")
        likeness = _likeness(name.lower(), leaf)
        # Names that differ only in a number mean different things: stage1 is not a misspelt stage2.
        if likeness < _LEAST_LIKENESS or (likeness < 1 and _NUMBER.sub("", leaf) == _NUMBER.sub("", name)):
            continue
        rank = (likeness == 1, likeness + _SECTION_SHARE * _likeness(".".join(sections), section), -known.count("."))
        if rank > best:
            best, meant = rank, known
    return f"did you mean {meant}?" if meant else "no key has a similar name: remove it"


def _likeness(one: str, other: str) -> float:
    """From 0 to 1, which means that they are equal."""
    return difflib.SequenceMatcher(None, one, other).ratio()


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
