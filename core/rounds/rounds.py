"""The rounds: what each is made from, where it lives, and the record that says it exists."""

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_fields
from typing import Any

import pandas as pd

from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes, load_config
from core.records.artifacts import (
    ANNOUNCED_NAME,
    CONFIG_NAME,
    DECISION_NAME,
    RECORD_NAME,
    ROUND_FOLDER,
    ROUND_RECORD,
    RUN_RECORD,
    STAGE3_FOLDER,
    round_location,
    run_location,
)
from core.records.lease import hold, publishing_store
from core.records.ownership import OwnFiles, require_only_own
from core.records.stage_records import (
    code_version,
    create_record,
    describe_input,
    provenance_of,
    read_record,
    record_bytes,
    refuse_difference,
)
from core.rounds.alarms import NextRoundPlan, find_alarms, plan_next_round
from core.runtime.errors import InputError
from core.runtime.seeding import derive_seed
from core.storage.foreign_files import foreign_file_error, matches
from core.storage.opening import open_store
from core.storage.store import Store, join, replace, split_location
from core.training.bad_latents import BadLatentsRequest
from core.training.prerequisites import with_prerequisites
from core.training.training_files import checkpoint_name, stage3_files

log = logging.getLogger(__name__)

# Columns of tables for a person, and the metrics in them.
METRIC_TITLES = {
    "D val acc": "discriminator_val_acc",
    "viability before": "viability_before",
    "after": "viability_after",
    "viable": "viable",
    "noise": "val_noise_loss",
    "segmentation": "val_segmentation_loss",
    "perceptual": "val_perceptual_loss",
}
# The stages of a round, in order, by the folder each is in; then the audits: of the model that a fresh start began
# with, and of the one that the round made.
ROUND_STAGES = ("bad_latents", "discriminator", "stage3")
AUDIT_BEFORE, AUDIT = "audit_before", "audit"
_ROUND_CONFIG = re.compile(rf"{ROUND_FOLDER.pattern}/{re.escape(CONFIG_NAME)}")


@contextlib.contextmanager
def hold_run(config: ExperimentConfig, wait: bool = False) -> Iterator[None]:
    """The lease of the experiment's run; LeaseError if another process works on it and `wait` is false.

    InputError, before anything is written, if the run's folder was not begun by us and holds files that are not ours.
    """
    _require_own_folder(config)
    with hold(run_location(config), config.artifacts, wait):
        yield


def _require_own_folder(config: ExperimentConfig) -> None:
    store, name = open_store(run_location(config), config.artifacts), config.experiment.name
    own_files = OwnFiles(store)
    if not own_files.is_run():
        setting = "experiment.name or artifacts.root"
        if store.read(RUN_RECORD) is not None:  # said first: it is why nothing else there is known for ours
            raise foreign_file_error(store.uri, RUN_RECORD, setting)
        # Earlier versions kept no record of a Stage 3 by hand, nor of a run of which single rounds were asked for.
        require_only_own(
            store,
            lambda file: own_files.find(file) or _is_by_hand(file, name) or _is_round_config(store, file, name),
            setting,
        )


def _is_by_hand(file: str, name: str) -> bool:
    """Whether the file of a run's folder is one that continue-stage-3 by hand makes there for the experiment `name`."""
    folder, _, below = file.partition("/")
    return folder == STAGE3_FOLDER and matches(below, stage3_files(name))


def _is_round_config(store: Store, file: str, name: str) -> bool:
    """Whether the file is the config of a round of the experiment."""
    if not _ROUND_CONFIG.fullmatch(file):
        return False
    with contextlib.suppress(InputError):
        return load_config(join(store.uri, file)).experiment.name == name
    return False


