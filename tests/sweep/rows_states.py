"""States and checkpoints of another form."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from core.checkpoints.autoencoder_sizes import build_autoencoder
from core.checkpoints.discriminators import load_discriminator
from core.checkpoints.loading import load_autoencoder, load_unet
from core.config.discriminator_sections import DiscriminatorSection
from core.config.experiment import ExperimentConfig
from core.data.palette import DEFAULT_PALETTE
from core.inputs.tensor_files import load_tensors
from core.models.discriminator import ADAM_BETAS, LatentDiscriminator
from core.models.trajectories import saved_trajectories
from core.networks.unet import build_unet
from core.records.latent_parts import LatentParts
from core.records.provenance import provenance_of
from core.records.record_files import record_bytes
from core.records.workspace import Workspace
from core.runtime.files import file_entry
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from core.training.online_discriminator import OnlineDiscriminator
from core.training.train_autoencoder import LATEST_NAME, train_autoencoder
from core.training.train_discriminator import DiscriminatorRequest, train_discriminator
from core.training.train_state import TrainState, new_train_state
from tests.sweep.ground import Ground, Row

TITLE = "States and checkpoints of another form"

Change = Callable[[dict[str, Any]], object]

_JUDGE = {"latent_channels": 4, "latent_size": 8}
_made: dict[str, bytes] = {}


def _stepped(model: nn.Module, optimizer: Optimizer) -> None:
    """One step, so that every parameter has its moments."""
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _judge() -> LatentDiscriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LatentDiscriminator(**_JUDGE)


def _fresh(config: ExperimentConfig, online: bool = False) -> TrainState:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = new_train_state(build_unet(config.unet, config.latent_size), config.training, torch.device("cpu"))
    if online:
        section = DiscriminatorSection(update="online")
        state.online = OnlineDiscriminator(_judge().requires_grad_(False), section, seed=0)
    return state


def _trained(ground: Ground) -> dict[str, Any]:
    """A checkpoint after one epoch of one step, with an online discriminator."""
    state = _fresh(ground.config, online=True)
    _stepped(state.unet, state.optimizer)
    state.online.model.requires_grad_(True)
    _stepped(state.online.model, state.online._optimizer)
    state.epoch, state.step, state.discriminator = 1, 1, "0" * 64
    state.start = {"epoch": 0, "viability_score": 0.5, "noise_loss": 1.0}
    state.history = [{"epoch": 1, "train_loss": 0.5, "val_loss": 0.25}]
    state.best_val_loss, state.adversarial_weight = 0.25, 0.1
    return state.checkpoint(ground.config)


def _changed(name: str, make: Callable[[Ground], Any], ground: Ground, change: Change) -> Path:
    """File of what `make` makes, once for all rows, with a change."""
    if name not in _made:
        made = io.BytesIO()
        torch.save(make(ground), made)
        _made[name] = made.getvalue()
    value = torch.load(io.BytesIO(_made[name]), weights_only=True)
    change(value)
    path = ground.folder / f"{name}.pt"
    torch.save(value, path)
    return path


def _read(change: Change, online: bool = False) -> Callable[[Ground], TrainState]:
    """The training that goes on from a changed checkpoint."""

    def give(ground: Ground) -> TrainState:
        state = _fresh(ground.config, online)
        before = {key: value.clone() for key, value in state.unet.state_dict().items()}
        state.discriminator = "0" * 64
        try:
            saved = state.read(_changed("checkpoint", _trained, ground, change), ground.config)
        finally:
            # Nothing is restored while it is checked.
            assert all(torch.equal(value, before[key]) for key, value in state.unet.state_dict().items())
            assert not state.optimizer.state and state.epoch == 0
        state.restore(saved)
        return state

    return give


def _set(*path: Any, to: Any) -> Change:
    """Puts a value, or what a function makes of the old one, at a path of keys."""

    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        value[path[-1]] = to(value[path[-1]]) if callable(to) else to

    return change


def _drop(*path: Any) -> Change:
    def change(value: Any) -> None:
        for key in path[:-1]:
            value = value[key]
        del value[path[-1]]

    return change


def _one_too_many(value: dict[str, Any]) -> None:
    moments = value["optimizer_state"]["state"]
    moments[len(moments)] = moments[0]


_FIRST, _MOMENT = ("state_dict", "unet.conv_in.weight"), ("optimizer_state", "state", 0)
_CHECKPOINT = "checkpoint.pt"
# What is given, its change, and the words of the line besides the file's name.
WRONG_STATES: list[tuple[str, Change, tuple[str, ...]]] = [
    ("a moment of another shape", _set(*_MOMENT, "exp_avg", to=torch.zeros(3)), ("exp_avg", "conv_in.weight", "[3]")),
    ("a moment of whole numbers", _set(*_MOMENT, "exp_avg", to=lambda m: m.long()), ("exp_avg", "int64")),
    ("a sparse moment", _set(*_MOMENT, "exp_avg", to=lambda m: m.to_sparse()), ("exp_avg", "sparse")),
    ("a moment on the meta device", _set(*_MOMENT, "exp_avg", to=lambda m: m.to("meta")), ("exp_avg", "meta")),
    ("a complex moment", _set(*_MOMENT, "exp_avg", to=lambda m: m + 0j), ("exp_avg", "complex")),
    ("a moment that is NaN", _set(*_MOMENT, "exp_avg", to=lambda m: m * torch.nan), ("exp_avg", "NaN")),
    ("a negative second moment", _set(*_MOMENT, "exp_avg_sq", to=lambda m: m - 1), ("exp_avg_sq", "negative")),
    ("a moment that is a list", _set(*_MOMENT, "exp_avg", to=[0.0]), ("exp_avg", "a list")),
    ("no second moment", _drop(*_MOMENT, "exp_avg_sq"), ("optimizer_state", "conv_in.weight", "exp_avg_sq")),
    ("a third moment", _set(*_MOMENT, to=lambda m: m | {"max_exp_avg_sq": m["exp_avg"]}), ("exactly",)),
    ("moments without a step", _drop(*_MOMENT, "step"), ("optimizer_state", "step")),
    ("a step before the first", _set(*_MOMENT, "step", to=torch.tensor(-1.0)), ("step", "-1")),
    ("a step that is infinite", _set(*_MOMENT, "step", to=torch.tensor(torch.inf)), ("step", "inf")),
    ("steps for each weight", _set(*_MOMENT, "step", to=torch.ones(4)), ("step", "tensor")),
    ("no moments", _set("optimizer_state", "state", to={}), ("optimizer_state", "no moments")),
    ("moments of one parameter missing", _drop("optimizer_state", "state", 3), ("optimizer_state", "no moments")),
    ("moments of a parameter too many", _one_too_many, ("more than the",)),
    ("an optimizer that is empty", _set("optimizer_state", to={}), ("optimizer_state",)),
    ("an optimizer that is None", _set("optimizer_state", to=None), ("optimizer_state",)),
    ("an optimizer of another model", _set("optimizer_state", "param_groups", 0, "params", to=[0, 1]), ("parameters",)),
    ("groups that are no list", _set("optimizer_state", "param_groups", to={}), ("param_groups",)),
    ("weights that are NaN", _set(*_FIRST, to=lambda w: w * torch.nan), ("conv_in.weight", "not finite")),
    ("weights above half precision", _set(*_FIRST, to=lambda w: w.double() + 1e300), ("conv_in.weight", "not finite")),
    ("weights of whole numbers", _set(*_FIRST, to=lambda w: w.int()), ("conv_in.weight", "int32")),
    ("weights of booleans", _set(*_FIRST, to=lambda w: w > 0), ("conv_in.weight", "bool")),
    ("sparse weights", _set(*_FIRST, to=lambda w: w.to_sparse()), ("conv_in.weight", "sparse")),
    ("weights in eight bits", _set(*_FIRST, to=lambda w: w.to(torch.float8_e4m3fn)), ("conv_in.weight", "float8")),
    ("weights of another shape", _set(*_FIRST, to=lambda w: w[:1]), ("conv_in.weight", "[1, 4, 3, 3]")),
    ("a weight missing", _drop(*_FIRST), ("conv_in.weight", "missing")),
    (
        "no moving average",
        _set("state_dict", to=lambda w: {k: v for k, v in w.items() if "ema" not in k}),
        ("missing",),
    ),
    ("an epoch in words", _set("epoch", to="1"), ("epoch", "'1'")),
    ("an epoch that is a truth value", _set("epoch", to=True), ("epoch", "True")),
    ("an epoch below 0", _set("epoch", to=-1), ("epoch", "-1")),
    ("an epoch of many digits", _set("epoch", to=10**40), ("epoch", "many digits")),
    ("a step that is no whole number", _set("step", to=1.5), ("step", "1.5")),
    ("a best loss that is NaN", _set("best_val_loss", to=float("nan")), ("best_val_loss", "nan")),
    ("a weight of the term below 0", _set("adversarial_weight", to=-0.1), ("adversarial_weight", "-0.1")),
    ("a start that is a list", _set("start", to=[1]), ("start", "a list")),
    ("a start without its score", _drop("start", "viability_score"), ("start", "viability_score")),
    ("a score above 1", _set("start", "viability_score", to=1.5), ("viability_score", "1.5")),
    ("a start after the epoch", _set("start", "epoch", to=9), ("start.epoch", "9")),
    ("no history", _set("training_history", to=None), ("training_history", "None")),
    ("a history of another length", _set("training_history", to=[]), ("training_history", "0 rows")),
    ("a history of words", _set("training_history", to=[{"epoch": 1, "val_loss": "low"}]), ("val_loss", "'low'")),
    ("a history of other epochs", _set("training_history", to=[{"epoch": 7}]), ("training_history", "epoch 1")),
    ("another discriminator's name", _set("discriminator", to="D2"), ("discriminator", "sha256")),
]


_ONLINE = "online_discriminator"
WRONG_ONLINE: list[tuple[str, Change, tuple[str, ...]]] = [
    (
        "no online discriminator where there was one",
        lambda v: (v.pop(_ONLINE), v["config"]["discriminator"].update(update="online")),
        (_ONLINE, "missing"),
    ),
    ("an online discriminator without optimizer", _drop(_ONLINE, "optimizer_state"), (_ONLINE, "optimizer_state")),
    ("an online optimizer without moments", _set(_ONLINE, "optimizer_state", "state", to={}), (_ONLINE, "no moments")),
    (
        "an online moment of another shape",
        _set(_ONLINE, "optimizer_state", "state", 0, "exp_avg", to=torch.zeros(3)),
        (_ONLINE, "exp_avg"),
    ),
    ("online weights that are a list", _set(_ONLINE, "state_dict", to=[1]), (_ONLINE, "no weights")),
    ("an online discriminator that is None", _set(_ONLINE, to=None), (_ONLINE, "None")),
]


def _hyperparameters(ground: Ground) -> bool:
    """The config's learning rate, weight decay and betas hold after a state that was made with others."""

    def change(value: dict[str, Any]) -> None:
        value["optimizer_state"]["param_groups"][0].update(
            lr=9.0, weight_decay=9.0, betas=(0.1, 0.1), eps=1.0, amsgrad=True, maximize=True
        )

    state = _read(change)(ground)
    (group,), (fresh,) = state.optimizer.param_groups, _fresh(ground.config).optimizer.param_groups
    return all(group[name] == fresh[name] for name in fresh if name != "params")


