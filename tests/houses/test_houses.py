"""Real layouts, where they are at hand: read as configs/houses.yaml reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from core.audit.calibration import calibrate
from core.audit.layout_maps import read_maps
from core.config.loading import load_config
from core.config.loss_sections import PerceptualLossSection
from core.data.layout_scale import typical_scale
from core.data.layouts import LayoutPictures
from core.data.manifest import choose_rows, originals, read_manifest, split_by_layout
from core.data.palette import DEFAULT_PALETTE
from core.models.perceptual import build_perceptual

BACKGROUND, WALL = DEFAULT_PALETTE.background, DEFAULT_PALETTE.wall

DATA = Path("../shared/data")
MANIFEST, TRUNK = DATA / "layouts" / "manifest.csv", DATA / "weights" / "alexnet_imagenet_features.pth"
needs_layouts = pytest.mark.skipif(not MANIFEST.exists(), reason=f"no layouts at {MANIFEST}")


@pytest.fixture(scope="module")
def config():
    return load_config("configs/houses.yaml", [f"dataset.manifest={MANIFEST}"])


@needs_layouts
def test_the_shipped_config_picks_small_houses_and_splits_them(config):
    rows = read_manifest(config.dataset.manifest, ["layout_path"], config.dataset)
    assert len(rows) == 338 + 297 and rows["group"].is_unique
    training, validation = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    assert (len(training), len(validation)) == (508, 127)
    assert len(choose_rows(originals(rows), 1000, seed=0)) == 635


@needs_layouts
def test_shrunk_houses_keep_palette_and_walls(config):
    rows = read_manifest(config.dataset.manifest, ["layout_path"], config.dataset).head(40)
    pictures = LayoutPictures(rows, "layout_path", config.dataset.image_size, DEFAULT_PALETTE).batch(
        list(range(len(rows)))
    )
    assert pictures.rgb.shape == (40, 3, 64, 64)
    assert pictures.classes.max() < len(DEFAULT_PALETTE)
    walls = (pictures.classes == WALL).float().mean(dim=(1, 2))
    assert ((walls > 0.04) & (walls < 0.3)).all()
    border = torch.cat([pictures.classes[:, 0], pictures.classes[:, -1], pictures.classes[:, :, 0]], dim=1)
    assert (border == BACKGROUND).all()


@needs_layouts
def test_held_out_houses_keep_the_audits_rules():
    config = load_config("configs/forms.yaml", [f"dataset.manifest={MANIFEST}", "dataset.filters={num_rooms__le: 2}"])
    rows = read_manifest(config.dataset.manifest, ["layout_path"], config.dataset)
    training, held_out = (
        read_maps(config, split)
        for split in split_by_layout(rows, config.training.train_split, config.training.split_seed)
    )
    scale = typical_scale(rows.head(50), "layout_path", config.dataset.image_size, DEFAULT_PALETTE)
    assert 3.5 < scale < 5
    rules = calibrate(training.classes, training.off_palette, scale, config.audit.pass_share, DEFAULT_PALETTE)
    kept = rules.check(held_out.classes, held_out.off_palette)
    assert kept["viable"].mean() >= 0.95
    torn = np.where(np.random.default_rng(0).random(held_out.classes.shape) < 0.03, BACKGROUND, held_out.classes)
    assert rules.check(torn.astype(np.uint8), held_out.off_palette)["viable"].mean() < 0.3


@pytest.mark.skipif(not TRUNK.exists(), reason=f"no AlexNet trunk at {TRUNK}")
def test_a_real_trunk_measures_likeness():
    perceptual = build_perceptual(PerceptualLossSection(backbone=str(TRUNK)))
    assert perceptual.trunk == TRUNK.name
    rng = np.random.default_rng(0)
    picture = torch.from_numpy(rng.uniform(-1, 1, (1, 3, 64, 64))).float()
    near, far = picture + 0.05 * torch.randn_like(picture), -picture
    assert perceptual(picture, picture).item() == pytest.approx(0, abs=1e-6)
    assert 0 < perceptual(near, picture).item() < perceptual(far, picture).item()