def begin_run(config: ExperimentConfig, fork_from: str | None = None) -> None:
    """Note the run's config, and on its first start the round it is forked from, if it is.

    `fork_from` is the address of a round's folder or record. Raises InputError if there is no such round, if the
    run was begun from another, or if a finished round of it was made with other settings.
    """
    store = publishing_store(run_location(config), config.artifacts)
    parent = None
    if fork_from is not None:
        record = fork_from if fork_from.endswith(f"/{ROUND_RECORD}") else join(fork_from, ROUND_RECORD)
        if open_store(split_location(record)[0], config.artifacts).read(ROUND_RECORD) is None:
            raise InputError(f"--fork-from {fork_from}: there is no {record}; give the address of a finished round")
        parent = describe_input(record, "parent")
    begun = read_record(store, RUN_RECORD)
    if begun is None:
        _require_own_folder(config)
        create_record({"experiment": config.experiment.name, "parent": parent}, store, RUN_RECORD)
    elif parent is not None and (begun["parent"] or {}).get("sha256") != parent["sha256"]:
        before = (begun["parent"] or {}).get("path", "no other round")
        raise InputError(f"{store.uri} was forked from {before}, not from {fork_from}: give it another experiment.name")
    refuse_other_settings(config)
    replace(store, CONFIG_NAME, config_bytes(config))


@dataclass(frozen=True)
class Round:
    """One pass of generate, retrain, continue: its number, address, config and the model that generates.

    `record` is the finished round's record, None while the round is to be done.
    """

    number: int
    location: str
    config: ExperimentConfig
    generator: str
    seed: int
    provenance: dict[str, Any]
    record: dict[str, Any] | None
    parent: dict[str, Any] | None
    plan: NextRoundPlan

    @property
    def config_path(self) -> str:
        """The round's own config file, with which each of its tasks can be run alone."""
        return join(self.location, CONFIG_NAME)

    def bad_latents_request(self) -> BadLatentsRequest:
        """What the round's bad latents are made from, and where."""
        section = self.config.rounds.bad_latents
        return BadLatentsRequest(
            manifest=self.config.dataset.manifest,
            autoencoder_checkpoint=self.config.autoencoder.checkpoint,
            diffusion_checkpoint=self.generator,
            output_dir=join(self.location, "bad_latents"),
            **section.model_dump(exclude={"shards", "dask_address"}),
            seed=self.seed,
            device=self.config.training.device,
            held_out=False,
        )

    def bad_latents_options(self) -> dict[str, Any]:
        """Arguments of generate-bad-latents."""
        return asdict(self.bad_latents_request()) | {"diffusion_config": self.config_path}

    def discriminator_options(self) -> dict[str, Any]:
        """Arguments of retrain-discriminator, on the round's own real and bad latents."""
        return {
            "real_latents": join(self.location, "bad_latents", "real_latents_all.pt"),
            "fake_latents": join(self.location, "bad_latents", "bad_latents_all.pt"),
            "output_dir": join(self.location, "discriminator"),
            **self.config.rounds.discriminator.model_dump(),
            "seed": self.seed,
            "device": self.config.training.device,
            "use_amp": self.config.training.use_amp,
            "artifacts": self.config.artifacts,
        }

    @property
    def stage3_checkpoint(self) -> str:
        """The model that the round makes."""
        return join(self.location, "stage3", checkpoint_name(self.config.experiment.name, "latest"))

    def audits_options(self) -> list[dict[str, Any]]:
        """Arguments of each audit the round wants, before and after it; none if the config has no audit."""
        section = self.config.audit
        if section is None:
            return []
        audited = {AUDIT: self.stage3_checkpoint}
        if self.parent is None:
            audited = {AUDIT_BEFORE: self.config.required("diffusion.stage2_checkpoint")} | audited
        return [
            {
                "config": self.config_path,
                "checkpoint": checkpoint,
                "num_samples": section.num_samples,
                "seed": section.seed,
                "output_dir": join(self.location, name),
            }
            for name, checkpoint in audited.items()
        ]


