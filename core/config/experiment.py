"""The settings of one experiment: frozen, validated, with every default in one place."""

import difflib
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, model_validator

from core.config import setting_effects
from core.config.dataset_sections import DatasetSection
from core.config.discriminator_sections import DiscriminatorSection
from core.config.model_sections import AutoencoderSection, SchedulerSection, UNetSection
from core.config.published_forms import in_one_form
from core.config.round_sections import AuditSection, ComparisonSection, RoundsSection
from core.config.setting_effects import InputFile, Nothing, Output, RecordedApart, Results
from core.config.training_sections import PrerequisitesSection, TrainingSection
from core.inputs.config_keys import first_problem, set_value
from core.inputs.locations import Place
from core.inputs.section import Epochs, Name, Section
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection

# Channels of the widest level of a UNet: a convolution of more has billions of weights.
_WIDEST = 16_384
# Folders of an artefact root that do not belong to a run.
_RESERVED_NAMES = ("prerequisites",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_LONGEST_NAME = 64
# A config validated in this context is a draft: checkpoints that it names may still say other sizes.
DRAFT = {"draft": True}
_STAGES = ("diffusion_stage1", "diffusion_stage2", "diffusion_stage3")
# A label this similar to the name of a stage is a misspelt stage.
_TOO_SIMILAR = 0.85


def _run_name(name: str) -> str:
    """`name` if a run's folder and files may have it."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a valid name of an experiment: use letters, digits, '.', '_' and '-', a letter or digit "
            "first"
        )
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"{name!r} has {len(name)} characters: use at most {_LONGEST_NAME}")
    if name.lower() in _RESERVED_NAMES:
        raise ValueError(f"{name} is the folder that all experiments of a root share: choose another name")
    return name


def _phase(name: str) -> str:
    """`name` if it is a stage, or a label that cannot be meant as one."""
    plain = name.strip().lower()
    if plain in _STAGES:
        return plain
    if meant := difflib.get_close_matches(plain, _STAGES, n=1, cutoff=_TOO_SIMILAR):
        raise ValueError(f"{name!r} is no stage: did you mean {meant[0]}?")
    return name


class ExperimentSection(Section):
    """The experiment's name and stage."""

    name: Results[Annotated[str, AfterValidator(_run_name)]]
    save_path: Output[Place | None] = Field(
        None, description="folder of continue-stage-3; {artifacts.root}/{name}/stage3 if empty"
    )
    phase: Results[Annotated[Name, AfterValidator(_phase)]] = Field(
        "diffusion_stage3", description="diffusion_stage1, diffusion_stage2 or diffusion_stage3; other names are labels"
    )
    epochs_target: Nothing[Epochs | None] = Field(None, description="accepted for old files, without effect")


class DiffusionSection(Section):
    """Checkpoints of the diffusion stages to start from."""

    stage1_checkpoint: Place | None = None
    stage2_checkpoint: Place | None = None
    stage3_checkpoint: Place | None = Field(
        None, description="full Stage 3 state (optimizer, EMA, epoch) to continue from instead of Stage 2 weights"
    )


class ExperimentConfig(Section):
    """All settings of one experiment; `core.config.loading.load_config` reads them from YAML."""

    experiment: ExperimentSection
    diffusion: InputFile[DiffusionSection] = DiffusionSection()
    autoencoder: AutoencoderSection = AutoencoderSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    dataset: DatasetSection
    unet: UNetSection = UNetSection()
    scheduler: SchedulerSection = SchedulerSection()
    training: TrainingSection = TrainingSection()
    prerequisites: PrerequisitesSection | None = None
    rounds: RoundsSection = RoundsSection()
    audit: RecordedApart[AuditSection | None] = AuditSection()
    comparison: RecordedApart[ComparisonSection | None] = None
    artifacts: Output[ArtifactsSection] = ArtifactsSection()
    without_effect: Nothing[tuple[Name, ...]] = Field(
        (), description="settings of a published config that this project does not have"
    )

    @model_validator(mode="before")
    @classmethod
    def _accept_published_forms(cls, data: Any) -> Any:
        return in_one_form(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _sizes_agree(self, info: ValidationInfo) -> "ExperimentConfig":
        if info.context is DRAFT:
            return self
        if self.unet.in_channels != self.autoencoder.latent_channels:
            raise ValueError(
                f"unet.in_channels {self.unet.in_channels} must equal "
                f"autoencoder.latent_channels {self.autoencoder.latent_channels}"
            )
        if self.latent_size < 1:
            raise ValueError(
                f"autoencoder.downsampling_steps {self.autoencoder.downsampling_steps} halves a picture of "
                f"dataset.image_size {self.dataset.image_size} to nothing: set fewer, or larger pictures"
            )
        if self.latent_size % 2**self.unet.halvings:
            raise ValueError(
                f"unet.depth {self.unet.depth} halves a {self.latent_size}x{self.latent_size} latent too often "
                f"(dataset.image_size {self.dataset.image_size}, "
                f"autoencoder.downsampling_steps {self.autoencoder.downsampling_steps})"
            )
        if self.unet.widest > _WIDEST:
            raise ValueError(
                f"unet.base_channels {self.unet.base_channels}, doubled at each level of unet.depth "
                f"{self.unet.depth}, gives {self.unet.widest} channels: at most {_WIDEST} can be trained"
            )
        return self

    @model_validator(mode="after")
    def _has_labels_to_learn_from(self) -> "ExperimentConfig":
        if self.discriminator.form == "negative_aware" and self.rounds.viability.labels == "generated":
            raise ValueError(
                "discriminator.form negative_aware learns from viable and other generated layouts, and "
                "rounds.viability.labels generated tells none apart: set it to rules, file or command"
            )
        return self

    @property
    def latent_size(self) -> int:
        """Side of the square latent."""
        size: int = self.dataset.image_size // 2**self.autoencoder.downsampling_steps
        return size

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        return (self.autoencoder.latent_channels, self.latent_size, self.latent_size)

    @property
    def audit_steps(self) -> int:
        """Steps of the sampler of audited layouts: those of the audit if it names some, else of bad latents."""
        return (self.audit and self.audit.num_steps) or self.rounds.bad_latents.num_steps

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of every Stage 3 term, by the term's name."""
        return self.training.loss.weights | {"adversarial": self.discriminator.weight}

    def stage_training(self, stage: int) -> TrainingSection | None:
        """Training settings of Stage 1 or 2: `training` in a config of that stage, else those in `prerequisites`.

        None if the config has neither.
        """
        if self.experiment.phase == f"diffusion_stage{stage}":
            training = self.training
        else:
            if self.prerequisites is None:
                return None
            section = {1: self.prerequisites.stage1, 2: self.prerequisites.stage2}[stage]
            if section is None:
                return None
            loss = self.prerequisites.loss.with_trunk_of(self.training.loss)
            own = {"steps_per_epoch": None, "validation_latents": None}  # those of Stage 3 are not for this stage
            seed = self.prerequisites.seed
            training = self.training.model_copy(update={**own, **dict(section), "seed": seed, "loss": loss})
        if stage > 1:
            return training
        return training.model_copy(update={"loss": training.loss.model_copy(update={"semantic_loss": None})})

    def fingerprint(self, training: TrainingSection | None = None) -> dict[str, Any]:
        """The settings that affect results, as a checkpoint and a record name them; see `core.config.setting_effects`.

        `training` stands in for the config's own where an earlier stage is described.
        """
        return setting_effects.fingerprint(self if training is None else self.model_copy(update={"training": training}))

    def required(self, key: str) -> Any:
        """The value at the dotted `key`; InputError names the key if it is empty."""
        value: Any = self
        for part in key.split("."):
            value = getattr(value, part, None)
        if value is None:
            raise InputError(f"{key} is missing: set it in the config (or with --set {key}=PATH)")
        return value

    def with_values(self, values: dict[str, Any]) -> "ExperimentConfig":
        """This config with `values` at dotted keys, validated again."""
        data = self.model_dump()
        for key, value in values.items():
            try:
                set_value(data, key, value)
            except ValueError as error:
                raise InputError(f"config {self.experiment.name}: {key}: {error}") from None
        try:
            return ExperimentConfig.model_validate(data)
        except ValidationError as error:
            raise InputError(f"config {self.experiment.name}: {first_problem(error, ExperimentConfig)}") from None
