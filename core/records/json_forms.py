"""The fields of the JSON files that a run writes: what readers need of each file, with types and bounds.

Other fields are allowed and kept. Names of files stay below the record's own folder.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from core.records.artifacts import POSITION
from core.runtime.errors import InputError
from core.storage.store import checked_name

# Distinguishes our `made.json` from another program's.
MADE_BY = "adversarial-layouts"
# By stage: the metrics that its round reads.
_METRICS_READ = {
    "bad latents": ("bad_latent_std",),
    "discriminator": ("val_acc",),
    "stage3": ("epoch", "first_epoch", "viability_before", "viability_after"),
}


def _below(name: str) -> str:
    try:
        return checked_name(_text(name))
    except (InputError, ValueError):
        raise ValueError("it does not name a file below the record's own folder") from None


def _text(value: str) -> str:
    if "\0" in value or not value:
        raise ValueError("it is empty or holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("it holds a surrogate, which is only half a character") from None
    return value


Text = Annotated[str, AfterValidator(_text)]
FileName = Annotated[str, AfterValidator(_below)]
Count = Annotated[int, Field(ge=0, le=2**63)]
Number = float | None
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Experiment = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)]
Position = Annotated[str, Field(pattern=f"^{POSITION}$")]


class Form(BaseModel):
    """An object with at least these fields, in exactly these types."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class Entry(Form):
    """Size and sha256 of a file."""

    size: Count
    sha256: Sha256


class Input(Entry):
    """A file that was read, by the path it had."""

    path: Text


class StateEntry(Entry):
    """A file of a state, and the state in whose folder it is: unchanged files are shared."""

    state: Position


class AuditFigures(Form):
    """Figures by name, and a confidence interval for some of them."""

    viable: Number
    coverage: Number = None
    intervals: dict[str, Annotated[list[Number], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def _every_interval_has_its_figure(self) -> "AuditFigures":
        figures = dict(self)
        for name in self.intervals:
            if name not in figures:
                raise ValueError(f"{name} is missing")
            value = figures[name]
            if isinstance(value, bool) or not isinstance(value, int | float | None):
                raise ValueError(f"{name} is not a number")
        if "viable" not in self.intervals or (self.coverage is not None and "coverage" not in self.intervals):
            raise ValueError("intervals are missing")
        return self


class PartRecord(Form):
    """Files of a stage, and the inputs and settings that they were made from."""

    outputs: dict[FileName, Entry]
    stage: Text | None = None
    inputs: dict[str, Input] = {}
    settings: dict[str, Any] = {}

    @model_validator(mode="after")
    def _names_inputs_and_settings(self) -> "PartRecord":
        if self.stage is not None and not {"inputs", "settings"} <= self.model_fields_set:
            raise ValueError("inputs or settings are missing")
        return self


class StageRecord(PartRecord):
    """A finished stage. A record without a stage only names files, with their sizes and hashes."""

    metrics: dict[str, Any] = {}
    seconds: Annotated[float, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _has_the_metrics_that_are_read(self) -> "StageRecord":
        if self.stage is not None and not {"metrics", "seconds"} <= self.model_fields_set:
            raise ValueError("metrics or seconds are missing")
        for name in _METRICS_READ.get(self.stage or "", ()):
            value = self.metrics.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"metrics.{name} is not a number")
        if self.stage == "audit":
            AuditFigures.model_validate(self.metrics)
            audited = self.settings.get("audit")
            if not isinstance(audited, dict) or type(audited.get("num_samples")) is not int:
                raise ValueError("settings.audit.num_samples is not a whole number")
        return self


class RoundMetrics(Form):
    """The figures of a finished round."""

    epoch: Count
    first_epoch: Count
    viability_before: float
    viability_after: float
    discriminator_val_acc: float
    discriminator_weight: Number = None
    viability_floor: float = 0
    viable: Number = None
    viable_before: Number = None
    viable_share: Number = None
    viability_auc: Number = None
    viability_auc_low: Number = None
    viability_auc_high: Number = None
    viable_fifth_1: Number = None
    viable_fifth_2: Number = None
    viable_fifth_3: Number = None
    viable_fifth_4: Number = None
    viable_fifth_5: Number = None
    noise_before: Number = None
    val_noise_loss: Number = None
    val_segmentation_loss: Number = None
    val_perceptual_loss: Number = None

    @model_validator(mode="after")
    def _every_auc_is_a_number(self) -> "RoundMetrics":
        for name, value in (self.model_extra or {}).items():
            if name.startswith("auc_") and (isinstance(value, bool) or not isinstance(value, int | float | None)):
                raise ValueError(f"{name} is not a number")
        return self


class NextRound(Form):
    """The plan that a round leaves for the next one."""

    model_config = ConfigDict(extra="forbid")

    weight_factor: Annotated[float, Field(gt=0, le=1)]
    parent_round: Count
    best_round: Count
    best_viable: Annotated[float, Field(ge=0, le=1)] | None


class RoundRecord(Form):
    """A finished round."""

    round: Annotated[int, Field(ge=1, le=10**6)]
    location: Text
    experiment: Experiment
    inputs: dict[str, Input]
    settings: dict[str, Any]
    outputs: dict[FileName, Entry]
    metrics: RoundMetrics
    audit: AuditFigures | None = None
    taught: list[str] = []
    earlier_audit: AuditFigures | None = None
    alarms: list[str] = []
    alarm_names: list[str] = []
    regression: list[str] = []
    next: NextRound | None = None
    seconds: Annotated[float, Field(ge=0)]
    size: Count

    @model_validator(mode="after")
    def _names_what_its_latents_are_made_from(self) -> "RoundRecord":
        if not {"manifest", "autoencoder"} <= self.inputs.keys():
            raise ValueError("inputs lack the manifest or the autoencoder")
        return self


class RunRecord(Form):
    """A run that was started, and the round that it was forked from, if it was."""

    experiment: Experiment
    parent: Input | None


class Decision(Form):
    """A person's answer after a round."""

    answer: Literal["go on", "stop"]
    discriminator_weight: Annotated[float, Field(ge=0)] | None


class Announced(Form):
    """A round whose events were sent."""

    round: Count


class State(Form):
    """A resumable state of an unfinished stage."""

    progress: Text
    files: dict[FileName, StateEntry]
    stage: Text
    inputs: dict[str, Input]
    settings: dict[str, Any]


class Holder(Form):
    """The process that holds a lease."""

    host: str
    pid: Annotated[int, Field(ge=1, le=2**31)]
    boot: str | None = None
    namespace: str | None = None
    started: str | None = None


class Lease(Form):
    """The process that works on a run; `token` is greater for each later holder."""

    holder: Holder
    seconds: Annotated[float, Field(gt=0, le=10**9)]
    token: Annotated[int, Field(ge=0, lt=10**9)]
    nonce: Text
    released: bool


class Publishing(Form):
    """The files that a stage is about to publish; written before the first of them."""

    outputs: list[FileName]


class Made(Form):
    """The files that a command makes in the user's folder; `*` in a name stands for digits."""

    made_by: Annotated[str, Field(pattern=f"^{MADE_BY}$")]
    files: list[FileName]
