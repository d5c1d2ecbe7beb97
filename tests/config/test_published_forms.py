"""ImgiNav's configs of its three stages, written anew from their documented keys and values."""

import pytest
import yaml

from core.config.loading import config_bytes, load_config
from core.runtime.errors import InputError

UNET = {
    **{"in_channels": 16, "out_channels": 16, "base_channels": 128, "depth": 4, "num_res_blocks": 2},
    **{"time_dim": 128, "cond_channels": 0, "fusion_mode": "none", "norm_groups": 8, "dropout": 0.2},
}
NOISE = {"type": "MSELoss", "key": "pred_noise", "target": "noise", "weight": 1.0}
SEMANTIC = {
    "type": "SemanticLoss",
    "segmentation_loss": {"type": "CrossEntropyLoss", "key": "segmentation", "target": "segmentation", "weight": 0.1},
    "perceptual_loss": {"type": "PerceptualLoss", "key": "rgb", "target": "rgb", "weight": 0.05},
}
WEIGHTED = {
    **{"use_weighted_sampling": True, "column": "content_category", "weighting_method": "inverse_frequency"},
    **{"max_weight": 5.0, "use_grouped_weights": True, "group_rare_classes": False, "min_samples_threshold": 50},
    **{"rare_threshold_percentile": 10, "class_grouping_path": "/work3/x/grouping.yaml"},
}
MEMORISATION = {
    f"memorization_{name}": 100
    for name in ("check_interval", "num_generate", "num_training", "light_interval", "light_num_generate")
}
STOPPING = {
    **{"early_stopping_patience": 20, "early_stopping_min_delta": 1e-5, "early_stopping_restore_best": True},
    **{"use_spatial_augmentation": True, "aug_rotation": True, "aug_prob": 0.5, "aug_translate": 0.1},
    "use_non_uniform_sampling": True,
}


def config(phase, loss, training=None, **sections):
    """A config of ImgiNav with this phase, loss and further keys of its training."""
    return {
        "experiment": {"name": "theirs", "phase": phase, "save_path": "/work3/x/out", "epochs_target": 500},
        "autoencoder": {"checkpoint": "/work3/x/ae/best.pt", "frozen": True},
        "dataset": {
            "manifest": "/work3/x/datasets/augmented/manifest.csv",
            "outputs": {"latent": "latent_path"},
            "filters": {"is_empty": [False], "is_augmented": [False]},
            "return_path": False,
        },
        "unet": UNET,
        "scheduler": {"type": "CosineScheduler", "num_steps": 500},
        "training": {
            **{"seed": 42, "train_split": 0.8, "split_seed": 42, "batch_size": 64, "num_workers": 8, "shuffle": True},
            **{"epochs": 500, "learning_rate": 0.0002, "optimizer": "AdamW", "weight_decay": 0.05},
            **{"scheduler": {"type": "cosine"}, "save_interval": 99999, "eval_interval": 5, "sample_interval": 10},
            **{"use_amp": True, "max_grad_norm": 0.5, "loss": loss, **(training or {})},
        },
        **sections,
    }


STRUCTURAL = {"type": "CompositeLoss", "losses": [NOISE, {"type": "LatentStructuralLoss", "weight": 0.1}]}
SNR = {
    "type": "CompositeLoss",
    "losses": [
        {"type": "SNRWeightedNoiseLoss", "key": "pred_noise", "target": "noise", "weight": 0.5},
        {"type": "LatentStructuralLoss", "weight": 0.3},
    ],
}
STAGE3 = {
    "diffusion": {"stage2_checkpoint": "/work3/x/stage2_checkpoint_best.pt"},
    "discriminator": {"checkpoint": "/path/to/discriminator_best.pt", "weight": 0.1},
}
COMPOSITE = {"type": "CompositeLoss", "losses": [NOISE, SEMANTIC, {"type": "DiscriminatorLoss", "weight": 0.1}]}
MAPS = {"noise_loss": NOISE, "semantic_loss": SEMANTIC}


