"""What each setting changes: every field names it, and only what affects results is in the fingerprint."""

import pytest

from core.config.experiment import ExperimentConfig
from core.config.setting_effects import Effect, effects
from core.runtime.errors import InputError
from tests.schema import LEAVES

EFFECTS = dict(effects(ExperimentConfig))
# A value other than the default, for settings whose default is the only value, empty or bounded.
OTHERS = {
    "rounds.viability.real_share": 0.5,
    "experiment.name": "other",
    "experiment.save_path": "/out",
    "experiment.phase": "diffusion_stage2",
    "autoencoder.checkpoint": "/a.pt",
    "autoencoder.downsampling_steps": 5,
    "discriminator.checkpoint": "/d.pt",
    "discriminator.labelled_latents": "/l.pt",
    "discriminator.form": "published",
    "discriminator.update": "online",
    "rounds.viability.labels": "rules",
    "rounds.bad_latents.sampler": "dpm_solver",
    "dataset.manifest": "/other.csv",
    "dataset.palette": "/palette.yaml",
    "dataset.synthetic": {},
    "dataset.filters": {},
    "dataset.image_size": 256,
    "dataset.path_remap": {"/a": "/b"},
    "unet.base_channels": 64,
    "unet.depth": 3,
    "unet.attention_at": [0],
    "unet.norm_groups": 16,
    "scheduler.type": "LinearScheduler",
    "scheduler.prediction_type": "v_prediction",
    "scheduler.trained_betas": (0.001,) * 500,
    "training.device": "cpu",
    "training.trackers": ["tensorboard"],
    "rounds.on_regression": "stop",
    "rounds.gate": "manual",
    "rounds.bad_latents.dask_address": "tcp://host:1",
    "diffusion": {"stage2_checkpoint": "/s.pt"},
    "audit": None,
    "comparison": {"ablations": {"control": {}}},
    "artifacts": {"root": "/r"},
    "without_effect": ["training.column"],
    "rounds.viability.rules": ["enclosed"],
    "rounds.viability.file": "/labels.csv",
    "rounds.viability.latents": "/bad_latents",
    "rounds.viability.shares": {"reachable": 0.5},
    "rounds.viability.command": ["check"],
    "training.loss.semantic_loss.perceptual_loss.net": "vgg",
    "training.loss.semantic_loss.perceptual_loss.backbone": "/b.pt",
}
# These change together, are the only value, or are sections that are empty by default.
NOT_ALONE = {
    *("autoencoder.latent_channels", "unet.in_channels", "unet.out_channels"),
    *("dataset.outputs.rgb", "dataset.outputs.segmentation"),
    *(key for key in EFFECTS if key.rpartition(".")[2] in ("type", "key", "target", "optimizer", "frozen")),
    *("unet.cond_channels", "unet.config", "unet.fusion_mode"),
    *(key for key in EFFECTS if key.startswith(("prerequisites", "rounds.advance_when", "training.scheduler"))),
}
UNUSED = {
    "discriminator.draft_steps": {"discriminator.form": "draft_k"},
    "discriminator.ddo_beta": {"discriminator.form": "ddo"},
    "discriminator.ddo_alpha": {"discriminator.form": "ddo"},
    "discriminator.negative_aware_beta": {
        "discriminator.form": "negative_aware",
        "rounds.viability.labels": "rules",
    },
    "rounds.viability.rules": {"rounds.viability.labels": "rules"},
    "rounds.viability.match": {"rounds.viability.labels": "rules"},
    "rounds.viability.real_share": {"rounds.viability.labels": "rules"},
    "rounds.viability.least_auc": {"rounds.viability.labels": "file"},
    "rounds.viability.shares": {"rounds.viability.labels": "rules"},
    "rounds.viability.command": {"rounds.viability.labels": "command", "rounds.viability.command": ["other"]},
    "discriminator.online_steps": {"discriminator.update": "online"},
    "discriminator.online_learning_rate": {"discriminator.update": "online"},
}


@pytest.fixture(scope="module")
def config() -> ExperimentConfig:
    return ExperimentConfig.model_validate({"experiment": {"name": "x"}, "dataset": {"manifest": "/m.csv"}})


