"""The forms of records: every JSON file that is read back is looked at here before anything of it is used.

Fields that are not named here may be there and are left alone. Whole files are checked, so that what reads a record
finds in it what it needs, in the type it needs, and file names that stay below the record's own folder.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from core.inputs.yaml_text import read_yaml
from core.records.artifacts import (
    ANNOUNCED_NAME,
    DECISION_NAME,
    LEASE_NAME,
    MADE_NAME,
    POSITION,
    PUBLISHING_NAME,
    RECORD_NAME,
    ROUND_RECORD,
    RUN_RECORD,
    is_part_name,
    is_state_name,
)
from core.runtime.errors import InputError
from core.storage.store import checked_name

# Tells our `made.json` from that of another program.
MADE_BY = "adversarial-layouts"
_PUT_BACK = "put back a copy of it, or choose another folder (artifacts.root, experiment.name, --output_dir)"
_MOVE = "if no process works on the run, move the file elsewhere"


# Figures of a stage that its round needs.
_READ_OF_STAGES = {
    "bad latents": ("bad_latent_std",),
    "discriminator": ("val_acc",),
    "stage3": ("epoch", "first_epoch", "viability_before", "viability_after"),
}


class RecordError(InputError):
    """A record is damaged or another program's."""


def _below(name: str) -> str:
    try:
        return checked_name(_text(name))
    except (InputError, ValueError):
        raise ValueError("it is no name of a file below the record's own folder") from None


def _text(value: str) -> str:
    if "\0" in value or not value:
        raise ValueError("it is empty or holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half a character") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
FileName = Annotated[str, AfterValidator(_below)]
Count = Annotated[int, Field(ge=0, le=2**63)]
Number = float | None
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Experiment = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
Position = Annotated[str, Field(pattern=f"^{POSITION}$")]


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class _Entry(_Form):
    size: Count
    sha256: Sha256


class _Input(_Entry):
    path: Text


class _StateEntry(_Entry):
    state: Position


class _AuditFigures(_Form):
    """Figures by name, and the interval of each."""

    viable: Number
    coverage: Number = None
    intervals: dict[str, Annotated[list[Number], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def _every_interval_is_of_a_figure(self) -> "_AuditFigures":
        figures = dict(self)
        for name in self.intervals:
            if name not in figures:
                raise ValueError(f"{name} is missing")
            value = figures[name]
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"{name} is no number")
        if "viable" not in self.intervals or (self.coverage is not None and "coverage" not in self.intervals):
            raise ValueError("intervals are missing")
        return self


class _PartRecord(_Form):
    """What files of a stage were made from."""

    outputs: dict[FileName, _Entry]
    stage: Text | None = None
    inputs: dict[str, _Input] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _says_what_it_is_made_from(self) -> "_PartRecord":
        if self.stage is not None and not {"inputs", "settings"} <= self.model_fields_set:
            raise ValueError("inputs or settings are missing")
        return self


class _StageRecord(_PartRecord):
    """What a stage made. One that names no stage vouches for its files and is the record of nothing else."""

    metrics: dict[str, Any] = {}
    seconds: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_what_is_read_of_its_stage(self) -> "_StageRecord":
        if self.stage is not None and not {"metrics", "seconds"} <= self.model_fields_set:
            raise ValueError("metrics or seconds are missing")
        for name in _READ_OF_STAGES.get(self.stage or "", ()):
            value = self.metrics.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"metrics.{name} is no number")
        if self.stage == "audit":
            _AuditFigures.model_validate(self.metrics)
            audited = self.settings.get("audit")
            if not isinstance(audited, dict) or type(audited.get("num_samples")) is not int:
                raise ValueError("settings.audit.num_samples is no whole number")
        return self


class _RoundMetrics(_Form):
    epoch: Count
    first_epoch: Count
    viability_before: float
    viability_after: float
    discriminator_val_acc: float
    discriminator_weight: Number = None
    viability_floor: float = 0
    viable: Number = None
    viable_before: Number = None
    noise_before: Number = None
    val_noise_loss: Number = None
    val_segmentation_loss: Number = None
    val_perceptual_loss: Number = None


class _Next(_Form):
    """What a round says of the next one."""

    model_config = ConfigDict(extra="forbid")

    weight_factor: Annotated[float, Field(gt=0, le=1)]
    parent_round: Count
    best_round: Count
    best_viable: Annotated[float, Field(ge=0, le=1)] | None


