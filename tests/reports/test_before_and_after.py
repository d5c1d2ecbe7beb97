"""What a training's last lines say of audits at both ends, and the picture beside them."""

import numpy as np
import pytest
from PIL import Image

from core.audit.audit import LAYOUTS_NAME
from core.data.palette import DEFAULT_PALETTE
from core.records.artifacts import round_location, run_location
from core.records.ownership import OwnFiles
from core.records.stage_run import run_stage
from core.reports.before_and_after import ending, keep_picture
from core.rounds.run import begin_run, hold_run
from core.storage.opening import open_store

COUNT, SIDE = 40, 32
RECORDS = [{"round": 1}, {"round": 2}]


@pytest.fixture
def run_config(config, tmp_path):
    """The tiny experiment, begun under a root of the test's own."""
    own = config.with_values({"artifacts.root": str(tmp_path / "artifacts")})
    with hold_run(own):
        begin_run(own)
    return own


def audit(config, folder, viable, frechet, colour=1, num_samples=COUNT, **figures):
    """A finished audit whose first `viable` layouts are so."""
    metrics = {"viable": viable / COUNT, "frechet_distance": frechet, **figures}
    intervals = {name: [value - 0.5, value + 0.5] for name, value in metrics.items()}

    def work(workspace, _):
        classes = np.full((COUNT, SIDE, SIDE), colour, np.uint8)
        np.savez(workspace.folder / LAYOUTS_NAME, classes=classes, viable=np.arange(COUNT) < viable)
        return metrics | {"intervals": intervals}

    run_stage("audit", folder, {}, {"audit": {"num_samples": num_samples, "seed": 7}}, work, config.artifacts)


def ends(config, before, after, frechet=(5.0, 5.0), **changes):
    audit(config, f"{round_location(config, 1)}/audit_before", before, frechet[0], judge_sound=0.25)
    audit(config, f"{round_location(config, 2)}/audit", after, frechet[1], colour=2, judge_sound=0.5, **changes)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (10, 25, "more layouts are viable than before; before | after | real: "),
        (25, 10, "FEWER layouts are viable than before; "),
        (20, 21, "NOT SHOWN that more layouts are viable than before: the interval contains 0; "),
        (20, 20, "NOT SHOWN"),
        (COUNT, COUNT, "NOT SHOWN"),
    ],
)
def test_the_last_line_is_the_verdict_and_names_the_picture(run_config, before, after, verdict):
    ends(run_config, before, after)
    *figures, last = ending(run_config, RECORDS)
    assert last.startswith(verdict) and last.endswith(f"{run_location(run_config)}/before_after.png")
    assert "WORSE" not in last
    assert "40 layouts of the same noise" in figures[0] and "after round 2" in figures[0]
    assert f"{before / COUNT:.3f} -> {after / COUNT:.3f}, {(after - before) / COUNT:+.3f} [" in figures[1]
    assert "judge_sound       0.250 [-0.250, 0.750] -> 0.500 [0.000, 1.000]" in figures[2]
    assert "frechet_distance  5.000 [4.500, 5.500] -> 5.000 [4.500, 5.500]" in figures[3]


@pytest.mark.parametrize(("after", "worse"), [(5.4, False), (5.6, True), (4.0, False)])
def test_a_frechet_distance_that_is_worse_beyond_its_interval_is_said(run_config, after, worse):
    ends(run_config, 10, 25, frechet=(5.0, after))
    last = ending(run_config, RECORDS)[-1]
    assert ("the Fréchet distance is WORSE" in last) == worse and last.startswith("more layouts are viable")


def test_fewer_failures_are_relative_to_those_before(run_config):
    ends(run_config, 20, 30)
    assert "50.0% [" in ending(run_config, RECORDS)[1]


def test_the_picture_shows_both_ends_and_real_layouts_and_is_ours(run_config):
    ends(run_config, 10, 25)
    with hold_run(run_config):
        path = keep_picture(run_config, RECORDS)
    assert path == f"{run_location(run_config)}/before_after.png"
    with Image.open(path) as image:
        pixels = np.asarray(image)
    tile = pixels.shape[1] // 14
    before, after, real = pixels[60, 60], pixels[60, 5 * tile + 60], pixels[:, 10 * tile :]
    assert (
        (before == DEFAULT_PALETTE.rgb[1]).all()
        and (after == DEFAULT_PALETTE.rgb[2]).all()
        and (pixels[60, 4 * tile + 60] == 255).all()
    )
    assert {tuple(colour) for colour in DEFAULT_PALETTE.rgb} >= {tuple(pixel) for pixel in real.reshape(-1, 3)} - {
        (255, 255, 255)
    }
    assert OwnFiles(open_store(run_location(run_config), run_config.artifacts)).find("before_after.png") is not None
    with hold_run(run_config):  # nothing of the user's is in the way of going on
        begin_run(run_config)


def test_without_comparable_audits_at_both_ends_nothing_is_said(run_config):
    assert ending(run_config, []) == [] and ending(run_config, RECORDS) == []
    audit(run_config, f"{round_location(run_config, 1)}/audit_before", 10, 5.0)
    assert ending(run_config, RECORDS) == [] and keep_picture(run_config, RECORDS) is None
    audit(run_config, f"{round_location(run_config, 2)}/audit", 10, 5.0, num_samples=41)
    assert ending(run_config, RECORDS) == [] and keep_picture(run_config, RECORDS) is None