def changed(config: ExperimentConfig, key: str) -> ExperimentConfig:
    """`config` with another value at the dotted `key`."""
    if key in OTHERS:
        return config.with_values({key: OTHERS[key]})
    before = config
    for part in key.split("."):
        before = getattr(before, part)
    if isinstance(before, bool):
        return config.with_values({key: not before})
    if isinstance(before, str):
        return config.with_values({key: f"other_{before}"})
    if before is None:
        return config.with_values({key: 1})
    return config.with_values({key: before / 2 if isinstance(before, float) else before + 1})


def test_every_setting_names_its_effect():
    unnamed = [key for key, effect in EFFECTS.items() if effect is None]
    assert not unnamed, "give each a type of core/config/setting_effects.py: Results, Speed, Output, ..."


def test_every_single_value_is_covered():
    sections = [key for key in EFFECTS if not any(leaf.key == key for leaf in LEAVES)]
    assert set(sections) == {"diffusion", "dataset.synthetic", "audit", "comparison", "artifacts"}
    covered = [leaf for leaf in LEAVES if leaf.key in EFFECTS or leaf.key.startswith(tuple(f"{s}." for s in sections))]
    assert covered == LEAVES


@pytest.mark.parametrize("key", sorted(EFFECTS.keys() - NOT_ALONE - UNUSED.keys()))
def test_the_fingerprint_changes_with_what_affects_results_and_with_nothing_else(config, key):
    same = changed(config, key).fingerprint() == config.fingerprint()
    assert same == (EFFECTS[key] is not Effect.RESULTS)


@pytest.mark.parametrize("key", UNUSED)
def test_a_setting_counts_only_with_the_form_that_uses_it(config, key):
    using = config.with_values(UNUSED[key])
    assert changed(config, key).fingerprint() == config.fingerprint()
    assert changed(using, key).fingerprint() != using.fingerprint()


@pytest.mark.parametrize("labels", ["generated", "rules", "file", "command"])
def test_how_pairs_are_drawn_counts_wherever_stage_3_draws_them(config, labels):
    """`match` acts in every config that negative_aware accepts, `shares` only where rules say what a layout breaks."""
    values = {"rounds.viability.labels": labels, "rounds.viability.command": ["check"]}
    if labels == "generated":
        line = r"discriminator\.form negative_aware learns from .* set it to rules, file or command$"
        with pytest.raises(InputError, match=line):
            config.with_values(values | {"discriminator.form": "negative_aware"})
        return
    learns = config.with_values(values | {"discriminator.form": "negative_aware"})
    assert changed(learns, "rounds.viability.match").fingerprint() != learns.fingerprint()
    same = changed(learns, "rounds.viability.shares").fingerprint() == learns.fingerprint()
    assert same == (labels != "rules")


def test_what_the_published_form_does_not_use_is_left_out(config):
    published = config.with_values({"discriminator.form": "published"}).fingerprint()["discriminator"]
    assert published.keys().isdisjoint({"trajectories", "balance"})
    assert config.fingerprint()["discriminator"].keys() >= {"trajectories", "balance"}


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_stage_of_the_prerequisites_counts_by_what_affects_results(config, stage):
    """As the stage's own record names it, not as the checkpoint of a later one does."""
    config = config.with_values({"prerequisites": {}})
    number = int(stage[-1])

    def recorded(config):
        return config.fingerprint(config.stage_training(number))["training"]

    assert recorded(config.with_values({f"prerequisites.{stage}.sample_interval": 3})) == recorded(config)
    assert recorded(config.with_values({f"prerequisites.{stage}.learning_rate": 0.5})) != recorded(config)


def test_the_fingerprint_names_what_earlier_versions_named(config):
    """Its keys and their order are part of every checkpoint's bytes."""
    names = {section: list(fields) for section, fields in config.fingerprint().items() if isinstance(fields, dict)}
    assert list(config.fingerprint()) == [
        *("experiment", "autoencoder", "discriminator", "dataset", "unet", "scheduler", "training"),
        *("prerequisites", "rounds"),
    ]
    assert names["experiment"] == ["name", "phase"]
    assert names["dataset"] == ["outputs", "filters", "image_size", "augment"]
    assert names["rounds"] == [
        *("count", "epochs_per_round", "bad_latents", "discriminator", "advance_when", "viability_samples"),
    ]
    assert names["discriminator"] == ["weight", "balance", "form", "update", "batch_fraction", "trajectories"]