def _same_step(change: Change) -> Callable[[Ground], bool]:
    """Whether the step after a changed state is that after the state as it was."""

    def give(ground: Ground) -> bool:
        states = [_read(changing)(ground) for changing in (lambda _: None, change)]
        for state in states:
            _stepped(state.unet, state.optimizer)
        whole, other = (state.unet.state_dict() for state in states)
        return all(torch.equal(value, other[key]) for key, value in whole.items())

    return give


def _wrapped(prefix: str) -> Change:
    return _set("state_dict", to=lambda w: {key.replace(".", f".{prefix}", 1): value for key, value in w.items()})


def _transposed(value: dict[str, Any]) -> None:
    """Moments of the same numbers in another order of memory."""
    for moments in value["optimizer_state"]["state"].values():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].dim() == 4:
                moments[name] = moments[name].contiguous(memory_format=torch.channels_last)


def _loads_unet(change: Change) -> Callable[[Ground], nn.Module]:
    return lambda ground: load_unet(_changed("checkpoint", _trained, ground, change), ground.config)


def _loads_judge(change: Change) -> Callable[[Ground], nn.Module]:
    def make(_: Ground) -> dict[str, Any]:
        return {"state_dict": _judge().state_dict(), "config": _JUDGE, "val_loss": 0.5}

    return lambda ground: load_discriminator(
        _changed("discriminator", make, ground, change), ground.config.latent_shape
    )