class _RoundRecord(_Form):
    round: Annotated[int, Field(ge=1, le=10**6)]
    location: Text
    experiment: Experiment
    inputs: dict[str, _Input]
    settings: dict[str, Any]
    outputs: dict[FileName, _Entry]
    metrics: _RoundMetrics
    audit: _AuditFigures | None = None
    alarms: list[str] = []
    regression: list[str] = []
    next: _Next | None = None
    seconds: Annotated[float, Field(ge=0)]
    size: Count

    @model_validator(mode="after")
    def _says_what_its_latents_are(self) -> "_RoundRecord":
        if not {"manifest", "autoencoder"} <= self.inputs.keys():
            raise ValueError("inputs name no manifest or no autoencoder")
        return self


class _RunRecord(_Form):
    experiment: Experiment
    parent: _Input | None


class _Decision(_Form):
    answer: Literal["go on", "stop"]
    discriminator_weight: Annotated[float, Field(ge=0)] | None


class _Announced(_Form):
    round: Count


class _State(_Form):
    progress: Text
    files: dict[FileName, _StateEntry]
    stage: Text
    inputs: dict[str, _Input]
    settings: dict[str, Any]


class _Holder(_Form):
    host: str
    pid: Annotated[int, Field(ge=1, le=2**31)]
    boot: str | None = None
    namespace: str | None = None
    started: str | None = None


class _Lease(_Form):
    holder: _Holder
    seconds: Annotated[float, Field(gt=0, le=10**9)]
    token: Annotated[int, Field(ge=0, lt=10**9)]
    nonce: Text
    released: bool


class _Publishing(_Form):
    """What a stage is about to publish; written before the first of the files."""

    outputs: list[FileName]


class _Made(_Form):
    """What a command makes in a folder of the user's; `*` in a name stands for digits."""

    made_by: Annotated[str, Field(pattern=f"^{MADE_BY}$")]
    files: list[FileName]


# By the file's name: its form, and what to do where it is of another.
_FORMS: dict[str, tuple[type[_Form], str]] = {
    RECORD_NAME: (_StageRecord, _PUT_BACK),
    ROUND_RECORD: (_RoundRecord, _PUT_BACK),
    RUN_RECORD: (_RunRecord, _PUT_BACK),
    LEASE_NAME: (_Lease, _MOVE),
    DECISION_NAME: (_Decision, f"{_MOVE}, and be asked again"),
    PUBLISHING_NAME: (_Publishing, _MOVE),
    MADE_NAME: (_Made, _MOVE),
    ANNOUNCED_NAME: (_Announced, f"{_MOVE}, and the round's events are sent again"),
}


def parse_record(data: bytes, uri: str, name: str) -> dict[str, Any]:
    """The record called `name` in the folder at `uri`, from its `data`; RecordError if it is of another form."""
    if is_state_name(name):
        form, remedy = _State, f"{_MOVE}, and the stage goes on from an older state or begins anew"
    elif is_part_name(name):
        form, remedy = _PartRecord, f"{_MOVE}, and the part is made again"
    else:
        form, remedy = _FORMS[name]
    try:
        record = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        deep = "it is nested too deeply" if isinstance(error, RecursionError) else "no JSON"
        raise RecordError(f"record {uri}/{name} is damaged or another program's ({deep}): {remedy}") from None
    try:
        form.model_validate(record)
    except ValidationError as error:
        problem = _first(error)
        raise RecordError(f"record {uri}/{name} is damaged or another program's ({problem}): {remedy}") from None
    return record


def rounds_wanted(config: bytes, uri: str, name: str) -> int:
    """`rounds.count` of the config kept at `name` in a run's folder; RecordError if it is of another form."""
    try:
        count = read_yaml(config, f"{uri}/{name}", "replace it")["rounds"]["count"]
        if type(count) is not int or not 1 <= count <= 10**6:
            raise ValueError
    except (InputError, ValueError, LookupError, TypeError):
        raise RecordError(
            f"{uri}/{name} is damaged or another program's (it names no rounds.count): start the run again with its "
            "own config, which is then kept there"
        ) from None
    return count


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _first(error: ValidationError) -> str:
    """The first thing that is wrong with a record, in a few words."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in problem["loc"])[:80]
    said = "is missing" if problem["type"] == "missing" else problem["msg"].removeprefix("Value error, ").lower()
    return f"{where}: {said}" if where else said
