"""Checkpoints that commands refuse, as `given.pt` in a row's folder."""

from collections.abc import Callable
from typing import Any

from core.checkpoints.loading import load_checkpoint
from core.inputs.tensor_files import save_tensors
from tests.sweep.ground import Ground

# Gives the file of this name in a row's folder to a command.
Use = Callable[[str], Callable[[Ground], Any]]


def with_file(use: Use, content: bytes | str) -> Callable[[Ground], Any]:
    """A file of this content in place of a checkpoint."""

    def give(ground: Ground) -> Any:
        ground.file("given.pt", content)
        return use("given.pt")(ground)

    return give


def with_smaller_weights(use: Use) -> Callable[[Ground], Any]:
    """The tiny experiment's Stage 2 with the first channel of each weight."""

    def give(ground: Ground) -> Any:
        made = load_checkpoint(ground.config.required("diffusion.stage2_checkpoint"), "checkpoint")
        weights = {key: value[:1] for key, value in made["state_dict"].items()}
        save_tensors(made | {"state_dict": weights}, ground.folder / "given.pt")
        return use("given.pt")(ground)

    return give
