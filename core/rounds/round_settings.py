"""The settings that a round's result depends on, and the refusal of a config that differs from them."""

import hashlib
import json
from typing import Any

from core.config.experiment import ExperimentConfig
from core.data.palette_file import palette_input
from core.records.artifacts import round_location
from core.records.provenance import provenance_of, refuse_difference
from core.rounds.finished_rounds import last_finished_round, read_round_record
from core.rounds.gate_answers import read_decision
from core.rounds.planning import plan_of_round


def round_settings(config: ExperimentConfig) -> dict[str, Any]:
    """The settings that a round's result depends on; the number of rounds is not one of them."""
    settings = config.fingerprint()
    del settings["rounds"]["count"], settings["prerequisites"], settings["training"]["epochs"]
    return settings


def settings_digest(settings: dict[str, Any]) -> str:
    """sha256 of the settings as JSON."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def with_weight_factor(config: ExperimentConfig, factor: float) -> ExperimentConfig:
    """`config` with `discriminator.weight` and `discriminator.balance` times `factor`."""
    if factor == 1.0:
        return config
    section = config.discriminator
    values: dict[str, Any] = {"discriminator.weight": section.weight * factor}
    if section.balance is not None:
        values["discriminator.balance"] = section.balance * factor
    return config.with_values(values)


def refuse_other_settings(config: ExperimentConfig, before: int | None = None) -> None:
    """Raise InputError if a finished round (before round `before`, or any) was made with settings other than `config`.

    So it is if its layouts were in another palette. The error names the round and the setting. A weight that a plan or
    a person's decision changed does not count.
    """
    numbers = range(1, before or last_finished_round(config) + 1)
    decided = _decided_weights(config, numbers)
    for number in numbers:
        record = read_round_record(config, number)
        if record is None:
            continue
        earlier = [weight for after, weight in decided.items() if after < number]
        own = config.with_values({"discriminator.weight": earlier[-1]}) if earlier else config
        settings = round_settings(with_weight_factor(own, plan_of_round(config, number).weight_factor))
        if not earlier and config.discriminator.weight in decided.values():
            del settings["discriminator"]["weight"]  # the config holds a weight that was decided after this round
        wanted = provenance_of("round", palette_input(config), settings, config.artifacts)
        inputs = {name: entry for name, entry in record["inputs"].items() if name == "palette"}
        made = {"stage": "round", "inputs": inputs, "settings": record["settings"]}
        refuse_difference(made, wanted, round_location(config, number))


def _decided_weights(config: ExperimentConfig, numbers: range) -> dict[int, float]:
    """The weights that a person decided, by the round after which it was."""
    decided = {}
    for number in numbers:
        decision = read_decision(config, number)
        if decision is not None and decision["discriminator_weight"] is not None:
            decided[number] = decision["discriminator_weight"]
    return decided