def _loads_autoencoder(change: Change) -> Callable[[Ground], nn.Module]:
    def give(ground: Ground) -> nn.Module:
        path = _changed("ae", lambda g: load_tensors(g.config.autoencoder.checkpoint, "it"), ground, change)
        return load_autoencoder(path, ground.config)

    return give


def _resumes_autoencoder(change: Change) -> Callable[[Ground], Any]:
    def make(ground: Ground) -> dict[str, Any]:
        model = build_autoencoder(ground.config.autoencoder, DEFAULT_PALETTE)
        optimizer = AdamW(model.parameters())
        _stepped(model, optimizer)
        row = {"epoch": 1, "train_loss": 1.0, "val_loss": 1.0, "pixel_agreement": 0.5, "object_agreement": 0.5}
        return {
            "state_dict": model.state_dict(),
            "config": {},
            "optimizer_state": optimizer.state_dict(),
            "training_history": [row],
        }

    def give(ground: Ground) -> Any:
        _changed("autoencoder", make, ground, change).rename(ground.folder / LATEST_NAME)
        config = ground.config.with_values({"dataset.manifest": str(ground.manifest)})
        with Workspace(ground.folder) as workspace:
            return train_autoencoder(config, workspace)

    return give


def _resumes_discriminator(change: Change) -> Callable[[Ground], Any]:
    """retrain-discriminator that finds this state of one of two epochs."""

    def make(_: Ground) -> dict[str, Any]:
        model = _judge()
        optimizer = Adam(model.parameters(), betas=ADAM_BETAS)
        _stepped(model, optimizer)
        row = {"epoch": 1, "train_loss": 1.0, "train_acc": 0.5, "val_loss": 1.0, "val_acc": 0.5}
        return {
            "state_dict": model.state_dict(),
            "optimizer_state": optimizer.state_dict(),
            "training_history": [row],
            "best": row,
        }

    def give(ground: Ground) -> Any:
        pools = {}
        for number, name in enumerate(("real", "fake")):
            pools[name] = ground.folder / f"{name}.pt"
            torch.save(torch.full((4, 4, 8, 8), float(number)), pools[name])
        request = DiscriminatorRequest(
            pools["real"], pools["fake"], ground.folder / "out", epochs=2, batch_size=2, device="cpu"
        )
        state = ground.folder / "out/state/000000-000001/discriminator_latest.pt"
        state.parent.mkdir(parents=True)
        _changed("latest", make, ground, change).rename(state)
        settings = {
            name: getattr(request, name) for name in ("epochs", "batch_size", "learning_rate", "seed", "use_amp")
        }
        provenance = provenance_of("discriminator", pools, settings, ArtifactsSection())
        files = {state.name: {**file_entry(state), "state": state.parent.name}}
        record = provenance | {"progress": "epoch 1", "files": files}
        state.parent.with_suffix(".json").write_bytes(record_bytes(record))
        return train_discriminator(request)

    return give


