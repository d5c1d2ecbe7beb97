"""Records of another form, and settings that are not those of before."""

import json
import os
from collections.abc import Callable
from typing import Any

from core.config.experiment import ExperimentConfig
from core.records.lease import is_free
from core.records.provenance import difference
from core.records.record_files import read_record
from core.records.stage_run import run_stage
from core.records.workspace import newest_state
from core.reports.run_status import find_problems, read_status
from core.rounds.gate_answers import read_decision
from core.rounds.round import open_round
from core.rounds.run import begin_run
from core.storage.opening import open_store
from core.storage.store import LARGEST_SMALL_FILE, ArtifactsSection
from core.training.prerequisites import make_prerequisite
from flows.status import status
from tests.sweep.ground import Ground, Row

TITLE = "Records of another form, settings that changed"

_SHA = "0" * 64
_ENTRY = {"size": 1, "sha256": _SHA}
_INPUT = _ENTRY | {"path": "a.pt"}
RUN = {"experiment": "a", "parent": None}
STAGE = {
    "stage": "s",
    "inputs": {"a": _INPUT},
    "settings": {},
    "outputs": {"b.pt": _ENTRY},
    "metrics": {},
    "seconds": 1,
}
_FIGURES = {
    "epoch": 1,
    "first_epoch": 0,
    "viability_before": 0.5,
    "viability_after": 0.5,
    "viability_floor": 0.5,
    "discriminator_val_acc": 0.7,
}
_AUDIT = {"viable": 0.5, "coverage": None, "intervals": {"viable": [0.4, None]}}
ROUND = STAGE | {
    "round": 1,
    "location": "artifacts/a/round-01",
    "experiment": "a",
    "inputs": {"manifest": _INPUT, "autoencoder": _INPUT},
    "metrics": _FIGURES,
    "audit": _AUDIT,
    "taught": ["viable"],
    "alarms": [],
    "regression": [],
    "next": {"weight_factor": 1.0, "parent_round": 1, "best_round": 0, "best_viable": None},
    "size": 1,
}
LEASE = {"holder": {"host": "h", "pid": 1}, "seconds": 60, "token": 1, "nonce": "n", "released": True, "renewal": 0}
STATE = {"progress": "epoch 1", "files": {"b.pt": _ENTRY | {"state": "000001-000001"}}, **STAGE}
DECISION = {"answer": "go on", "discriminator_weight": None}

_FORMS = {
    "run.json": RUN,
    "stage.json": STAGE,
    "round.json": ROUND,
    "lease.json": LEASE,
    "decision.json": DECISION,
    "000001-000001.json": STATE,
}


def _written(ground: Ground, name: str, content: Any) -> str:
    """Address of the folder that now holds the record."""
    ground.file(name, content if isinstance(content, bytes | str) else json.dumps(content))
    return str(ground.folder)


def _read(name: str, content: Any) -> Callable[[Ground], Any]:
    return lambda ground: read_record(open_store(_written(ground, name, content), ArtifactsSection()), name)


