"""The UNet of a config: diffusers' own, or ImgiNav's."""

from typing import TypeAlias

from diffusers import UNet2DModel

from core.config.model_sections import UNetSection
from core.networks.imginav_unet import ImgiNavUNet
from core.runtime.batch_shares import with_share_dropout

# Called with xt [B, C, h, w], t [B] and return_dict=False, both return a tuple of their prediction [B, C, h, w].
UNet: TypeAlias = UNet2DModel | ImgiNavUNet


def build_unet(section: UNetSection, latent_size: int) -> UNet:
    """Untrained UNet of the configured type and sizes: level i has base_channels * 2^i channels.

    `latent_size` is the side of the maps that it is called with.
    """
    if section.type == "Unet":
        return ImgiNavUNet(section)
    if section.config is not None:
        return with_share_dropout(UNet2DModel.from_config(section.config))
    levels = range(section.depth)
    attention = set(section.attention_at)
    down = tuple("AttnDownBlock2D" if level in attention else "DownBlock2D" for level in levels)
    up = tuple("AttnUpBlock2D" if level in attention else "UpBlock2D" for level in reversed(levels))
    unet = UNet2DModel(
        sample_size=latent_size,
        in_channels=section.in_channels,
        out_channels=section.out_channels,
        block_out_channels=tuple(section.base_channels * 2**level for level in levels),
        down_block_types=down,
        up_block_types=up,
        layers_per_block=section.num_res_blocks,
        norm_num_groups=section.norm_groups,
        dropout=section.dropout,
        time_embedding_dim=section.time_dim,
        add_attention=section.mid_attention,
        attention_head_dim=min(32, section.base_channels),
    )
    return with_share_dropout(unet)
