"""What Stage 3 measures and shows before its first epoch and after its last."""

from typing import Any

import numpy as np
import torch

from core.models.pictures import GRID_SAMPLES, save_grid, save_sample_grid
from core.training.diffusion_stage import final_metrics
from core.training.file_names import extremes_name, real_layouts_name
from core.training.metrics import viability_scores
from core.training.train_state import StartFigures
from core.training.training_step import DiffusionTraining

# Viability counts as lasting if it held in this many last evaluations of a round.
SATURATION_EVALUATIONS = 3
# Layouts in the picture of those with the best scores, and of those with the worst.
_EXTREMES = 8


def measure_start(run: DiffusionTraining) -> StartFigures:
    """The figures before the first epoch, after the pictures of the start and of real layouts are written."""
    figures: StartFigures = {
        "epoch": run.state.epoch,
        "viability_score": run.evaluation.viability(),
        "noise_loss": run.validate()["noise"],
    }
    run.state.start = figures
    run.write_samples()
    if run.workspace.writes:
        _write_real_layouts(run)
    return figures


def _write_real_layouts(run: DiffusionTraining) -> None:
    path = run.workspace.folder / real_layouts_name(run.name)
    data = run.batches.validation
    count = min(GRID_SAMPLES, len(data))
    if data.pictures is None:
        save_sample_grid(data.latents.batch(torch.arange(count)), run.loss_models.decoder, path)
    else:
        save_grid(np.stack([data.pictures.rgb(index) for index in range(count)]), path)


def final_stage3_metrics(run: DiffusionTraining, start: StartFigures) -> dict[str, Any]:
    """The final metrics, after the picture of the layouts with the best and the worst scores is written."""
    state = run.state
    latents, scores = run.evaluation.generate_and_score()
    by_score = scores.argsort(descending=True, stable=True)
    extremes = latents[torch.cat([by_score[:_EXTREMES], by_score[-_EXTREMES:]])]
    if run.workspace.writes:
        save_sample_grid(extremes, run.loss_models.decoder, run.workspace.folder / extremes_name(run.name), _EXTREMES)
    viability = scores.mean().item()
    recent = viability_scores(state.history, start["epoch"])[-SATURATION_EVALUATIONS:]
    return {
        "epoch": state.epoch,
        "step": state.step,
        "first_epoch": start["epoch"],
        "viability_before": start["viability_score"],
        "viability_after": viability,
        "noise_before": start["noise_loss"],
        "viability_floor": min([*recent, viability]),
        "discriminator_weight": state.adversarial_weight,
        **final_metrics(run),
    }
