"""What the discriminator learns from, what it is validated on, and what it is found to know of viability."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from core.audit.ranking import auc, auc_interval, share_by_fifths
from core.models.labelled_latents import LabelledLatents
from core.runtime.errors import InputError
from core.runtime.seeding import derive_seed, generator
from core.training.metrics import MetricsRow

# Share of the latents, drawn by seed, that the discriminator does not train on.
VALIDATION_SHARE = 0.2
# Fewer unseen latents of a kind say nothing of what a score ranks.
_FEWEST = 5


@dataclass(frozen=True)
class DiscriminatorData:
    """Good and bad latents [N, C, h, w] to train on, others for validation, and unseen ones with the audit's verdict.

    `turned` is true if the latents of a step are turned and mirrored at random.
    """

    training: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    unseen: LabelledLatents | None = None
    turned: bool = False


def real_against_generated(real: Tensor, fake: Tensor, judged: LabelledLatents | None, seed: int) -> DiscriminatorData:
    """Real latents are good, generated ones bad; `judged` are the generated ones with verdicts, in the same order."""
    if real.shape[1:] != fake.shape[1:]:
        raise InputError(
            f"real latents have shape {list(real.shape[1:])} and fake ones {list(fake.shape[1:])}: "
            "both must come from the same autoencoder"
        )
    real_training, real_validation = _split(len(real), seed, "real split")
    fake_training, fake_validation = _split(len(fake), seed, "fake split")
    unseen = judged.at(fake_validation) if judged is not None and len(judged) == len(fake) else None
    return DiscriminatorData(
        (real[real_training], fake[fake_training]), (real[real_validation], fake[fake_validation]), unseen
    )


def viable_against_others(labelled: LabelledLatents, seed: int) -> DiscriminatorData:
    """Viable latents are good, others bad. All are generated, so nothing but viability tells them apart.

    They are few, so they are turned and mirrored: a turned layout is as viable as before.
    """
    chosen, held_out = (labelled.at(rows) for rows in _split(len(labelled), seed, "labelled split"))
    training, validation = ((part.latents[part.viable], part.latents[~part.viable]) for part in (chosen, held_out))
    if min(map(len, (*training, *validation))) == 0:
        raise InputError(
            f"of {len(labelled)} labelled latents {int(labelled.viable.sum())} are viable: training and validation "
            "need both kinds; raise rounds.bad_latents.num_samples"
        )
    return DiscriminatorData(training, validation, unseen=held_out, turned=True)


def turned_at_random(latents: Tensor, rng: torch.Generator) -> Tensor:
    """`latents` [B, C, h, h], all turned by the same multiple of 90 degrees, and mirrored or not."""
    turns, mirrored = divmod(int(torch.randint(8, (), generator=rng, device=rng.device)), 2)
    turned = torch.rot90(latents, turns, (2, 3))
    return turned.flip(3) if mirrored else turned


def knowledge_of_viability(unseen: LabelledLatents, score: Callable[[Tensor], Tensor], seed: int) -> MetricsRow:
    """How well `score`, [N, C, h, w] -> [N], ranks unseen generated latents by viability, for the history.

    `viability_auc` with its 95 % interval, `viable_fifth_1` to `_5` (the share of viable ones in each fifth by score,
    from the lowest) and `auc_{rule}` of every rule. Empty if too few are of one kind; a rule that almost all keep or
    break is left out.
    """
    if not _has_both_kinds(unseen.viable):
        return {}
    scores, viable = score(unseen.latents).cpu().numpy(), unseen.viable.numpy()
    found = auc_interval(scores, viable, np.random.default_rng(derive_seed(seed, "viability auc")))
    row = {"viability_auc": found.value, "viability_auc_low": found.low, "viability_auc_high": found.high}
    row |= {f"viable_fifth_{number}": share for number, share in enumerate(share_by_fifths(scores, viable), 1)}
    for column, rule in enumerate(unseen.rules):
        if _has_both_kinds(unseen.kept[:, column]):
            row[f"auc_{rule}"] = auc(scores, unseen.kept[:, column].numpy())
    return row


def _has_both_kinds(kinds: Tensor) -> bool:
    count = int(kinds.sum())
    return _FEWEST <= count <= len(kinds) - _FEWEST


def _split(count: int, seed: int, stream: str) -> tuple[Tensor, Tensor]:
    """Rows to train on, and rows held out."""
    order = torch.randperm(count, generator=generator(seed, stream))
    held_out = max(1, int(VALIDATION_SHARE * count))
    return order[held_out:], order[:held_out]
