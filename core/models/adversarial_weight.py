"""The weight of the adversarial term: fixed, or balanced against the gradient of the noise term."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from core.config.discriminator_sections import DiscriminatorSection
from core.runtime import distributed

Part = TypeVar("Part")

# Steps between two measurements of the gradient norms.
BALANCE_INTERVAL = 25


def adversarial_weight(
    section: DiscriminatorSection, current: float | None, step: int, norms: Callable[[], tuple[float, float]]
) -> float:
    """The weight for optimizer step `step`, from the `current` one (None: there is none yet).

    With `discriminator.balance` the weighted adversarial gradient aims at `balance` times the noise gradient.
    `discriminator.weight` is the cap. The gradient `norms` (noise, adversarial) are measured every `BALANCE_INTERVAL`
    steps, and the weight moves half of the way. Without it the weight is `discriminator.weight`.
    """
    if section.balance is None or section.form == "published":  # a constant has no gradient
        return section.weight
    if current is not None and step % BALANCE_INTERVAL:
        return min(section.weight, current)
    noise, adversarial = norms()
    target = min(section.weight, section.balance * noise / max(adversarial, 1e-12))
    return target if current is None else min(section.weight, 0.5 * (current + target))


def gradient_norms(
    forward: Callable[[Part], Mapping[str, Tensor]], parts: Sequence[Part], parameters: Sequence[Tensor]
) -> tuple[float, float]:
    """Gradient norms (noise, adversarial) of the two unweighted terms over the parts of every process.

    `forward` computes the terms of one part. Gradients that `parameters` hold are left as they are.
    """
    names = ("noise", "adversarial")
    gradients = {name: [torch.zeros_like(parameter) for parameter in parameters] for name in names}
    for part in parts:
        terms = forward(part)
        for name in names:
            found = torch.autograd.grad(terms[name] / len(parts), parameters, retain_graph=name != names[-1])
            torch._foreach_add_(gradients[name], found)
    # The replicated model averages gradients of a backward pass only, so these are averaged here.
    noise, adversarial = (_norm(distributed.averaged(gradients[name])) for name in names)
    return noise, adversarial


def _norm(gradient: Sequence[Tensor]) -> float:
    return math.sqrt(sum(g.float().square().sum().item() for g in gradient))
