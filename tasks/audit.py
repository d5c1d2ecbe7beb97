"""audit: how good layouts of a model, or layouts in files, are by measures that no training optimises."""

from collections.abc import Sequence
from json import dumps
from typing import Any

from core.audit.audit import at_image_size, audit_checkpoint, audit_manifest, audit_stage
from core.checkpoints.imported_models import load_experiment, model_place
from core.checkpoints.strength import FromStart, choose_start
from core.inputs.locations import Location
from core.inputs.section import Samples, Seed, Side, Strength
from core.records.stage_result import StageResult
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command, say
from tasks.stage_task import stage_task


@stage_task("audit")
def audit(
    config: Location,
    checkpoint: Location,
    output_dir: Location,
    num_samples: Samples = 1000,
    seed: Seed = 7,
    *,
    from_start: FromStart | None = None,
    artifacts: ArtifactsSection | None = None,
) -> StageResult:
    """Generate layouts with a checkpoint from held-out seeds, measure them, and write the figures to `output_dir`."""
    experiment = load_experiment(config, artifacts=artifacts, diffusion=[checkpoint])
    record = audit_stage(experiment, checkpoint, output_dir, num_samples, seed, from_start)
    return {"output_dir": str(output_dir), "metrics": record["metrics"], "seconds": record["seconds"]}


def audit_now(
    config: Location,
    checkpoint: Location | None = None,
    start: Location | None = None,
    strength: Strength | None = None,
    layouts: Location | None = None,
    real: Location | None = None,
    image_size: Side | None = None,
    num_samples: Samples | None = None,
    seed: Seed | None = None,
    json: bool = False,
    overrides: Sequence[str] = (),
) -> str:
    """Audit the layouts that a checkpoint generates, or the layout pictures of a manifest. Nothing is written.

    With `strength` the model has the weights start + strength * (checkpoint - start); the start is the config's Stage 2
    without `start`.
    Pictures need no model. They are compared with the real pictures of the manifest `real`, or of the config's, at
    `image_size`, or the config's.
    """
    if (checkpoint is None) == (layouts is None):
        raise InputError("give either --checkpoint, a model to audit, or --layouts, a manifest of pictures")
    if checkpoint is not None and (real is not None or image_size is not None):
        raise InputError("--real and --image_size go with --layouts: a checkpoint is audited as its config says")
    if layouts is not None and (start is not None or strength is not None):
        raise InputError("--start and --strength go with --checkpoint: pictures have no weights")
    checkpoint, start = (place and model_place(place) for place in (checkpoint, start))
    experiment = load_experiment(config, overrides, diffusion=[checkpoint, start])
    section = experiment.required("audit")
    seed = section.seed if seed is None else seed
    if checkpoint is not None:
        experiment = with_prerequisites(experiment)
        from_start = choose_start(experiment, start, strength)
        found = audit_checkpoint(experiment, checkpoint, num_samples or section.num_samples, seed, from_start)
    else:
        assert layouts is not None
        if real is None and experiment.dataset.manifest is None:
            experiment = with_prerequisites(experiment)
        found = audit_manifest(at_image_size(experiment, image_size), layouts, seed, real)
    figures = found.as_json()
    return dumps(figures) if json else _table(figures)


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{figures['layouts']} layouts, 95 % intervals:"]
    for name, (low, high) in figures["intervals"].items():
        shown = ["-" if value is None else f"{value:.4f}" for value in (figures[name], low, high)]
        lines.append(f"  {name:<22} {shown[0]:>8}  [{shown[1]}, {shown[2]}]")
    lines.append(
        f"  of held-out real layouts {figures['held_out_viable']:.4f} are viable, {figures['judge_held_out']:.4f} sound"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    say(run_command(audit_now))
