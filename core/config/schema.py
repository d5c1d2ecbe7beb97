"""One YAML file = one experiment: frozen, validated, with every default in one place."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from core.config.published_losses import with_one_loss_form
from core.inputs.config_keys import first_problem, set_value
from core.inputs.places import Location, Place, expanded, is_remote
from core.inputs.section import (
    NUMBER,
    Batch,
    Channels,
    Epochs,
    Factor,
    Few,
    Halvings,
    LearningRate,
    Level,
    Name,
    Rounds,
    Samples,
    Section,
    Seed,
    Share,
    ShareOrAll,
    ShareOrNone,
    Side,
    Steps,
    UpdateSteps,
    Weight,
    plain,
)
from core.inputs.yaml_text import LARGEST_FILE, read_yaml, write_yaml
from core.runtime.errors import InputError
from core.runtime.files import open_input
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, split_location

# Widest level of a UNet: a convolution of more channels has billions of weights.
_WIDEST = 16_384
# Names below an artefact root that are no runs'.
_TAKEN_NAMES = ("prerequisites",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_LONGEST_NAME = 64


def _run_name(name: str) -> str:
    """`name` if a run's folder and files may be called so."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of an experiment: use letters, digits, '.', '_' and '-', a letter or digit first"
        )
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"{name!r} has {len(name)} characters: use at most {_LONGEST_NAME}")
    if name.lower() in _TAKEN_NAMES:
        raise ValueError(f"{name} is the folder of what all experiments of a root share: choose another name")
    return name


class ExperimentSection(Section):
    name: Annotated[str, AfterValidator(_run_name)]
    save_path: Place | None = Field(
        None, description="folder of continue-stage-3; {artifacts.root}/{name}/stage3 if empty"
    )
    phase: Literal["diffusion_stage1", "diffusion_stage2", "diffusion_stage3"] = "diffusion_stage3"
    epochs_target: Epochs | None = Field(None, description="accepted for old files, without effect")


class DiffusionSection(Section):
    stage1_checkpoint: Place | None = None
    stage2_checkpoint: Place | None = None
    stage3_checkpoint: Place | None = Field(
        None, description="full Stage 3 state (optimizer, EMA, epoch) to go on from instead of Stage 2 weights"
    )


class AutoencoderSection(Section):
    checkpoint: Place | None = None
    frozen: Literal[True] = True
    latent_channels: Channels = 16
    base_channels: Channels = 32
    downsampling_steps: Halvings = 4
    max_channels: Channels = 256


class TrajectorySection(Section):
    num_samples: Samples = Field(1024, description="trajectories cached at the start of a round")
    states: Steps = Field(4, description="random states kept of each")
    num_steps: Steps = 50
    t_min: ShareOrNone = Field(0.02, description="earliest kept state, as a share of the schedule")
    t_max: ShareOrAll = 0.8

    @model_validator(mode="after")
    def _keeps_a_state(self) -> "TrajectorySection":
        if self.t_max - self.t_min < 1 / self.num_steps:
            raise ValueError(f"t_min {self.t_min} to t_max {self.t_max} holds none of {self.num_steps} steps: widen it")
        return self


class DiscriminatorSection(Section):
    checkpoint: Place | None = None
    weight: Weight = Field(0.1, description="weight of the adversarial term; the cap of the balanced weight")
    balance: Factor | None = Field(
        0.5, description="adversarial over noise gradient norm that the weight aims at; null: the weight is fixed"
    )
    form: Literal["renoise", "x0_prediction", "draft_k", "ddo", "published"] = "renoise"
    draft_steps: Steps = Field(1, description="K of draft_k: last DDIM steps that carry gradient")
    ddo_beta: Factor = Field(0.05, description="beta of ddo, on squared errors summed")
    ddo_alpha: Weight = Field(1.0, description="alpha of ddo: weight of the bad latents")
    update: Literal["frozen", "online"] = Field(
        "frozen", description="online: a copy of the discriminator learns along and is the one that the model meets"
    )
    online_steps: Few = Field(1, description="discriminator steps a step of the model, if online")
    online_learning_rate: LearningRate = 0.0002
    batch_fraction: ShareOrAll = Field(0.25, description="adversarial sub-batch, as a share of the batch")
    trajectories: TrajectorySection = TrajectorySection()

    @model_validator(mode="after")
    def _online_judges_own_states(self) -> "DiscriminatorSection":
        if self.update == "online" and self.form not in ("renoise", "draft_k"):
            raise ValueError(f"update online goes with form renoise or draft_k, not {self.form}: set update: frozen")
        return self


