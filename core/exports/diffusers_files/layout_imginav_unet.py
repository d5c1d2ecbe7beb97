# SPDX-License-Identifier: Apache-2.0
"""A UNet over latents with the names of ImgiNav's weights.

Its timestep enters two linear layers as a plain number, every level halves the map with a convolution, and there is no
attention.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import nn
from torch.nn import functional as F


def group_norm(most_groups: int, channels: int) -> nn.GroupNorm:
    """Group norm with the largest number of groups, up to `most_groups`, that divides the channels."""
    groups = next(count for count in range(min(most_groups, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)


@dataclass
class LayoutUNetOutput(BaseOutput):
    """`sample`: the predicted noise [B, C, h, w]."""

    sample: torch.Tensor


class LayoutUNet(ModelMixin, ConfigMixin):
    """Noisy latents [B, C, h, w] and timestep -> predicted noise. Level i has base_channels * 2^i channels."""

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        out_channels: int,
        base_channels: int,
        depth: int,
        num_res_blocks: int,
        time_dim: int,
        norm_groups: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        widths = [base_channels * 2**level for level in range(depth)]

        def block(wide_in: int, wide_out: int) -> ResidualBlock:
            return ResidualBlock(wide_in, wide_out, time_dim, norm_groups, dropout)

        def blocks(wide_in: int, wide_out: int) -> nn.ModuleList:
            return nn.ModuleList(block(wide_out if j else wide_in, wide_out) for j in range(num_res_blocks))

        self.time_mlp = TimeEmbedding(time_dim)
        self.downs = nn.ModuleList(
            Down(blocks(widths[level - 1] if level else in_channels, width), width)
            for level, width in enumerate(widths)
        )
        self.bottleneck = block(widths[-1], widths[-1])
        self.ups = nn.ModuleList(
            Up(widths[min(level + 1, depth - 1)], widths[level], blocks(2 * widths[level], widths[level]))
            for level in reversed(range(depth))
        )
        self.final = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor | float, return_dict: bool = True):
        t = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        embedding = self.time_mlp(t).to(sample.dtype)
        x, skips = sample, []
        for down in self.downs:
            x, skip = down(x, embedding)
            skips.append(skip)
        x = self.bottleneck(x, embedding)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip, embedding)
        x = self.final(x)
        return LayoutUNetOutput(sample=x) if return_dict else (x,)


class TimeEmbedding(nn.Module):
    """t [B] -> [B, time_dim], in fp32: in bfloat16 there are no timesteps above 256."""

    def __init__(self, time_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(1, 4 * time_dim)
        self.fc2 = nn.Linear(4 * time_dim, time_dim)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        with torch.autocast(t.device.type, enabled=False):
            hidden = F.silu(F.linear(t.float()[:, None], self.fc1.weight.float(), self.fc1.bias.float()))
            return F.linear(hidden, self.fc2.weight.float(), self.fc2.bias.float())


class ResidualBlock(nn.Module):
    """x [B, in, h, w], embedding [B, time_dim] -> [B, out, h, w]."""

    def __init__(self, wide_in: int, wide_out: int, time_dim: int, norm_groups: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(norm_groups, wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time_emb = nn.Linear(time_dim, wide_out)
        self.norm2 = group_norm(norm_groups, wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)
        self.skip = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else nn.Identity()

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.dropout(self.conv1(F.silu(self.norm1(x))))
        h = h + self.time_emb(embedding)[:, :, None, None]
        h = self.dropout(self.conv2(F.silu(self.norm2(h))))
        return h + self.skip(x)


class Down(nn.Module):
    """A level on the way down: residual blocks, and the convolution that halves their map."""

    def __init__(self, res_blocks: nn.ModuleList, width: int):
        super().__init__()
        self.res_blocks = res_blocks
        self.downsample = nn.Conv2d(width, width, 4, stride=2, padding=1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        for block in self.res_blocks:
            x = block(x, embedding)
        return self.downsample(x), x


class Up(nn.Module):
    """A level on the way up: the convolution that doubles the map, the skip that joins it, residual blocks."""

    def __init__(self, wide_in: int, width: int, res_blocks: nn.ModuleList):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(wide_in, width, 4, stride=2, padding=1)
        self.res_blocks = res_blocks

    def forward(self, x: torch.Tensor, skip: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        x = torch.cat([self.upsample(x), skip], dim=1)
        for block in self.res_blocks:
            x = block(x, embedding)
        return x
