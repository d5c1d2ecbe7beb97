"""ImgiNav's models against what ImgiNav itself computes: numeric fixtures, and key lists at documented size."""

import copy
from pathlib import Path

import pytest
import torch

from core.checkpoints.discriminators import load_discriminator
from core.checkpoints.imginav_checkpoints import imginav_betas
from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder, load_unet
from core.config.loading import config_bytes, load_config
from core.config.model_sections import UNetSection
from core.models.diffusion import build_dpm_solver, build_scheduler, ddim_chain, denoiser
from core.networks.imginav_autoencoder import imginav_autoencoder
from core.networks.imginav_unet import ImgiNavUNet
from core.records.input_files import local_path
from core.runtime.batch_shares import Rows, ShareChannelDropout, checkpointed, whole_batch_dropout
from core.runtime.errors import InputError
from tests.imginav_files import SIZES, write_checkpoints

pytest_plugins = ["tests.storage_servers"]

FIXTURES = Path(__file__).parents[3] / "shared" / "data" / "imginav"
needs_fixtures = pytest.mark.skipif(not FIXTURES.is_dir(), reason="ImgiNav's numeric fixtures are not beside the clone")
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def numeric(name):
    return torch.load(FIXTURES / "numeric" / name, weights_only=True)


@pytest.fixture
def given():
    return numeric("io.pt")


@pytest.fixture
def experiment(tmp_path):
    """The config of these checkpoints, which says nothing of networks."""

    def load(diffusion="", autoencoder="", size=256, more=""):
        path = tmp_path / "theirs.yaml"
        path.write_text(
            f"experiment: {{name: theirs}}\ndataset: {{manifest: m.csv, image_size: {size}}}\n{more}\n"
            f"autoencoder: {{checkpoint: '{autoencoder or 'none.pt'}', frozen: true}}\n"
            f"diffusion: {{stage2_checkpoint: '{diffusion or 'none.pt'}'}}\n"
        )
        return load_experiment(path)

    return load