@pytest.mark.parametrize(
    ("published", "without_effect"),
    [
        (config("diffusion_ablation", NOISE), []),
        (config("diffusion_ablation", NOISE, WEIGHTED), [f"training.{key}" for key in WEIGHTED]),
        (
            config("diffusion_ablation", SNR, {**WEIGHTED, **STOPPING}),
            [
                *(f"training.{key}" for key in {**WEIGHTED, **STOPPING}),
                *("training.loss.SNRWeightedNoiseLoss", "training.loss.LatentStructuralLoss"),
            ],
        ),
        (config("diffusion_stage2", MAPS, diffusion={"stage1_checkpoint": "/work3/x/s1.pt"}), []),
        (
            config("diffusion_stage2", STRUCTURAL, MEMORISATION, diffusion={"stage1_checkpoint": "/work3/x/s1.pt"}),
            [*(f"training.{key}" for key in MEMORISATION), "training.loss.LatentStructuralLoss"],
        ),
        (config("diffusion_stage3", MAPS, **STAGE3), []),
        (config("diffusion_stage3", COMPOSITE, **STAGE3), []),
        (
            config("diffusion_stage3", COMPOSITE, **STAGE3)
            | {"discriminator": {"checkpoint": "/d.pt", "weight": 0.1, "config": {"base_channels": 64}}},
            ["discriminator.config"],
        ),
        (
            config("diffusion_ablation", NOISE) | {"unet": {**UNET, "type": "DualUNet", "cond_mult": 1.0}},
            ["unet.cond_mult"],
        ),
    ],
)
def test_a_published_config_loads_and_names_what_has_no_effect(tmp_path, published, without_effect):
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(published, sort_keys=False))
    loaded = load_config(path)
    assert sorted(loaded.without_effect) == sorted(without_effect)
    assert loaded.experiment.phase == published["experiment"]["phase"]
    assert (loaded.unet.base_channels, loaded.scheduler.num_steps) == (128, 500)
    noise = next((loss for loss in published["training"]["loss"].get("losses", []) if "Noise" in loss["type"]), NOISE)
    assert loaded.loss_weights["noise"] == noise["weight"]
    (tmp_path / "written.yaml").write_bytes(config_bytes(loaded))
    assert load_config(tmp_path / "written.yaml") == loaded
    assert loaded.fingerprint() == loaded.model_copy(update={"without_effect": ()}).fingerprint()


def test_sizes_of_the_encoder_are_used_wherever_they_stand(tmp_path):
    path = tmp_path / "theirs.yaml"
    sizes = {"latent_channels": 16, "base_channels": 32, "downsampling_steps": 3, "norm_groups": 8}
    autoencoder = {"checkpoint": "/a.pt", "encoder": sizes, "decoder": {"upsampling_steps": 3}}
    path.write_text(yaml.safe_dump(config("diffusion_stage3", MAPS, **STAGE3) | {"autoencoder": autoencoder}))
    loaded = load_config(path)
    assert (loaded.autoencoder.latent_channels, loaded.autoencoder.downsampling_steps) == (16, 3)
    assert set(loaded.without_effect) == {"autoencoder.encoder", "autoencoder.decoder"}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"unet": {**UNET, "type": "UnetWithAttention"}},
            r"unet\.type: UnetWithAttention of ImgiNav has attention, ",
        ),
        ({"unet": {**UNET, "cond_channels": 4}}, r"unet\.cond_channels: should be 0, got 4"),
        ({"autoencoder": {"checkpoint": "/a.pt", "frozen": False}}, r"autoencoder\.frozen: should be true, got false"),
        (
            {"experiment": {"name": "x", "phase": "diffusion_stage_2"}},
            "'diffusion_stage_2' is no stage: did you mean ",
        ),
        (
            {"training": {"loss": {"type": "KLDLoss"}}},
            r"unknown loss type KLDLoss; use MSELoss, SemanticLoss or ",
        ),
        ({"training": {"use_weighted_samplin": True}}, r"unknown key training\.use_weighted_samplin"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_its_reason(tmp_path, change, line):
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(config("diffusion_stage3", MAPS, **STAGE3) | change))
    with pytest.raises(InputError, match=line):
        load_config(path)
