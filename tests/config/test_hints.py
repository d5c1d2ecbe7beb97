"""Hints for an unknown key: the nearest key of the whole tree, and none where nothing is near."""

import pytest

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.inputs.config_keys import keys_of
from core.runtime.errors import InputError

KEYS = sorted(keys_of(ExperimentConfig))
NAMES = [key.rpartition(".")[2] for key in KEYS]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    sections = "dataset: {manifest: m.csv, synthetic: {}}\ncomparison: {ablations: {control: {}}}\nprerequisites: {}"
    path.write_text(f"experiment: {{name: x}}\n{sections}\n")
    return path


def hint(path, key: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, [f"{key}=1"])
    problem, _, hint = str(caught.value).partition("; ")
    assert problem.endswith(f"unknown key {key}")
    return hint


@pytest.mark.parametrize("key", [key for key in KEYS if len(key.rpartition(".")[2]) > 4])
def test_a_key_with_a_letter_missing_is_recognised(path, key):
    section, dot, name = key.rpartition(".")
    assert hint(path, f"{section}{dot}{name[0]}{name[2:]}") == f"did you mean {key}?"


@pytest.mark.parametrize("key", [key for key in KEYS if "." in key and NAMES.count(key.rpartition(".")[2]) == 1])
def test_a_key_in_another_section_is_found_wherever_it_is(path, key):
    name = key.rpartition(".")[2]
    section = "audit" if not key.startswith("audit") else "unet"
    assert hint(path, f"{section}.{name}") == f"did you mean {key}?"


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("discriminator.learning_rate", "rounds.discriminator.learning_rate"),
        ("training.online_learning_rate", "discriminator.online_learning_rate"),
        ("unet.latent_channels", "autoencoder.latent_channels"),
        ("count", "rounds.count"),
        ("learning_rate", "training.learning_rate"),
        ("training.batch-size", "training.batch_size"),
    ],
)
def test_the_same_name_comes_before_a_similar_one_of_the_same_section(path, key, meant):
    assert hint(path, key) == f"did you mean {meant}?"


@pytest.mark.parametrize("key", ["training.lr", "dataset.path", "prerequisites.stage3", "discriminator.ddo_gamma", "x"])
def test_a_key_like_no_other_gets_no_suggestion(path, key):
    assert hint(path, key) == "no key has a similar name: remove it"
