"""The latents that the discriminator is trained on: the files of a class, and their latents as one tensor."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from core.data.latents import read_pool
from core.inputs.locations import Location, is_remote
from core.inputs.numpy_files import PACKED_SUFFIX, ConversionLog
from core.records.input_files import recorded_names
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join

# Endings of the files that hold latents.
_SUFFIXES = (".pt", PACKED_SUFFIX)


def read_latent_pool(files: Sequence[Path], path: Location) -> Tensor:
    """Latents [N, C, h, w] of the `files` found at `path`, each of one or more latents.

    InputError if their shapes differ or are not square, or if there are fewer than two latents.
    """
    parts, conversions = list[Tensor](), ConversionLog()
    for file in files:
        parts.append(read_pool(file, conversions))
        if parts[-1].shape[1:] != parts[0].shape[1:]:
            raise InputError(
                f"latents {file} have shape {list(parts[-1].shape[1:])}, others {list(parts[0].shape[1:])}: "
                "give latents of one autoencoder"
            )
    height, width = parts[0].shape[2:]
    if height != width or height < 2:
        raise InputError(
            f"latents {path} have shape {list(parts[0].shape[1:])}, the discriminator takes square ones of at least "
            "2x2: give other latents"
        )
    pool = torch.cat(parts)
    if len(pool) < 2:
        raise InputError(f"latents {path} hold {len(pool)} latent: training and validation need at least two")
    return pool


def pool_files(kind: str, location: Location, artifacts: ArtifactsSection) -> dict[str, Location]:
    """Inputs of the stage: the `.pt` or `.npy` file at `location`, or every such file in the folder at `location`."""
    if not is_remote(location) and not Path(location).exists():
        raise InputError(f"latents {location} do not exist: give a .pt or .npy file, or a folder of them")
    if _holds_latents(str(location)):
        return {kind: location}
    names = recorded_names(location, artifacts)
    if names is None:
        names = [file.name for file in open_store(location, artifacts).files() if "/" not in file.name]
    names = [name for name in names if _holds_latents(name)]
    if not names:
        raise InputError(f"folder {location} holds no .pt or .npy file: give a file or folder of latents")
    return {f"{kind} {name}": join(location, name) for name in names}


def _holds_latents(name: str) -> bool:
    """Whether a file of this name holds latents; the `._NAME` files that macOS adds to copied files do not."""
    return name.lower().endswith(_SUFFIXES) and not Path(name).name.startswith("._")