def next_round(config: ExperimentConfig, extra: bool = False) -> int | None:
    """Number of the first round that is not finished; None where all of `rounds.count` are and none is `extra`."""
    number = _last_round(config) + 1
    return number if extra or number <= config.rounds.count else None


def refuse_other_settings(config: ExperimentConfig, before: int | None = None) -> None:
    """Raise InputError if a finished round (`before` that number) was made with other settings than the config's.

    It names the round and the setting. What a round says of the next one's weight is no other setting, and neither is
    what a person decided after one.
    """
    numbers = range(1, before or _last_round(config) + 1)
    decisions = {number: read_decision(config, number) for number in numbers}
    decided = {
        number: decision["discriminator_weight"]
        for number, decision in decisions.items()
        if decision and decision["discriminator_weight"] is not None
    }
    for number in numbers:
        location = round_location(config, number)
        record = read_record(open_store(location, config.artifacts), ROUND_RECORD)
        if record is None:
            continue
        before_it = [weight for after, weight in decided.items() if after < number]
        own = config.with_values({"discriminator.weight": before_it[-1]}) if before_it else config
        settings = _settings(_with_weight(own, _plan_of(config, number).weight_factor))
        if not before_it and config.discriminator.weight in decided.values():
            del settings["discriminator"]["weight"]  # the config says what was decided later
        made, wanted = ({"stage": "round", "settings": made} for made in (record["settings"], settings))
        refuse_difference(made, wanted, location)


def last_unannounced_round(config: ExperimentConfig) -> int | None:
    """Number of the last finished round if its process died before it sent the round's events, else None."""
    number = _last_round(config)
    return None if number == 0 or is_announced(config, number) else number


def stop_reason(config: ExperimentConfig, number: int) -> str | None:
    """Why no round is to follow the finished round `number`; None if one may."""
    if config.rounds.on_regression != "stop":
        return None
    record = read_record(open_store(round_location(config, number), config.artifacts), ROUND_RECORD)
    if record is None or not record.get("regression"):
        return None
    return f"stopped after round {number} (rounds.on_regression): {record['regression'][0]}"


def saw_other_data(config: ExperimentConfig) -> bool:
    """Whether the last finished round was made from other content than the config's manifest has now."""
    ended = _last_round(config)
    if ended == 0:
        return False
    record = _round_record(round_location(config, ended), config)
    now = describe_input(with_prerequisites(config).required("dataset.manifest"), "manifest")
    return record["inputs"]["manifest"]["sha256"] != now["sha256"]


def read_decision(config: ExperimentConfig, number: int) -> dict[str, Any] | None:
    """What a person answered after round `number`; None if nobody has."""
    return read_record(open_store(round_location(config, number), config.artifacts), DECISION_NAME)


def keep_decision(config: ExperimentConfig, number: int, decision: dict[str, Any]) -> None:
    """Keep a person's answer after round `number`, once: a run that is started again does not ask again."""
    create_record(decision, publishing_store(round_location(config, number), config.artifacts), DECISION_NAME)


def is_announced(config: ExperimentConfig, number: int) -> bool:
    """Whether the events of the finished round `number` were sent."""
    return _has_record(round_location(config, number), config, ANNOUNCED_NAME)


def note_announced(config: ExperimentConfig, number: int) -> None:
    """Keep that the events of the finished round `number` were sent; unless it is kept, they are sent again."""
    # Without the run's lease, which what an event starts may have by now.
    store = open_store(round_location(config, number), config.artifacts)
    store.create(ANNOUNCED_NAME, record_bytes({"round": number}))


