"""The folder of a finished generate-bad-latents with labelled latents, without a model that drew them."""

from pathlib import Path

import torch

from core.config.experiment import ExperimentConfig
from core.inputs.tensor_files import save_tensors
from core.labels.labelling import LABELLED_NAME
from core.models.labelled_latents import LabelledLatents
from core.records.stage_run import run_stage


def name_of(sample: int) -> str:
    """Path of a generated latent in the folder: odd samples are viable."""
    kind = "viable" if sample % 2 else "bad"
    return f"{kind}_latents/{kind}_latent_{sample:05d}.pt"


def make_labelled(
    config: ExperimentConfig,
    folder: Path,
    *,
    count: int = 200,
    shape: tuple[int, int, int] = (4, 8, 8),
    autoencoder: Path | None = None,
    judged: bool = True,
) -> Path:
    """`folder` with `count` small generated latents of this shape; `judged`: with the file of all of them."""

    def work(workspace, paths):
        latents = torch.zeros(count, *shape)
        for sample in range(count):
            save_tensors(latents[sample].clone(), workspace.folder / name_of(sample))
        if judged:
            fifth, kept = torch.zeros(count, dtype=torch.long), torch.zeros(count, 0, dtype=torch.bool)
            labelled = LabelledLatents(latents, torch.arange(count) % 2 == 1, fifth, (), kept)
            labelled.save(workspace.folder / LABELLED_NAME)
        return {"real_latents": 1, "bad_latents": count // 2, "bad_latent_std": 1.0}

    inputs = {"autoencoder": autoencoder or config.autoencoder.checkpoint}
    run_stage("bad latents", folder, inputs, {}, work, config.artifacts)
    return folder
