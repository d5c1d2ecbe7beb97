"""What each setting changes. A finished run accepts a change of every setting but those that affect its results.

A field names its effect in its type: `epochs: Results[Epochs]`, `device: Speed[str]`. A section may name one effect for
all its fields, as `audit: RecordedApart[AuditSection]` does. A setting that affects results only beside a certain
choice also says `OnlyWith` which. One that earlier versions did not have also says `AddedLater`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from core.inputs.config_keys import section_of


class Effect(Enum):
    """What a change of a setting changes."""

    RESULTS = "a trained model or a figure"
    RECORDED_APART = "a result whose own record names the setting: an audit, a comparison, the plan of the next round"
    INPUT = "which file is read; the content of the file counts, not its name or place"
    SPEED = "time, memory and disk"
    OUTPUT = "what is logged or kept besides the results, how often and where"
    NOTHING = "nothing; published configs hold the setting"


T = TypeVar("T")
Results = Annotated[T, Effect.RESULTS]
RecordedApart = Annotated[T, Effect.RECORDED_APART]
InputFile = Annotated[T, Effect.INPUT]
Speed = Annotated[T, Effect.SPEED]
Output = Annotated[T, Effect.OUTPUT]
Nothing = Annotated[T, Effect.NOTHING]


@dataclass(frozen=True)
class OnlyWith:
    """The setting has an effect only while `setting` of the same section is one of `choices`."""

    setting: str
    choices: tuple[str | None, ...]


@dataclass(frozen=True)
class AddedLater:
    """The setting is new: earlier versions acted as its default says, and their records do not name it.

    So a fingerprint leaves the default out, and results of earlier versions stay valid. `core.records.provenance`
    compares a record that names such a setting with a fingerprint that leaves it out.
    """


# Checkpoints hold this section whole. Records leave it out, as each stage that it describes has a record.
_HELD_WHOLE = "prerequisites"


def fingerprint(config: BaseModel) -> dict[str, Any]:
    """The settings of a config that affect its results, as JSON values under the names of their sections."""
    return config.model_dump(mode="json", exclude=_without_effect(config))


def effects(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Effect | None]]:
    """Dotted key and effect of every setting of a section; None for one that does not name its effect."""
    for name, field in model.model_fields.items():
        effect, section = effect_of(field), section_of(field.annotation)
        if section is None or effect is not None:
            yield f"{prefix}{name}", effect
        else:
            yield from effects(section, f"{prefix}{name}.")


def added_later(model: type[BaseModel]) -> set[str]:
    """Names of the settings of a section, and of those in it, that are `AddedLater`."""
    names = set[str]()
    for name, field in model.model_fields.items():
        if _is_added_later(field):
            names.add(name)
        if (section := section_of(field.annotation)) is not None:
            names |= added_later(section)
    return names


def effect_of(field: FieldInfo) -> Effect | None:
    """The effect that the type of a field names; None if it names none."""
    return next((part for part in field.metadata if isinstance(part, Effect)), None)


def _without_effect(section: BaseModel) -> dict[str, Any]:
    """The fields to leave out of the fingerprint, in the form of `model_dump(exclude=...)`."""
    left_out: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        inner = _without_effect(value) if isinstance(value, BaseModel) and name != _HELD_WHOLE else {}
        if not _affects_results(section, field) or (_is_added_later(field) and _same(value, field.default, inner)):
            left_out[name] = True
        elif inner:
            left_out[name] = inner
    return left_out


def _same(value: Any, default: Any, without_effect: dict[str, Any]) -> bool:
    """Whether a setting is its default, as far as it affects results."""
    if not isinstance(value, BaseModel) or not isinstance(default, BaseModel):
        return bool(value == default)
    return value.model_dump(exclude=without_effect) == default.model_dump(exclude=without_effect)


def _affects_results(section: BaseModel, field: FieldInfo) -> bool:
    conditions = (part for part in field.metadata if isinstance(part, OnlyWith))
    used = all(getattr(section, condition.setting) in condition.choices for condition in conditions)
    return used and effect_of(field) in (Effect.RESULTS, None)


def _is_added_later(field: FieldInfo) -> bool:
    return any(isinstance(part, AddedLater) for part in field.metadata)
