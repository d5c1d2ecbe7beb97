"""The rounds: what each is made from, where it lives, and the record that says it exists."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from core.artifacts import round_folder
from core.config import ExperimentConfig, save_config
from core.prerequisites import with_prerequisites
from core.records import code_version, create_record, describe_inputs, folder_entries, read_record, refuse_difference
from core.seeding import derive_seed

log = logging.getLogger(__name__)

ROUND_RECORD = "round.json"


@dataclass(frozen=True)
class Round:
    """One pass of generate, retrain, continue: its number, folder, config and the model that generates.

    `record` is the finished round's record, None while the round is to be done.
    """

    number: int
    folder: Path
    config: ExperimentConfig
    generator: str
    seed: int
    made_from: dict[str, Any]
    record: dict[str, Any] | None

    @property
    def config_path(self) -> Path:
        """The round's own config file, with which each of its tasks can be run alone."""
        return self.folder / "config.yaml"

    def bad_latents_options(self) -> dict[str, Any]:
        """Arguments of generate-bad-latents."""
        return {
            "manifest": Path(self.config.dataset.manifest),
            "autoencoder_checkpoint": Path(self.config.autoencoder.checkpoint),
            "diffusion_checkpoint": Path(self.generator),
            "diffusion_config": self.config_path,
            "output_dir": self.folder / "bad_latents",
            **self.config.rounds.bad_latents.model_dump(),
            "seed": self.seed,
            "device": self.config.training.device,
            "held_out": False,
        }

    def discriminator_options(self) -> dict[str, Any]:
        """Arguments of retrain-discriminator, on the round's own real and bad latents."""
        return {
            "real_latents": self.folder / "bad_latents" / "real_latents_all.pt",
            "fake_latents": self.folder / "bad_latents" / "bad_latents_all.pt",
            "output_dir": self.folder / "discriminator",
            **self.config.rounds.discriminator.model_dump(),
            "seed": self.seed,
            "device": self.config.training.device,
        }


def open_round(config: ExperimentConfig, number: int) -> Round:
    """Round `number` (from 1) of the experiment, as it is or is to be made.

    Bad latents of round 1 come from Stage 1, of later rounds from the end of the round before, whose epoch
    count, optimizer and EMA go on. Raises InputError for a missing prerequisite, or if the round was made from
    another config or parent.
    """
    config = with_prerequisites(config)
    folder = round_folder(config, number)
    inputs = {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
    }
    values: dict[str, Any] = {
        "experiment.save_path": str(folder / "stage3"),
        "discriminator.checkpoint": str(folder / "discriminator" / "discriminator_best.pt"),
        "training.epochs": config.rounds.epochs_per_round,
    }
    if number == 1:
        generator = config.required("diffusion.stage1_checkpoint")
        inputs |= {"stage1": generator, "stage2": config.required("diffusion.stage2_checkpoint")}
    else:
        parent = round_folder(config, number - 1)
        generator = str(_latest(parent, config))
        inputs["parent"] = str(parent / ROUND_RECORD)
        values["diffusion.stage3_checkpoint"] = generator
        values["training.epochs"] += read_record(parent / ROUND_RECORD)["metrics"]["epoch"]
    made_from = describe_inputs("round", inputs, _settings(config)) | {"round": number}
    record = read_record(folder / ROUND_RECORD) if (folder / ROUND_RECORD).exists() else None
    if record is not None:
        refuse_difference(record, made_from, folder)
        log.info("round %d: done already (%s)", number, folder)
    seed = derive_seed(config.training.seed, "round", number) % 2**31
    opened = Round(number, folder, config.with_values(values), generator, seed, made_from, record)
    if record is None:
        save_config(opened.config, opened.config_path)
    return opened


def close_round(
    opened: Round,
    bad_latents: dict[str, Any],
    discriminator: dict[str, Any],
    stage3: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The round's record, created last and once, after which the round exists."""
    record = opened.made_from | {
        "folder": str(opened.folder),
        "experiment": opened.config.experiment.name,
        "config_sha256": _digest(opened.made_from["settings"]),
        "seeds": {"training": opened.config.training.seed, "round": opened.seed},
        "metrics": {
            "discriminator_val_acc": discriminator["metrics"]["val_acc"],
            "bad_latent_std": bad_latents["metrics"]["bad_latent_std"],
            **stage3["metrics"],
        },
        "seconds": round(seconds, 1),
        "outputs": folder_entries(opened.folder),
        "code": code_version(),
    }
    create_record(record, opened.folder / ROUND_RECORD)
    return record


def round_table(records: list[dict[str, Any]]) -> str:
    """One row a round, and where everything lies."""
    columns = {
        "D val acc": "discriminator_val_acc",
        "viability before": "viability_before",
        "after": "viability_after",
        "noise": "val_noise_loss",
        "segmentation": "val_segmentation_loss",
        "perceptual": "val_perceptual_loss",
    }
    rows = [
        {"round": record["round"], "epoch": record["metrics"]["epoch"]}
        | {title: record["metrics"].get(name) for title, name in columns.items()}
        | {"seconds": record["seconds"], "artefacts": record["folder"]}
        for record in records
    ]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep="")


def _latest(folder: Path, config: ExperimentConfig) -> Path:
    return folder / "stage3" / "checkpoints" / f"{config.experiment.name}_checkpoint_latest.pt"


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """What a round's result depends on besides its inputs; how many rounds there will be does not count."""
    settings = config.describing_model()
    del settings["rounds"]["count"], settings["prerequisites"], settings["training"]["epochs"]
    return settings


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