def _trajectories(change: Change) -> Callable[[Ground], Any]:
    def make(_: Ground) -> dict[str, Tensor]:
        t = torch.tensor([[60, 10]] * 8)
        return {"xt": torch.zeros(8, 2, 4, 8, 8), "t": t, "x0": torch.zeros(8, 4, 8, 8)}

    def give(ground: Ground) -> Any:
        path = _changed("trajectories", make, ground, change)
        return saved_trajectories(path, _fresh(ground.config).ema.eval(), ground.config, 0)

    return give


def _parts(latents: Any) -> Callable[[Ground], Tensor]:
    def give(ground: Ground) -> Tensor:
        provenance = {"stage": "bad_latents", "inputs": {}, "settings": {"latent_shape": [4, 8, 8]}}
        parts = LatentParts(open_store(ground.folder, ArtifactsSection()), provenance, 2, 64, ArtifactsSection())
        parts.add(range(0, 2), latents)
        return parts.read()

    return give


def _quietly(give: Callable[[Ground], Any]) -> Callable[[Ground], Any]:
    def quiet(ground: Ground) -> Any:
        logging.getLogger("core").setLevel(logging.ERROR)
        try:
            return give(ground)
        finally:
            logging.getLogger("core").setLevel(logging.NOTSET)

    return quiet


