"""The batches of a diffusion training: their order, and everything that is random about them."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from core.config.discriminator_sections import DiscriminatorSection
from core.config.training_sections import TrainingSection
from core.data.latents import Latents
from core.data.layouts import LayoutPictures, Pictures
from core.models.adversarial import AnyForm
from core.models.adversarial_draws import AdversarialDraws, lowest_timesteps
from core.runtime import distributed
from core.runtime.batch_shares import Rows, Share
from core.runtime.errors import InputError
from core.runtime.seeding import generator


@dataclass(frozen=True)
class LatentSet:
    """Latents of one split and the pictures they encode (None where no term needs them)."""

    latents: Latents
    pictures: LayoutPictures | None = None

    def __len__(self) -> int:
        return len(self.latents)


class SemanticDraws(NamedTuple):
    """The low-noise part of a batch that is decoded: positions in it, pictures and their weights [m].

    `total` is the sum of the weights of the whole batch over its number of parts.
    """

    positions: Tensor
    pictures: Pictures
    weights: Tensor
    total: Tensor


class Batch(NamedTuple):
    """Everything that the losses depend on besides the models; nothing random is left.

    `x0`, `eps` [B, C, h, w]; `t` [B] long. If it is a part of a batch, `rows` are its rows in it, and the mean of a
    loss over all parts is the loss of the batch.
    """

    x0: Tensor
    eps: Tensor
    t: Tensor
    semantic: SemanticDraws | None = None
    adversarial: AdversarialDraws | None = None
    rows: Rows | None = None


@dataclass(frozen=True)
class Batches:
    """Draws the batches of a training from its seed and their position, so that a resumed training sees the same ones.

    `alpha_bars` [T] are on the CPU. `form` is the form of the adversarial term, if the training has the term.
    InputError if a batch does not divide by the processes and accumulation steps.
    """

    training: TrainingSection
    discriminator: DiscriminatorSection
    data: LatentSet
    validation: LatentSet
    alpha_bars: Tensor
    device: torch.device
    form: AnyForm | None = None

    def __post_init__(self) -> None:
        steps, processes = self.training.accumulation_steps, distributed.size()
        if self.size % (steps * processes):
            raise InputError(
                f"training.batch_size: a batch of {self.size} latents does not divide by {processes} processes times "
                f"training.accumulation_steps {steps}: set it to a multiple of {steps * processes}, at most "
                f"{len(self.data)}"
            )

    @property
    def size(self) -> int:
        """Latents in a batch."""
        return min(self.training.batch_size, len(self.data))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return self.training.steps_per_epoch or max(1, len(self.data) // self.training.batch_size)

    def order(self, epoch: int) -> tuple[Tensor, ...]:
        """The rows [B] of each batch of an epoch, full ones only; the order depends on (seed, epoch) alone.

        An epoch of more steps than a pass over the latents begins with another pass each time.
        """
        rng, wanted = generator(self.training.seed, "order", epoch), self.steps_per_epoch * self.size
        batches: list[Tensor] = []
        while len(batches) < self.steps_per_epoch:
            order = torch.arange(len(self.data))
            if self.training.shuffle:
                order = torch.randperm(len(self.data), generator=rng)
            batches += torch.split(order[: min(wanted, len(order) // self.size * self.size)], self.size)
        return tuple(batches[: self.steps_per_epoch])

    def draw(self, rows: Tensor, epoch: int, position: int) -> list[Batch]:
        """This process's parts of the batch of `rows` at a position of an epoch, one for each accumulation step."""
        steps, processes = self.training.accumulation_steps, distributed.size()
        shares = [Share(distributed.rank() + step * processes, steps * processes) for step in range(steps)]
        return self._draw(self.data, rows, shares, "training", epoch, position)

    def validation_rows(self) -> list[tuple[int, Tensor]]:
        """This process's batches of the validation split: the position and the rows of each.

        Processes get full batches, not shares of them: the last batch may have any number of rows.
        """
        batches = torch.split(self._validated_rows(), self.training.batch_size)
        return list(distributed.own(list(enumerate(batches))))

    @property
    def validated(self) -> int:
        """Latents that the validation losses are the mean of."""
        return len(self._validated_rows())

    def _validated_rows(self) -> Tensor:
        """Rows of the validation split, at equal distances if not all are wanted."""
        count = len(self.validation)
        wanted = min(count, self.training.validation_latents or count)
        return torch.arange(wanted) * count // wanted

    def draw_validation(self, rows: Tensor, position: int) -> Batch:
        """The batch of `rows` at a position of the validation split, the same in every epoch."""
        (batch,) = self._draw(self.validation, rows, [Share()], "validation", position)
        return batch

    def adversarial_count(self, batch_size: int) -> int:
        """Logits of the adversarial term in a batch."""
        return max(1, round(batch_size * self.discriminator.batch_fraction))

    def require_online_shares(self) -> None:
        """InputError if the latents of an online discriminator's step do not divide by the processes."""
        count, processes = self.adversarial_count(self.size), distributed.size()
        if count % processes:
            raise InputError(
                f"discriminator.batch_fraction: {count} of {self.size} latents do not divide by {processes} "
                "processes: change it, or set discriminator.update: frozen"
            )

    def _draw(self, data: LatentSet, rows: Tensor, shares: list[Share], stream: str, *position: int) -> list[Batch]:
        """The `shares` of the batch of `rows`, after everything random about the whole batch is drawn."""
        rng = generator(self.training.seed, stream, *position)
        x0 = data.latents.batch(rows)
        t = torch.randint(len(self.alpha_bars), (len(rows),), generator=rng)
        eps = torch.randn(x0.shape, generator=rng)
        adversarial: AdversarialDraws | None = None
        if self.form is not None:
            # From a stream of its own, so that a training without the term sees the same batches.
            adversarial_rng = generator(self.training.seed, f"{stream} adversarial", *position)
            count, held_out = self.adversarial_count(len(rows)), data is self.validation
            adversarial = self.form.draw(t, count, held_out, adversarial_rng)
        parts = []
        for share in shares:
            own = share.rows(len(rows))
            own_x0, own_eps, own_t = (value[own.positions].to(self.device) for value in (x0, eps, t))
            semantic = self._semantic(data, rows, t, share) if self.training.loss.semantic_loss is not None else None
            own_draws = adversarial.part(share, self.device) if adversarial is not None else None
            parts.append(Batch(own_x0, own_eps, own_t, semantic, own_draws, own if share.count > 1 else None))
        return parts

    def _semantic(self, data: LatentSet, rows: Tensor, t: Tensor, share: Share) -> SemanticDraws:
        """A share of the part of a batch that is decoded; a share that would be empty is one picture of weight 0."""
        section = self.training.loss.semantic_loss
        assert section is not None and data.pictures is not None
        count = max(1, round(len(rows) * section.batch_fraction))
        draws = lowest_timesteps(t, count, self.alpha_bars, section.max_t * len(self.alpha_bars))
        part = draws.part(share, t.device)
        positions, weights, total = part.positions, part.weights, part.total
        own = rows[share.rows(len(rows)).positions[positions]].tolist()
        pictures = data.pictures.batch(own, device=self.device)
        return SemanticDraws(positions.to(self.device), pictures, weights.to(self.device), total.to(self.device))
