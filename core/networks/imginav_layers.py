"""Layers that ImgiNav's networks share."""

from torch import nn


def group_norm(most_groups: int, channels: int) -> nn.GroupNorm:
    """Group norm with the largest number of groups, up to `most_groups`, that divides the channels."""
    groups = next(count for count in range(min(most_groups, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels)
