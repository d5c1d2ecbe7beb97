"""Config files: the documented fields, both loss forms, overrides, and what is shipped."""

from pathlib import Path

import pytest
import yaml

from core.checkpoints.autoencoder_sizes import build_autoencoder
from core.config.experiment import ExperimentConfig
from core.config.loading import config_bytes, load_config
from core.data.palette import DEFAULT_PALETTE
from core.runtime.errors import InputError

MINIMAL = {"experiment": {"name": "x"}, "dataset": {"manifest": "manifest.csv"}}

# Every field of the published Stage 3 files, with both ways to write the loss.
DOCUMENTED = """
experiment: {name: diffusion_stage3_unet128_d4, save_path: /out, phase: diffusion_stage3, epochs_target: 50}
diffusion: {stage1_checkpoint: /stage1.pt, stage2_checkpoint: /stage2.pt}
autoencoder: {checkpoint: /autoencoder.pt, frozen: true}
discriminator: {checkpoint: /discriminator.pt, weight: 0.1}
dataset:
  manifest: /data/manifest.csv
  outputs: {latent: latent_path, rgb: layout_path, segmentation: layout_path}
  filters: {is_empty: [false]}
  return_path: false
unet: {in_channels: 16, out_channels: 16, base_channels: 128, depth: 4, num_res_blocks: 2, time_dim: 128,
  norm_groups: 8, dropout: 0.2, cond_channels: 0, fusion_mode: none}
scheduler: {type: CosineScheduler, num_steps: 500}
training:
  seed: 42
  train_split: 0.8
  split_seed: 42
  batch_size: 64
  num_workers: 8
  shuffle: true
  epochs: 50
  learning_rate: 3e-5
  optimizer: AdamW
  weight_decay: 0.1
  save_interval: 99999
  eval_interval: 5
  sample_interval: 10
  use_amp: true
  max_grad_norm: 0.5
  loss: LOSS
"""
MAPS = """
    noise_loss: {type: MSELoss, key: pred_noise, target: noise, weight: 1.0}
    semantic_loss:
      type: SemanticLoss
      segmentation_loss: {type: CrossEntropyLoss, key: segmentation, target: segmentation, weight: 0.1}
      perceptual_loss: {type: PerceptualLoss, key: rgb, target: rgb, weight: 0.05}
"""
COMPOSITE = """
    type: CompositeLoss
    losses:
      - {type: MSELoss, key: pred_noise, target: noise, weight: 1.0}
      - type: SemanticLoss
        segmentation_loss: {type: CrossEntropyLoss, key: segmentation, target: segmentation, weight: 0.1}
        perceptual_loss: {type: PerceptualLoss, key: rgb, target: rgb, weight: 0.05}
      - {type: DiscriminatorLoss, key: latent, weight: 0.1}
"""


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
    return path


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_shipped_config_loads(path):
    config = load_config(path)
    assert config.loss_weights["noise"] == 1.0


@pytest.mark.parametrize("name", ["base_config", "stage3_unet128_d4", "stage3_unet128_d5_rb3"])
def test_shipped_stage3_configs_say_what_is_documented(name):
    config = load_config(f"configs/stage3/{name}.yaml")
    assert config.latent_shape == (16, 32, 32)
    assert config.loss_weights == {"noise": 1.0, "segmentation": 0.1, "perceptual": 0.05, "adversarial": 0.1}
    assert (config.training.learning_rate, config.training.epochs) == (0.00003, 50)
    assert (config.rounds.count, config.rounds.epochs_per_round) == (3, 25)
    documented = {"num_samples": 5000, "batch_size": 32, "num_steps": 100}
    assert config.rounds.bad_latents.model_dump() == documented | {
        "real_variants": False,
        "sampler": "ddim",
        "shards": 1,
        "dask_address": None,
    }
    assert config.rounds.discriminator.model_dump() == {"epochs": 50, "batch_size": 64, "learning_rate": 0.0002}


@pytest.mark.parametrize("loss", [MAPS, COMPOSITE], ids=["maps", "composite"])
def test_documented_fields_load_unchanged(tmp_path, loss):
    config = load_config(write(tmp_path, DOCUMENTED.replace("LOSS", loss)))
    assert config.loss_weights == {"noise": 1.0, "segmentation": 0.1, "perceptual": 0.05, "adversarial": 0.1}
    documented = yaml.safe_load(DOCUMENTED.replace("loss: LOSS", ""))
    loaded = config.model_dump(mode="json")
    for section, fields in documented.items():
        for field, value in fields.items():
            found = loaded[section][field]
            assert found == (float(value) if isinstance(found, float) else value), f"{section}.{field}"


