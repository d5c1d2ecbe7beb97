"""A round: what it is made from, and the arguments of its stages."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

from core.checkpoints.strength import FromStart
from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes
from core.data.palette_file import palette_input
from core.generation.bad_latents import BadLatentsRequest
from core.labels.label_sources import label_inputs
from core.labels.labelling import LABELLED_NAME
from core.records.artifacts import CONFIG_NAME, RECORD_NAME, ROUND_RECORD, round_location
from core.records.input_files import describe_input
from core.records.lease import publishing_store
from core.records.provenance import provenance_of, refuse_difference
from core.records.record_files import read_record
from core.rounds.finished_rounds import (
    RoundRecord,
    model_of_round,
    read_round_record,
    require_finished_round,
)
from core.rounds.planning import NextRoundPlan, plan_of_round
from core.rounds.round_settings import refuse_other_settings, round_settings, with_weight_factor
from core.rounds.run import fork_parent
from core.runtime.errors import InputError
from core.runtime.processes import count_processes
from core.runtime.seeding import derive_seed
from core.storage.opening import open_store
from core.storage.store import join, replace
from core.trackers.tracking import TrackedStage
from core.training.prerequisites import with_prerequisites

log = logging.getLogger(__name__)

# The stages of a round in their order, by the folder of each.
ROUND_STAGES = ("bad_latents", "discriminator", "stage3")
# The folders of the audits: of the Stage 2 model, if the round starts from no other round, and of the model it made.
AUDIT_BEFORE, AUDIT = "audit_before", "audit"
# The folder of the audit of a model at a strength begins so.
AUDIT_STRENGTH = "audit_strength_"


@dataclass(frozen=True)
class Round:
    """One pass of generate, retrain, continue: its number, location, config and the checkpoint that generates.

    `record` is None until the round is finished. `parent` is the record of the round that this one starts from, None
    for a fresh start. `run_start` is the model that round 1 started from, None where no audit needs it.
    """

    number: int
    location: str
    config: ExperimentConfig
    generator: str
    seed: int
    provenance: Mapping[str, Any]
    record: RoundRecord | None
    parent: RoundRecord | None
    plan: NextRoundPlan
    run_start: str | None = None

    @property
    def config_path(self) -> str:
        """The round's own config file, with which each of its tasks can be run alone."""
        return join(self.location, CONFIG_NAME)

    def bad_latents_request(self) -> BadLatentsRequest:
        """The inputs, options and location of the round's bad latents."""
        section = self.config.rounds.bad_latents
        return BadLatentsRequest(
            manifest=self.config.required("dataset.manifest"),
            autoencoder_checkpoint=self.config.required("autoencoder.checkpoint"),
            diffusion_checkpoint=self.generator,
            output_dir=join(self.location, "bad_latents"),
            **section.model_dump(exclude={"shards", "dask_address"}),
            seed=self.seed,
            device=self.config.training.device,
            held_out=False,
            judged=self.config.audit is not None,
        )

    def bad_latents_options(self) -> dict[str, Any]:
        """Arguments of generate-bad-latents."""
        return asdict(self.bad_latents_request()) | {
            "diffusion_config": self.config_path,
            "artifacts": self.config.artifacts,
        }

    def discriminator_options(self) -> dict[str, Any]:
        """Arguments of retrain-discriminator, on the round's own latents, which exist by then."""
        folder = open_store(join(self.location, "bad_latents"), self.config.artifacts)
        record = read_record(folder, RECORD_NAME)
        # Rounds that an earlier version began have no labels.
        judged = record is not None and LABELLED_NAME in record["outputs"]
        return {
            "real_latents": join(self.location, "bad_latents", "real_latents_all.pt"),
            "fake_latents": join(self.location, "bad_latents", "bad_latents_all.pt"),
            "output_dir": join(self.location, "discriminator"),
            **self.config.rounds.discriminator.model_dump(),
            "seed": self.seed,
            "device": self.config.training.device,
            "use_amp": self.config.training.use_amp,
            "labelled_latents": join(folder.uri, LABELLED_NAME) if judged else None,
            "learn_labels": self.config.rounds.viability.labels != "generated",
            "processes": count_processes(self.config.training.processes, self.config.training.device),
            "artifacts": self.config.artifacts,
            "tracked": TrackedStage(self.config, "discriminator", join(self.location, "discriminator")),
        }

    @property
    def stage3_checkpoint(self) -> str:
        """Address of the model that the round makes."""
        return model_of_round(self.location, self.config.experiment.name)

    def audits_options(self) -> dict[str, dict[str, Any]]:
        """Arguments of each audit of the round by its folder, in their order; empty if none is due."""
        section = self.config.audit
        if section is None:
            return {}
        due = self.number % section.every == 0 or self.number == self.config.rounds.count
        audited = {AUDIT: self.stage3_checkpoint} if due else {}
        if self.parent is None:
            audited = {AUDIT_BEFORE: self.config.required("diffusion.stage2_checkpoint")} | audited
        options: dict[str, dict[str, Any]] = {
            name: {
                "config": self.config_path,
                "checkpoint": checkpoint,
                "num_samples": section.num_samples,
                "seed": section.seed,
                "output_dir": join(self.location, name),
                "artifacts": self.config.artifacts,
            }
            for name, checkpoint in audited.items()
        }
        if self.run_start is not None:
            for strength in section.strengths:
                place = {"output_dir": join(self.location, f"{AUDIT_STRENGTH}{strength}")}
                options[f"{AUDIT_STRENGTH}{strength}"] = (
                    options[AUDIT] | place | {"from_start": FromStart(self.run_start, strength)}
                )
        return options


