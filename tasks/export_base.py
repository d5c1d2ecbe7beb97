"""export-base: autoencoder and Stage 2 of a config as small files that a repository can hold."""

from collections.abc import Sequence
from pathlib import Path

from core.checkpoints.imported_models import load_experiment
from core.exports.base_files import write_base
from core.inputs.locations import Location, is_remote
from core.runtime.errors import InputError
from tasks.command_line import run_command, say


def export_base(config: Location, output_dir: Location, overrides: Sequence[str] = ()) -> str:
    """Write the finished autoencoder and Stage 2 of a config as .safetensors, with a model card and their digests."""
    if is_remote(output_dir):
        raise InputError(f"--output_dir {output_dir} is in a bucket: give a folder of this machine")
    names = write_base(load_experiment(config, overrides), config, Path(output_dir))
    return "\n".join(str(Path(output_dir, name)) for name in names)


if __name__ == "__main__":
    say(run_command(export_base))
