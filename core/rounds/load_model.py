"""A model to draw with in Python, from whatever a person names."""

from collections.abc import Sequence

from core.generation.layout_model import LayoutModel, load_layout_model
from core.inputs.locations import Location
from core.rounds.model_source import find_model


def load_model(path: Location, config: Location | None = None, overrides: Sequence[str] = ()) -> LayoutModel:
    """The model at `path`, all that `find_model` takes, with settings changed as by `--set`; errors as there."""
    named = find_model(path, config, overrides)
    return load_layout_model(named.config, named.checkpoint)
