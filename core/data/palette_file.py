"""The palette of a config: that of the YAML file which `dataset.palette` names, else the default one."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from core.config.experiment import ExperimentConfig
from core.data.palette import DEFAULT_PALETTE, Colour, Palette
from core.inputs.config_keys import shown_value
from core.inputs.locations import Location
from core.inputs.yaml_text import LARGEST_FILE, read_yaml
from core.records.input_files import local_path
from core.runtime.errors import InputError
from core.runtime.files import open_input

_KEY = "dataset.palette"
_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_LONGEST_NAME = 64


def palette_input(config: ExperimentConfig) -> dict[str, Location]:
    """The file of the config's palette as an input of a stage; empty if the palette is the default one."""
    place = config.dataset.palette
    return {} if place is None or read_palette(config) == DEFAULT_PALETTE else {"palette": place}


def read_palette(config: ExperimentConfig) -> Palette:
    """The config's palette; InputError, which names the file, if it cannot be read or layouts cannot have it.

    A file of the same content gives the same object.
    """
    place = config.dataset.palette
    if place is None:
        return DEFAULT_PALETTE
    with open_input(local_path(place, config.artifacts), _KEY) as file:
        return _parsed(file.read(LARGEST_FILE + 1), f"{_KEY} {place}")


@functools.lru_cache(maxsize=8)
def _parsed(text: bytes, what: str) -> Palette:
    found = read_yaml(text, what, "correct the file")
    if not isinstance(found, dict):
        raise InputError(
            f"{what} holds {shown_value(found)}, not a map of names and colours: write a line for each class, such as "
            "bed: [228, 26, 28]"
        )
    try:
        return Palette.of(_colours(found))
    except ValueError as error:
        raise InputError(f"{what} {error}") from None


def _colours(found: Mapping[Any, Any]) -> dict[str, Colour]:
    """Names and colours as a palette takes them; ValueError for the first that is none."""
    return {_name(name): _colour(name, value) for name, value in found.items()}


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"has the class {shown_value(name)}, which is not text: put the name in quotes")
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(f"has the class {shown_value(name)}: give a name of 1 to {_LONGEST_NAME} printable characters")
    return name


def _colour(name: str, value: Any) -> Colour:
    if isinstance(value, str) and _HEX.fullmatch(value):
        value = list(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value):
        return value[0], value[1], value[2]
    raise ValueError(
        f"gives {name} the colour {shown_value(value)}: give three whole numbers from 0 to 255, or text such as "
        '"#e41a1c"'
    )
