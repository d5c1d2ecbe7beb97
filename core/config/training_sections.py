"""Settings of the training of the diffusion stages and of the autoencoder."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from core.config.loss_sections import LossSection
from core.config.setting_effects import AddedLater, Output, Results, Speed
from core.inputs.locations import Place, is_remote
from core.inputs.section import (
    NUMBER,
    Batch,
    Epochs,
    Factor,
    Few,
    LearningRate,
    ProcessCount,
    Samples,
    Section,
    Seed,
    Share,
    ShareOrNone,
    UpdateSteps,
    Weight,
)


class DecaySection(Section):
    """A decay of the learning rate."""

    type: Results[Literal["cosine"]] = "cosine"


class OptimizationSection(Section):
    """What every diffusion stage is trained with."""

    epochs: Results[Epochs] = 50
    batch_size: Results[Batch] = 64
    learning_rate: Results[LearningRate] = 0.00003
    warmup_steps: Results[UpdateSteps] = 0
    scheduler: DecaySection | None = Field(None, description="cosine: the learning rate falls to 0 over `epochs`")
    optimizer: Results[Literal["AdamW"]] = "AdamW"
    weight_decay: Results[Weight] = 0.1
    max_grad_norm: Results[Factor | None] = 0.5
    ema_decay: Results[ShareOrNone] = 0.999
    eval_interval: Results[Epochs] = 5
    sample_interval: Output[Epochs] = 10


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name.lower()):
        raise ValueError(f"{name!r} is not a device: write auto, cpu, cuda or cuda:NUMBER")
    return name.lower()


Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class TrainingSection(OptimizationSection):
    """The training of the stage that the config is for."""

    seed: Results[Seed] = 42
    train_split: Results[Share] = 0.8
    split_seed: Results[Seed] = 42
    num_workers: Speed[Annotated[int, NUMBER, Field(ge=0, le=256)]] = Field(
        8, description="threads that read pictures ahead of the encoder; 0: none"
    )
    shuffle: Results[bool] = True
    steps_per_epoch: Annotated[Results[UpdateSteps | None], AddedLater()] = Field(
        None, ge=1, description="steps of an epoch, each on another batch; one pass over the latents if empty"
    )
    validation_latents: Annotated[Results[Samples | None], AddedLater()] = Field(
        None, description="held-out latents that the validation losses are the mean of; all of them if empty"
    )
    save_interval: Output[Epochs] = Field(99999, description="epochs between kept epoch_NNN checkpoints")
    latest_interval: Output[Epochs] = Field(1, description="epochs between writes of the resumable checkpoint")
    trackers: Output[tuple[Tracker, ...]] = Field(
        (), description="experiment trackers that the figures of the training also go to"
    )
    tracker_dir: Output[Place] = Field("trackers", description="folder of this machine that trackers write to")
    log_interval: Output[UpdateSteps] = Field(50, ge=1, description="steps between two points of the trackers")
    accumulation_steps: Speed[Few] = Field(
        1, description="micro-batches into which each process splits its share of a batch"
    )
    use_amp: Results[bool] = True
    device: Speed[Annotated[str, AfterValidator(_device)]] = "auto"
    processes: Speed[ProcessCount] = Field(
        1, description="processes of this machine that work on a stage together; auto: one for each GPU, on a CPU one"
    )
    loss: LossSection = LossSection()

    @field_validator("trackers")
    @classmethod
    def _without_repeats(cls, trackers: tuple[Tracker, ...]) -> tuple[Tracker, ...]:
        return tuple(dict.fromkeys(trackers))

    @field_validator("tracker_dir")
    @classmethod
    def _require_local(cls, place: str) -> str:
        if is_remote(place):
            raise ValueError(f"{place} is an address: give a folder of this machine")
        return place


class DecoderTrainingSection(Section):
    """Further epochs in which the decoder alone learns, so that it draws well what a latent with errors means."""

    epochs: Results[Epochs] = 12
    learning_rate: Results[LearningRate] = 0.003
    least_noise: Results[Weight] = Field(
        0.1, description="the standard deviation of each latent's noise is drawn between this and most_noise"
    )
    most_noise: Results[Weight] = 0.6

    @model_validator(mode="after")
    def _is_a_range(self) -> "DecoderTrainingSection":
        if self.least_noise > self.most_noise:
            raise ValueError(f"least_noise {self.least_noise} is above most_noise {self.most_noise}: lower it")
        return self


class AutoencoderTrainingSection(Section):
    """The training of the autoencoder."""

    epochs: Results[Epochs] = 50
    batch_size: Results[Batch] = 16
    learning_rate: Results[LearningRate] = 0.0001
    weight_decay: Results[Weight] = 0.01
    segmentation_weight: Results[Weight] = 0.2
    latent_noise: Results[Weight] = Field(
        0.1, description="standard deviation of the noise added to the latent in training"
    )
    decoder: Annotated[DecoderTrainingSection | None, AddedLater()] = Field(
        None, description="further training of the decoder with the encoder frozen; none if empty"
    )


class PrerequisitesSection(Section):
    """How to make what Stage 3 starts from, where the config names no checkpoints."""

    seed: Results[Seed] = 42
    loss: LossSection = LossSection()
    autoencoder: AutoencoderTrainingSection | None = AutoencoderTrainingSection()
    stage1: OptimizationSection | None = OptimizationSection(epochs=500, learning_rate=0.0002)
    stage2: OptimizationSection | None = OptimizationSection(epochs=100, learning_rate=0.00005)