class OutputsSection(Section):
    latent: Name = "latent_path"
    rgb: Name = "layout_path"
    segmentation: Name = "layout_path"

    @model_validator(mode="after")
    def _one_picture(self) -> "OutputsSection":
        if self.segmentation != self.rgb:
            raise ValueError(
                f"segmentation {self.segmentation} and rgb {self.rgb} must be the same column: classes are read from "
                "the layout picture's colours"
            )
        return self


RoomCount = Annotated[int, NUMBER, Field(ge=1, le=6)]


class SyntheticSection(Section):
    """Generated layouts instead of a manifest of the user's."""

    count: Samples = 1000
    seed: Seed = 0
    rooms: tuple[RoomCount, RoomCount] = (1, 6)

    @model_validator(mode="after")
    def _rooms_ascend(self) -> "SyntheticSection":
        if self.rooms[0] > self.rooms[1]:
            raise ValueError(f"rooms {list(self.rooms)} must be [fewest, most]")
        return self


class DatasetSection(Section):
    manifest: Place | None = None
    synthetic: SyntheticSection | None = None
    outputs: OutputsSection = OutputsSection()
    filters: Annotated[dict[str, Any], AfterValidator(plain)] = Field(default_factory=lambda: {"is_empty": [False]})
    return_path: bool = False
    image_size: Side = 512
    augment: bool = Field(False, description="encode all eight rotations and mirrors of every original")
    path_remap: dict[str, str] = Field(default_factory=dict, description="path prefix -> the prefix here")

    @field_validator("path_remap")
    @classmethod
    def _prefixes_here(cls, remap: dict[str, str]) -> dict[str, str]:
        # What a path begins with is text of another machine; an empty prefix here makes a path relative.
        return {prefix: here and expanded(here) for prefix, here in remap.items()}


class UNetSection(Section):
    type: Literal["UNet2DModel"] = "UNet2DModel"
    in_channels: Channels = 16
    out_channels: Channels = 16
    base_channels: Channels = 128
    depth: Halvings = 4
    num_res_blocks: Few = 2
    time_dim: Channels | None = None
    norm_groups: Channels = 8
    dropout: ShareOrNone = 0.2
    attention_at: tuple[Level, ...] = Field((), description="levels (0 = finest) with self-attention")
    mid_attention: bool = False
    gradient_checkpointing: bool = Field(False, description="compute inner values again instead of keeping them")
    cond_channels: Literal[0] = 0
    fusion_mode: Literal["none"] = "none"

    @model_validator(mode="after")
    def _shapes_agree(self) -> "UNetSection":
        if self.in_channels != self.out_channels:
            raise ValueError(f"in_channels {self.in_channels} and out_channels {self.out_channels} must be equal")
        if self.base_channels % self.norm_groups:
            raise ValueError(f"base_channels {self.base_channels} must be a multiple of norm_groups {self.norm_groups}")
        if self.attention_at and max(self.attention_at) >= self.depth:
            raise ValueError(f"attention_at {list(self.attention_at)}: levels are 0 to {self.depth - 1} (depth - 1)")
        return self


class SchedulerSection(Section):
    type: Literal["CosineScheduler", "LinearScheduler"] = "CosineScheduler"
    num_steps: Annotated[int, NUMBER, Field(ge=2, le=10_000)] = 500
    prediction_type: Literal["epsilon", "v_prediction"] = Field(
        "epsilon", description="what the UNet puts out; every loss and sampler sees the noise it implies"
    )


class NoiseLossSection(Section):
    type: Literal["MSELoss"] = "MSELoss"
    key: Literal["pred_noise"] = "pred_noise"
    target: Literal["noise"] = "noise"
    weight: Weight = 1.0


class SegmentationLossSection(Section):
    type: Literal["CrossEntropyLoss"] = "CrossEntropyLoss"
    key: Literal["segmentation"] = "segmentation"
    target: Literal["segmentation"] = "segmentation"
    weight: Weight = 0.1


class PerceptualLossSection(Section):
    type: Literal["PerceptualLoss"] = "PerceptualLoss"
    key: Literal["rgb"] = "rgb"
    target: Literal["rgb"] = "rgb"
    weight: Weight = 0.05
    net: Literal["alex", "vgg", "squeeze"] = "alex"
    backbone: Place | None = Field(None, description="file with the trunk's weights; torchvision's own if empty")