def _with(record: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """A copy of the record with a value at a path of keys."""
    copied = json.loads(json.dumps(record))
    inner = copied
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return copied


def _without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


# The record's file, what it is, its content, and the words of the line besides the file's name.
WRONG: list[tuple[str, str, Any, tuple[str, ...]]] = [
    *((name, "an empty file", b"", ("not JSON",)) for name in _FORMS),
    *((name, "{}", {}, ("is missing",)) for name in _FORMS),
    *((name, "a list", [], ("dictionary",)) for name in _FORMS),
    ("run.json", "null", b"null", ("dictionary",)),
    ("lease.json", "null", b"null", ("dictionary",)),
    ("run.json", "nested too deeply", b"[" * 100_000, ("nested too deeply",)),
    ("stage.json", "half a record", json.dumps(STAGE)[:40], ("not JSON",)),
    ("stage.json", "other characters", b"\xff\xfe\xff", ("not JSON",)),
    ("stage.json", "NaN", json.dumps(STAGE | {"seconds": float("nan")}), ("not JSON",)),
    ("stage.json", "a number of 5,000 digits", b'{"outputs": {}, "seconds": ' + b"9" * 5000 + b"}", ("not JSON",)),
    ("run.json", "another tool's", {"run_id": "7f", "status": "FINISHED", "metrics": {}}, ("experiment",)),
    ("run.json", "a name that leads elsewhere", RUN | {"experiment": "../b"}, ("experiment",)),
    ("run.json", "a parent in words", RUN | {"parent": "round-01"}, ("parent",)),
    ("stage.json", "outputs in a list", STAGE | {"outputs": ["b.pt"]}, ("outputs",)),
    ("stage.json", "an output without size", STAGE | {"outputs": {"b.pt": {"sha256": _SHA}}}, ("size",)),
    ("stage.json", "a negative size", _with(STAGE, "outputs", "b.pt", "size", to=-1), ("size",)),
    ("stage.json", "a size that is a truth value", _with(STAGE, "outputs", "b.pt", "size", to=True), ("size",)),
    ("stage.json", "a hash of another length", _with(STAGE, "outputs", "b.pt", "sha256", to="00"), ("sha256",)),
    ("stage.json", "a hash with a line end", _with(STAGE, "outputs", "b.pt", "sha256", to=_SHA + "\n"), ("sha256",)),
    *(
        ("stage.json", f"a file name that leads elsewhere: {kind}", STAGE | {"outputs": {name: _ENTRY}}, ("below",))
        for kind, name in [
            ("..", "../x.pt"),
            ("in the middle", "a/../../x.pt"),
            ("absolute", "/etc/passwd"),
            ("two slashes", "a//b.pt"),
            ("NUL", "a\0b"),
            ("empty", ""),
            ("half a character", "\ud800"),
        ]
    ),
    ("stage.json", "inputs in a list", STAGE | {"inputs": [1]}, ("inputs",)),
    ("stage.json", "an input without path", _with(STAGE, "inputs", "a", to=_ENTRY), ("path",)),
    ("stage.json", "no settings", _without(STAGE, "settings"), ("settings",)),
    ("stage.json", "an audit without intervals", STAGE | {"stage": "audit", "metrics": {"viable": 1}}, ("intervals",)),
    (
        "stage.json",
        "an audit's figure in words",
        STAGE | {"stage": "audit", "metrics": _AUDIT | {"viable": "high"}},
        ("viable",),
    ),
    (
        "stage.json",
        "an audit of unknown size",
        STAGE | {"stage": "audit", "metrics": _AUDIT},
        ("settings.audit.num_samples",),
    ),
    ("stage.json", "a discriminator without accuracy", STAGE | {"stage": "discriminator"}, ("metrics.val_acc",)),
    ("stage.json", "a stage without metrics", _without(STAGE, "metrics"), ("metrics",)),
    ("round.json", "inputs without an autoencoder", ROUND | {"inputs": {"manifest": _INPUT}}, ("autoencoder",)),
    ("round.json", "no metrics", _without(ROUND, "metrics"), ("metrics",)),
    ("round.json", "a figure in words", _with(ROUND, "metrics", "viability_after", to="high"), ("viability_after",)),
    ("round.json", "an AUC in words", _with(ROUND, "metrics", "viability_auc", to="high"), ("viability_auc",)),
    ("round.json", "a rule's AUC in words", _with(ROUND, "metrics", "auc_enclosed", to="high"), ("auc_enclosed",)),
    ("round.json", "an earlier audit without intervals", ROUND | {"earlier_audit": {"viable": 0.5}}, ("intervals",)),
    ("round.json", "taught figures that are no list", ROUND | {"taught": "viable"}, ("taught",)),
    ("round.json", "seconds below 0", ROUND | {"seconds": -1}, ("seconds",)),
    ("round.json", "a weight factor of 0", _with(ROUND, "next", "weight_factor", to=0), ("weight_factor",)),
    ("round.json", "a next round in words", ROUND | {"next": "2"}, ("next",)),
    ("round.json", "an interval of three", _with(ROUND, "audit", "intervals", "viable", to=[0, 1, 2]), ("viable",)),
    ("lease.json", "a holder in words", LEASE | {"holder": "me"}, ("holder",)),
    ("lease.json", "a process of number 0", _with(LEASE, "holder", "pid", to=0), ("pid",)),
    ("lease.json", "a lease that never lapses", LEASE | {"seconds": 1e300}, ("seconds",)),
    ("lease.json", "a token in words", LEASE | {"token": "1"}, ("token",)),
    ("decision.json", "another answer", DECISION | {"answer": "maybe"}, ("answer",)),
    ("decision.json", "a weight below 0", DECISION | {"discriminator_weight": -1}, ("discriminator_weight",)),
    (
        "000001-000001.json",
        "files of another state's folder",
        _with(STATE, "files", "b.pt", "state", to=".."),
        ("state",),
    ),
    ("000001-000001.json", "a file outside", _with(STATE, "files", to={"../b": STATE["files"]["b.pt"]}), ("below",)),
]


def _root(ground: Ground, files: dict[str, Any]) -> str:
    """Address of a root with the run `a`, where these files are too."""
    for name, content in {"a/run.json": RUN, **files}.items():
        _written(ground, f"root/{name}", content)
    return str(ground.folder / "root")


def _status(files: dict[str, Any], *words: str) -> Callable[[Ground], bool]:
    """Whether the status shows the run `a` and these words."""

    def give(ground: Ground) -> bool:
        shown = read_status(_root(ground, files), ArtifactsSection()).text
        return all(word in shown for word in (str(ground.folder / "root/a"), *words))

    return give


def _special(name: str, make: Callable[[Any], None], read: Callable[[Any], Any]) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        make(ground.folder / name)
        return read(open_store(ground.folder, ArtifactsSection()))

    return give


def _sparse(path: Any) -> None:
    with path.open("wb") as file:
        file.truncate(LARGEST_SMALL_FILE + 1)


def _changed(before: dict[str, Any], now: dict[str, Any]) -> Callable[[Ground], Any]:
    """A stage that is there made with the settings `before` and is wanted with those of `now`."""

    def give(ground: Ground) -> Any:
        made = run_stage("s", ground.folder, {}, before, lambda workspace, _: {}, ArtifactsSection())
        again = run_stage("s", ground.folder, {}, now, lambda workspace, _: {}, ArtifactsSection())
        return made == again

    return give


def _model(config: ExperimentConfig, values: dict[str, Any]) -> dict[str, Any]:
    return config.with_values(values).fingerprint()


def _model_changed(before: dict[str, Any], now: dict[str, Any]) -> Callable[[Ground], Any]:
    return lambda ground: _changed(_model(ground.config, before), _model(ground.config, now))(ground)


def _same_model(values: dict[str, Any], always: dict[str, Any] | None = None) -> Callable[[Ground], bool]:
    """Whether settings make no other model, nor where a record still names what they were."""

    def give(ground: Ground) -> bool:
        before, now = _model(ground.config, always or {}), _model(ground.config, (always or {}) | values)
        return before == now and difference({"settings": before | {"older": 1}}, {"settings": now}) is None

    return give


def _next_round(decided: float | None = None, factor: float = 1.0, **values: Any) -> Callable[[Ground], Any]:
    """The second round of a run whose first was made with the config's settings, with others now."""

    def give(ground: Ground) -> bool:
        named = {key.replace("__", "."): value for key, value in values.items()}
        config = ground.config.with_values({"artifacts.root": str(ground.folder), "experiment.name": "a"})
        begin_run(config)
        kept = ground.folder / "a/config.yaml"
        before = kept.read_bytes()
        settings = open_round(config, 1).provenance["settings"]
        record = ROUND | {"settings": settings, "outputs": {}, "next": ROUND["next"] | {"weight_factor": factor}}
        _written(ground, "a/round-01/round.json", record)
        if decided is not None:
            _written(ground, "a/round-01/decision.json", DECISION | {"discriminator_weight": decided})
        try:
            begin_run(config.with_values(named))
        except Exception:
            assert kept.read_bytes() == before, "the config of the run was replaced"
            raise
        return True

    return give


def _prerequisite(content: Any) -> Callable[[Ground], Any]:
    """The latents of a root where their record is this."""

    def give(ground: Ground) -> Any:
        _written(ground, "prerequisites/latents/stage.json", content)
        values = {"artifacts.root": str(ground.folder), "dataset.manifest": str(ground.manifest)}
        return make_prerequisite("latents", ground.config.with_values(values))

    return give


def _status_ends(files: dict[str, Any]) -> Callable[[Ground], Any]:
    return lambda ground: status(_root(ground, files))


def _verified(files: dict[str, Any], *words: str) -> Callable[[Ground], bool]:
    def give(ground: Ground) -> bool:
        problems = find_problems(_root(ground, files), ArtifactsSection())
        return any(all(word in line for word in words) for line in problems)

    return give


SPECIAL: list[tuple[str, str, Callable[[Any], None], Callable[[Any], Any], tuple[str, ...]]] = [
    ("run.json", "a named pipe", os.mkfifo, lambda store: read_record(store, "run.json"), ("a named pipe",)),
    ("lease.json", "a named pipe", os.mkfifo, is_free, ("a named pipe",)),
    ("stage.json", "a folder", os.mkdir, lambda store: read_record(store, "stage.json"), ("a folder",)),
    (
        "stage.json",
        "a device",
        lambda p: p.symlink_to("/dev/zero"),
        lambda s: read_record(s, "stage.json"),
        ("device",),
    ),
    ("run.json", "a link to nothing", lambda p: p.symlink_to("gone"), lambda s: read_record(s, "run.json"), ("exist",)),
    ("run.json", "a file beyond memory", _sparse, lambda store: read_record(store, "run.json"), ("bytes",)),
    ("a.pt", "a named pipe for an output", os.mkfifo, lambda s: s.fetch({"a.pt": _ENTRY}), ("a named pipe",)),
    (
        ".lock",
        "a named pipe for the lock",
        os.mkfifo,
        lambda s: s.compare_and_swap("a", b"", "0"),
        ("not a regular file",),
    ),
    ("a.pt", "a device for an output", lambda p: p.symlink_to("/dev/zero"), lambda s: s.measure("a.pt"), ("a device",)),
]
# What is given beside the run `a`, the files, what is shown, and what that means.
SHOWN: list[tuple[str, dict[str, Any], tuple[str, ...], str]] = [
    (
        "another tool's run.json",
        {"b/run.json": {"run_id": 1}},
        ("not a run", "b/run.json"),
        "the other runs, and a line",
    ),
    (
        "a run.json of depth 100,000",
        {"b/run.json": "[" * 100_000},
        ("not a run", "deeply"),
        "the other runs, and a line",
    ),
    ("a lease.json that is {}", {"a/lease.json": {}}, ("lease: unreadable", "next: round-01"), "the run all the same"),
    ("a round.json that is {}", {"a/round-01/round.json": {}}, ("unreadable",), "the run all the same"),
    ("a config.yaml that is broken", {"a/config.yaml": "rounds: ["}, ("next: unreadable",), "the run all the same"),
    (
        "a note among the states",
        {"a/round-01/stage3/state/note.json": "-"},
        ("at its beginning",),
        "none of the states",
    ),
]
ENDED: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("a lease.json that is {}", {"a/lease.json": {}}, ("a/lease.json", "move the file elsewhere")),
    ("a round.json that is {}", {"a/round-01/round.json": {}}, ("round-01/round.json", "put back a copy")),
    ("a config.yaml that is broken", {"a/config.yaml": "rounds: ["}, ("a/config.yaml", "rounds.count")),
    ("a config.yaml of words", {"a/config.yaml": "rounds: 3"}, ("a/config.yaml", "rounds.count")),
    ("a config.yaml of depth 100,000", {"a/config.yaml": "[" * 100_000}, ("a/config.yaml", "rounds.count")),
    ("no run but another tool's", {"a/run.json": {"run_id": 1}}, ("holds no run", "a/run.json", "experiment")),
]
TOLD: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("outputs in a list", {"a/s/stage.json": {"outputs": [1]}}, ("unreadable", "a/s/stage.json")),
    ("an output that leads elsewhere", {"a/s/stage.json": {"outputs": {"../x": _ENTRY}}}, ("unreadable", "stage.json")),
    (
        "an input that is a device",
        {"a/s/stage.json": _with(STAGE, "inputs", "a", "path", to="/dev/zero")},
        ("/dev/zero",),
    ),
    (
        "an input with .. for a name",
        {"a/s/stage.json": _with(STAGE, "inputs", "a", "path", to="x/..")},
        ("unreadable",),
    ),
]
_DECAYS: dict[str, Any] = {"training.scheduler": {"type": "cosine"}}
_FILTERS: dict[str, Any] = {"dataset.filters": {"is_empty": [False], "is_augmented": [False]}}
# What is given, the settings before and now, the words of the line.
OTHER_MODELS: list[tuple[str, tuple[dict[str, Any], dict[str, Any]], tuple[str, ...]]] = [
    ("another weight decay", ({}, {"training.weight_decay": 0.5}), ("training.weight_decay 0.1, now it is 0.5",)),
    ("a schedule that is switched on", ({}, _DECAYS), ("training.scheduler.type None, now it is cosine",)),
    ("a schedule that is switched off", (_DECAYS, {}), ("training.scheduler", "now it is None")),
    ("a term that is switched off", ({}, {"training.loss.semantic_loss": None}), ("semantic_loss", "now it is None")),
    ("a filter that is gone", (_FILTERS, {}), ("dataset.filters", "is_augmented")),
    ("another form of the term", ({}, {"discriminator.form": "ddo"}), ("discriminator.form renoise, now it is ddo",)),
]
SAME_MODELS: list[tuple[str, tuple[dict[str, Any], ...]]] = [
    ("another sample_interval", ({"training.sample_interval": 3},)),
    ("another latest_interval", ({"training.latest_interval": 3},)),
    ("another save_interval", ({"training.save_interval": 3},)),
    ("another epochs_target", ({"experiment.epochs_target": 3},)),
    ("return_path", ({"dataset.return_path": True},)),
    ("ddo_beta of another form", ({"discriminator.ddo_beta": 0.5, "discriminator.ddo_alpha": 0.5},)),
    ("draft_steps of another form", ({"discriminator.draft_steps": 3},)),
    ("online_steps of a frozen discriminator", ({"discriminator.online_steps": 3},)),
    ("trajectories of form published", ({"discriminator.trajectories.states": 3}, {"discriminator.form": "published"})),
    ("generated layouts beside a manifest", ({"dataset.synthetic": {"count": 3}},)),
]
OTHER_ROUNDS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("another learning rate", {"training__learning_rate": 3e-4}, ("a/round-01", "training.learning_rate", "0.0003")),
    ("another weight", {"discriminator__weight": 0.05}, ("a/round-01", "discriminator.weight 0.1, now it is 0.05")),
    ("another rate after a decision", {"decided": 0.05, "training__learning_rate": 3e-4}, ("learning_rate",)),
    ("other bad latents", {"rounds__bad_latents__num_samples": 7}, ("a/round-01", "num_samples 6, now it is 7")),
]
SAME_ROUNDS: list[tuple[str, dict[str, Any]]] = [
    ("more rounds", {"rounds__count": 5}),
    ("a weight that a person decided", {"decided": 0.05, "discriminator__weight": 0.05}),
    ("a weight that the round before halved", {"factor": 0.5}),
    ("another gate", {"rounds__gate": "manual"}),
    ("another sample_interval", {"training__sample_interval": 1}),
]

