"""continue-stage-3: train the diffusion model further against the round's discriminator."""

from collections.abc import Sequence

from core.checkpoints.imported_models import load_experiment
from core.inputs.locations import Location
from core.records.artifacts import stage3_location
from core.records.stage_result import StageResult
from core.storage.store import ArtifactsSection
from core.training.continue_stage3 import continue_stage3 as train
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command, say
from tasks.stage_task import stage_task


@stage_task("continue-stage-3")
def continue_stage3(
    config: Location,
    resume: bool | None = None,
    overrides: Sequence[str] = (),
    *,
    recorded: bool = False,
    artifacts: ArtifactsSection | None = None,
) -> StageResult:
    """Train Stage 3 of a config up to its last epoch, from the latest checkpoint if there is one.

    Writes checkpoints, samples and metrics under `experiment.save_path`; returns the final metrics. Inside a round
    `recorded` is true: all files are published at the end, with a record.
    """
    experiment = with_prerequisites(load_experiment(config, overrides, artifacts))
    metrics = train(experiment, resume, recorded)
    return {"output_dir": stage3_location(experiment), "metrics": metrics}


if __name__ == "__main__":
    made = run_command(continue_stage3.fn)
    metrics = made["metrics"]
    say(
        f"epoch {metrics['epoch']}: viability {metrics['viability_before']:.3f} -> {metrics['viability_after']:.3f}, "
        f"validation loss {metrics['val_loss']:.4f} in {made['output_dir']}"
    )
