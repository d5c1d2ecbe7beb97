"""`training.processes: 2`: every stage does with two processes what it does with one, from the same inputs."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
import torch

from core.audit.audit import audit_stage
from core.config.loading import load_config
from core.generation.bad_latents import BadLatentsRequest, generate_bad_latents
from core.generation.draw_layouts import DrawRequest, draw_layouts
from core.records.artifacts import prerequisites_location
from core.runtime import distributed
from core.runtime.errors import InputError
from core.runtime.processes import ProcessLostError
from core.training.prerequisites import make_prerequisite
from core.training.step_figures import COST
from tests.in_process import content

MANIFEST, AUTOENCODER, STAGE1 = "dataset.manifest", "autoencoder.checkpoint", "diffusion.stage1_checkpoint"


@pytest.fixture
def experiment(prepared, config, tmp_path):
    """Config for some processes with a root of its own, and the named inputs from the finished experiment."""

    def load(processes, *names, **settings):
        values = {"artifacts.root": tmp_path / str(processes), "training.processes": processes}
        values |= {"training.use_amp": False, **{name: config.required(name) for name in names}, **settings}
        return load_config(prepared, ["audit={num_samples: 150}", *(f"{key}={value}" for key, value in values.items())])

    return load


def make(stage, config):
    """Metrics of a prerequisite but for what it took, and its folder."""
    metrics = make_prerequisite(stage, config)["metrics"]
    kept = {name: value for name, value in metrics.items() if name not in COST}
    return kept, Path(prerequisites_location(config)) / stage


@pytest.mark.parametrize(
    ("stage", "given"),
    [
        ("autoencoder", [MANIFEST]),
        ("stage1", [MANIFEST, AUTOENCODER]),
        ("stage2", [MANIFEST, AUTOENCODER, STAGE1]),
    ],
)
def test_a_training_has_the_losses_and_weights_of_one_process(experiment, stage, given):
    (two, ours), (one, theirs) = (make(stage, experiment(processes, *given)) for processes in (2, 1))
    assert {name: two[name] for name in two if name != "perceptual_trunk"} == pytest.approx(
        {name: one[name] for name in one if name != "perceptual_trunk"}, rel=1e-3, abs=1e-3
    )
    assert content(ours).keys() == content(theirs).keys()
    for path in ours.rglob("*.csv"):
        tables = [pd.read_csv(folder / path.relative_to(ours)) for folder in (ours, theirs)]
        pd.testing.assert_frame_equal(*tables, check_exact=False, rtol=1e-3, atol=1e-3)
    for path in ours.rglob("*best.pt"):
        files = (folder / path.relative_to(ours) for folder in (ours, theirs))
        weights, others = (torch.load(file, weights_only=True)["state_dict"] for file in files)
        # All together: AdamW makes much of rounding where a gradient is almost 0.
        apart = sum((weights[key] - value).double().abs().sum() for key, value in others.items())
        assert apart < 1e-3 * sum(value.double().abs().sum() for value in others.values())


def test_latents_layouts_and_figures_are_the_same_bytes(experiment, config, manifest):
    written, checkpoint = [], config.diffusion.stage2_checkpoint
    for processes in (2, 1):
        mine = experiment(processes, AUTOENCODER, MANIFEST)
        folders = [Path(mine.artifacts.root) / name for name in ("bad", "audit")]
        _, latents = make("latents", mine.with_values({MANIFEST: str(manifest)}))
        request = BadLatentsRequest(
            config.dataset.manifest, config.autoencoder.checkpoint, checkpoint, folders[0], num_samples=150, num_steps=3
        )
        generate_bad_latents(mine, request)
        audit_stage(mine, checkpoint, folders[1], num_samples=150, seed=3)
        drawn = folders[0].with_name("drawn")
        draw_layouts(mine, DrawRequest(checkpoint, drawn, num_samples=150, seed=3, num_steps=3, grid=True))
        written.append([content(folder) for folder in (latents, drawn, *folders)])
    assert written[0] == written[1]
    assert len(written[0][1]) > 150 < len(written[0][2])


def test_a_killed_process_ends_the_stage_which_goes_on_from_its_state(experiment, tmp_path):
    given = {"prerequisites.stage1.epochs": 60, "artifacts.state_minutes": 0}
    config, whole = (experiment(count, MANIFEST, AUTOENCODER, **given) for count in (2, 1))
    states = Path(prerequisites_location(config)) / "stage1" / "state"

    def kill():
        while not list(states.glob("[0-9]*.json")) or not (others := children()):
            time.sleep(0.02)
        os.kill(others[0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(ProcessLostError, match=r"^process 1 of 2 was killed \(SIGKILL\): run the same command again"):
        make("stage1", config)
    assert not distributed.is_joined() and not children()
    metrics, folder = make("stage1", config)
    assert metrics == pytest.approx(make("stage1", whole)[0], rel=1e-2) and not states.exists()
    assert (folder / "stage.json").is_file()


def children():
    """Processes that this one started for a stage."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"core.runtime.other_process" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


def test_a_batch_that_does_not_divide_is_refused_and_nothing_is_left(experiment):
    config = experiment(3, MANIFEST)
    line = (
        r"^prerequisites.autoencoder.batch_size 8 cannot be divided by 3 processes: set it to a multiple of 3, at most"
    )
    with pytest.raises(InputError, match=line):
        make("autoencoder", config)
    assert not list(Path(config.artifacts.root).rglob("*.pt")) and not children()
