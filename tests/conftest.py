"""A tiny experiment on disk: 12 layouts of 32x32, an autoencoder and a UNet of a few thousand weights."""

import atexit
import gc
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
import torch

# Neither the profile nor the server of who runs the tests has to do with them.
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-home-")
os.environ.pop("PREFECT_API_URL", None)
os.environ.pop("PREFECT_API_KEY", None)
os.environ.pop("PREFECT_PROFILE", None)
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(Path(__file__).with_name("every_process")), *filter(None, [os.environ.get("PYTHONPATH")])]
)

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.houses.layout_generator import write_layouts
from core.training.prerequisites import STAGES, make_prerequisite, with_prerequisites
from tests import quick_audits  # noqa: F401
from tests.made_once import made_once

atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
# A script that starts the tests in the background has Ctrl-C ignored in them; they behave as in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)

TINY = """
experiment: {{name: tiny}}
dataset: {{manifest: {manifest}, image_size: 32, augment: true}}
autoencoder: {{latent_channels: 4, base_channels: 8, downsampling_steps: 2, max_channels: 16}}
unet: {{in_channels: 4, out_channels: 4, base_channels: 16, depth: 2, num_res_blocks: 1, dropout: 0.1}}
scheduler: {{num_steps: 100}}
discriminator: {{trajectories: {{num_samples: 8, states: 2, num_steps: 10}}}}
training:
  {{epochs: 2, batch_size: 16, learning_rate: 1.0e-4, eval_interval: 2, sample_interval: 2, device: cpu,
  loss: {{semantic_loss: {{perceptual_loss: {{backbone: {trunk}}}}}}}}}
prerequisites:
  autoencoder: {{epochs: 2, learning_rate: 1.0e-3, batch_size: 8}}
  stage1: {{epochs: 1, learning_rate: 1.0e-3, batch_size: 16}}
  stage2: {{epochs: 1, learning_rate: 1.0e-4, batch_size: 16}}
rounds:
  {{count: 2, epochs_per_round: 1, bad_latents: {{num_samples: 6, num_steps: 5}},
  discriminator: {{epochs: 2, batch_size: 4}}, viability_samples: 4}}
audit: null
artifacts: {{root: {root}, state_minutes: 0}}
"""

# Rounds that learn from labels by rules, from the shipped base.
LABELS = """
experiment: {{name: labels}}
dataset: {{synthetic: {{count: 40, rooms: [1, 1], seed: 5}}, image_size: 32}}
autoencoder: {{checkpoint: {base}/autoencoder.safetensors, latent_channels: 6, base_channels: 16,
  downsampling_steps: 2, max_channels: 64}}
diffusion: {{stage2_checkpoint: {base}/stage2.safetensors}}
unet: {{in_channels: 6, out_channels: 6, base_channels: 32, depth: 2, num_res_blocks: 1, mid_attention: true,
  dropout: 0.0}}
scheduler: {{prediction_type: v_prediction}}
discriminator: {{form: negative_aware, weight: 1.0, balance: null, batch_fraction: 1.5}}
training: {{batch_size: 8, learning_rate: 0.0003, eval_interval: 1, device: cpu, loss: {{semantic_loss: null}}}}
prerequisites: {{}}
rounds:
  count: 2
  steps_per_round: 3
  viability: {{labels: rules}}
  bad_latents: {{num_samples: 128, num_steps: 6, sampler: dpm_solver}}
  discriminator: {{epochs: 2, batch_size: 32}}
  viability_samples: 16
audit: {{num_samples: 10}}
artifacts: {{root: {root}, state_minutes: 0}}
"""


# The files that take longest, in order.
LONGEST = [
    "test_interrupted_runs",
    "test_deployments",
    "test_killed_trainings",
    "test_flows",
    "test_shards",
    "test_ui",
    "test_distributed",
    "test_flow_commands",
    "test_continue_stage3",
    "test_radosgw",
    "test_comparison",
    "test_distribution",
    "test_audit",
]


def pytest_collection_modifyitems(items):
    """Where several processes share the tests, these begin first: all processes then end at about the same time."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        order = {name: number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


def pytest_collection_finish():
    """What was imported and collected stays to the end: the garbage collector need not look at it again and again."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trunk(tmp_path_factory) -> Path:
    """A small-valued AlexNet trunk in torchvision's format: a named file, so that no test needs the network."""
    return made_once(tmp_path_factory, "trunk", _write_trunk) / "trunk.pt"


def _write_trunk(folder: Path) -> None:
    from torchvision.models import alexnet

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(alexnet(weights=None).features.state_dict(), folder / "trunk.pt")


@pytest.fixture(scope="session")
def manifest(tmp_path_factory) -> Path:
    """Manifest of twelve generated layouts."""

    def write(folder: Path) -> None:
        write_layouts(folder, count=12, seed=0, rooms=(1, 2))

    return made_once(tmp_path_factory, "layouts", write) / "manifest.csv"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, manifest, trunk) -> Path:
    """Config file of the tiny experiment, whose prerequisites are made once for the session; do not write there."""

    def make(folder: Path) -> None:
        path = folder / "tiny.yaml"
        path.write_text(TINY.format(manifest=manifest, root=folder / "artifacts", trunk=trunk))
        _make_prerequisites(path)

    return made_once(tmp_path_factory, "tiny", make) / "tiny.yaml"


@pytest.fixture(scope="session")
def prepared_base(request, tmp_path_factory) -> Path:
    """Config file of rounds with labels from the shipped base, and its finished prerequisites."""
    folder = tmp_path_factory.mktemp("labels")
    path = folder / "labels.yaml"
    path.write_text(LABELS.format(base=request.config.rootpath / "configs" / "base", root=folder / "artifacts"))
    _make_prerequisites(path)
    return path


def _make_prerequisites(config: Path) -> None:
    for stage in STAGES:
        make_prerequisite(stage, load_config(config))


@pytest.fixture(scope="session")
def config(prepared) -> ExperimentConfig:
    """The tiny experiment with its prerequisites filled in."""
    return with_prerequisites(load_config(prepared))


def own_copy(prepared: Path, folder: Path) -> Path:
    """Config file in `folder` of the tiny experiment with a copy of its finished prerequisites."""
    shutil.copytree(prepared.parent / "artifacts" / "prerequisites", folder / "artifacts" / "prerequisites")
    path = folder / "tiny.yaml"
    path.write_text(prepared.read_text().replace(str(prepared.parent / "artifacts"), str(folder / "artifacts")))
    return path


@pytest.fixture
def experiment(prepared, tmp_path) -> Path:
    """Config file of a tiny experiment of this test's own, its prerequisites already made."""
    return own_copy(prepared, tmp_path)


@pytest.fixture(scope="module")
def shared_experiment(prepared, tmp_path_factory) -> Path:
    """The same for the tests of one file together."""
    return own_copy(prepared, tmp_path_factory.mktemp("shared"))