def open_round(config: ExperimentConfig, number: int) -> Round:
    """Round `number` (from 1) of the experiment, as it is or is to be made.

    Bad latents of round 1 come from Stage 1, of later rounds (and the first of a forked run) from the end of the
    round before, whose epoch count, optimizer and EMA go on. Raises InputError for a missing prerequisite, for a
    round whose files are not what its record says, or if this round or an earlier one was made from another config or
    parent.
    """
    refuse_other_settings(config, before=number)
    config = with_prerequisites(config)
    location = round_location(config, number)
    store = publishing_store(location, config.artifacts)
    inputs = {
        "manifest": config.required("dataset.manifest"),
        "autoencoder": config.required("autoencoder.checkpoint"),
    }
    values: dict[str, Any] = {
        "experiment.save_path": join(location, "stage3"),
        "discriminator.checkpoint": join(location, "discriminator", "discriminator_best.pt"),
        "training.epochs": config.rounds.epochs_per_round,
    }
    plan = _plan_of(config, number)
    config = _with_weight(config, plan.weight_factor)
    parent, ended = _parent(config, plan), None
    if parent is None:
        generator = config.required("diffusion.stage1_checkpoint")
        inputs |= {"stage1": generator, "stage2": config.required("diffusion.stage2_checkpoint")}
    else:
        ended = _round_record(parent, config)
        generator = join(parent, "stage3", checkpoint_name(ended["experiment"], "latest"))
        inputs |= {"parent": join(parent, ROUND_RECORD), "generator": generator}
        values["diffusion.stage3_checkpoint"] = generator
        values["training.epochs"] += ended["metrics"]["epoch"]
    provenance = provenance_of("round", inputs, _settings(config)) | {"round": number}
    if ended is not None:
        _refuse_other_autoencoder(provenance, ended, parent)
    record = read_record(store, ROUND_RECORD)
    if record is not None:
        refuse_difference(record, provenance, location)
        log.info("round %d: done already (%s)", number, location)
    seed = derive_seed(config.training.seed, "round", number) % 2**31
    opened = Round(number, location, config.with_values(values), generator, seed, provenance, record, ended, plan)
    if record is None:
        replace(store, CONFIG_NAME, config_bytes(opened.config))
    return opened


def close_round(
    opened: Round,
    bad_latents: dict[str, Any],
    discriminator: dict[str, Any],
    stage3: dict[str, Any],
    audits: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """The round's record, created last and once, after which the round exists.

    Its outputs are the round's config and the records of its stages, whose own outputs have size and sha256 there.
    `audits` are what the audits of the model before (if the round before has none) and after returned. Alarms are in
    the record, and logged.
    """
    store = publishing_store(opened.location, opened.config.artifacts)
    places = [split_location(audit["output_dir"]) for audit in audits]
    names = [*ROUND_STAGES, *(name for folder, name in places if folder == opened.location)]
    stages = {stage: read_record(store.below(stage), RECORD_NAME) for stage in names}
    if missing := [stage for stage, record in stages.items() if record is None]:
        raise InputError(f"{store.uri}/{missing[0]} has lost its {RECORD_NAME}: run the same command again")
    files = {CONFIG_NAME: config_bytes(opened.config)}
    files |= {f"{stage}/{RECORD_NAME}": record_bytes(record) for stage, record in stages.items()}
    after = audits[-1]["metrics"] if audits else None
    before = audits[0]["metrics"] if len(audits) > 1 else (opened.parent or {}).get("audit")
    metrics = {
        "discriminator_val_acc": discriminator["metrics"]["val_acc"],
        "bad_latent_std": bad_latents["metrics"]["bad_latent_std"],
        **stage3["metrics"],
        "viable_before": before and before["viable"],
        "viable": after and after["viable"],
    }
    alarms = find_alarms(metrics, before, after)
    for alarm in alarms:
        log.warning("round %d: %s", opened.number, alarm.text)
    last = opened.plan if opened.plan.best_viable is not None else _started_at(opened, metrics)
    following = plan_next_round(opened.config.rounds, opened.number, last, alarms, metrics, metrics["viable"])
    record = opened.provenance | {
        "location": opened.location,
        "experiment": opened.config.experiment.name,
        "config_sha256": _digest(opened.provenance["settings"]),
        "seeds": {"training": opened.config.training.seed, "round": opened.seed},
        "metrics": metrics,
        "audit": after,
        "alarms": [alarm.text for alarm in alarms],
        "regression": [alarm.text for alarm in alarms if alarm.regression],
        "next": asdict(following),
        "seconds": round(seconds, 1),
        "outputs": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
        "size": sum(entry["size"] for stage in stages.values() for entry in stage["outputs"].values()),
        "code": code_version(),
    }
    create_record(record, store, ROUND_RECORD)
    return record


def round_table(records: list[dict[str, Any]]) -> str:
    """One row a round, and where everything lies."""
    rows = [
        {"round": record["round"], "epoch": record["metrics"]["epoch"]}
        | {title: record["metrics"].get(name) for title, name in METRIC_TITLES.items()}
        | {"seconds": record["seconds"], "artefacts": record["location"]}
        for record in records
    ]
    return pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format, na_rep="")


