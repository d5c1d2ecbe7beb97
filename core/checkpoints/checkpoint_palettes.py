"""What checkpoints say of the palette of their layouts, and the refusal of those that are of another one."""

from collections.abc import Mapping
from typing import Any

from core.config.experiment import ExperimentConfig
from core.data.palette import DEFAULT_PALETTE, Palette
from core.data.palette_file import read_palette
from core.inputs import state_form as form
from core.inputs.locations import Location
from core.runtime.errors import InputError

# The key in the config of a checkpoint. Those of the default palette do not have it.
PALETTE_KEY = "palette"
_LONGEST_ENTRY = 80


def palette_setting(palette: Palette) -> dict[str, Any]:
    """What the config of a checkpoint says of the palette of its layouts; nothing of the default one."""
    return {} if palette == DEFAULT_PALETTE else {PALETTE_KEY: _entries(palette)}


def refuse_other_palette(saved_config: Mapping[str, Any], config: ExperimentConfig, path: Location) -> None:
    """InputError if an autoencoder of the project was trained on layouts in another palette than the config's."""
    saved, wanted = saved_config.get(PALETTE_KEY, _entries(DEFAULT_PALETTE)), _entries(read_palette(config))
    if saved == wanted:
        return
    place = config.dataset.palette
    named = "the project's own palette" if place is None else f"dataset.palette {place}"
    remedy = "give an autoencoder and a palette that belong together, or leave autoencoder.checkpoint out to train one"
    if not isinstance(saved, list):
        raise InputError(f"autoencoder checkpoint {path} has the palette {form.kind_of(saved)}: {remedy}")
    if len(saved) != len(wanted):
        raise InputError(f"autoencoder checkpoint {path} has {len(saved)} classes, {named} has {len(wanted)}: {remedy}")
    index = next(index for index, (before, now) in enumerate(zip(saved, wanted, strict=True)) if before != now)
    before, now = (str(entries[index])[:_LONGEST_ENTRY] for entries in (saved, wanted))
    raise InputError(
        f"autoencoder checkpoint {path} was trained with another palette: its class {index} is {before}, that of "
        f"{named} is {now}: {remedy}"
    )


def refuse_palette_of_imginav(config: ExperimentConfig, path: Location) -> None:
    """InputError if a checkpoint of ImgiNav is to be used with another palette than the one that its models have."""
    if (palette := read_palette(config)) != DEFAULT_PALETTE:
        raise InputError(
            f"checkpoint {path} is of ImgiNav, whose models have the {len(DEFAULT_PALETTE)} classes and colours of "
            f"core/data/palette.py, and dataset.palette {config.dataset.palette} has {len(palette)} of its own: leave "
            "dataset.palette out, or give another model"
        )


def _entries(palette: Palette) -> list[list[Any]]:
    """Name and colour of each class."""
    return [[name, list(colour)] for name, colour in zip(palette.names, palette.colours, strict=True)]