_LATENTS = torch.zeros(2, 4, 8, 8)
_LAYER = ("state_dict", "enter.0.weight")
# Reader, its door, and what it is given: the change, and the words of the line.
REFUSED: list[tuple[str, Callable[[Any], Callable[[Ground], Any]], list[tuple[str, Any, tuple[str, ...]]]]] = [
    (
        "UNet",
        _loads_unet,
        [
            (
                "weights that are NaN",
                _set("state_dict", "unet_ema.conv_in.bias", to=lambda w: w * torch.nan),
                (_CHECKPOINT, "conv_in.bias", "not finite"),
            ),
            (
                "trained for v",
                _set("config", "scheduler", "prediction_type", to="v_prediction"),
                (_CHECKPOINT, "scheduler.prediction_type", "epsilon"),
            ),
            (
                "trained on other noise levels",
                _set("config", "scheduler", "num_steps", to=1000),
                (_CHECKPOINT, "scheduler.num_steps", "100"),
            ),
        ],
    ),
    (
        "discriminator",
        _loads_judge,
        [
            (
                "sizes beyond memory",
                _set("config", to=lambda c: c | {"base_channels": 2**15}),
                ("discriminator.pt", "enter.0.weight", "[32768"),
            ),
            (
                "sizes beyond any",
                _set("config", to=lambda c: c | {"base_channels": 2**40}),
                ("discriminator.pt", "base_channels"),
            ),
            (
                "a size in words",
                _set("config", to=lambda c: c | {"base_channels": "48"}),
                ("discriminator.pt", "base_channels"),
            ),
            ("a dropout above 1", _set("config", to=lambda c: c | {"dropout": 3.0}), ("discriminator.pt", "dropout")),
            ("sizes that are None", _set("config", "latent_size", to=None), ("discriminator.pt", "None")),
            (
                "weights that are infinite",
                _set(*_LAYER, to=lambda w: w + torch.inf),
                ("discriminator.pt", "enter.0.weight", "not finite"),
            ),
            ("weights of whole numbers", _set(*_LAYER, to=lambda w: w.long()), ("discriminator.pt", "int64")),
        ],
    ),
    (
        "autoencoder",
        _loads_autoencoder,
        [
            ("sizes beyond memory", _set("config", "base_channels", to=2**16), ("ae.pt", "another architecture")),
            ("a size below 1", _set("config", "base_channels", to=0), ("ae.pt", "base_channels")),
            ("a size that is a truth value", _set("config", "max_channels", to=True), ("ae.pt", "max_channels")),
            ("a million halvings", _set("config", "downsampling_steps", to=10**6), ("ae.pt", "downsampling_steps")),
            (
                "a negative variance",
                _set("state_dict", "encoder.standardise.running_var", to=lambda v: -v),
                ("ae.pt", "running_var", "negative"),
            ),
            (
                "weights that are NaN",
                _set("state_dict", "encoder.net.0.0.bias", to=lambda w: w * torch.nan),
                ("ae.pt", "not finite"),
            ),
        ],
    ),
    (
        "autoencoder's state",
        _resumes_autoencoder,
        [
            (
                "a moment of another shape",
                _set(*_MOMENT, "exp_avg", to=torch.zeros(3)),
                (LATEST_NAME, "exp_avg", "[3]"),
            ),
            ("no optimizer", _drop("optimizer_state"), (LATEST_NAME, "optimizer_state")),
            ("no history", _set("training_history", to=[]), (LATEST_NAME, "training_history")),
            ("a history in words", _set("training_history", 0, "val_loss", to="1"), (LATEST_NAME, "val_loss")),
        ],
    ),
    (
        "discriminator's state",
        _resumes_discriminator,
        [
            (
                "a moment of another shape",
                _set(*_MOMENT, "exp_avg", to=torch.zeros(3)),
                ("discriminator_latest.pt", "exp_avg", "[3]"),
            ),
            ("no moments", _set("optimizer_state", "state", to={}), ("discriminator_latest.pt", "no moments")),
            (
                "a best epoch that is none of its own",
                _set("best", "epoch", to=5),
                ("discriminator_latest.pt", "training_history"),
            ),
            (
                "more epochs than are wanted",
                lambda v: v["training_history"].extend([v["best"] | {"epoch": 2}, v["best"] | {"epoch": 3}]),
                ("discriminator_latest.pt", "2 epochs"),
            ),
            ("weights of another model", _drop(*_LAYER), ("discriminator_latest.pt", "enter.0.weight")),
        ],
    ),
    (
        "trajectories",
        _trajectories,
        [
            ("states of another shape", _set("xt", to=torch.zeros(8, 2, 4, 4, 4)), ("trajectories.pt", "xt")),
            ("states that are NaN", _set("xt", to=lambda x: x * torch.nan), ("trajectories.pt", "xt", "NaN")),
            ("no ends", _drop("x0"), ("trajectories.pt", "x0")),
            ("fewer ends than states", _set("x0", to=lambda x: x[:3]), ("trajectories.pt", "[3, 4, 8, 8]")),
            ("timesteps that are no whole numbers", _set("t", to=lambda t: t.float()), ("trajectories.pt", "float32")),
        ],
    ),
    (
        "bad latents in parts",
        _parts,
        [
            ("latents of another shape", torch.zeros(2, 4, 4, 4), ("bad_latents_000000-000002.pt", "[2, 4, 8, 8]")),
            ("too few latents", _LATENTS[:1], ("bad_latents_000000-000002.pt", "[1, 4, 8, 8]")),
            ("latents that are NaN", _LATENTS * torch.nan, ("bad_latents_000000-000002.pt", "finite")),
            ("no tensor", [1.0], ("bad_latents_000000-000002.pt", "a list")),
        ],
    ),
]