def _last_round(config: ExperimentConfig) -> int:
    """Number of the last round that is finished, 0 if none is."""
    number = 0
    while _has_record(round_location(config, number + 1), config):
        number += 1
    return number


def _has_record(location: str, config: ExperimentConfig, name: str = ROUND_RECORD) -> bool:
    return read_record(open_store(location, config.artifacts), name) is not None


def _plan_of(config: ExperimentConfig, number: int) -> NextRoundPlan:
    """What the round before says of this one."""
    if number == 1:
        return NextRoundPlan()
    record = read_record(open_store(round_location(config, number - 1), config.artifacts), ROUND_RECORD)
    return NextRoundPlan(**record["next"]) if record and record.get("next") else NextRoundPlan(parent_round=number - 1)


def _started_at(opened: Round, metrics: dict[str, Any]) -> NextRoundPlan:
    """Where the run began: what its first round started from is the best so far."""
    return replace_fields(opened.plan, best_round=opened.number - 1, best_viable=metrics["viable_before"])


def _with_weight(config: ExperimentConfig, factor: float) -> ExperimentConfig:
    """`config` with the discriminator's weight, and the share of gradient it aims at, times `factor`."""
    if factor == 1.0:
        return config
    section = config.discriminator
    values: dict[str, Any] = {"discriminator.weight": section.weight * factor}
    if section.balance is not None:
        values["discriminator.balance"] = section.balance * factor
    return config.with_values(values)


def _parent(config: ExperimentConfig, plan: NextRoundPlan) -> str | None:
    """Address of the round to start from, of this run or the one it was forked from; None for a fresh start."""
    if plan.parent_round > 0:
        return round_location(config, plan.parent_round)
    begun = read_record(open_store(run_location(config), config.artifacts), RUN_RECORD)
    if begun is None or begun["parent"] is None:
        return None
    return split_location(begun["parent"]["path"])[0]


def _round_record(location: str, config: ExperimentConfig) -> dict[str, Any]:
    """Record of the finished round at `location`, whose stage records are still those it names."""
    store = open_store(location, config.artifacts)
    record = read_record(store, ROUND_RECORD)
    if record is None:
        raise InputError(f"{location} holds no finished round: run the rounds in their order")
    store.fetch(record["outputs"])
    return record


def _refuse_other_autoencoder(provenance: dict[str, Any], ended: dict[str, Any], parent: str) -> None:
    now, before = (record["inputs"]["autoencoder"] for record in (provenance, ended))
    if now["sha256"] != before["sha256"]:
        raise InputError(
            f"{parent} was made with the autoencoder {before['path']}, this run has {now['path']}: its latents mean "
            f"something else; set autoencoder.checkpoint={before['path']}"
        )


def _settings(config: ExperimentConfig) -> dict[str, Any]:
    """What a round's result depends on besides its inputs; how many rounds there will be does not count."""
    settings = config.fingerprint()
    del settings["rounds"]["count"], settings["prerequisites"], settings["training"]["epochs"]
    return settings


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
