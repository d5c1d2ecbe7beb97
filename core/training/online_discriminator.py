"""A discriminator that learns along with the model it judges."""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from core.config.discriminator_sections import DiscriminatorSection
from core.inputs.state_form import Source, are_weights, checked_optimizer, checked_weights, mapping, without_wrappers
from core.models.adversarial import NoisedSamples
from core.models.discriminator import ADAM_BETAS, LatentDiscriminator, discriminator_loss
from core.runtime import distributed
from core.runtime.seeding import derive_seed, generator
from core.runtime.shares import Rows, forwarding


class OnlineDiscriminator:
    """A copy of the round's discriminator, trained on real latents against what the model makes at the moment.

    Between its own steps it is frozen and in eval mode, like the one it began as.
    """

    def __init__(self, discriminator: LatentDiscriminator, section: DiscriminatorSection, seed: int):
        self.model = copy.deepcopy(discriminator).eval().requires_grad_(False)
        self._optimizer = Adam(self.model.parameters(), lr=section.online_learning_rate, betas=ADAM_BETAS)
        self._seed = seed

    @torch.enable_grad()
    def step(self, real_noised: Tensor, made: NoisedSamples, rows: Rows, *position: int) -> None:
        """One step on as many real latents [A, C, h, w] as made ones, noised to the same levels.

        They are these `rows` of those of all processes.
        """
        rng = generator(self._seed, "online discriminator", *position)
        noised = torch.cat([real_noised, made.latent])
        shift = torch.randn(2, rows.total, *real_noised.shape[1:], generator=rng)[:, rows.positions].flatten(0, 1)
        labels = torch.cat([torch.ones(len(real_noised)), torch.zeros(len(made.latent))]).to(noised.device)
        devices = [noised.device] if noised.device.type == "cuda" else []
        self.model.train().requires_grad_(True)
        with torch.random.fork_rng(devices=devices), forwarding(rows):
            torch.manual_seed(derive_seed(self._seed, "online dropout", *position))
            loss, _ = discriminator_loss(self.model, noised, labels, made.alpha_bar.repeat(2), shift.to(noised.device))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        distributed.average_gradients(list(self.model.parameters()))
        self._optimizer.step()
        self.model.eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Weights and optimizer, for a training that goes on later."""
        return {"state_dict": self.model.state_dict(), "optimizer_state": self._optimizer.state_dict()}

    def checked(self, state: Any, steps: int, source: Source) -> dict[str, Any]:
        """What `load_state_dict` takes over of a `state` read from a file, after `steps` steps of the model.

        InputError if any of it is of another form.
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

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `checked` gave."""
        self.model.load_state_dict(state["state_dict"])
        self._optimizer.load_state_dict(state["optimizer_state"])
