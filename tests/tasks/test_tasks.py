"""The two other documented tasks through their commands: options, outputs, columns."""

import inspect

import pandas as pd
import pytest
import torch

from core.checkpoints.discriminators import load_discriminator
from core.data.latents import Latents
from core.data.manifest import read_manifest, split_by_layout
from core.models import sampling
from tasks.command_line import run_command
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator

DOCUMENTED = {
    generate_bad_latents: {"num_samples": 5000, "batch_size": 32, "num_steps": 100, "seed": 42, "device": "auto"},
    retrain_discriminator: {"epochs": 50, "batch_size": 64, "learning_rate": 0.0002},
}


@pytest.fixture
def generate(config, prepared, tmp_path):
    """Run generate-bad-latents into a folder of this test's own, options written with `dash`."""

    def run(folder="bad", dash="_", **options):
        values = {
            "manifest": config.dataset.manifest,
            "autoencoder_checkpoint": config.autoencoder.checkpoint,
            "diffusion_checkpoint": config.diffusion.stage1_checkpoint,
            "diffusion_config": prepared,
            "output_dir": tmp_path / folder,
            "num_samples": 6,
            "num_steps": 3,
            **options,
        }
        arguments = [f"--{name.replace('_', dash)}={value}" for name, value in values.items()]
        run_command(generate_bad_latents.fn, arguments)
        return tmp_path / folder

    return run


@pytest.mark.parametrize("task", DOCUMENTED, ids=lambda task: task.name)
def test_documented_defaults(task):
    parameters = inspect.signature(task.fn).parameters
    assert {name: parameters[name].default for name in DOCUMENTED[task]} == DOCUMENTED[task]


def test_task_names():
    from tasks.continue_stage3 import continue_stage3

    names = [task.name for task in (generate_bad_latents, retrain_discriminator, continue_stage3)]
    assert names == ["generate-bad-latents", "retrain-discriminator", "continue-stage-3"]


@pytest.mark.parametrize("dash", ["_", "-"])
def test_generate_bad_latents_writes_the_documented_files(generate, dash):
    folder = generate(dash=dash)
    for kind in ("real", "bad"):
        pool = torch.load(folder / f"{kind}_latents_all.pt", weights_only=True)
        assert pool.shape == (6, 4, 8, 8) and pool.dtype == torch.float32
        files = sorted((folder / f"{kind}_latents").iterdir())
        assert [file.name for file in files] == [f"{kind}_latent_{index:05d}.pt" for index in range(6)]
        single = torch.load(files[2], weights_only=True)
        assert torch.equal(single, pool[2]) and single.untyped_storage().nbytes() == 4 * 8 * 8 * 4
    rows = pd.read_csv(folder / "discriminator_manifest.csv")
    assert rows.columns.tolist() == ["latent_path", "label", "is_viable"]
    assert (rows["label"].eq(1) == rows["is_viable"]).all() and rows["label"].sum() == 6 and len(rows) == 12
    assert all((folder / path).exists() for path in rows["latent_path"])
    assert rows["label"].tolist() != sorted(rows["label"], reverse=True)


@pytest.fixture
def batches(monkeypatch):
    """Sizes of the batches in which latents are sampled."""
    sizes, sample = [], sampling.sample_ddim

    def sampled(denoise, noise, *arguments):
        sizes.append(len(noise))
        return sample(denoise, noise, *arguments)

    monkeypatch.setattr(sampling, "sample_ddim", sampled)
    return sizes