@needs_fixtures
@pytest.mark.parametrize(("name", "size"), [("narrow_d4", 256), ("narrow_d5_rb3", 512)])
def test_the_unet_predicts_what_imginavs_does(experiment, given, name, size):
    path = FIXTURES / "numeric" / f"diffusion_{name}_checkpoint_best.pt"
    config = experiment(path, size=size)
    unet, wanted = load_unet(path, config).eval(), given[f"diffusion_{name}"]
    with torch.no_grad():
        torch.testing.assert_close(unet(wanted["xt"], wanted["t"], return_dict=False)[0], wanted["eps"], **CLOSE)
        copied = copy.deepcopy(unet).to(memory_format=torch.channels_last)
        torch.testing.assert_close(copied(wanted["xt"], wanted["t"])[0], wanted["eps"], rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            reduced = unet(wanted["xt"], wanted["t"])[0].float()
    assert (reduced - wanted["eps"]).norm() < 0.05 * wanted["eps"].norm()
    # The whole chain, at the timesteps of ImgiNav's sampler.
    scheduler, steps = build_scheduler(config.scheduler), int(wanted["ddim_num_steps"])
    assert torch.equal(scheduler.alphas_cumprod, wanted["alpha_bars"])
    assert torch.equal(build_dpm_solver(config.scheduler).alphas_cumprod, wanted["alpha_bars"])
    timesteps = list(range(499, -1, -(500 // steps)))
    timesteps += [0] if timesteps[-1] else []
    with torch.no_grad():
        *_, last = ddim_chain(denoiser(unet, scheduler), wanted["ddim_start"], scheduler.alphas_cumprod, timesteps)
    torch.testing.assert_close(last.xt, wanted["ddim_latent_if_not_clamped"], rtol=1e-4, atol=1e-3)


@needs_fixtures
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ae_narrow", "autoencoder"),
        ("ae_narrow_11class", "autoencoder_11class"),
        ("ae_narrow_normalizer", "autoencoder_normalizer"),
    ],
)
def test_the_autoencoder_encodes_and_decodes_as_imginavs_does(experiment, given, file, name):
    path = FIXTURES / "numeric" / f"{file}_checkpoint_best.pt"
    model, wanted = load_autoencoder(path, experiment(autoencoder=path, size=256)), given[name]
    if "rgb_in" in wanted:
        torch.testing.assert_close(model.encode(wanted["rgb_in"]), wanted["latent"], **CLOSE)
    for latent, of in (("latent", "latent"), ("z", "z")):
        if latent not in wanted:
            continue
        rgb, logits = model.decoder(wanted[latent])
        torch.testing.assert_close(rgb, wanted[f"rgb_of_{of}"], **CLOSE)
        shares = wanted[f"seg_of_{of}"]
        if shares.shape[1] == 11:  # without floor
            shares = torch.cat([shares[:, :9], shares[:, 10:]], dim=1)
            shares = shares / shares.sum(1, keepdim=True)
        torch.testing.assert_close(logits.softmax(1), shares, **CLOSE)


@needs_fixtures
def test_schedules_of_files_that_hold_none_are_computed():
    for name, wanted in numeric("alpha_bars.pt").items():
        kind, steps, version = name.split(".")
        betas = imginav_betas(kind, int(steps), 0.02 if version == "a392c98" else 0.999, "c.pt")
        torch.testing.assert_close(torch.cumprod(1 - betas, 0), wanted, rtol=1e-6, atol=1e-7, msg=name)


@needs_fixtures
@pytest.mark.parametrize(("table", "depth", "blocks"), [("unet128_d4", 4, 2), ("unet128_d5_rb3", 5, 3)])
def test_the_unet_of_documented_size_has_every_key(table, depth, blocks):
    section = UNetSection(type="Unet", depth=depth, num_res_blocks=blocks, time_dim=128)
    with torch.device("meta"):
        model = ImgiNavUNet(section)
    assert shapes(model) == listed(f"unet_stage3_{table}")
    assert sum(value.numel() for value in model.parameters()) == {4: 180_154_288, 5: 922_578_096}[depth]


@needs_fixtures
def test_the_autoencoder_of_documented_size_has_every_key():
    sizes = SIZES._replace(latent_channels=16, steps=4, encoder_channels=32, encoder_groups=8, decoder_channels=32)
    with torch.device("meta"):
        found = shapes(imginav_autoencoder(sizes))
    for number in range(27):
        for kind in ("weight", "bias"):
            if (shape := found.pop(f"encoder.feature_extractor.{number}.{kind}", None)) is not None:
                found[f"encoder.encoder.{number}.{kind}"] = shape
    for kind in ("weight", "bias"):
        found[f"encoder.encoder.27.{kind}"] = found.pop(f"encoder.latent_proj.{kind}")
    assert found == listed("autoencoder_phase1_6")


def shapes(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def listed(table):
    rows = [line.split("\t") for line in (FIXTURES / "key_tables" / f"{table}.tsv").read_text().splitlines()[1:]]
    return {key: tuple(map(int, shape.split("x"))) for key, shape, _ in rows}


@needs_fixtures
@pytest.mark.parametrize("name", ["v1", "v1_no_batch_norm", "v2", "v2_batch_norm", "v2_no_dropout"])
def test_imginavs_discriminator_is_refused_with_what_to_do(name):
    path = FIXTURES / "numeric" / f"discriminator_{name}_best.pt"
    with pytest.raises(InputError, match=r"is ImgiNav's, which knows no noise level: make one .* tasks\.retrain_discr"):
        load_discriminator(path, (16, 32, 32))


# What needs no fixtures: models of the same form with random weights.


@pytest.fixture
def files(tmp_path):
    """Writes a diffusion checkpoint and an autoencoder of ImgiNav's form, changed by functions; returns their paths."""

    def write(change=lambda checkpoint: None, change_autoencoder=lambda checkpoint: None):
        return write_checkpoints(tmp_path, change, change_autoencoder)

    return write


def test_a_config_follows_the_checkpoints_that_it_names(files, experiment):
    diffusion, autoencoder = files()
    config = experiment(diffusion, autoencoder, size=32, more="unet: {dropout: 0.3, gradient_checkpointing: true}")
    assert config.latent_shape == (3, 8, 8)
    assert (config.unet.type, config.unet.base_channels, config.unet.depth, config.unet.time_dim) == ("Unet", 8, 2, 6)
    assert config.unet.dropout == 0.3 and config.unet.gradient_checkpointing
    betas = torch.linspace(1e-4, 0.02, 40)
    assert torch.equal(build_scheduler(config.scheduler).betas, betas) and config.scheduler.num_steps == 40
    unet = load_unet(diffusion, config)
    assert torch.equal(unet.final.weight, torch.load(diffusion)["state_dict"]["unet.final.weight"])
    rgb = torch.rand(2, 3, 32, 32) * 2 - 1
    assert load_autoencoder(autoencoder, config).encode(rgb).shape == (2, 3, 8, 8)
    # Read again as a record holds it, it is the same; so is one that gives the same sizes itself.
    written = diffusion.parent / "written.yaml"
    written.write_bytes(config_bytes(config))
    assert load_experiment(written) == config == load_config(written)
    given = experiment(diffusion, autoencoder, size=32, more="unet: {base_channels: 8, depth: 2, dropout: 0.3}")
    assert given.unet.base_channels == 8 and given.scheduler == config.scheduler


def test_a_checkpoint_that_was_trained_on_from_theirs_belongs_to_the_config(files, experiment, tmp_path):
    diffusion, autoencoder = files()
    config = experiment(diffusion, autoencoder, size=32)
    unet = load_unet(diffusion, config)
    for name, form in (("same", lambda made: made), ("other", lambda made: made | {"num_steps": 39})):
        settings = config.fingerprint()
        weights = {f"unet_ema.{key}": value for key, value in unet.state_dict().items()}
        saved = {"state_dict": weights, "config": settings | {"scheduler": form(settings["scheduler"])}}
        torch.save(saved, tmp_path / f"{name}.pt")
    assert torch.equal(load_unet(tmp_path / "same.pt", config).final.weight, unet.final.weight)
    with pytest.raises(InputError, match=r"was trained with scheduler\.num_steps 39, the config's is 40"):
        load_unet(tmp_path / "other.pt", config)


def test_a_checkpoint_is_found_in_the_folder_checkpoints_beside_its_name(files, experiment):
    diffusion, autoencoder = files()
    (diffusion.parent / "stage2" / "checkpoints").mkdir(parents=True)
    moved = diffusion.rename(diffusion.parent / "stage2" / "checkpoints" / "best.pt")
    config = experiment(moved.parent.parent / "best.pt", autoencoder, size=32)
    assert config.diffusion.stage2_checkpoint == str(moved) and config.unet.type == "Unet"


@pytest.mark.parametrize(
    ("history", "stage1", "uses_ema"),
    [(True, None, False), (False, None, True), (True, "local", True), (True, "moto", True)],
)
def test_the_ema_is_used_only_of_stage_1(request, files, experiment, history, stage1, uses_ema):
    def add_ema(checkpoint):
        state = checkpoint["state_dict"]
        state |= {f"unet_ema{key[4:]}": value + 1 for key, value in state.items() if key.startswith("unet.")}
        if not history:
            del checkpoint["training_history"]

    diffusion, autoencoder = files(add_ema)
    config = experiment(diffusion, autoencoder, size=32)
    path = diffusion
    if stage1:
        place = request.getfixturevalue(f"{stage1}_place")
        place.open().upload(diffusion.parent, [diffusion.name])
        named = f"{place.uri}/{diffusion.name}"
        moved = ["diffusion.stage2_checkpoint=null", f"diffusion.stage1_checkpoint={named}"]
        config = load_experiment(diffusion.parent / "theirs.yaml", [*moved, f"artifacts.cache={place.artifacts.cache}"])
        path = local_path(named, config.artifacts)
    saved = torch.load(diffusion)["state_dict"]["unet.final.bias"]
    assert torch.equal(load_unet(path, config).final.bias, saved + uses_ema)


@pytest.mark.parametrize(
    ("prefix", "last"),
    [("feature_extractor", "latent_proj"), ("feature_extractor", "mu_head"), ("encoder", "encoder.15")],
)
def test_each_form_of_the_encoder_is_the_same_computation(files, experiment, prefix, last):
    def rename(checkpoint):
        state = checkpoint["state_dict"]
        for key in [key for key in state if key.startswith("encoder.")]:
            rest = key.removeprefix("encoder.encoder.")
            number, _, kind = rest.partition(".")
            name = f"{last}.{kind}" if number == "15" else f"{prefix}.{rest}"
            state[f"encoder.{name}"] = state.pop(key)
        if last == "mu_head":
            state |= {f"encoder.logvar_head.{kind}": torch.zeros(3) for kind in ("weight", "bias")}

    _, plain = files()
    rgb, config = (
        torch.rand(1, 3, 32, 32),
        experiment("", plain, size=32, more="unet: {in_channels: 3, out_channels: 3}"),
    )
    wanted = load_autoencoder(plain, config).encode(rgb)
    _, renamed = files(change_autoencoder=rename)
    assert torch.equal(load_autoencoder(renamed, config).encode(rgb), wanted)


def put(place, value):
    """A change of a checkpoint: `value` at the dotted `place`; None takes it out."""

    def change(checkpoint):
        *parents, name = place.split("/")
        for parent in parents:
            checkpoint = checkpoint[parent]
        if value is None:
            del checkpoint[name]
        else:
            checkpoint[name] = value

    return change


WEIGHT = torch.zeros(2)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("config/unet/type", "UnetWithAttention"), "has attention in its UNet, which the rounds cannot train: "),
        (put("state_dict/unet.bottleneck.attention.qkv.weight", WEIGHT), "has attention in its UNet"),
        (
            put("state_dict/embedding_proj.weight", WEIGHT),
            r"holds embedding_proj\.weight, so it depends on ",
        ),
        (put("config/unet/cond_channels", 4), r"has unet\.cond_channels 4, which the rounds cannot train"),
        (put("config/unet/out_channels", 6), r"has unet\.in_channels 3 and out_channels 6: only models that predict"),
        (put("config/unet/depth", "deep"), r"cannot be read: its config's unet\.depth is 'deep'; it should be"),
        (put("config/unet/base_channels", 10**9), r"config's unet\.base_channels is 1000000000; it should be less"),
        (
            put("state_dict/scheduler.betas", torch.tensor([0.5, 2.0])),
            r"its scheduler\.betas are a tensor",
        ),
        (put("state_dict/unet.final.weight", None), r"unet|final\.weight"),
        (
            put("state_dict/decoder.heads.rgb.head.0.bias", torch.ones(2)),
            "was trained with another decoder than ",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_with_the_reason(files, experiment, change, line):
    diffusion, autoencoder = files(change)
    with pytest.raises(InputError, match=rf"checkpoint \S+diffusion\.pt .*{line}") as refused:
        load_unet(diffusion, experiment(diffusion, autoencoder, size=32))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (put("config/encoder/activation", "GELU"), r"its config's encoder\.activation is 'GELU'; it should be 'SiLU'"),
        (
            put("config/encoder/downsampling_steps", 3),
            r"an encoder to 3 channels at 1/2\^3 and a decoder",
        ),
        (put("config/decoder/heads", []), "has no RGBHead: pictures and classes of a layout come from"),
        (put("config/decoder/base_channels", None), r"its config does not give decoder\.base_channels"),
    ],
)
def test_an_autoencoder_that_cannot_be_used_is_refused_with_the_reason(files, experiment, change, line):
    diffusion, autoencoder = files(change_autoencoder=change)
    with pytest.raises(InputError, match=rf"checkpoint \S+autoencoder\.pt .*{line}"):
        experiment(diffusion, autoencoder, size=32)


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ("unet: {base_channels: 16}", r"has unet\.base_channels 8, the config's is 16: remove the key from the config"),
        ("unet: {type: UNet2DModel}", r"has unet\.type 'Unet', the config's is 'UNet2DModel'"),
        ("scheduler: {num_steps: 500}", r"has scheduler\.num_steps 40, the config's is 500"),
    ],
)
def test_a_config_that_says_something_else_is_refused_with_both_values(files, experiment, more, line):
    diffusion, autoencoder = files()
    with pytest.raises(InputError, match=line):
        experiment(diffusion, autoencoder, size=32, more=more)


