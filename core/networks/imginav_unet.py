"""ImgiNav's UNet, with the names of its weights, so that its checkpoints load as they are.

Its timestep enters two linear layers as a plain number, every level halves the map with a convolution, the last one
too, and there is no attention. diffusers' UNet2DModel differs in each of these, so it cannot hold these weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config.model_sections import UNetSection
from core.networks.imginav_layers import group_norm
from core.runtime.batch_shares import ShareChannelDropout

# A function and its arguments -> what the function returns.
_Call = Callable[..., Any]
# Width of the time embedding where neither the config nor the checkpoint gives one.
_TIME_DIM = 128


class ImgiNavUNet(nn.Module):
    """(xt [B, C, h, w], t [B] from 0 to T - 1) -> (eps_pred [B, C, h, w],), as diffusers' UNet2DModel is called.

    Level i has base_channels * 2^i channels. h and w must be multiples of 2^depth.
    """

    def __init__(self, section: UNetSection):
        super().__init__()
        time_dim = section.time_dim or _TIME_DIM
        widths = [section.base_channels * 2**level for level in range(section.depth)]

        def block(wide_in: int, wide_out: int) -> _ResidualBlock:
            return _ResidualBlock(wide_in, wide_out, time_dim, section.norm_groups, section.dropout)

        def blocks(wide_in: int, wide_out: int) -> nn.ModuleList:
            return nn.ModuleList(block(wide_out if j else wide_in, wide_out) for j in range(section.num_res_blocks))

        self.time_mlp = _TimeEmbedding(time_dim)
        self.downs = nn.ModuleList()
        for level, width in enumerate(widths):
            wide_in = widths[level - 1] if level else section.in_channels
            self.downs.append(_Down(blocks(wide_in, width), width))
        self.bottleneck = block(widths[-1], widths[-1])
        self.ups = nn.ModuleList()
        for level in reversed(range(section.depth)):
            wide_in = widths[min(level + 1, section.depth - 1)]
            self.ups.append(_Up(wide_in, widths[level], blocks(2 * widths[level], widths[level])))
        self.final = nn.Conv2d(widths[0], section.out_channels, 1)
        self._call: _Call = _directly

    def enable_gradient_checkpointing(self, function: _Call) -> None:
        """Call every residual block in training through `function(block, x, embedding)`."""
        self._call = function

    def forward(self, xt: Tensor, t: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        call = self._call if self.training and torch.is_grad_enabled() else _directly
        embedding = self.time_mlp(t).to(xt.dtype)
        x, skips = xt, []
        for down in self.downs:
            x, skip = down(x, embedding, call)
            skips.append(skip)
        x = call(self.bottleneck, x, embedding)
        for up, skip in zip(self.ups, reversed(skips), strict=True):
            x = up(x, skip, embedding, call)
        return (self.final(x),)


def unet_sizes(section: UNetSection) -> dict[str, Any]:
    """The sizes of the UNet of a section and its dropout, by the names that ImgiNav's checkpoints give them."""
    names = ("in_channels", "out_channels", "base_channels", "depth", "num_res_blocks", "norm_groups", "dropout")
    return {**{name: getattr(section, name) for name in names}, "time_dim": section.time_dim or _TIME_DIM}


def _directly(function: _Call, *arguments: Any) -> Any:
    return function(*arguments)


class _TimeEmbedding(nn.Module):
    """t [B] -> embedding [B, time_dim] in fp32, of the timestep as it is: no scale, no sinusoid.

    Timesteps above 256 do not exist in bfloat16, so these two layers are in fp32 whatever the rest is computed in.
    """

    def __init__(self, time_dim: int):
        super().__init__()
        self.fc1 = nn.Linear(1, 4 * time_dim)
        self.fc2 = nn.Linear(4 * time_dim, time_dim)

    def forward(self, t: Tensor) -> Tensor:
        with torch.autocast(t.device.type, enabled=False):
            hidden = F.silu(_fp32_linear(self.fc1, t.float()[:, None]))
            return _fp32_linear(self.fc2, hidden)


def _fp32_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight.float(), layer.bias.float())


class _ResidualBlock(nn.Module):
    """x [B, in, h, w], embedding [B, time_dim] -> [B, out, h, w]."""

    def __init__(self, wide_in: int, wide_out: int, time_dim: int, norm_groups: int, dropout: float):
        super().__init__()
        self.norm1 = group_norm(norm_groups, wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time_emb = nn.Linear(time_dim, wide_out)
        self.norm2 = group_norm(norm_groups, wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        self.dropout = ShareChannelDropout(dropout)
        self.skip = nn.Conv2d(wide_in, wide_out, 1) if wide_in != wide_out else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.dropout(self.conv1(F.silu(self.norm1(x))))
        h = h + self.time_emb(embedding)[:, :, None, None]
        h = self.dropout(self.conv2(F.silu(self.norm2(h))))
        result: Tensor = h + self.skip(x)
        return result


class _Down(nn.Module):
    """A level on the way down: residual blocks, and the convolution that halves their map."""

    def __init__(self, res_blocks: nn.ModuleList, width: int):
        super().__init__()
        self.res_blocks = res_blocks
        self.downsample = nn.Conv2d(width, width, 4, stride=2, padding=1)

    def forward(self, x: Tensor, embedding: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
        """The halved map, and the map before it was halved, which the way up joins."""
        for block in self.res_blocks:
            x = call(block, x, embedding)
        return self.downsample(x), x


class _Up(nn.Module):
    """A level on the way up: the convolution that doubles the map, the skip that joins it, residual blocks."""

    def __init__(self, wide_in: int, width: int, res_blocks: nn.ModuleList):
        super().__init__()
        self.upsample = nn.ConvTranspose2d(wide_in, width, 4, stride=2, padding=1)
        self.res_blocks = res_blocks

    def forward(self, x: Tensor, skip: Tensor, embedding: Tensor, call: _Call) -> Tensor:
        x = torch.cat([self.upsample(x), skip], dim=1)
        for block in self.res_blocks:
            x = call(block, x, embedding)
        return x
