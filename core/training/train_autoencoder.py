"""Training of the autoencoder, which all later stages use frozen."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.optim import AdamW

from core.checkpoints.autoencoder_sizes import build_autoencoder
from core.checkpoints.checkpoint_palettes import palette_setting
from core.checkpoints.loading import load_checkpoint
from core.config.experiment import ExperimentConfig
from core.config.training_sections import AutoencoderTrainingSection
from core.data.layout_groups import VARIANTS
from core.data.layouts import LayoutPictures, Pictures
from core.data.manifest import read_manifest, split_by_layout
from core.data.palette import UNLABELLED, Palette
from core.data.palette_file import read_palette
from core.inputs.state_form import Source, checked_optimizer, checked_weights, mapping, rows
from core.inputs.tensor_files import save_tensors
from core.networks.autoencoder import Autoencoder, autoencoder_loss
from core.records.artifacts import prerequisites_location
from core.records.workspace import Workspace
from core.runtime import distributed
from core.runtime.batch_shares import Share
from core.runtime.errors import InputError
from core.runtime.files import atomic_write
from core.runtime.progress import EpochProgress
from core.runtime.seeding import derive_seed, generator
from core.storage.store import join
from core.trackers.tracking import TrackedStage, Tracking

BEST_NAME, LATEST_NAME = "autoencoder_checkpoint_best.pt", "autoencoder_checkpoint_latest.pt"


@dataclass
class _Run:
    """A training and its state."""

    model: Autoencoder
    optimizer: AdamW
    config: ExperimentConfig
    settings: AutoencoderTrainingSection
    palette: Palette
    device: torch.device
    history: list[dict[str, float]]

    def checkpoint(self) -> dict[str, Any]:
        """The content of the best checkpoint."""
        sizes = self.config.autoencoder.model_dump(exclude={"checkpoint", "frozen"})
        return {
            "state_dict": self.model.state_dict(),
            "config": sizes | {"image_size": self.config.dataset.image_size} | palette_setting(self.palette),
        }

    def state(self) -> dict[str, Any]:
        """The content of the latest checkpoint, from which a run resumes."""
        return self.checkpoint() | {
            "optimizer_state": self.optimizer.state_dict(),
            "training_history": self.history,
        }


def train_autoencoder(config: ExperimentConfig, workspace: Workspace) -> dict[str, float]:
    """Metrics of the best epoch after writing the checkpoints and `autoencoder_metrics.csv` to the workspace.

    `pixel_agreement` is the share of labelled validation pixels whose class the segmentation head predicts, at the
    working size. `object_agreement` is the same over pixels that are not background. With
    `prerequisites.autoencoder.decoder`, the decoder alone is then trained further. Resumes from
    `autoencoder_checkpoint_latest.pt` if it exists.
    """
    layouts = read_manifest(config.required("dataset.manifest"), [config.dataset.outputs.rgb], config.dataset)
    splits = split_by_layout(layouts, config.training.train_split, config.training.split_seed)
    palette, folder = read_palette(config), workspace.folder
    training, validation = (
        LayoutPictures(split, config.dataset.outputs.rgb, config.dataset.image_size, palette) for split in splits
    )
    run = _start(config, palette, folder)
    settings = run.settings
    batch_size = min(settings.batch_size, len(training))
    distributed.require_divisible(
        batch_size,
        "prerequisites.autoencoder.batch_size",
        f"set it to a multiple of {distributed.size()}, at most {len(training)}",
    )
    steps = len(training) // batch_size
    tracking = Tracking(TrackedStage(config, "autoencoder", join(prerequisites_location(config), "autoencoder")))
    progress = EpochProgress("autoencoder", _epochs(settings), steps, len(run.history))
    with tracking.open(progress.done), progress:
        for epoch in range(len(run.history) + 1, _epochs(settings) + 1):
            row = {"epoch": epoch, "train_loss": _train_epoch(run, training, epoch, batch_size, steps, progress)}
            row |= _validate(run, validation, batch_size)
            is_best = row["val_loss"] < min((old["val_loss"] for old in run.history), default=float("inf"))
            if is_best and workspace.writes:
                save_tensors(run.checkpoint(), folder / BEST_NAME)
            run.history.append(row)
            tracking.log(row, progress.done)
            workspace.keep(LATEST_NAME, run.state, f"epoch {epoch}")
            progress.epoch(epoch, {name: row[name] for name in row if name != "epoch"})
    workspace.settle()
    if workspace.writes:
        save_tensors(run.state(), folder / LATEST_NAME)
        with atomic_write(folder / "autoencoder_metrics.csv") as file:
            pd.DataFrame(run.history).to_csv(file, index=False)
    best = min(run.history, key=lambda row: row["val_loss"])
    return {name: best[name] for name in ("epoch", "val_loss", "pixel_agreement", "object_agreement")}


def _start(config: ExperimentConfig, palette: Palette, folder: Path) -> _Run:
    """A new training, or the one of the latest checkpoint in `folder`."""
    settings: AutoencoderTrainingSection = config.required("prerequisites.autoencoder")
    device = distributed.own_device(config.training.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.required("prerequisites.seed"), "autoencoder weights"))
        model = build_autoencoder(config.autoencoder, palette)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch omits memory_format
    optimizer = AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    history: list[dict[str, float]] = []
    latest = folder / LATEST_NAME
    if distributed.from_first(latest.exists()):
        history = _resume(model, optimizer, latest, _epochs(settings))
    return _Run(model, optimizer, config, settings, palette, device, history)


def _epochs(settings: AutoencoderTrainingSection) -> int:
    """Epochs of the whole training: those of encoder and decoder, then those of the decoder alone."""
    return settings.epochs + (settings.decoder.epochs if settings.decoder is not None else 0)


def _resume(model: Autoencoder, optimizer: AdamW, path: Path, epochs: int) -> list[dict[str, float]]:
    """History of the state at `path`, after loading its weights and moments; InputError if it has another form."""
    source = Source("autoencoder checkpoint", path, "put back an unaltered copy of it")
    checkpoint = load_checkpoint(path, "autoencoder checkpoint")
    state = mapping(checkpoint, ("optimizer_state", "training_history"), "the file", source)
    history = rows(state["training_history"], None, "training_history", source)
    if not 1 <= len(history) <= epochs or any("val_loss" not in row for row in history):
        raise source.error("training_history", f"does not have 1 to {epochs} epochs with a val_loss each")
    weights = checked_weights(checkpoint["state_dict"], model, path)
    moments = checked_optimizer(state["optimizer_state"], optimizer, model, len(history), "optimizer_state", source)
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)
    return history


def _train_epoch(
    run: _Run, pictures: LayoutPictures, epoch: int, batch_size: int, steps: int, progress: EpochProgress
) -> float:
    """Mean loss of the epoch's `steps` updates; past `settings.epochs` only the decoder learns."""
    settings = run.settings
    decoder = settings.decoder if epoch > settings.epochs else None
    rng = generator(run.config.required("prerequisites.seed"), "autoencoder epoch", epoch)
    order = torch.randperm(len(pictures), generator=rng)
    variants = torch.zeros(len(pictures), dtype=torch.long)
    if run.config.dataset.augment:
        variants = torch.randint(len(VARIANTS) + 1, (len(pictures),), generator=rng)
    total, share = torch.zeros((), device=run.device), Share(distributed.rank(), distributed.size())
    own = share.rows(batch_size).positions
    run.model.train()
    for indices in torch.split(order[: steps * batch_size], batch_size):
        mine = indices[own]
        inputs = pictures.batch(mine.tolist(), variants[mine].tolist(), run.device)
        rgb = inputs.rgb.to(memory_format=torch.channels_last)
        # Noise on the latent makes the decoder robust to the small errors of generated latents.
        if decoder is None:
            rate = _learning_rate(settings.learning_rate, progress.done, settings.epochs * steps)
            latent = run.model.encoder(rgb)
            noise = torch.full((batch_size, 1, 1, 1), settings.latent_noise)
        else:
            first = settings.epochs * steps
            rate = _learning_rate(decoder.learning_rate, progress.done - first, decoder.epochs * steps)
            run.model.encoder.eval()
            latent = run.model.encode(rgb)
            noise = torch.empty(batch_size, 1, 1, 1).uniform_(decoder.least_noise, decoder.most_noise, generator=rng)
        # Drawn for the whole batch, whatever part of it is this process's.
        noise = noise * torch.randn(batch_size, *latent.shape[1:], generator=rng)
        latent = latent + noise[own].to(run.device)
        loss = _loss(run, latent, inputs)
        if not torch.isfinite(loss):
            raise InputError(
                f"autoencoder: the loss is {loss.item()} in epoch {epoch}; nothing was updated: lower "
                "prerequisites.autoencoder.learning_rate"
            )
        _update(run, loss, rate)
        total += loss.detach()
        progress.step()
    return (distributed.averaged([total])[0] / steps).item()