def test_two_checkpoints_of_different_models_are_refused(files, experiment, tmp_path):
    diffusion, autoencoder = files()
    other = diffusion.rename(tmp_path / "stage1.pt")
    files(put("state_dict/scheduler.betas", torch.full((40,), 0.01)))
    experiment(diffusion, autoencoder, size=32)
    with pytest.raises(InputError, match=r"has scheduler\.trained_betas .*, another that the config names has"):
        load_experiment(tmp_path / "theirs.yaml", [f"diffusion.stage1_checkpoint={other}"])


def test_recomputed_activations_give_the_same_gradients():
    section = UNetSection(
        type="Unet",
        in_channels=3,
        out_channels=3,
        base_channels=8,
        depth=2,
        num_res_blocks=2,
        norm_groups=4,
        dropout=0.5,
    )
    torch.manual_seed(1)
    plain = ImgiNavUNet(section).train()
    again = copy.deepcopy(plain)
    again.enable_gradient_checkpointing(checkpointed)
    x, t = torch.randn(4, 3, 8, 8), torch.tensor([0, 3, 200, 499])
    for model in (plain, again):
        torch.manual_seed(2)
        model(x, t)[0].square().mean().backward()
    for ours, theirs in zip(plain.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_channels_are_dropped_whole_and_alike_in_any_share_of_a_batch():
    layer, x = ShareChannelDropout(0.5).train(), torch.rand(6, 8, 4, 4) + 1
    torch.manual_seed(5)
    with whole_batch_dropout(Rows(torch.arange(6), 6)):
        whole = layer(x)
    assert set(((whole == 0).float().mean((2, 3))).flatten().tolist()) == {0.0, 1.0}
    for number in (0, 1):
        torch.manual_seed(5)
        with whole_batch_dropout(Rows(torch.arange(number, 6, 2), 6)):
            assert torch.equal(layer(x[number::2]), whole[number::2])
    assert torch.equal(layer.eval()(x), x)
