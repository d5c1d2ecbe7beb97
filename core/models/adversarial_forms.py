"""The form of the adversarial term that a config names, from its parts."""

from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from core.config.discriminator_sections import DiscriminatorSection
from core.models.adversarial import (
    AnyForm,
    DirectDiscriminative,
    DraftK,
    NegativeAware,
    Published,
    Renoise,
    ScoredSamples,
    X0Prediction,
)
from core.models.diffusion import Denoiser
from core.models.discriminator import LatentDiscriminator
from core.models.labelled_latents import LabelledPairs, RealLatents
from core.models.trajectories import Trajectories

# x0_prediction scores latents up to this share of the timesteps.
_MAX_T_SHARE = 0.4

Part = TypeVar("Part")


@dataclass(frozen=True)
class FormParts:
    """What the forms are built from. A form's own parts must be given: `core.config.discriminator_sections` says which.

    `reference` is the model that the stage began with, `pairs` are latents that it drew; `real` ones stand in for a
    share of them. `alpha_bars` [T].
    """

    discriminator: LatentDiscriminator
    alpha_bars: Tensor
    predicts_v: bool
    trajectories: Trajectories | None = None
    reference: Denoiser | None = None
    pairs: LabelledPairs | None = None
    real: RealLatents | None = None


def build_adversarial_form(section: DiscriminatorSection, parts: FormParts) -> AnyForm:
    """The form that `discriminator.form` names, from its parts."""
    alpha_bars, discriminator = parts.alpha_bars, parts.discriminator
    match section.form:
        case "renoise":
            return ScoredSamples(
                discriminator, Renoise(alpha_bars), _given(parts.trajectories, section), len(alpha_bars)
            )
        case "draft_k":
            sample_fn = DraftK(alpha_bars, section.draft_steps)
            return ScoredSamples(discriminator, sample_fn, _given(parts.trajectories, section), len(alpha_bars))
        case "x0_prediction":
            return X0Prediction(discriminator, alpha_bars, max_t=int(_MAX_T_SHARE * len(alpha_bars)))
        case "ddo":
            reference, trajectories = _given(parts.reference, section), _given(parts.trajectories, section)
            return DirectDiscriminative(reference, trajectories, alpha_bars, section.ddo_beta, section.ddo_alpha)
        case "negative_aware":
            reference, pairs = _given(parts.reference, section), _given(parts.pairs, section)
            return NegativeAware(
                reference, pairs, alpha_bars, section.negative_aware_beta, parts.predicts_v, parts.real
            )
        case "published":
            return Published(discriminator)


def _given(part: Part | None, section: DiscriminatorSection) -> Part:
    if part is None:
        raise ValueError(f"a part that form {section.form} needs is missing")
    return part
