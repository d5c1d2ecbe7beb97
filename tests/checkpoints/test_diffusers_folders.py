"""Folders that diffusers wrote: what is read from them, and what is refused with its reason."""

import json

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel, VQModel

from core.audit.layout_maps import decode_maps
from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder, load_unet
from core.data.palette import DEFAULT_PALETTE, Palette
from core.models.diffusion import add_noise, build_scheduler, denoiser
from core.networks.diffusers_autoencoder import palette_logits
from core.records.input_files import describe_input, local_path
from core.runtime.errors import InputError
from core.storage.store import ArtifactsSection
from tests.hub_cache import put_into_cache
from tests.palettes import OWN, write_palette

BLOCKS = {"block_out_channels": (4, 8), "norm_num_groups": 2}
WEIGHTS = "diffusion_pytorch_model.safetensors"


def unet(channels=3, **more):
    torch.manual_seed(1)
    return UNet2DModel(
        **{"sample_size": 16, "in_channels": channels, "out_channels": channels, "layers_per_block": 1, **BLOCKS},
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        **more,
    )


@pytest.fixture
def pipeline(tmp_path):
    """Folder of a pipeline of pictures."""
    DDPMPipeline(unet(), DDPMScheduler(num_train_timesteps=50)).save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


@pytest.fixture
def experiment(tmp_path):
    """The config of these checkpoints, which says nothing of networks."""

    def load(diffusion="none", autoencoder=None, more=""):
        path = tmp_path / "theirs.yaml"
        given = f"autoencoder: {{checkpoint: '{autoencoder}'}}" if autoencoder else ""
        path.write_text(
            "experiment: {name: theirs}\ndataset: {manifest: m.csv, image_size: 32}\n"
            f"diffusion: {{stage2_checkpoint: '{diffusion}'}}\n{given}\n{more}\n"
        )
        return load_experiment(path)

    return load


def test_a_pipeline_of_pictures_needs_no_autoencoder(pipeline, experiment):
    config = experiment(pipeline)
    assert config.latent_shape == (3, 32, 32) and config.autoencoder.checkpoint == str(pipeline)
    assert torch.equal(build_scheduler(config.scheduler).alphas_cumprod, DDPMScheduler(50).alphas_cumprod)
    loaded, x, t = load_unet(pipeline, config).eval(), torch.randn(2, 3, 16, 16), torch.tensor([0, 49])
    with torch.no_grad():
        assert torch.equal(loaded(x, t, return_dict=False)[0], unet().eval()(x, t).sample)
    model, rgb = load_autoencoder(pipeline, config), torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(model.encode(rgb), rgb) and torch.equal(model.decoder(rgb).rgb, rgb)
    assert model.decoder.device == torch.device("cpu")


# The two closest colours are 20 apart, a sixth of what they are in the default palette.
CLOSE = Palette.of({"wall": (100, 100, 100), "background": (100, 100, 120), "bed": (0, 200, 0)})


@pytest.mark.parametrize(("palette", "off"), [(DEFAULT_PALETTE, (3, -3, 2)), (OWN, (3, -3, 2)), (CLOSE, (1, -1, 1))])
def test_classes_are_those_of_the_nearest_colours(palette, off):
    colors = torch.tensor(palette.rgb).float()
    rgb = (colors + torch.tensor(off)).clamp(0, 255).T[None, :, :, None] / 127.5 - 1
    logits = palette_logits(rgb, palette)[0, :, :, 0]
    assert logits.argmax(0).tolist() == list(range(len(colors)))
    assert (logits.softmax(0).diagonal() > 0.95).all()


def test_decoders_have_the_classes_of_the_palette(pipeline, experiment, tmp_path):
    config = experiment(pipeline).with_values({"dataset.palette": str(write_palette(tmp_path / "palette.yaml"))})
    decoder = load_autoencoder(pipeline, config).decoder
    classes = torch.randint(len(OWN), (1, 32, 32), generator=torch.Generator().manual_seed(0))
    rgb = torch.tensor(OWN.rgb)[classes].permute(0, 3, 1, 2) / 127.5 - 1
    assert decoder.palette == OWN and torch.equal(decoder(rgb).logits.argmax(1), classes)
    rgb[:, :, :8] = 0  # a quarter of the picture in no colour
    maps = decode_maps(rgb, decoder)
    assert np.array_equal(maps.classes[:, 8:], classes[:, 8:]) and maps.off_palette.tolist() == [0.25]