def _update(run: _Run, loss: Tensor, learning_rate: float) -> None:
    """One step of the optimizer along the clipped gradient of `loss`."""
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate
    run.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    distributed.average_gradients(list(run.model.parameters()))
    torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
    run.optimizer.step()


def _learning_rate(highest: float, step: int, steps: int) -> float:
    """The rate at `step` of `steps`: 50 steps of linear warm-up and a cosine to 0. A constant rate breaks walls."""
    return highest * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(run: _Run, latent: Tensor, pictures: Pictures) -> Tensor:
    mse, cross_entropy = autoencoder_loss(run.model.decoder(latent), pictures.rgb, pictures.classes)
    if run.model.training:  # in a share of a batch; a mean over its labelled pixels
        cross_entropy = distributed.weighted(cross_entropy, (pictures.classes != UNLABELLED).sum().double())
    return mse + run.settings.segmentation_weight * cross_entropy


@torch.no_grad()
def _validate(run: _Run, pictures: LayoutPictures, batch_size: int) -> dict[str, float]:
    """Loss and agreements over all validation pictures."""
    run.model.eval()
    loss, right, labelled, right_objects, objects = 0.0, 0, 0, 0, 0
    for indices in distributed.own(torch.split(torch.arange(len(pictures)), batch_size)):
        inputs = pictures.batch(indices.tolist(), device=run.device)
        latent = run.model.encode(inputs.rgb)
        loss += _loss(run, latent, inputs).item() * len(indices) / len(pictures)
        agree = run.model.decoder(latent).logits.argmax(1) == inputs.classes
        known = inputs.classes != UNLABELLED
        object_ = known & (inputs.classes != run.palette.background)
        right, labelled = right + int((agree & known).sum()), labelled + int(known.sum())
        right_objects, objects = right_objects + int((agree & object_).sum()), objects + int(object_.sum())
    counts = torch.tensor([loss, right, labelled, right_objects, objects], dtype=torch.float64)
    loss, right, labelled, right_objects, objects = distributed.summed([counts])[0].tolist()
    return {
        "val_loss": loss,
        "pixel_agreement": right / max(1, labelled),
        "object_agreement": right_objects / max(1, objects),
    }
