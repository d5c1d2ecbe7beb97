"""Latents of a manifest that another autoencoder made are refused before anything is sampled."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from core.generation.bad_latents import generate_bad_latents
from core.rounds.round import open_round
from core.runtime.errors import InputError


@pytest.fixture
def generate(config, tmp_path):
    """The record of bad latents from layouts whose latents, one file each, are changed by a function."""

    def run(change):
        manifest = pd.read_csv(config.dataset.manifest)
        folder = tmp_path / "latents"
        folder.mkdir()
        own = config.with_values({"artifacts.root": str(tmp_path / "artifacts")})
        plain = open_round(own, 1)
        made = generate_bad_latents(plain.config, plain.bad_latents_request())
        real = torch.load(tmp_path / "artifacts" / "tiny" / "round-01" / "bad_latents" / "real_latents_all.pt")
        for row in range(len(manifest)):
            torch.save(change(torch.roll(real, row, 0)[0]), folder / f"{row}.pt")
        given = manifest.drop(columns="latent_row", errors="ignore")
        given["latent_path"] = [str(folder / f"{row}.pt") for row in range(len(manifest))]
        given["layout_path"] = [str(Path(config.dataset.manifest).parent / path) for path in given["layout_path"]]
        given.to_csv(tmp_path / "given.csv", index=False)
        moved = {"dataset.manifest": str(tmp_path / "given.csv"), "artifacts.root": str(tmp_path / "other")}
        this = open_round(own.with_values(moved), 1)
        return made, lambda: generate_bad_latents(this.config, this.bad_latents_request())

    return run


def test_the_record_says_how_far_latents_differ(generate):
    made, _ = generate(lambda latent: latent)
    assert made["metrics"]["latent_difference"] < 1e-3
    assert abs(made["metrics"]["latent_mean"]) < 1 and 0.1 < made["metrics"]["latent_std"] < 3


def test_latents_of_another_autoencoder_are_refused(generate, tmp_path):
    _, again = generate(lambda latent: -latent)
    line = r"^latents of \S+given\.csv are not of the autoencoder \S+: they differ by \d\.\d\d of their spread"
    with pytest.raises(InputError, match=line):
        again()
    assert not list((tmp_path / "other").rglob("bad_latent_*"))