class SemanticLossSection(Section):
    type: Literal["SemanticLoss"] = "SemanticLoss"
    segmentation_loss: SegmentationLossSection = SegmentationLossSection()
    perceptual_loss: PerceptualLossSection = PerceptualLossSection()
    max_t: ShareOrAll = Field(0.4, description="highest noise level decoded, as a share of the schedule")
    batch_fraction: ShareOrAll = Field(0.125, description="decoded sub-batch, as a share of the batch")


class LossSection(Section):
    noise_loss: NoiseLossSection = NoiseLossSection()
    semantic_loss: SemanticLossSection | None = SemanticLossSection()

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each of these terms, by its name."""
        weights = {"noise": self.noise_loss.weight}
        if self.semantic_loss is not None:
            weights["segmentation"] = self.semantic_loss.segmentation_loss.weight
            weights["perceptual"] = self.semantic_loss.perceptual_loss.weight
        return weights

    @property
    def perceptual(self) -> PerceptualLossSection:
        """The network that likeness is measured with, named or by default."""
        return self.semantic_loss.perceptual_loss if self.semantic_loss else PerceptualLossSection()

    def with_trunk_of(self, other: "LossSection") -> "LossSection":
        """This loss with the LPIPS network and trunk that `other` names."""
        if self.semantic_loss is None or other.semantic_loss is None:
            return self
        theirs = other.semantic_loss.perceptual_loss
        perceptual = self.semantic_loss.perceptual_loss.model_copy(
            update={"net": theirs.net, "backbone": theirs.backbone}
        )
        semantic = self.semantic_loss.model_copy(update={"perceptual_loss": perceptual})
        return self.model_copy(update={"semantic_loss": semantic})


class DecaySection(Section):
    type: Literal["cosine"] = "cosine"


class OptimizationSection(Section):
    """What every diffusion stage is trained with."""

    epochs: Epochs = 50
    batch_size: Batch = 64
    learning_rate: LearningRate = 0.00003
    warmup_steps: UpdateSteps = 0
    scheduler: DecaySection | None = Field(None, description="cosine: the learning rate falls to 0 over `epochs`")
    optimizer: Literal["AdamW"] = "AdamW"
    weight_decay: Weight = 0.1
    max_grad_norm: Factor | None = 0.5
    ema_decay: ShareOrNone = 0.999
    eval_interval: Epochs = 5
    sample_interval: Epochs = 10


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name.lower()):
        raise ValueError(f"{name!r} is no device: write auto, cpu, cuda or cuda:NUMBER")
    return name.lower()


class TrainingSection(OptimizationSection):
    seed: Seed = 42
    train_split: Share = 0.8
    split_seed: Seed = 42
    num_workers: Annotated[int, NUMBER, Field(ge=0, le=256)] = Field(
        8, description="threads that read pictures ahead of the encoder; 0: none"
    )
    shuffle: bool = True
    save_interval: Epochs = Field(99999, description="epochs between kept epoch_NNN checkpoints")
    latest_interval: Epochs = Field(1, description="epochs between writes of the resumable checkpoint")
    accumulation_steps: Few = Field(1, description="parts that each process computes its share of a batch in")
    use_amp: bool = True
    device: Annotated[str, AfterValidator(_device)] = "auto"
    loss: LossSection = LossSection()


class AutoencoderTrainingSection(Section):
    epochs: Epochs = 50
    batch_size: Batch = 16
    learning_rate: LearningRate = 0.0001
    weight_decay: Weight = 0.01
    segmentation_weight: Weight = 0.2
    latent_noise: Weight = Field(0.1, description="std of the noise on the latent while the autoencoder learns")


class PrerequisitesSection(Section):
    """How to make what Stage 3 starts from, where the config names no checkpoints."""

    seed: Seed = 42
    loss: LossSection = LossSection()
    autoencoder: AutoencoderTrainingSection | None = AutoencoderTrainingSection()
    stage1: OptimizationSection | None = OptimizationSection(epochs=500, learning_rate=0.0002)
    stage2: OptimizationSection | None = OptimizationSection(epochs=100, learning_rate=0.00005)


def _scheduler(text: str) -> str:
    host = re.fullmatch(r"(?:tcp|tls)://[^:/@\s]{1,255}:([0-9]{1,5})", text)
    if host is None or not 0 < int(host[1]) < 65_536:
        raise ValueError("is no address of a Dask scheduler: write tcp://HOST:PORT, without user or password")
    return text


class BadLatentsSection(Section):
    num_samples: Samples = 5000
    batch_size: Batch = 32
    num_steps: Steps = 100
    real_variants: bool = Field(
        False, description="real latents of rotated and mirrored layouts too, where originals are few"
    )
    shards: Few = Field(1, description="bad latents of a round are sampled in so many Dask tasks, if above 1")
    dask_address: Annotated[str, AfterValidator(_scheduler)] | None = Field(
        None, description="scheduler of the Dask cluster that samples; one of this machine's processes if empty"
    )


class DiscriminatorTrainingSection(Section):
    epochs: Epochs = 50
    batch_size: Batch = 64
    learning_rate: LearningRate = 0.0002


class AdvanceWhenSection(Section):
    viability_score: Share = 0.8
    evaluations: Epochs = 3


class RoundsSection(Section):
    count: Rounds = 3
    epochs_per_round: Epochs = 25
    bad_latents: BadLatentsSection = BadLatentsSection()
    discriminator: DiscriminatorTrainingSection = DiscriminatorTrainingSection()
    advance_when: AdvanceWhenSection | None = None
    viability_samples: Samples = Field(256, description="held-out seeds that viability is measured on")
    on_regression: Literal["stop", "keep_best", "halve_weight"] | None = Field(
        None, description="what to do after a round whose audit is worse; null: only say so"
    )
    weight_controller: bool = Field(
        False, description="set the discriminator's weight between rounds by the documented tuning tips"
    )
    gate: Literal["none", "manual"] = Field(
        "none", description="manual: after each round a person answers in Prefect's UI whether and how to go on"
    )


class AuditSection(Section):
    """How a model is judged by what no gradient ever saw."""

    num_samples: Samples = Field(1000, description="layouts generated from held-out seeds")
    seed: Seed = 7
    pass_share: Share = Field(0.97, description="share of real layouts that the calibrated rules let pass")
    pixels_per_metre: Annotated[float, NUMBER, Field(gt=0, le=16_384)] | None = Field(
        None, description="of the pictures at dataset.image_size; from the thickness of their walls if empty"
    )


class AblationSection(Section):
    """One way to continue Stage 3: what it changes in the config, and with which seeds it is trained."""

    settings: Annotated[dict[str, Any], AfterValidator(plain)] = Field(
        default_factory=dict, description="dotted keys and their values"
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = Field(
        None, description="those of the comparison if empty"
    )


class ComparisonSection(Section):
    """Ablations that start from the same Stage 2 checkpoint and are trained for equal steps."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (1, 2, 3)
    num_samples: Samples = Field(2000, description="layouts that the end of each ablation is audited on")
    control: Name = Field("control", description="the ablation that the others are compared with")
    ablations: dict[str, AblationSection]

    @model_validator(mode="before")
    @classmethod
    def _accept_earlier_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and "arms" in data:
            if "ablations" in data:
                raise ValueError("arms is an earlier name of ablations: keep one of the two")
            data = {("ablations" if key == "arms" else key): value for key, value in data.items()}
        return data

    @model_validator(mode="after")
    def _has_its_control(self) -> "ComparisonSection":
        if self.control not in self.ablations:
            raise ValueError(f"control {self.control} is none of the ablations {', '.join(self.ablations)}: add it")
        return self


