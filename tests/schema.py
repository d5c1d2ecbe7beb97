"""Every single value of a config's schema."""

import inspect
import math
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from core.config.experiment import ExperimentConfig
from core.inputs.locations import expanded


class Leaf(NamedTuple):
    """One type of value at a dotted key, with its metadata: bounds, validators, effect."""

    key: str
    kind: Any
    metadata: tuple[Any, ...]
    nullable: bool


def leaves(model: type[BaseModel] = ExperimentConfig, prefix: str = "") -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        yield from _leaves(field.annotation, f"{prefix}{name}", tuple(field.metadata), False)


def _leaves(annotation: Any, key: str, metadata: tuple[Any, ...], nullable: bool) -> Iterator[Leaf]:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        more = [part for one in inner[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        yield from _leaves(inner[0], key, (*metadata, *more), nullable)
    elif origin in (typing.Union, types.UnionType):
        for option in inner:
            if option is not type(None):
                yield from _leaves(option, key, metadata, type(None) in inner)
    elif origin is tuple:
        for option in inner:
            if option is not Ellipsis:
                yield from _leaves(option, key, metadata, nullable)
    elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield from leaves(annotation, f"{key}.")
    elif origin is dict and inspect.isclass(inner[1]) and issubclass(inner[1], BaseModel):
        yield from leaves(inner[1], f"{key}.some.")
    else:
        yield Leaf(key, annotation, metadata, nullable)


LEAVES = list(leaves())
NUMBERS = [leaf for leaf in LEAVES if leaf.kind in (int, float)]
SINGLE = [
    leaf
    for leaf in NUMBERS
    if not leaf.key.startswith("comparison.") and leaf.key not in ("unet.attention_at", "audit.strengths")
]
TEXTS = [leaf for leaf in LEAVES if leaf.kind is str]
PLACES = {leaf.key for leaf in TEXTS if any(getattr(metadata, "func", None) is expanded for metadata in leaf.metadata)}


def bounds(leaf: Leaf) -> tuple[float, float]:
    """(lowest, highest) number that the field accepts; NaN for a bound that is missing."""
    found = {
        name: getattr(metadata, name)
        for metadata in leaf.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(metadata, name)
    }
    return found.get("ge", found.get("gt", math.nan)), found.get("le", found.get("lt", math.nan))
