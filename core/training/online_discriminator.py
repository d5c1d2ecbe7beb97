"""The discriminator that Stage 3 trains together with the model, with `discriminator.update: online`."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from core.config.discriminator_sections import DiscriminatorSection
from core.inputs.state_form import Source, are_weights, checked_optimizer, checked_weights, mapping, without_wrappers
from core.models.adversarial import NoisedSamples, ScoredSamples
from core.models.diffusion import Denoiser, add_noise
from core.models.discriminator import ADAM_BETAS, LatentDiscriminator, discriminator_loss
from core.runtime import distributed
from core.runtime.batch_shares import Rows, Share, whole_batch_dropout
from core.runtime.device import autocast
from core.runtime.seeding import derive_seed, generator


class OnlineDiscriminator:
    """A copy of the round's discriminator, trained on real latents against current samples of the model.

    Between its own steps it is frozen and in eval mode, like the discriminator that it was copied from.
    """

    def __init__(self, discriminator: LatentDiscriminator, section: DiscriminatorSection, seed: int):
        self.model = copy.deepcopy(discriminator).eval().requires_grad_(False)
        self._optimizer = Adam(self.model.parameters(), lr=section.online_learning_rate, betas=ADAM_BETAS)
        self._steps, self._seed = section.online_steps, seed

    def train(
        self,
        x0: Tensor,
        denoise: Denoiser,
        form: ScoredSamples,
        count: int,
        step: int,
        dtype: torch.dtype | None,
    ) -> None:
        """Take `online_steps` steps, each on `count` of the real latents `x0` [B, C, h, w] and as many samples.

        The samples are those of `form`, made with `denoise`, the model in eval mode after its step number `step`, and
        computed in `dtype`. Each process takes its share of both.
        """
        share = Share(distributed.rank(), distributed.size())
        rows, device = share.rows(count), next(self.model.parameters()).device
        for number in range(self._steps):
            rng = generator(self._seed, "online", step, number)
            draws = form.draw_states(count, False, rng).part(share, device)
            with torch.no_grad(), autocast(device, dtype):
                samples = form.sample_fn(denoise, draws)
            real = x0[torch.randperm(len(x0), generator=rng)[:count]]
            eps = torch.randn(real.shape, generator=rng)
            real, eps = (value[rows.positions].to(device) for value in (real, eps))
            self._step(add_noise(real, eps, samples.alpha_bar), samples, rows, step, number)

    def _step(self, real_noised: Tensor, samples: NoisedSamples, rows: Rows, *position: int) -> None:
        """One step on real latents [A, C, h, w] and as many samples, noised to the same levels.

        They are these `rows` of the latents and samples of all processes.
        """
        rng = generator(self._seed, "online discriminator", *position)
        noised = torch.cat([real_noised, samples.latent])
        shift = torch.randn(2, rows.total, *real_noised.shape[1:], generator=rng)[:, rows.positions].flatten(0, 1)
        labels = torch.cat([torch.ones(len(real_noised)), torch.zeros(len(samples.latent))]).to(noised.device)
        devices = [noised.device] if noised.device.type == "cuda" else []
        self.model.train().requires_grad_(True)
        with torch.random.fork_rng(devices=devices), whole_batch_dropout(rows):
            torch.manual_seed(derive_seed(self._seed, "online dropout", *position))
            alpha_bar = samples.alpha_bar.repeat(2)
            loss, _ = discriminator_loss(self.model, noised, labels, alpha_bar, shift.to(noised.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(list(self.model.parameters()))
        self._optimizer.step()
        self.model.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, from which a later training resumes."""
        return {"state_dict": self.model.state_dict(), "optimizer_state": self._optimizer.state_dict()}

    def checked(self, state: object, steps: int, source: Source) -> dict[str, Any]:
        """The part of `state`, read from the file `source`, that `load_state_dict` takes.

        `steps` are those that the model had taken. InputError if anything in it is of another form.
        """
        parts = mapping(state, ("state_dict", "optimizer_state"), "online_discriminator", source)
        if not are_weights(weights := parts["state_dict"]):
            raise source.error("online_discriminator.state_dict", "holds no weights")
        field = "online_discriminator.optimizer_state"
        return {
            "state_dict": checked_weights(without_wrappers(weights), self.model, source.path),
            "optimizer_state": checked_optimizer(
                parts["optimizer_state"], self._optimizer, self.model, steps, field, source
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load what `checked` returned."""
        self.model.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer_state"])
