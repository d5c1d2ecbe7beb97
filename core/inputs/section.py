"""The class of all sections of a config, and the types of values in them, with bounds."""

import math
import types
import typing
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """A section of a config. Unknown keys are errors, values cannot change, and choices may be written in any case."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _match_case_of_choices(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str) or info.field_name is None:
            return value
        offered = choices(cls.model_fields[info.field_name].annotation)
        return next((choice for choice in offered if str(choice).lower() == value.strip().lower()), value)


def choices(annotation: Any) -> tuple[Any, ...]:
    """The values that a field of this type may have; empty if it is not limited to some."""
    if typing.get_origin(annotation) is Literal:
        return typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return tuple(choice for option in typing.get_args(annotation) for choice in choices(option))
    return ()


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"should be a number, not {str(value).lower()}")
    return value


# pydantic accepts true for 1.
NUMBER = BeforeValidator(_refuse_boolean)

Seed = Annotated[int, NUMBER, Field(ge=0, le=2**63 - 1)]
Epochs = Annotated[int, NUMBER, Field(gt=0, le=1_000_000)]
Rounds = Annotated[int, NUMBER, Field(gt=0, le=1000)]
Batch = Annotated[int, NUMBER, Field(gt=0, le=65_536)]
# Layouts, latents or trajectories.
Samples = Annotated[int, NUMBER, Field(gt=0, le=10_000_000)]
# UNet evaluations of a sampler.
Steps = Annotated[int, NUMBER, Field(gt=0, le=10_000)]
# Channels of a convolution.
Channels = Annotated[int, NUMBER, Field(gt=0, le=16_384)]
# How often the sides of a picture or latent are halved.
Halvings = Annotated[int, NUMBER, Field(gt=0, le=12)]
HalvingsOrNone = Annotated[int, NUMBER, Field(ge=0, le=12)]
# Side of a square picture in pixels.
Side = Annotated[int, NUMBER, Field(gt=0, le=16_384)]
Level = Annotated[int, NUMBER, Field(ge=0, le=11)]
# Steps of an optimizer, counted from the first.
UpdateSteps = Annotated[int, NUMBER, Field(ge=0, le=100_000_000)]
# Small counts: blocks of a level, parts of a batch, accumulation steps.
Few = Annotated[int, NUMBER, Field(gt=0, le=1024)]

# The size of a step of AdamW is the rate, and weights are far below 1.
LearningRate = Annotated[float, NUMBER, Field(gt=0, le=1)]
# Weight of a loss term, or of weight decay.
Weight = Annotated[float, NUMBER, Field(ge=0, le=1_000_000)]
Factor = Annotated[float, NUMBER, Field(gt=0, le=1_000_000)]
Share = Annotated[float, NUMBER, Field(gt=0, lt=1)]
ShareOrAll = Annotated[float, NUMBER, Field(gt=0, le=1)]
ShareOrNone = Annotated[float, NUMBER, Field(ge=0, lt=1)]
# How far a model goes from a start to an end: 0 is the start, 1 the end.
STRONGEST = 2.0
Strength = Annotated[float, NUMBER, Field(ge=0, le=STRONGEST)]
# Grace period before something is removed.
Hours = Annotated[float, NUMBER, Field(ge=0, le=87_600)]
Minutes = Annotated[float, NUMBER, Field(ge=0, le=10_080)]
# Time limit.
Seconds = Annotated[float, NUMBER, Field(gt=0, le=604_800)]

# Names, such as those of columns.
Name = Annotated[str, Field(min_length=1, max_length=255)]

_DEEPEST = 16


def plain(value: Any, _depth: int = 0) -> Any:
    """`value` if JSON can hold it and gives it back unchanged; ValueError otherwise."""
    if _depth > _DEEPEST:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep: use fewer levels")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ValueError(f"has a key that is not text, {key!r}: put it in quotes")
            plain(inner, _depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            plain(inner, _depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"should hold finite numbers, not {value}")
    elif not isinstance(value, str | int | float | None):
        raise ValueError(f"should hold text, numbers, true or false, and lists of them, not a {type(value).__name__}")
    return value


def _count_of_processes(value: Any) -> Any:
    """`value`, with one message for all that is neither a count nor auto: pydantic has one for each of the two."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1024):
        given = "null" if value is None else repr(value)
        raise ValueError(f"{given} is no number of processes: write 'auto' or a number from 1 to 1024")
    return value


# Processes of this machine that work on a stage together.
ProcessCount = Annotated[Few | Literal["auto"], BeforeValidator(_count_of_processes)]
