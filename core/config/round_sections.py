"""Settings of the rounds, of the audit of their models and of a comparison of ablations."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from core.config.setting_effects import AddedLater, OnlyWith, RecordedApart, Results, Speed
from core.config.viability_section import ViabilitySection
from core.inputs.section import (
    NUMBER,
    Batch,
    Epochs,
    Few,
    LearningRate,
    Name,
    Rounds,
    Samples,
    Section,
    Seed,
    Share,
    Steps,
    Strength,
    UpdateSteps,
    plain,
)


def _dask_address(text: str) -> str:
    host = re.fullmatch(r"(?:tcp|tls)://[^:/@\s]{1,255}:([0-9]{1,5})", text)
    if host is None or not 0 < int(host[1]) < 65_536:
        raise ValueError("is not an address of a Dask scheduler: write tcp://HOST:PORT, without user or password")
    return text


def _each_once(values: tuple[float, ...]) -> tuple[float, ...]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice is not None:
        raise ValueError(f"holds {twice} twice: give each strength once")
    return tuple(value + 0.0 for value in values)  # 0 for -0


SamplerName = Literal["ddim", "dpm_solver"]


# Statistics of fewer layouts mean nothing.
FEWEST_AUDITED = 10


class BadLatentsSection(Section):
    """The latents that a round samples for its discriminator."""

    num_samples: Results[Samples] = 5000
    batch_size: Results[Batch] = 32
    num_steps: Results[Steps] = 100
    sampler: Annotated[Results[SamplerName], AddedLater()] = Field(
        "ddim", description="dpm_solver: DPM-Solver++(2M), which draws as well in 8 steps as DDIM in 25"
    )
    real_variants: Results[bool] = Field(
        False, description="count rotated and mirrored layouts as real ones too, where originals are few"
    )
    shards: Speed[Few] = Field(1, description="number of Dask tasks that sample a round's bad latents, if above 1")
    dask_address: Speed[Annotated[str, AfterValidator(_dask_address)] | None] = Field(
        None, description="scheduler of the Dask cluster that samples; processes of this machine if empty"
    )


class DiscriminatorTrainingSection(Section):
    """The training of a round's discriminator."""

    epochs: Results[Epochs] = 50
    batch_size: Results[Batch] = 64
    learning_rate: Results[LearningRate] = 0.0002


class AdvanceWhenSection(Section):
    """Ends a round's Stage 3 early, once viability was above this score in so many evaluations in a row."""

    viability_score: Results[Share] = 0.8
    evaluations: Results[Epochs] = 3


class RoundsSection(Section):
    """The rounds: how many, how long, and what happens between them."""

    count: Results[Rounds] = 3
    epochs_per_round: Annotated[Results[Epochs], OnlyWith("steps_per_round", (None,))] = 25
    steps_per_round: Annotated[Results[UpdateSteps | None], AddedLater()] = Field(
        None, ge=1, description="steps of Stage 3 in a round, as one epoch, in place of epochs_per_round"
    )
    viability: Annotated[ViabilitySection, AddedLater()] = ViabilitySection()
    bad_latents: BadLatentsSection = BadLatentsSection()
    discriminator: DiscriminatorTrainingSection = DiscriminatorTrainingSection()
    advance_when: AdvanceWhenSection | None = None
    viability_samples: Results[Samples] = Field(256, description="held-out seeds that viability is measured on")
    on_regression: RecordedApart[Literal["stop", "keep_best", "halve_weight"] | None] = Field(
        None, description="what to do after a round whose audit is worse; null: only report it"
    )
    patience: RecordedApart[Rounds | None] = Field(
        None, description="stop after so many audits in a row that found no larger viable share than the best so far"
    )
    weight_controller: RecordedApart[bool] = Field(
        False, description="set the discriminator's weight between rounds by the documented tuning tips"
    )
    gate: RecordedApart[Literal["none", "manual"]] = Field(
        "none", description="manual: after each round a person decides in Prefect's UI whether and how to continue"
    )


class AuditSection(Section):
    """How a model is judged by rules and distances that no gradient ever saw."""

    num_samples: Samples = Field(1000, ge=FEWEST_AUDITED, description="layouts generated from held-out seeds")
    seed: Seed = 7
    every: Rounds = Field(1, description="audit each round whose number is a multiple of this, and the last one")
    strengths: Annotated[tuple[Strength, ...], AfterValidator(_each_once)] = Field(
        (), description="after the last round, audit models from the run's start (0) over its end (1) and beyond"
    )
    num_steps: Steps | None = Field(None, description="DDIM steps; rounds.bad_latents.num_steps if empty")
    pass_share: Share = Field(0.97, description="share of real layouts that the calibrated rules let pass")
    pixels_per_metre: Annotated[float, NUMBER, Field(gt=0, le=16_384)] | None = Field(
        None, description="of the pictures at dataset.image_size; from the thickness of their walls if empty"
    )


class AblationSection(Section):
    """One way to continue Stage 3: the settings that it changes, and the seeds that it is trained with."""

    settings: Annotated[dict[str, Any], AfterValidator(plain)] = Field(
        default_factory=dict, description="dotted keys and their values"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = Field(
        None, description="those of the comparison if empty"
    )


class ComparisonSection(Section):
    """Ablations that start from the same Stage 2 checkpoint and are trained for equal steps."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3)
    num_samples: Samples = Field(
        2000, ge=FEWEST_AUDITED, description="layouts in the audit at the end of each ablation"
    )
    control: Name = Field("control", description="the ablation that the others are compared with")
    ablations: dict[str, AblationSection]

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_name(cls, data: Any) -> Any:
        return _with_ablations(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _has_its_control(self) -> "ComparisonSection":
        if self.control not in self.ablations:
            raise ValueError(f"control {self.control} is none of the ablations {', '.join(self.ablations)}: add it")
        return self


def with_current_names(data: dict[str, Any]) -> dict[str, Any]:
    """The data of a config with the names that its settings have now; ValueError if one is given by both names."""
    comparison = data.get("comparison")
    return data | {"comparison": _with_ablations(comparison)} if isinstance(comparison, dict) else data


def _with_ablations(comparison: dict[str, Any]) -> dict[str, Any]:
    if "arms" not in comparison:
        return comparison
    if "ablations" in comparison:
        raise ValueError("arms is an earlier name of ablations: keep one of the two")
    return {("ablations" if key == "arms" else key): value for key, value in comparison.items()}
