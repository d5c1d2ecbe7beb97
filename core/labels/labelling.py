"""Labels of generated latents: which of their layouts are viable."""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from core.audit.layout_maps import decode_maps
from core.audit.reference import Reference, make_reference
from core.audit.rules import RULES, VIABLE
from core.config.experiment import ExperimentConfig
from core.models.labelled_latents import LabelledLatents
from core.networks.autoencoder import Autoencoder
from core.runtime.errors import InputError

LABELLED_NAME = "labelled_latents.pt"
# Of fewer of one kind nothing can be learnt.
LEAST_SHARE = 0.02
_FIFTHS = (0.2, 0.4, 0.6, 0.8)


def label_latents(
    latents: Tensor, autoencoder: Autoencoder, config: ExperimentConfig, paths: Mapping[str, Path]
) -> LabelledLatents:
    """Generated `latents` [N, C, h, w] with the audit's verdict of each: viable by the rules of `rounds.viability`.

    The rules are calibrated on the real layouts of the manifest among `paths`.
    """
    return judge_latents(latents, autoencoder, config, paths)[0]


def judge_latents(
    latents: Tensor, autoencoder: Autoencoder, config: ExperimentConfig, paths: Mapping[str, Path]
) -> tuple[LabelledLatents, pd.DataFrame]:
    """What `label_latents` returns, and the measures of each layout that the rules judge, one row per layout."""
    section = config.rounds.viability
    reference = make_reference(config, paths)
    layouts = decode_maps(latents, autoencoder.decoder)
    statistics = reference.rules.measure(layouts.classes, layouts.off_palette)
    kept = reference.rules.keeps(statistics)
    viable = kept[list(section.rules)].all(axis=1) if section.labels == "rules" and section.rules else kept[VIABLE]
    fifth = np.searchsorted(_fifths(reference), statistics["furniture_share"].to_numpy())
    verdicts = LabelledLatents(
        latents,
        torch.tensor(viable.to_numpy(bool)),
        torch.tensor(fifth),
        tuple(RULES),
        torch.tensor(kept[list(RULES)].to_numpy(bool)),
    )
    return verdicts, statistics


def require_both_kinds(viable: Collection[bool], source: str, remedies: Mapping[bool, str]) -> None:
    """InputError if fewer than 2 % of the labels are of one kind, viable or not: nothing can be learnt from them.

    The line begins with `source` and ends with the remedy for too few viable ones (True) or too few others (False).
    """
    count, positive = len(viable), sum(viable)
    rarer, kind = min((positive, True), (count - positive, False))
    if rarer == 0 or rarer < LEAST_SHARE * count:
        raise InputError(
            f"{source}: {rarer} of {count} layouts {'is' if rarer == 1 else 'are'} {'viable' if kind else 'not viable'}"
            f", at least {LEAST_SHARE:.0%} of each kind are needed to learn from: {remedies[kind]}"
        )


def _fifths(reference: Reference) -> np.ndarray:
    """The four furniture shares that part real training layouts into fifths."""
    real = reference.rules.measure(reference.training.classes, reference.training.off_palette)
    return np.asarray(np.quantile(real["furniture_share"], _FIFTHS))
