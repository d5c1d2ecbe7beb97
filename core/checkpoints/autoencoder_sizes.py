"""The sizes of the project's own autoencoder, as its checkpoints and exports name them."""

from typing import Annotated

from pydantic import Field

from core.config.model_sections import AutoencoderSection
from core.data.palette import Palette
from core.inputs.section import Section
from core.networks.autoencoder import Autoencoder, conv_autoencoder

# Bounds of sizes in a file: channels or the side of a map, and halvings of a map. No model exceeds them.
SavedSize = Annotated[int, Field(ge=1, le=2**16, strict=True)]
SavedHalvings = Annotated[int, Field(ge=1, le=16, strict=True)]


class AutoencoderSizes(Section):
    """The sizes in the config of an autoencoder's checkpoint."""

    latent_channels: SavedSize = 16
    base_channels: SavedSize = 32
    downsampling_steps: SavedHalvings = 4
    max_channels: SavedSize = 256


def build_autoencoder(section: AutoencoderSection | AutoencoderSizes, palette: Palette) -> Autoencoder:
    """Untrained autoencoder of the configured sizes, of layouts in the palette."""
    return conv_autoencoder(
        section.latent_channels, section.base_channels, section.downsampling_steps, section.max_channels, palette
    )