ROWS = [
    *(
        Row(
            name if name in _FORMS and not name.startswith("0") else "state's record",
            given,
            (
                lambda ground, name=name, content=content: newest_state(
                    open_store(_written(ground, name, content), ArtifactsSection())
                )
            )
            if name.startswith("0")
            else _read(name, content),
            (name, *words),
        )
        for name, given, content, words in WRONG
    ),
    Row(
        "decision.json",
        "no answer",
        lambda ground: read_decision(
            ground.config.with_values({"artifacts.root": _root(ground, {"tiny/round-01/decision.json": {}})}), 1
        ),
        ("decision.json", "answer", "you are asked again"),
    ),
    *(Row(name, given, _special(name, make, read), (name, *words)) for name, given, make, read, words in SPECIAL),
    *(Row("status", given, _status(files, *words), meaning=meaning) for given, files, words, meaning in SHOWN),
    *(Row("status", given, _status_ends(files), words) for given, files, words in ENDED),
    *(
        Row("status --verify", given, _verified(files, *words), meaning="told in a line")
        for given, files, words in TOLD
    ),
    Row("prerequisites", "a record of the latents that is {}", _prerequisite({}), ("stage.json", "outputs")),
    *(Row("stage that is there", given, _model_changed(*values), words) for given, values, words in OTHER_MODELS),
    *(
        Row("stage that is there", given, _same_model(*values), meaning="the same stage")
        for given, values in SAME_MODELS
    ),
    *(Row("next round", given, _next_round(**how), words) for given, how, words in OTHER_ROUNDS),
    *(Row("next round", given, _next_round(**how), meaning="it is done") for given, how in SAME_ROUNDS),
]
