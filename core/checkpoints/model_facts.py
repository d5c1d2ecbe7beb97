"""What a checkpoint's file holds, for people: whose it is, and how many of its tensors a model uses."""

from pathlib import Path
from typing import NamedTuple

from torch import nn

from core.checkpoints.diffusers_folders import is_model_folder
from core.checkpoints.imginav_checkpoints import is_imginav_autoencoder, is_imginav_diffusion
from core.checkpoints.loading import find_checkpoint, load_checkpoint


class ModelFacts(NamedTuple):
    """Who wrote a checkpoint, the tensors of it that a model uses, the tensors in it, and the model's parameters."""

    made_by: str
    used: int
    tensors: int
    parameters: int


def model_facts(path: Path, model: nn.Module) -> ModelFacts:
    """The facts of `model`, which was loaded from the checkpoint at `path`; InputError if that is none any more.

    A model of diffusers uses every tensor of its folder, or is not loaded.
    """
    # Encoder and decoder may share their weights.
    used = len({value.data_ptr() for value in model.state_dict().values()})
    parameters = sum(value.numel() for value in model.parameters())
    path = Path(find_checkpoint(path))
    if is_model_folder(path):
        return ModelFacts("diffusers", used, used, parameters)
    checkpoint = load_checkpoint(path, "checkpoint")
    theirs = is_imginav_diffusion(checkpoint) or is_imginav_autoencoder(checkpoint)
    return ModelFacts("ImgiNav" if theirs else "this project", used, len(checkpoint["state_dict"]), parameters)