def test_two_discriminator_weights_that_differ_are_refused(tmp_path):
    text = DOCUMENTED.replace("LOSS", COMPOSITE).replace("pt, weight: 0.1", "pt, weight: 0.3")
    with pytest.raises(InputError, match=r"DiscriminatorLoss weight 0\.1 .* 0\.3"):
        load_config(write(tmp_path, text))


def test_overrides_reach_any_depth(tmp_path):
    config = load_config(
        write(tmp_path, MINIMAL),
        ["rounds.count=2", "dataset.manifest=/data/m.csv", "training.loss.semantic_loss.segmentation_loss.weight=0.2"],
    )
    assert config.rounds.count == 2 and config.dataset.manifest == "/data/m.csv"
    assert config.loss_weights["segmentation"] == 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rounds.cuont=2", "unknown key rounds.cuont; did you mean rounds.count"),
        ("training.loss.semantic_loss.perceptual_los.weight=1", "did you mean .*perceptual_loss"),
        ("ronuds.count=2", "did you mean rounds"),
        ("rounds.count=many", "rounds.count: .*integer.*'many'"),
        ("rounds.count=0", "rounds.count: .*greater than 0"),
        ("discriminator.weight=-0.1", "discriminator.weight: .*greater than or equal to 0"),
        ("training.learning_rate=.inf", "training.learning_rate: .*finite"),
        ("discriminator.form=magic", "discriminator.form: .*renoise"),
        ("experiment.name=../elsewhere", "experiment.name"),
        ("dataset.outputs.segmentation=mask_path", "segmentation mask_path and rgb layout_path must be the same"),
        ("discriminator.trajectories.t_min=0.795", "t_min 0.795 to t_max 0.8 holds none of 50 steps"),
        ("dataset.synthetic.rooms=[1, 9]", "dataset.synthetic.rooms.1: .*less than or equal to 6"),
        ("dataset.synthetic.rooms=[3, 1]", r"rooms \[3, 1\] must be \[fewest, most\]"),
        ("unet.depth=9", "unet.depth 9 halves"),
        ("unet.in_channels=3", "in_channels 3 and out_channels 16 must be equal"),
        ("rounds.count", "write it as key.path=value"),
        ("experiment.name.deeper=1", "name is a value, not a section"),
    ],
)
def test_a_wrong_key_or_type_is_refused(tmp_path, override, message):
    with pytest.raises(InputError, match=message) as caught:
        load_config(write(tmp_path, MINIMAL), [override])
    assert "\n" not in str(caught.value)


def test_a_saved_config_reads_back_equal(tmp_path):
    config = load_config("configs/demo.yaml")
    (tmp_path / "saved.yaml").write_bytes(config_bytes(config))
    assert load_config(tmp_path / "saved.yaml") == config


def test_config_values_cannot_be_changed():
    config = ExperimentConfig.model_validate(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        config.rounds.count = 5


def test_the_documented_autoencoder_maps_512_to_16x32x32():
    import torch

    model = build_autoencoder(ExperimentConfig.model_validate(MINIMAL).autoencoder, DEFAULT_PALETTE).eval()
    with torch.no_grad():
        latent = model.encode(torch.zeros(1, 3, 512, 512))
        decoded = model.decoder(latent)
    assert latent.shape == (1, 16, 32, 32)
    assert decoded.rgb.shape == (1, 3, 512, 512) and decoded.logits.shape == (1, 10, 512, 512)


@pytest.mark.parametrize("size", ["unet128_d4", "unet128_d5_rb3"])
def test_the_stage_files_describe_the_same_prerequisites(size):
    """What `flows.prerequisites` makes of one file, the next one finds under the same root."""
    stage1, stage2, stage3 = (load_config(f"configs/stage{n}/stage{n}_{size}.yaml") for n in (1, 2, 3))

    def described(config, stage):
        return config.fingerprint(config.stage_training(stage))["training"]

    assert described(stage1, 1) == described(stage2, 1) == described(stage3, 1)
    assert described(stage2, 2) == described(stage3, 2)
    assert stage1.unet == stage2.unet == stage3.unet
    assert stage1.prerequisites.autoencoder == stage2.prerequisites.autoencoder == stage3.prerequisites.autoencoder


def test_a_discriminator_loss_without_a_weight_leaves_the_weight_alone(tmp_path):
    loss = "{type: CompositeLoss, losses: [{type: MSELoss}, {type: DiscriminatorLoss}]}"
    path = write(tmp_path, MINIMAL)
    config = load_config(path, [f"training.loss={loss}", "discriminator.weight=0.3"])
    assert config.discriminator.weight == 0.3


def test_the_cache_is_a_folder_of_this_machine(tmp_path):
    with pytest.raises(InputError, match=r"artifacts\.cache: s3://b/c is an address: give a folder of this machine"):
        load_config(write(tmp_path, MINIMAL), ["artifacts.cache=s3://b/c"])
