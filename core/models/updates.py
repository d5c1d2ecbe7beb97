"""How fast a step of the optimizer goes, and the moving average of the weights."""

import math

import torch
from torch import nn

from core.config.training_sections import OptimizationSection


def learning_rate(section: OptimizationSection, step: int, steps_per_epoch: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then constant or a cosine to 0 at the last epoch."""
    rate = section.learning_rate * min(1.0, (step + 1) / max(1, section.warmup_steps))
    if section.scheduler is None:
        return rate
    return rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / (section.epochs * steps_per_epoch))))


def ema_decay(decay: float, step: int) -> float:
    """Decay after `step` optimizer steps: at most `decay`, less at first, when the EMA averages few steps."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * model, for every parameter in place."""
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