@pytest.mark.parametrize("made", ["kl", "vq"])
def test_latents_of_an_autoencoder_are_scaled_as_its_config_says(tmp_path, experiment, made):
    torch.manual_seed(3)
    types = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    if made == "kl":
        theirs = AutoencoderKL(**types, **BLOCKS, latent_channels=4, scaling_factor=0.5, shift_factor=0.25).eval()
    else:
        theirs = VQModel(**types, **BLOCKS, latent_channels=4, num_vq_embeddings=16, scaling_factor=0.5).eval()
    theirs.save_pretrained(tmp_path / "vae")
    unet(4).save_pretrained(tmp_path / "unet", max_shard_size="10KB")
    config = experiment(tmp_path / "unet", tmp_path / "vae")
    assert config.latent_shape == (4, 16, 16) and config.scheduler.trained_betas is None
    ours, rgb = load_autoencoder(tmp_path / "vae", config), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        if made == "kl":
            wanted = (theirs.encode(rgb).latent_dist.mode() - 0.25) * 0.5
            decoded = theirs.decode(wanted / 0.5 + 0.25).sample
        else:
            wanted = theirs.encode(rgb).latents * 0.5
            decoded = theirs.decode(wanted / 0.5).sample
        torch.testing.assert_close(ours.encode(rgb), wanted)
        torch.testing.assert_close(ours.decoder(wanted).rgb, decoded.clamp(-1, 1))
    assert torch.equal(load_unet(tmp_path / "unet", config).conv_in.weight, unet(4).conv_in.weight)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_every_schedule_and_prediction_gives_the_noise(tmp_path, experiment, kind, prediction):
    scheduler = DDIMScheduler(num_train_timesteps=40, beta_schedule=kind, prediction_type=prediction)
    DDPMPipeline(unet(), scheduler).save_pretrained(tmp_path / "pipeline")
    ours = build_scheduler(experiment(tmp_path / "pipeline").scheduler)
    assert torch.equal(ours.alphas_cumprod, scheduler.alphas_cumprod)
    x0, eps, t = torch.randn(3, 3, 4, 4), torch.randn(3, 3, 4, 4), torch.tensor([1, 20, 38])
    alpha_bar = ours.alphas_cumprod[t]
    signal, noise = (root[:, None, None, None] for root in (alpha_bar.sqrt(), (1 - alpha_bar).sqrt()))
    predicted = {"epsilon": eps, "v_prediction": signal * eps - noise * x0, "sample": x0}[prediction]
    found = denoiser(lambda *_, return_dict: (predicted,), ours)(add_noise(x0, eps, alpha_bar), t)
    torch.testing.assert_close(found, eps, rtol=1e-3, atol=1e-3)


def test_a_folder_is_an_input_whose_digest_is_over_its_files(pipeline):
    artifacts = ArtifactsSection()
    first = describe_input(pipeline, "stage2", artifacts)
    assert first == describe_input(pipeline, "stage2", artifacts)
    assert first["size"] == sum(file.stat().st_size for file in pipeline.rglob("*") if file.is_file())
    assert local_path(pipeline, artifacts) == pipeline
    (pipeline / "unet" / "config.json").rename(pipeline / "unet" / "renamed.json")
    assert describe_input(pipeline, "stage2", artifacts)["sha256"] != first["sha256"]


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def shard(folder):
    unet().save_pretrained(folder / "unet", max_shard_size="10KB")
    (folder / "unet" / WEIGHTS).unlink()
    next((folder / "unet").glob("*-of-*.safetensors")).unlink()


def with_nan(folder):
    model = unet()
    model.conv_in.bias.data.fill_(torch.nan)
    model.save_pretrained(folder / "unet")


REFUSED = {
    "class-conditional": (
        lambda f: unet(num_class_embeds=5).save_pretrained(f / "unet"),
        "is conditioned on classes: only",
    ),
    "text-conditional": (
        lambda f: (
            edit(f / "model_index.json", unet=["diffusers", "UNet2DConditionModel"])
            or edit(f / "unet" / "config.json", _class_name="UNet2DConditionModel")
        ),
        "is a 'UNet2DConditionModel', and only UNet2DModel can be used",
    ),
    "no weights": (
        lambda f: (f / "unet" / WEIGHTS).unlink(),
        "unet holds no weights: it needs one of diffusion_pytorch",
    ),
    "a missing shard": (shard, r"names diffusion_pytorch_model-0\S+, which is not there: copy all files"),
    "cut short": (
        lambda f: (f / "unet" / WEIGHTS).write_bytes((f / "unet" / WEIGHTS).read_bytes()[:5000]),
        "is a damaged s",
    ),
    "not JSON": (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json is not a config of diffusers"),
    "other sizes": (lambda f: edit(f / "unet" / "config.json", block_out_channels=[4, 16]), r"|shape"),
    "no such block": (
        lambda f: edit(f / "unet" / "config.json", down_block_types=["A", "B"]),
        "cannot build the model of its",
    ),
    "out of its folder": (
        lambda f: (
            (f / "unet" / WEIGHTS).rename(f / "unet" / "x")
            and (f / "unet" / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "../../w.safetensors"}}')
        ),
        "lists no files by weight",
    ),
    "no schedule of betas": (
        lambda f: (f / "scheduler" / "scheduler_config.json").write_text(
            '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
        ),
        "is a 'FlowMatchEulerDiscreteScheduler', which has no schedule of betas",
    ),
    "no signal at the end": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", rescale_betas_zero_snr=True),
        "has rescale_betas_zero_snr",
    ),
    "an unknown schedule": (
        lambda f: edit(f / "scheduler" / "scheduler_config.json", beta_schedule="best"),
        "cannot build its schedule",
    ),
    "latents without an autoencoder": (
        lambda f: unet(4).save_pretrained(f / "unet"),
        "holds no autoencoder, and its model is not of RGB pictures",
    ),
    "NaN weights": (with_nan, "holds weights that are not finite"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_folder_that_cannot_be_used_is_refused_with_the_reason(pipeline, experiment, what):
    change, line = REFUSED[what]
    change(pipeline)
    with pytest.raises(InputError, match=line) as refused:
        experiment(pipeline)
    assert "\n" not in str(refused.value) and str(pipeline.parent) in str(refused.value)


def test_a_name_on_the_hub_is_found_in_its_cache(pipeline, experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cached = put_into_cache(monkeypatch, tmp_path / "cache", pipeline)
    config = experiment("someone/rooms")
    assert config.diffusion.stage2_checkpoint == str(cached)
    assert config.unet.config["block_out_channels"] == [4, 8]
    with pytest.raises(
        InputError, match=r"^someone/flats is no folder of this machine, and the Hugging Face hub did not"
    ):
        experiment("someone/flats")


def test_a_size_beside_the_config_of_a_folder_is_refused(pipeline, experiment):
    with pytest.raises(InputError, match=r"unet: base_channels 64 has no effect beside config, which gives it: remove"):
        experiment(pipeline, more="unet: {base_channels: 64}")
