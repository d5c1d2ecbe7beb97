"""The config of a pipeline that stands alone: what its folder says is enough to draw with it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.checkpoints.diffusers_folders import pipeline_steps, sample_size
from core.checkpoints.imported_models import imported_settings
from core.config.experiment import ExperimentConfig
from core.config.loading import config_of
from core.inputs.locations import Location
from core.records.input_files import local_path
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection

_NAME = "model"


def pipeline_config(folder: Location, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The config of the model in a folder that diffusers or `tasks.export` wrote, with `key.path=value` overrides.

    The folder is Stage 2 and the autoencoder; networks, schedule, size of layouts and steps of the sampler are those
    that it names. It has no layouts and no audit. Raises InputError for a model that cannot be used, and for a folder
    that does not say how large its layouts are.
    """
    local = local_path(folder, ArtifactsSection())

    def complete(draft: ExperimentConfig) -> dict[str, Any]:
        values = imported_settings(draft)
        if "image_size" not in draft.dataset.model_fields_set:
            values["dataset.image_size"] = _image_size(folder, local, values)
        if "num_steps" not in draft.rounds.bad_latents.model_fields_set:
            steps = pipeline_steps(local) or draft.rounds.bad_latents.num_steps
            values["rounds.bad_latents.num_steps"] = min(steps, values.get("scheduler.num_steps", steps))
        return values

    data = {
        "experiment": {"name": _NAME},
        "diffusion": {"stage2_checkpoint": str(folder)},
        "autoencoder": {"checkpoint": str(folder)},
        "dataset": {},
        "audit": None,
    }
    return config_of(data, f"of {folder}", overrides, complete)


def _image_size(folder: Location, local: Path, values: dict[str, Any]) -> int:
    size, halvings = sample_size(local), values.get("autoencoder.downsampling_steps")
    if size is None or halvings is None:
        raise InputError(
            f"{folder} does not say how large its layouts are: its UNet's config.json has no sample_size of a square; "
            "give --config CONFIG too, or --set dataset.image_size=SIDE"
        )
    return int(size * 2**halvings)
