"""The UNet of a config: diffusers' own, or ImgiNav's."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from diffusers import UNet2DModel

from core.config.model_sections import UNetSection
from core.networks.imginav_unet import ImgiNavUNet
from core.runtime.batch_shares import with_share_dropout

# Called with xt [B, C, h, w], t [B] and return_dict=False, both return a tuple of their prediction [B, C, h, w].
UNet: TypeAlias = UNet2DModel | ImgiNavUNet


# Of the config of a UNet2DModel, what says nothing of the network.
_NOT_OF_THE_NETWORK = ("sample_size", "dropout")


def is_network_of(section: UNetSection, config: Mapping[str, Any]) -> bool:
    """Whether the sizes of the section give the network of `config`, the config.json of a UNet2DModel; dropout is free.

    `config` must be one that diffusers can build.
    """
    if section.type != "UNet2DModel" or section.config is not None:
        return False
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        pair: list[Any] = [build_unet(section, 1), UNet2DModel.from_config(config)]
    ours, theirs = ({**json.loads(unet.to_json_string()), **dict.fromkeys(_NOT_OF_THE_NETWORK)} for unet in pair)
    return all(ours[key] == value for key, value in theirs.items() if not key.startswith("_"))


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
