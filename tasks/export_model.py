"""export-model: one diffusion model as a small file, also one between two checkpoints or beyond."""

from collections.abc import Sequence

from core.inputs.locations import Location
from core.inputs.section import Strength
from core.models.imported_models import load_experiment
from core.models.strength import choose_start
from core.training.model_file import write_model
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command, say


def export_model(
    config: Location,
    checkpoint: Location,
    output: Location,
    start: Location | None = None,
    strength: Strength | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Write the model of a checkpoint, or one at a strength between a start and it, as a .safetensors file."""
    experiment = with_prerequisites(load_experiment(config, overrides, diffusion=[checkpoint, start]))
    return str(write_model(experiment, checkpoint, choose_start(experiment, start, strength), output))


if __name__ == "__main__":
    say(run_command(export_model))
