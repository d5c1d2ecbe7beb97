"""How long a round will take: what it does, counted in the config, times how long each of it takes here."""

from core.config.experiment import ExperimentConfig
from core.generation.pace import Pace
from core.models.pictures import GRID_SAMPLES
from core.training.discriminator_data import VALIDATION_SHARE


def round_seconds(config: ExperimentConfig, pace: Pace, latents: int) -> dict[str, float]:
    """Estimated seconds of each part of a round that trains on `latents` latents of the training split.

    A step of Stage 3 counts as its passes through the UNet. What decodes, judges by rules, writes and uploads is left
    out, so a round takes longer than the sum.
    """
    section, training, adversarial = config.rounds, config.training, config.discriminator
    drawn = section.bad_latents
    epochs = 1 if section.steps_per_round is not None else section.epochs_per_round
    per_epoch = training.steps_per_epoch or max(1, latents // training.batch_size)
    steps = section.steps_per_round or epochs * per_epoch
    passes, trajectories = 1.0, 0.0
    if adversarial.weight > 0:
        passes += adversarial.batch_fraction
        if adversarial.keeps_trajectories:
            kept = adversarial.trajectories
            trajectories = kept.num_samples * kept.num_steps * pace.evaluation
    looks = 1 + epochs // training.eval_interval
    looked_at = (section.viability_samples + GRID_SAMPLES) * drawn.num_steps
    # An epoch is a pass over the larger class, of which a batch holds half. Of two labels that is at least half.
    larger = drawn.num_samples if section.viability.labels == "generated" else drawn.num_samples / 2
    judged = 2 * (1 - VALIDATION_SHARE) * larger / section.discriminator.batch_size
    seconds = {
        "bad latents": drawn.num_samples * drawn.num_steps * pace.evaluation,
        "discriminator": section.discriminator.epochs * max(1.0, judged) * pace.discriminator_step,
        "Stage 3": steps * passes * pace.step + trajectories,
        "evaluations": looks * looked_at * pace.evaluation,
    }
    if config.audit is not None:
        seconds["an audit"] = config.audit.num_samples * config.audit_steps * pace.evaluation
    return seconds
