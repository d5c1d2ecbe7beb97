"""The kind of object every section of a config is, and the kinds of values in it, each with bounds."""

import math
import types
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change, choices may be written in any case."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _choice_as_it_is_written(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            return value
        offered = choices(cls.model_fields[info.field_name].annotation)
        return next((choice for choice in offered if str(choice).lower() == value.strip().lower()), value)


def choices(annotation: Any) -> tuple[Any, ...]:
    """What a field of this type may be chosen from; none if it is no choice."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(choice for option in typing.get_args(annotation) for choice in choices(option))
    return ()


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


# Python takes true for 1.
NUMBER = BeforeValidator(_no_flag)

Seed = Annotated[int, NUMBER, Field(ge=0, le=2**63 - 1)]
Epochs = Annotated[int, NUMBER, Field(gt=0, le=1_000_000)]
Rounds = Annotated[int, NUMBER, Field(gt=0, le=1000)]
Batch = Annotated[int, NUMBER, Field(gt=0, le=65_536)]
# Layouts, latents or trajectories.
Samples = Annotated[int, NUMBER, Field(gt=0, le=10_000_000)]
# UNet evaluations of a sampler.
Steps = Annotated[int, NUMBER, Field(gt=0, le=10_000)]
# Of a convolution.
Channels = Annotated[int, NUMBER, Field(gt=0, le=16_384)]
# Halvings of a picture or latent: 2 to their power is computed.
Halvings = Annotated[int, NUMBER, Field(gt=0, le=12)]
# Side of a square picture in pixels.
Side = Annotated[int, NUMBER, Field(gt=0, le=16_384)]
Level = Annotated[int, NUMBER, Field(ge=0, le=11)]
# Steps of an optimizer, from the first on.
UpdateSteps = Annotated[int, NUMBER, Field(ge=0, le=100_000_000)]
# Things of which one process has few: blocks of a level, parts of a batch, steps within a step.
Few = Annotated[int, NUMBER, Field(gt=0, le=1024)]
# AdamW's steps are as long as the rate: weights are far below 1.
LearningRate = Annotated[float, NUMBER, Field(gt=0, le=1)]
# Of a term of the loss, or of a decay.
Weight = Annotated[float, NUMBER, Field(ge=0, le=1_000_000)]
Factor = Annotated[float, NUMBER, Field(gt=0, le=1_000_000)]
Share = Annotated[float, NUMBER, Field(gt=0, lt=1)]
ShareOrAll = Annotated[float, NUMBER, Field(gt=0, le=1)]
ShareOrNone = Annotated[float, NUMBER, Field(ge=0, lt=1)]
# Of grace before something is removed.
Hours = Annotated[float, NUMBER, Field(ge=0, le=87_600)]
Minutes = Annotated[float, NUMBER, Field(ge=0, le=10_080)]

# Names of columns and the like.
Name = Annotated[str, Field(min_length=1, max_length=255)]

_DEEPEST = 16


def plain(value: Any, _depth: int = 0) -> Any:
    """`value` if a JSON file can hold it and equals itself when read back."""
    if _depth > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep: write it flatter")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has a key that is no text, {key!r}: put it in quotes")
            plain(inner, _depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            plain(inner, _depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"should hold finite numbers, not {value}")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"should hold text, numbers, true or false, and lists of them, not a {type(value).__name__}")
    return value
