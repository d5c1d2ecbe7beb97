"""Settings of the adversarial term: the discriminator's weight, its form and what it sees."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from core.config.setting_effects import AddedLater, InputFile, OnlyWith, Results
from core.inputs.locations import Place
from core.inputs.section import (
    Factor,
    Few,
    LearningRate,
    Samples,
    Section,
    ShareOrAll,
    ShareOrNone,
    Steps,
    Weight,
)

# Labelled latents for each latent of a batch.
_MOST_LABELLED = 16


class TrajectorySection(Section):
    """States of the model's own sampling trajectories, kept for the adversarial term."""

    num_samples: Results[Samples] = Field(1024, description="trajectories cached at the start of a round")
    states: Results[Steps] = Field(4, description="random states kept of each trajectory")
    num_steps: Results[Steps] = 50
    t_min: Results[ShareOrNone] = Field(0.02, description="earliest state kept, as a share of the schedule")
    t_max: Results[ShareOrAll] = 0.8

    @model_validator(mode="after")
    def _keeps_a_state(self) -> "TrajectorySection":
        if self.t_max - self.t_min < 1 / self.num_steps:
            raise ValueError(f"t_min {self.t_min} to t_max {self.t_max} holds none of {self.num_steps} steps: widen it")
        return self


class DiscriminatorSection(Section):
    """The adversarial term of Stage 3 and its discriminator."""

    checkpoint: InputFile[Place | None] = None
    weight: Results[Weight] = Field(0.1, description="weight of the adversarial term; the cap of the balanced weight")
    balance: Annotated[
        Results[Factor | None], OnlyWith("form", ("renoise", "x0_prediction", "draft_k", "ddo", "negative_aware"))
    ] = Field(0.5, description="target ratio of the adversarial to the noise gradient norm; null: the weight is fixed")
    form: Results[Literal["renoise", "x0_prediction", "draft_k", "ddo", "negative_aware", "published"]] = "renoise"
    labelled_latents: InputFile[Place | None] = Field(
        None, description="labelled_latents.pt of generate-bad-latents, for form negative_aware; a round sets it"
    )
    draft_steps: Annotated[Results[Steps], OnlyWith("form", ("draft_k",))] = Field(
        1, description="K of draft_k: last DDIM steps that carry gradient"
    )
    ddo_beta: Annotated[Results[Factor], OnlyWith("form", ("ddo",))] = Field(
        0.05, description="beta of ddo, on squared errors summed"
    )
    ddo_alpha: Annotated[Results[Weight], OnlyWith("form", ("ddo",))] = Field(
        1.0, description="alpha of ddo: weight of the bad latents"
    )
    negative_aware_beta: Annotated[Results[Factor], OnlyWith("form", ("negative_aware",)), AddedLater()] = Field(
        1.0, description="b of negative_aware: how far a step goes from the model that drew the latents"
    )
    update: Results[Literal["frozen", "online"]] = Field(
        "frozen", description="online: a copy of the discriminator is trained along and judges the model"
    )
    online_steps: Annotated[Results[Few], OnlyWith("update", ("online",))] = Field(
        1, description="discriminator steps per step of the model, if online"
    )
    online_learning_rate: Annotated[Results[LearningRate], OnlyWith("update", ("online",))] = 0.0002
    batch_fraction: Results[Factor] = Field(
        0.25, description="adversarial sub-batch, as a share of the batch; above 1 with form negative_aware only"
    )
    trajectories: Annotated[TrajectorySection, OnlyWith("form", ("renoise", "draft_k", "ddo"))] = TrajectorySection()

    @property
    def learns_from_labels(self) -> bool:
        """Whether the term shows the model labelled latents."""
        return self.form == "negative_aware" and self.weight != 0

    @property
    def keeps_trajectories(self) -> bool:
        """Whether Stage 3 samples trajectories for the term before its first epoch."""
        return self.weight != 0 and not self.learns_from_labels

    @model_validator(mode="after")
    def _sub_batch_fits(self) -> "DiscriminatorSection":
        most = _MOST_LABELLED if self.form == "negative_aware" else 1
        if self.batch_fraction > most:
            raise ValueError(f"batch_fraction {self.batch_fraction:g}: it may be {most} at most with form {self.form}")
        return self

    @model_validator(mode="after")
    def _online_judges_own_states(self) -> "DiscriminatorSection":
        if self.update == "online" and self.form not in ("renoise", "draft_k"):
            raise ValueError(f"update online goes with form renoise or draft_k, not {self.form}: set update: frozen")
        return self
