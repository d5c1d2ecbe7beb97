"""Where the labels of generated latents come from: `rounds.viability.labels`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.labels.checker import checker_inputs, label_by_command, require_checker
from core.labels.hand_labels import hand_label_inputs, label_by_critic, read_hand_labels
from core.labels.labelling import label_latents, require_both_kinds
from core.models.labelled_latents import LabelledLatents
from core.networks.autoencoder import Autoencoder

# Generated latents [N, C, h, w] and the autoencoder -> latents with their labels, and figures for the record.
Labeller = Callable[[Tensor, Autoencoder], tuple[LabelledLatents, dict[str, float]]]

# What helps if too few layouts are viable, or too few are not.
_REMEDIES = {
    True: "train Stages 1 and 2 longer, name fewer rules in rounds.viability.rules, or set rounds.viability.labels: "
    "generated",
    False: "name more rules in rounds.viability.rules, or set rounds.viability.labels: generated",
}


def label_inputs(config: ExperimentConfig) -> dict[str, Location]:
    """The input files that the labels depend on, by name; InputError if a setting is missing."""
    match config.rounds.viability.labels:
        case "file":
            return hand_label_inputs(config)
        case "command":
            return checker_inputs(config)
        case _:
            return {}


def label_settings(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that the labels depend on, as `judged`; empty if all generated latents are bad."""
    section = config.rounds.viability
    judge: dict[str, Any]
    match section.labels:
        case "generated":
            return {}
        case "rules":
            judge = {"rules": section.rules}
        case "file":
            judge = {"least_auc": section.least_auc, "seed": config.training.seed}
        case "command":
            judge = {"command": section.command}
    calibration = config.required("audit").model_dump(include={"pass_share", "pixels_per_metre"})
    return {"judged": {"labels": section.labels, **judge, **calibration}}


def require_label_source(config: ExperimentConfig) -> None:
    """InputError if there is no label file that can be learnt from, or no command that can be run."""
    match config.rounds.viability.labels:
        case "file":
            read_hand_labels(config)
        case "command":
            require_checker(config)


def labeller(config: ExperimentConfig, paths: Mapping[str, Path], folder: Path, judged: bool) -> Labeller | None:
    """The function that labels generated latents; None if nothing judges them.

    `paths` are local ones of the stage's inputs. A command works in a temporary folder in `folder`. If all generated
    latents are bad, the function only measures them, if they are to be `judged`. Raises InputError for what
    `require_label_source` refuses; the function does so if almost all latents get the same label.
    """
    match config.rounds.viability.labels:
        case "file":
            known = read_hand_labels(config, paths)
            return partial(_by_critic, known, config, paths)
        case "command":
            require_checker(config)
            return partial(_by_command, config, paths, folder)
        case "rules":
            return partial(_by_rules, config, paths)
        case _:
            return partial(_measured, config, paths) if judged else None


def _by_critic(
    known: LabelledLatents, config: ExperimentConfig, paths: Mapping[str, Path], latents: Tensor, model: Autoencoder
) -> tuple[LabelledLatents, dict[str, float]]:
    return label_by_critic(latents, known, model, config, paths)


def _by_command(
    config: ExperimentConfig, paths: Mapping[str, Path], folder: Path, latents: Tensor, model: Autoencoder
) -> tuple[LabelledLatents, dict[str, float]]:
    return label_by_command(latents, model, config, paths, folder), {}


def _by_rules(
    config: ExperimentConfig, paths: Mapping[str, Path], latents: Tensor, model: Autoencoder
) -> tuple[LabelledLatents, dict[str, float]]:
    labelled = label_latents(latents, model, config, paths)
    require_both_kinds(labelled.viable.tolist(), "rounds.viability.labels rules", _REMEDIES)
    return labelled, {}


def _measured(
    config: ExperimentConfig, paths: Mapping[str, Path], latents: Tensor, model: Autoencoder
) -> tuple[LabelledLatents, dict[str, float]]:
    return label_latents(latents, model, config, paths), {}