class ExperimentConfig(Section):
    """Everything one experiment is made of; `load_config` reads it from YAML."""

    experiment: ExperimentSection
    diffusion: DiffusionSection = DiffusionSection()
    autoencoder: AutoencoderSection = AutoencoderSection()
    discriminator: DiscriminatorSection = DiscriminatorSection()
    dataset: DatasetSection
    unet: UNetSection = UNetSection()
    scheduler: SchedulerSection = SchedulerSection()
    training: TrainingSection = TrainingSection()
    prerequisites: PrerequisitesSection | None = None
    rounds: RoundsSection = RoundsSection()
    audit: AuditSection | None = AuditSection()
    comparison: ComparisonSection | None = None
    artifacts: ArtifactsSection = ArtifactsSection()

    @model_validator(mode="before")
    @classmethod
    def _accept_published_loss_forms(cls, data: Any) -> Any:
        return with_one_loss_form(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _sizes_agree(self) -> "ExperimentConfig":
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
        if self.latent_size % 2 ** (self.unet.depth - 1):
            raise ValueError(
                f"unet.depth {self.unet.depth} halves a {self.latent_size}x{self.latent_size} latent too often "
                f"(dataset.image_size {self.dataset.image_size}, "
                f"autoencoder.downsampling_steps {self.autoencoder.downsampling_steps})"
            )
        widest = self.unet.base_channels * 2 ** (self.unet.depth - 1)
        if widest > _WIDEST:
            raise ValueError(
                f"unet.base_channels {self.unet.base_channels}, doubled from level to level of unet.depth "
                f"{self.unet.depth}, come to {widest}: at most {_WIDEST} can be trained"
            )
        return self

    @property
    def latent_size(self) -> int:
        """Side of the square latent."""
        return self.dataset.image_size // 2**self.autoencoder.downsampling_steps

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one latent."""
        return (self.autoencoder.latent_channels, self.latent_size, self.latent_size)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Weight of every Stage 3 term, by the term's name."""
        return self.training.loss.weights | {"adversarial": self.discriminator.weight}

    def stage_training(self, stage: int) -> TrainingSection | None:
        """Training settings of Stage 1 or 2: `training` in a file for that stage, else those of `prerequisites`.

        None if the file says nothing of it.
        """
        if self.experiment.phase == f"diffusion_stage{stage}":
            training = self.training
        else:
            section = getattr(self.prerequisites, f"stage{stage}", None)
            if section is None:
                return None
            loss = self.prerequisites.loss.with_trunk_of(self.training.loss)
            training = self.training.model_copy(update={**dict(section), "seed": self.prerequisites.seed, "loss": loss})
        if stage > 1:
            return training
        return training.model_copy(update={"loss": training.loss.model_copy(update={"semantic_loss": None})})

    def fingerprint(self, training: TrainingSection | None = None) -> dict[str, Any]:
        """What a checkpoint says of its making: everything but paths and what changes no result.

        `training` stands in for the config's own where an earlier stage is described.
        """
        config = self if training is None else self.model_copy(update={"training": training})
        return config.model_dump(
            mode="json",
            exclude={
                "experiment": {"save_path", "epochs_target"},
                "diffusion": True,
                "autoencoder": {"checkpoint"},
                "discriminator": {"checkpoint"} | _unused(self.discriminator),
                # Generated layouts count by their content, as a manifest of the user's does.
                "dataset": {"manifest", "path_remap", "return_path", "synthetic"},
                "unet": {"gradient_checkpointing"},
                "training": {
                    "accumulation_steps": True,
                    "device": True,
                    "num_workers": True,
                    "save_interval": True,
                    "latest_interval": True,
                    "sample_interval": True,
                    "loss": {"semantic_loss": {"perceptual_loss": {"backbone": True}}},
                },
                "rounds": {
                    "gate": True,
                    "on_regression": True,
                    "weight_controller": True,
                    "bad_latents": {"shards", "dask_address"},
                },
                "audit": True,
                "comparison": True,
                "artifacts": True,
            },
        )

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
            set_value(data, key, value)
        return _validated(data, self.experiment.name)


def _unused(section: DiscriminatorSection) -> set[str]:
    """Settings of the adversarial term that its form makes no use of."""
    unused = set() if section.update == "online" else {"online_steps", "online_learning_rate"}
    unused |= set() if section.form == "draft_k" else {"draft_steps"}
    unused |= set() if section.form == "ddo" else {"ddo_alpha", "ddo_beta"}
    if section.form in ("published", "x0_prediction"):
        unused.add("trajectories")
    if section.form == "published":
        unused.add("balance")
    return unused


def load_config(path: Location, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Config read from the YAML file at `path`, local or s3://, with `key.path=value` overrides applied.

    Raises InputError, in one line, for a missing or unreadable file, an unknown key (with the nearest valid
    one) or a value of the wrong type or range.
    """
    try:
        path = expanded(path)
    except ValueError as error:
        raise InputError(f"config {error}") from None
    data = read_yaml(_config_text(path), f"config {path}", "mend the file")
    if not isinstance(data, dict):
        raise InputError(f"config {path} holds no mapping of sections: see configs/demo.yaml")
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not key:
            raise InputError(f"--set {override}: write it as key.path=value")
        set_value(data, key.strip(), read_yaml(value, f"--set {override}: the value", "mend the value"))
    return _validated(data, str(path))


def config_bytes(config: ExperimentConfig) -> bytes:
    """The file of a config that `load_config` reads back equal."""
    return write_yaml(config.model_dump(mode="json"))


def _config_text(path: Location) -> bytes:
    if not is_remote(path):
        with open_input(path, "config") as file:
            return file.read(LARGEST_FILE + 1)
    folder, name = split_location(path)
    there = open_store(folder).read(name)
    if there is None:
        raise InputError(f"config {path} does not exist: give the address of a YAML file")
    return there.data


def _validated(data: dict[str, Any], source: str) -> ExperimentConfig:
    try:
        return ExperimentConfig.model_validate(data)
    except ValidationError as error:
        raise InputError(f"config {source}: {first_problem(error, ExperimentConfig)}") from None
