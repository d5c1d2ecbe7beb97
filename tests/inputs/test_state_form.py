"""A state that was changed anywhere is either refused, with the field named, or works in a resumed training."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.inputs.state_form import Source, rows, weights_digest, without_wrappers
from core.networks.unet import build_unet
from core.runtime.errors import InputError
from core.training.train_state import TrainState, new_train_state

TENSORS = {
    "of another shape": lambda: torch.zeros(3),
    "of nothing": lambda: torch.zeros(0),
    "that is NaN": lambda: torch.full((8, 4, 3, 3), torch.nan),
    "that is sparse": lambda: torch.zeros(8, 4, 3, 3).to_sparse(),
    "of whole numbers": lambda: torch.zeros(8, 4, 3, 3, dtype=torch.int32),
    "that is nowhere": lambda: torch.zeros(8, 4, 3, 3, device="meta"),
    "that is complex": lambda: torch.zeros(8, 4, 3, 3, dtype=torch.complex64),
    "that is one number": lambda: torch.tensor(7.0),
    "that is quantised": lambda: torch.quantize_per_tensor(torch.zeros(16), 0.1, 0, torch.qint8),
}
PLAIN = [None, True, "x", "", -1, 0, 1, 2**70, 1.5, -0.5, float("nan"), float("inf"), [], {}, [1], {"a": 1}]


def training(config) -> TrainState:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return new_train_state(build_unet(config.unet, config.latent_size), config.training, torch.device("cpu"))


def step(state: TrainState) -> None:
    for parameter in state.unet.parameters():
        parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()


def paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place of a nested value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield (*above, key)
            yield from paths(inner, (*above, key))


@pytest.fixture(scope="module")
def small(config):
    """The tiny experiment with a UNet of one level."""
    return config.with_values({"unet.base_channels": 8, "unet.depth": 1})


@pytest.fixture(scope="module")
def saved(small, tmp_path_factory) -> Path:
    """A checkpoint after an epoch of one step."""
    config = small
    state = training(config)
    step(state)
    state.epoch, state.step, state.best_val_loss, state.adversarial_weight = 1, 1, 0.25, 0.1
    state.start = {"epoch": 0, "viability_score": 0.5, "noise_loss": 1.0}
    state.history = [{"epoch": 1, "train_loss": 0.5, "val_loss": 0.25}]
    path = tmp_path_factory.mktemp("saved") / "latest.pt"
    torch.save(state.checkpoint(config), path)
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_changed_state_is_refused_by_name_or_works(small, saved, tmp_path, data):
    config, checkpoint = small, torch.load(saved, weights_only=True)
    described = checkpoint.pop("config")
    # A checkpoint has hundreds of weights and a few other fields: each kind is drawn equally often.
    every = list(paths(checkpoint))
    fields = [path for path in every if path[0] != "state_dict" and path[:2] != ("optimizer_state", "state")]
    path = data.draw(st.one_of(st.sampled_from(fields), st.sampled_from(every)), label="place")
    tensors = st.sampled_from(sorted(TENSORS)).map(lambda kind: TENSORS[kind]())
    value = data.draw(st.one_of(st.sampled_from(PLAIN), tensors), label="value")
    inner = checkpoint
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = copy.deepcopy(value)
    torch.save(checkpoint | {"config": described}, tmp_path / "latest.pt")
    state = training(config)
    before = weights_digest(state.unet)
    try:
        read = state.read(tmp_path / "latest.pt", config)
    except InputError as refused:
        assert str(tmp_path / "latest.pt") in str(refused)
        assert weights_digest(state.unet) == before and not state.optimizer.state
        return
    state.restore(read)
    step(state)
    assert all(weight.isfinite().all() for weight in state.unet.state_dict().values())
    assert state.epoch == len(state.history) == 1


def test_numpy_scalars_become_plain_numbers():
    source = Source("state", "latest.pt", "put back a copy")
    (row,) = rows([{"epoch": np.int64(1), "val_loss": np.float32(0.5)}], 1, "training_history", source)
    assert row == {"epoch": 1, "val_loss": 0.5} and {type(value) for value in row.values()} == {int, float}


def test_names_of_wrappers_are_removed_anywhere():
    weights = {"module.unet.a": 1, "unet._orig_mod.b.module.c": 2, "unet.modules.d": 3}
    assert without_wrappers(weights) == {"unet.a": 1, "unet.b.c": 2, "unet.modules.d": 3}
    # Two names that would become equal stay unchanged, and then do not fit the model.
    assert without_wrappers({"module.a": 1, "a": 2}) == {"module.a": 1, "a": 2}


def test_a_digest_does_not_depend_on_the_device_or_layout():
    model = torch.nn.Conv2d(4, 4, 3)
    first = weights_digest(model)
    assert weights_digest(copy.deepcopy(model).to(memory_format=torch.channels_last)) == first
    with torch.no_grad():
        model.bias[0] += 1
    assert weights_digest(model) != first