def test_bad_latents_do_not_depend_on_batch_size_but_on_the_seed(generate, batches):
    first, second, third = generate("a", batch_size=2), generate("b", batch_size=32), generate("c", seed=1)
    for name in ("bad_latents_all.pt", "real_latents_all.pt"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
        assert (first / name).read_bytes() != (third / name).read_bytes()
    # Convolutions of another batch size may round differently, so a CPU always computes the same.
    assert set(batches) == {sampling.CPU_BATCH}


def test_a_bad_latent_comes_from_its_own_seed_whatever_batch_it_is_in(generate, batches, monkeypatch):
    whole = torch.load(generate("whole") / "bad_latents_all.pt", weights_only=True)
    monkeypatch.setattr(sampling, "CPU_BATCH", 4)
    cut = torch.load(generate("cut") / "bad_latents_all.pt", weights_only=True)
    assert set(batches[1:]) == {4} and len(batches) == 3
    torch.testing.assert_close(cut, whole)


def all_latents(rows, folder):
    return Latents(rows, "latent_path", (4, 8, 8), folder).batch(torch.arange(len(rows)))


def test_rounds_never_show_a_validation_layout_to_the_discriminator(config, prepared, tmp_path):
    rows = read_manifest(config.dataset.manifest, ["layout_path", "latent_path"], config.dataset)
    _, validation = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    held_out = all_latents(validation, tmp_path)
    generate_bad_latents.fn(
        manifest=config.dataset.manifest,
        autoencoder_checkpoint=config.autoencoder.checkpoint,
        diffusion_checkpoint=config.diffusion.stage1_checkpoint,
        diffusion_config=prepared,
        output_dir=tmp_path / "bad",
        num_samples=100,
        num_steps=1,
        held_out=False,
    )
    real = torch.load(tmp_path / "bad" / "real_latents_all.pt", weights_only=True)
    assert len(real) == 9  # the originals among 80 % of 12 layouts
    nearest = torch.cdist(real.flatten(1), held_out.flatten(1)).min()
    assert nearest > 0.1
    training = all_latents(rows, tmp_path)
    assert torch.cdist(real.flatten(1), training.flatten(1)).min(dim=1).values.max() < 0.05


@pytest.mark.parametrize("form", ["file", "folder"])
def test_retrain_discriminator_reads_a_file_or_a_folder(generate, tmp_path, form):
    data = generate()
    name = "{}_latents_all.pt" if form == "file" else "{}_latents"
    arguments = [
        f"--real_latents={data / name.format('real')}",
        f"--fake-latents={data / name.format('bad')}",
        f"--output_dir={tmp_path / 'd'}",
        "--epochs=3",
        "--batch_size=4",
        "--learning_rate=0.001",
    ]
    made = run_command(retrain_discriminator.fn, arguments)
    history = pd.read_csv(tmp_path / "d" / "discriminator_history.csv")
    assert history.columns.tolist() == ["epoch", "train_loss", "train_acc", "val_loss", "val_acc"]
    assert history["epoch"].tolist() == [1, 2, 3]
    best = torch.load(tmp_path / "d" / "discriminator_best.pt", weights_only=True)
    assert {"state_dict", "config", "epoch", "val_loss", "val_acc"} <= best.keys()
    assert best["val_loss"] == history["val_loss"].min() == made["metrics"]["val_loss"]
    assert load_discriminator(tmp_path / "d" / "discriminator_best.pt", (4, 8, 8))


def test_file_and_folder_give_the_same_discriminator(generate, tmp_path):
    data = generate()
    for folder, name in (("a", "{}_latents_all.pt"), ("b", "{}_latents")):
        real, fake = data / name.format("real"), data / name.format("bad")
        retrain_discriminator.fn(real, fake, tmp_path / folder, epochs=1, batch_size=4)
    weights = [(tmp_path / folder / "discriminator_best.pt").read_bytes() for folder in ("a", "b")]
    assert weights[0] == weights[1]


def test_the_discriminator_learns_a_difference_and_none_where_there_is_none(tmp_path):
    rng = torch.Generator().manual_seed(0)
    latents = torch.randn(600, 4, 8, 8, generator=rng)
    shifted = torch.randn(600, 4, 8, 8, generator=rng)
    shifted[:, :, :4] += 0.5
    accuracies = []
    for name, fake in (("different", shifted), ("same", torch.randn(600, 4, 8, 8, generator=rng))):
        torch.save(latents, tmp_path / "real.pt")
        torch.save(fake, tmp_path / f"{name}.pt")
        made = retrain_discriminator.fn(
            tmp_path / "real.pt", tmp_path / f"{name}.pt", tmp_path / name, epochs=4, learning_rate=0.001
        )
        accuracies.append(made["metrics"]["val_acc"])
    assert accuracies[0] > 0.9
    assert accuracies[1] < 0.65