def open_round(config: ExperimentConfig, number: int) -> Round:
    """Round `number` (from 1) of the experiment, finished or still to do.

    Bad latents of round 1 come from Stage 1. Those of later rounds, and of the first round of a forked run, come from
    the model of the round before, whose epoch count, optimizer and EMA continue. Raises InputError for a missing
    prerequisite, for a round whose files are not those of its record, or if this round or an earlier one was made
    from another config or parent.
    """
    refuse_other_settings(config, before=number)
    config = with_prerequisites(config)
    location = round_location(config, number)
    store = publishing_store(location, config.artifacts)
    inputs = {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
        **palette_input(config),
        **label_inputs(config),
    }
    plan = plan_of_round(config, number)
    config = with_weight_factor(config, plan.weight_factor)
    parent = _parent(config, plan)
    start = _fresh_start(config) if parent is None else _start_from(parent, config)
    provenance = provenance_of("round", inputs | start.inputs, round_settings(config), config.artifacts)
    provenance |= {"round": number}
    if start.parent is not None:
        _refuse_other_autoencoder(provenance, start.parent, str(parent))
    record = read_round_record(config, number)
    if record is not None:
        refuse_difference(cast(dict[str, Any], record), provenance, location)
        log.info("round %d: done already (%s)", number, location)
    seed = derive_seed(config.training.seed, "round", number) % 2**31
    own = config.with_values(
        {
            "experiment.save_path": join(location, "stage3"),
            "discriminator.checkpoint": join(location, "discriminator", "discriminator_best.pt"),
            "discriminator.labelled_latents": join(location, "bad_latents", LABELLED_NAME),
            **start.values,
        }
    )
    run_start = _run_start(config, number) if record is None else None
    opened = Round(number, location, own, start.generator, seed, provenance, record, start.parent, plan, run_start)
    if record is None:
        replace(store, CONFIG_NAME, config_bytes(opened.config))
    return opened


def start_checkpoints(config: ExperimentConfig, number: int) -> dict[str, str]:
    """The diffusion checkpoints that round `number` starts from, by name; the prerequisites must be filled in.

    Raises InputError as `open_round` does, and nothing is written.
    """
    parent = _parent(config, plan_of_round(config, number))
    if parent is None:
        return _fresh_start(config).inputs
    return {"generator": _start_from(parent, config).generator}


def _parent(config: ExperimentConfig, plan: NextRoundPlan) -> str | None:
    """Address of the round that one with this plan starts from; None for a fresh start."""
    return round_location(config, plan.parent_round) if plan.parent_round > 0 else fork_parent(config)


def _run_start(config: ExperimentConfig, number: int) -> str | None:
    """The model that round 1 started from, if this round is the last and models between it and the end are audited."""
    if config.audit is None or not config.audit.strengths or number != config.rounds.count:
        return None
    parent = fork_parent(config)
    if parent is not None:
        ended = require_finished_round(parent, config)
        return model_of_round(parent, ended["experiment"])
    stage2: str = config.required("diffusion.stage2_checkpoint")
    first = read_round_record(config, 1) if number > 1 else None
    if (
        first is not None
        and describe_input(stage2, "stage2", config.artifacts)["sha256"] != (first["inputs"]["stage2"]["sha256"])
    ):
        raise InputError(
            f"audit.strengths need the model that round 1 started from, and diffusion.stage2_checkpoint {stage2} is "
            "another: restore it"
        )
    return stage2


class _Start(NamedTuple):
    """What a round starts from: the checkpoint that generates, input files, settings, the record of its parent."""

    generator: str
    inputs: dict[str, str]
    values: dict[str, Any]
    parent: RoundRecord | None


def _fresh_start(config: ExperimentConfig) -> _Start:
    """The start of a run that was not forked: Stage 1 generates, Stage 3 begins with the weights of Stage 2.

    Labels are of what the model itself generates, so with labels Stage 2 generates.
    """
    generated = config.rounds.viability.labels == "generated"
    inputs = {"stage1": config.required("diffusion.stage1_checkpoint")} if generated else {}
    inputs["stage2"] = config.required("diffusion.stage2_checkpoint")
    return _Start(inputs["stage1" if generated else "stage2"], inputs, _length(config, 0), None)


def _length(config: ExperimentConfig, epoch: int) -> dict[str, Any]:
    """The settings that end Stage 3 of a round that starts at an epoch."""
    steps = config.rounds.steps_per_round
    if steps is None:
        return {"training.epochs": config.rounds.epochs_per_round + epoch}
    return {"training.epochs": 1 + epoch, "training.steps_per_epoch": steps}


def _start_from(parent: str, config: ExperimentConfig) -> _Start:
    """The model of the round at `parent` generates, and Stage 3 continues from its whole state."""
    ended = require_finished_round(parent, config)
    generator = model_of_round(parent, ended["experiment"])
    values = {
        "diffusion.stage3_checkpoint": generator,
        **_length(config, ended["metrics"]["epoch"]),
    }
    return _Start(generator, {"parent": join(parent, ROUND_RECORD), "generator": generator}, values, ended)


def _refuse_other_autoencoder(provenance: Mapping[str, Any], ended: RoundRecord, parent: str) -> None:
    now, before = provenance["inputs"]["autoencoder"], ended["inputs"]["autoencoder"]
    if now["sha256"] != before["sha256"]:
        raise InputError(
            f"{parent} was made with the autoencoder {before['path']}, this run has {now['path']}: its latents mean "
            f"something else; set autoencoder.checkpoint={before['path']}"
        )
