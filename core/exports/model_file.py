"""One diffusion model as a file to keep: its weights alone, as the base has them."""

from pathlib import Path
from typing import Any

from core.checkpoints.checkpoint_palettes import palette_setting
from core.checkpoints.loading import export_checkpoint, saved_settings
from core.checkpoints.strength import FromStart, load_model, model_inputs
from core.config.experiment import ExperimentConfig
from core.data.palette_file import read_palette
from core.inputs.locations import Location, is_remote
from core.inputs.safetensors_files import SUFFIX
from core.records.input_files import describe_input, local_path
from core.runtime.errors import InputError
from core.runtime.files import require_writable

# Of the settings of a training, those that say what its model is and what it draws.
KEPT_SETTINGS = ("autoencoder", "dataset", "scheduler", "unet")


def write_model(config: ExperimentConfig, checkpoint: Location, from_start: FromStart | None, output: Location) -> Path:
    """The new file `output`, which `diffusion.stage2_checkpoint` accepts, after writing the model to it.

    The model is that of `checkpoint`, or one at a strength between a start and it; the file's settings then name both
    by digest. Raises InputError, before anything is written, if `output` exists or is no path of a `.safetensors` file
    on this machine, and if a checkpoint does not fit the config.
    """
    path = _new_file(output)
    paths = {name: local_path(place, config.artifacts) for name, place in model_inputs(checkpoint, from_start).items()}
    saved = saved_settings(paths["diffusion"], config)
    settings: dict[str, Any] = {name: saved[name] for name in KEPT_SETTINGS if name in saved}
    unet = load_model(paths, from_start, config)
    # A checkpoint that was made elsewhere does not say in our words what the config has from it.
    model = config.fingerprint()
    settings |= {name: model[name] for name in ("unet", "scheduler")}
    settings |= palette_setting(read_palette(config))
    if from_start is not None:
        ends = {"start": paths["start"], "end": paths["diffusion"]}
        settings["made_from"] = {
            **{name: describe_input(path, name, config.artifacts)["sha256"] for name, path in ends.items()},
            "strength": from_start.strength,
        }
    require_writable(path.parent)
    export_checkpoint({f"unet_ema.{name}": value for name, value in unet.state_dict().items()}, settings, path)
    return path


def _new_file(output: Location) -> Path:
    if is_remote(output):
        raise InputError(f"--output {output} is in a bucket: give a file of this machine")
    path = Path(output)
    if path.suffix != SUFFIX:
        raise InputError(f"--output {path} is not called {SUFFIX}: give a name that ends so")
    if path.exists() or path.is_symlink():
        raise InputError(f"--output {path} exists already, and nothing is overwritten: give a new name")
    return path
