"""export: one diffusion model in a form to give away or to start from, also one between two checkpoints or beyond."""

from collections.abc import Sequence

from core.checkpoints.strength import choose_start
from core.exports.exported_model import ExportRequest, Form, export_model, push_export
from core.exports.hub_upload import require_hub_access
from core.exports.model_file import write_model
from core.inputs.locations import Location
from core.inputs.section import Strength
from core.rounds.model_source import find_model, find_start
from core.runtime.errors import InputError
from tasks.command_line import run_command, say


def export(
    checkpoint: Location,
    config: Location | None = None,
    output_dir: Location | None = None,
    form: Form = "diffusers",
    output: Location | None = None,
    start: Location | None = None,
    strength: Strength | None = None,
    push: str | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Write a model to a folder, as a pipeline of diffusers or a checkpoint of ImgiNav, or to one .safetensors file.

    `checkpoint` is a file, with its `config`, or the folder or record of a finished round, or a run's folder. The
    folder `output_dir` gets the model in a `form` and a card, and `push` is a repository of the Hugging Face hub,
    ORGANISATION/MODEL, that gets the same files; the file `output` is one to start from here. With `strength` the
    model has the weights start + strength * (checkpoint - start); the start is the config's Stage 2 without `start`.
    """
    if (output_dir is None) == (output is None):
        raise InputError(
            "give either --output_dir, a folder for others, or --output, a .safetensors file to start from"
        )
    if output is not None and form != "diffusers":
        raise InputError("--form goes with --output_dir: --output writes a checkpoint of this project")
    if push is not None:
        if output_dir is None:
            raise InputError("--push goes with --output_dir, the folder whose files are uploaded")
        require_hub_access(push)
    model = find_model(checkpoint, config, overrides)
    if start is not None and strength is not None:
        start = find_start(start, model.config.artifacts)
    from_start = choose_start(model.config, start, strength)
    if output is not None:
        return str(write_model(model.config, model.checkpoint, from_start, output))
    assert output_dir is not None
    request = ExportRequest(model.checkpoint, output_dir, form, from_start, model.round_location)
    record = export_model(model.config, request)
    if push is None:
        return str(output_dir)
    return push_export(record, output_dir, model.config.artifacts, push)


if __name__ == "__main__":
    say(run_command(export))