ROWS = [
    *(
        Row("checkpoint to go on from", given, _read(change), (_CHECKPOINT, *words))
        for given, change, words in WRONG_STATES
    ),
    *(
        Row("checkpoint to go on from", given, _read(change, online=True), (_CHECKPOINT, *words))
        for given, change, words in WRONG_ONLINE
    ),
    Row("checkpoint to go on from", "other rates, decay and betas", _hyperparameters, meaning="the config's are used"),
    *(
        Row("checkpoint to go on from", given, _quietly(_same_step(change)), meaning="the same training")
        for given, change in [
            ("weights of DistributedDataParallel", _wrapped("module.")),
            ("weights of torch.compile", _wrapped("_orig_mod.")),
            ("weights of both", _wrapped("module._orig_mod.")),
            ("weights in double precision", _set(*_FIRST, to=lambda w: w.double())),
            ("weights that want gradients", _set(*_FIRST, to=lambda w: nn.Parameter(w))),
            ("moments in another order of memory", _transposed),
            ("moments in double precision", _set(*_MOMENT, "exp_avg", to=lambda m: m.double())),
            ("a step that is a plain number", _set(*_MOMENT, "step", to=1)),
        ]
    ),
    Row(
        "checkpoint to go on from",
        "weights in half precision",
        _quietly(_read(_set(*_FIRST, to=lambda w: w.half()))),
        meaning="converted, and said",
    ),
    *(
        Row(reader, given, door(change), words)
        for reader, door, given_to_it in REFUSED
        for given, change, words in given_to_it
    ),
    Row("UNet", "a config without a schedule", _loads_unet(_set("config", to={})), meaning="the config's schedule"),
    Row(
        "discriminator",
        "weights of DistributedDataParallel",
        _loads_judge(_set("state_dict", to=lambda w: {f"module.{k}": v for k, v in w.items()})),
        meaning="the same model",
    ),
    Row(
        "trajectories",
        "timesteps beyond the schedule",
        _quietly(_trajectories(_set("t", to=lambda t: t * 1000))),
        meaning="of other settings, made anew",
    ),
    Row(
        "trajectories",
        "of other settings",
        _quietly(_trajectories(lambda v: v.update({k: x[:4] for k, x in v.items()}))),
        meaning="made anew, and said",
    ),
]
