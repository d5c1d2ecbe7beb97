"""Labels by hand of one earlier round's generated latents, and the critic that carries them over to fresh ones."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoints.loading import find_checkpoint
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.labels.critic import FOLDS, train_critic
from core.labels.label_files import generated_names, labels_of, latents_digest, read_labels
from core.labels.labelling import LABELLED_NAME, judge_latents, require_both_kinds
from core.models.labelled_latents import LabelledLatents
from core.networks.autoencoder import Autoencoder
from core.records.artifacts import RECORD_NAME
from core.records.input_files import describe_input, local_path
from core.records.record_files import Record, entry_of, read_record
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import join

log = logging.getLogger(__name__)

_FILE, _LATENTS = "rounds.viability.file", "rounds.viability.latents"
# Fewer labels teach nothing that holds for other layouts.
LEAST_LABELS = 20
_MORE_LABELS = "label more layouts"
# What helps if the critic finds too few viable layouts, or too few others.
_REMEDIES = {
    True: "train Stages 1 and 2 longer, or label more viable layouts",
    False: "label more layouts that are not viable, or set rounds.viability.labels: rules",
}


def hand_label_inputs(config: ExperimentConfig) -> dict[str, Location]:
    """The input files of `rounds.viability.labels: file`: the label file, and all the latents that it is about.

    Raises InputError if a setting is missing, or if `rounds.viability.latents` is no folder of generate-bad-latents
    with labelled latents.
    """
    file = config.required(_FILE)
    _labelled_record(config)
    return {"labels": file, "labelled": join(config.required(_LATENTS), LABELLED_NAME)}


def read_hand_labels(config: ExperimentConfig, paths: Mapping[str, Path] | None = None) -> LabelledLatents:
    """The labelled ones of the generated latents at `rounds.viability.latents`, in order of sample, with their labels.

    `paths` are local ones of `hand_label_inputs`, looked up if not given. Raises InputError if the labels are of other
    latents, fewer than 20, or almost all of one kind, and if the latents do not fit the config's model.
    """
    if paths is None:
        paths = {name: local_path(place, config.artifacts) for name, place in hand_label_inputs(config).items()}
    location, record = config.required(_LATENTS), _labelled_record(config)
    names = generated_names(record["outputs"])
    digest = latents_digest(entry_of(record, name, location)["sha256"] for name in names)
    viable = labels_of(read_labels(paths["labels"]), names, location, digest)
    _require_enough(list(viable.values()), f"labels {config.required(_FILE)}")
    _require_same_autoencoder(config, record)
    labelled = LabelledLatents.load(paths["labelled"])
    if labelled.latents.shape[1:] != config.latent_shape:
        raise InputError(
            f"{_LATENTS}: those of {location} have shape {list(labelled.latents.shape[1:])}, the model's have "
            f"{list(config.latent_shape)}: give latents that a model of this config drew"
        )
    if len(labelled) != len(names):
        raise InputError(
            f"{_LATENTS}: {location} has {len(names)} generated latents and {len(labelled)} in {LABELLED_NAME}: put "
            "back an unaltered copy of the folder"
        )
    # The files are numbered by sample, and the file of all of them is in the same order.
    rows = torch.tensor([row for row, name in enumerate(names) if name in viable])
    return dataclasses.replace(labelled.at(rows), viable=torch.tensor(list(viable.values())), score=None)


def label_by_critic(
    latents: Tensor,
    known: LabelledLatents,
    autoencoder: Autoencoder,
    config: ExperimentConfig,
    paths: Mapping[str, Path],
) -> tuple[LabelledLatents, dict[str, float]]:
    """Generated `latents` [N, C, h, w] as a critic labels them that learnt from `known` ones, and how well it does so.

    Metrics are `critic_auc` with its 95 % interval, on labels that it did not see, and `labels_used`. If the AUC is not
    above `rounds.viability.least_auc`, a warning says so, and the labelled latents are the known ones alone. InputError
    if the critic finds almost all latents to be of one kind.
    """
    section, seed = config.rounds.viability, config.training.seed
    taught, examples = judge_latents(known.latents, autoencoder, config, paths)
    critic = train_critic(examples.to_numpy(float), known.viable.numpy(), seed)
    metrics: dict[str, float] = {
        "critic_auc": critic.auc.value,
        "critic_auc_low": critic.auc.low,
        "critic_auc_high": critic.auc.high,
        "labels_used": len(known),
    }
    if critic.auc.value <= section.least_auc:
        log.warning(
            "the critic that learnt from %d labels has an AUC of %.3f (%.3f to %.3f) on labels that it did not see, "
            "rounds.viability.least_auc is %g: the round learns from the labelled latents alone; label more layouts",
            len(known),
            *critic.auc,
            section.least_auc,
        )
        return dataclasses.replace(taught, viable=known.viable), metrics
    judged, measures = judge_latents(latents, autoencoder, config, paths)
    score = torch.tensor(critic.probability(measures.to_numpy(float)))
    require_both_kinds((score > 0.5).tolist(), "the critic of rounds.viability.labels file", _REMEDIES)
    return dataclasses.replace(judged, viable=score > 0.5, score=score), metrics


def _labelled_record(config: ExperimentConfig) -> Record:
    """The record of the stage at `rounds.viability.latents`; InputError if it holds no labelled latents."""
    location = config.required(_LATENTS)
    record = read_record(open_store(location, config.artifacts), RECORD_NAME)
    if record is None:
        raise InputError(
            f"{_LATENTS}: {location} holds no finished generate-bad-latents: give the folder bad_latents of the round "
            "that was labelled"
        )
    if LABELLED_NAME not in record["outputs"]:
        raise InputError(
            f"{_LATENTS}: {location} has no {LABELLED_NAME}: give the folder bad_latents of a round with an audit, or "
            "one made with --judged"
        )
    return record


def _require_enough(viable: list[bool], source: str) -> None:
    count = len(viable)
    if count < LEAST_LABELS:
        raise InputError(f"{source}: only {count} labelled, at least {LEAST_LABELS} layouts are needed: {_MORE_LABELS}")
    require_both_kinds(viable, source, {True: _MORE_LABELS, False: _MORE_LABELS})
    rarer, kind = min((sum(viable), "viable"), (count - sum(viable), "not viable"))
    if rarer < FOLDS:
        raise InputError(
            f"{source}: {rarer} of {count} layouts {'is' if rarer == 1 else 'are'} {kind}, at least {FOLDS} of each "
            f"kind are needed to test what was learnt: {_MORE_LABELS}"
        )


def _require_same_autoencoder(config: ExperimentConfig, record: Record) -> None:
    """InputError if the labelled latents were made with another autoencoder: they would mean something else."""
    checkpoint = find_checkpoint(config.required("autoencoder.checkpoint"))
    before = record.get("inputs", {}).get("autoencoder")
    if before and describe_input(checkpoint, "autoencoder", config.artifacts)["sha256"] != before["sha256"]:
        raise InputError(
            f"{_LATENTS}: {config.required(_LATENTS)} was made with the autoencoder {before['path']}, this run has "
            f"{checkpoint}: its latents mean something else; set autoencoder.checkpoint={before['path']}"
        )
