"""How the EMA weights of a diffusion training do: validation losses, viability and sample grids."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.config.training_sections import TrainingSection
from core.models.discriminator import LatentDiscriminator
from core.models.losses import weighted_sum
from core.models.pictures import GRID_SAMPLES
from core.models.sampling import sample_latents
from core.networks.unet import UNet
from core.runtime import distributed
from core.runtime.device import autocast, reduced_dtype
from core.runtime.progress import bar
from core.runtime.seeding import derive_seed
from core.training.batches import Batch, Batches
from core.training.metrics import require_finite

# Latents that the discriminator scores at a time.
_SCORED = 256


@dataclass(frozen=True)
class Evaluation:
    """Evaluates `ema` on the same draws and seeds every time.

    `losses` computes every term of a batch with the EMA weights, and `weights` are the configured weights of the terms.
    All processes evaluate together and get the same results.
    """

    config: ExperimentConfig
    training: TrainingSection
    ema: UNet
    losses: Callable[[Batch], dict[str, Tensor]]
    weights: Mapping[str, float]
    batches: Batches
    discriminator: LatentDiscriminator | None = None

    def validate(self, stage: str, epoch: int) -> dict[str, float]:
        """Mean of every term over the validation split, and their weighted sum `loss`.

        InputError, which names the stage and epoch, if a term is not finite.
        """
        device, count = self.batches.device, self.batches.validated
        totals = {name: torch.zeros((), dtype=torch.float64, device=device) for name in self.weights}
        with torch.no_grad(), autocast(device, reduced_dtype(device, self.training.use_amp)):
            for position, rows in bar(self.batches.validation_rows(), "validation", leave=False):
                batch = self.batches.draw_validation(rows, position)
                for name, value in self.losses(batch).items():
                    totals[name] = totals[name] + value.double() * len(rows) / count
        totals = dict(zip(totals, distributed.summed(list(totals.values())), strict=True))
        require_finite(totals, stage, f"the validation of epoch {epoch}")
        return {"loss": weighted_sum(totals, self.weights).item()} | {k: v.item() for k, v in totals.items()}

    def viability(self) -> float:
        """Mean score, in [0, 1], that the discriminator gives latents generated from held-out seeds."""
        return self.generate_and_score()[1].mean().item()

    def generate_and_score(self) -> tuple[Tensor, Tensor]:
        """Latents [N, C, h, w] generated from held-out seeds, and the discriminator's scores [N] of them, in [0, 1]."""
        assert self.discriminator is not None, "only Stage 3 has a discriminator"
        seed, count = self.config.training.seed, self.config.rounds.viability_samples
        latents = self._generate([derive_seed(seed, "viability", index) for index in range(count)], "viability")
        with torch.no_grad():
            scores = [
                self.discriminator(part.to(self.batches.device)).sigmoid().cpu()
                for part in torch.split(latents, _SCORED)
            ]
        # Scores decide things, so they must be equal in all processes, and GPUs may round differently.
        return latents, distributed.from_first(torch.cat(scores))

    def samples(self) -> Tensor:
        """Latents [GRID_SAMPLES, C, h, w] for the sample grid."""
        seeds = [derive_seed(self.training.seed, "samples", index) for index in range(GRID_SAMPLES)]
        return self._generate(seeds, "samples")

    def _generate(self, seeds: Sequence[int], description: str) -> Tensor:
        section = self.config.rounds.bad_latents
        return sample_latents(
            self.ema, self.config, seeds, section.num_steps, section.batch_size, description, section.sampler
        )
