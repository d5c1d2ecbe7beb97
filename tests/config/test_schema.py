"""Every field of the schema: its bounds if it is a number, its expansion if it is a path, and what it refuses."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config.loading import config_bytes, load_config
from core.inputs.locations import address
from core.inputs.section import choices
from core.runtime.errors import InputError
from tests.schema import LEAVES, NUMBERS, PLACES, SINGLE, TEXTS, bounds


@pytest.fixture(scope="module")
def minimal(tmp_path_factory) -> Path:
    """A config that has every section."""
    path = tmp_path_factory.mktemp("minimal") / "c.yaml"
    path.write_text("experiment: {name: x}\ndataset: {manifest: m.csv, synthetic: {}}\nprerequisites: {}\n")
    return path


def refusal(path: Path, setting: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, [setting])
    line = str(caught.value)
    assert line.isprintable() and "Section" not in line
    return line


def test_the_walk_finds_fields_of_every_kind():
    keys = {leaf.key for leaf in LEAVES}
    assert {"unet.depth", "comparison.ablations.some.seeds", "artifacts.cache_gb", "dataset.synthetic.rooms"} <= keys
    assert len(NUMBERS) > 70


@pytest.mark.parametrize("leaf", NUMBERS, ids=lambda leaf: leaf.key)
def test_every_number_is_bounded_on_both_sides(leaf):
    low, high = bounds(leaf)
    assert low >= 0 and high <= 2**63, f"{leaf.key}: give its type in core/inputs/section.py both bounds"


@pytest.mark.parametrize("leaf", SINGLE, ids=lambda leaf: leaf.key)
def test_a_number_refuses_everything_else(minimal, leaf):
    for value in (".nan", ".inf", "-.inf", "-1", "true", "many", "''", "[1]", "{a: 1}", "1e300"):
        assert leaf.key in refusal(minimal, f"{leaf.key}={value}")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SINGLE), st.integers() | st.floats())
def test_a_number_is_accepted_within_its_bounds_only(leaf, value):
    if leaf.key.endswith(".rooms"):
        return
    path = Path("configs/stage3/stage3_unet128_d4.yaml")
    try:
        config = load_config(path, [f"{leaf.key}={value!r}".replace("=inf", "=.inf").replace("=nan", "=.nan")])
    except InputError as error:
        assert str(error).isprintable()
        return
    found = config.model_dump()
    for part in leaf.key.split("."):
        found = found[part]
    low, high = bounds(leaf)
    assert found == value and low <= value <= high and not isinstance(found, bool)


@pytest.mark.parametrize("leaf", [leaf for leaf in SINGLE if not leaf.nullable], ids=lambda leaf: leaf.key)
def test_a_required_number_cannot_be_null(minimal, leaf):
    line = refusal(minimal, f"{leaf.key}=null")
    assert leaf.key in line and "null" in line


def test_every_path_is_a_place():
    """A field of text is a path, an address or one of these, so a new path cannot be forgotten."""
    others = {
        *("experiment.name", "training.device", "rounds.bad_latents.dask_address", "comparison.control"),
        *("dataset.outputs.latent", "dataset.outputs.rgb", "dataset.outputs.segmentation"),
        *("experiment.phase", "rounds.viability.command", "without_effect"),
    }
    addresses = {leaf.key for leaf in TEXTS if any(getattr(part, "func", None) is address for part in leaf.metadata)}
    assert {leaf.key for leaf in TEXTS} - others - addresses == PLACES
    assert addresses == {"artifacts.endpoint_url"}
    assert {"artifacts.root", "artifacts.cache", "dataset.manifest", "experiment.save_path"} <= PLACES


@pytest.mark.parametrize("key", sorted(PLACES))
def test_every_path_is_expanded_and_written_expanded(minimal, monkeypatch, tmp_path, key):
    monkeypatch.setenv("HOME", "/home/of/someone")
    monkeypatch.setenv("SCRATCH_OF_TEST", "/scratch")
    for given_, meant in [
        ("~/a", "/home/of/someone/a"),
        ("$SCRATCH_OF_TEST/a", "/scratch/a"),
        ("s3://b/p", "s3://b/p"),
    ]:
        if key in ("artifacts.cache", "training.tracker_dir") and given_.startswith("s3://"):
            continue  # a folder of this machine
        config = load_config(minimal, [f"{key}={given_}"])
        (tmp_path / "again.yaml").write_bytes(config_bytes(config))
        monkeypatch.setenv("HOME", "/home/of/another")
        assert load_config(tmp_path / "again.yaml").required(key) == config.required(key) == meant
        monkeypatch.setenv("HOME", "/home/of/someone")


def test_the_new_prefix_of_a_remapped_path_is_expanded(minimal, monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/someone")
    config = load_config(minimal, ["dataset.path_remap={/work3/a: ~/a, 'C:\\\\b': ''}"])
    assert config.dataset.path_remap == {"/work3/a": "/home/of/someone/a", "C:\\\\b": ""}
    for value in ("s3:/x", "$UNDEFINED_OF_TEST/x"):
        assert "dataset.path_remap" in refusal(minimal, f"dataset.path_remap={{/a: {value}}}")


NOT_LOCATIONS = {
    "''": "is empty",
    "'  '": "is empty",
    "$UNDEFINED_OF_TEST/a": "$UNDEFINED_OF_TEST is not set",
    "~nobody-of-that-name/a": "nobody-of-that-name has no home folder",
    "s3:/bucket/a": "write s3://BUCKET/PREFIX",
    "gs://bucket/a": "write s3://BUCKET/PREFIX",
    "C:\\data": "a Windows path",
    '"a\\0b"': "a NUL character",
    "s3://user:SECRET@bucket/a": "holds a user or password",
    "s3://bucket/a?X-Amz-Signature=SECRET": "holds a signature",
    "5": "should be text",
}


@pytest.mark.parametrize("key", sorted(PLACES))
def test_a_path_refuses_what_is_not_a_location(minimal, monkeypatch, key):
    monkeypatch.delenv("UNDEFINED_OF_TEST", raising=False)
    for value, cause in NOT_LOCATIONS.items():
        line = refusal(minimal, f"{key}={value}")
        assert key in line and cause in line and "SECRET" not in line


LISTS = {"rounds.viability.rules", "training.trackers"}
# What a choice goes with.
WITH = {
    "online": ["discriminator.form=renoise"],
    "negative_aware": ["rounds.viability.labels=rules"],
    "command": ["rounds.viability.command=[check]"],
}
CHOICES = [
    (leaf.key, choice)
    for leaf in LEAVES
    if leaf.key not in LISTS
    for choice in choices(leaf.kind)
    if isinstance(choice, str)
]


@pytest.mark.parametrize("key", sorted({key for key, _ in CHOICES}))
def test_a_choice_is_accepted_in_any_case(minimal, key):
    offered = [choice for of, choice in CHOICES if of == key]
    line = refusal(minimal, f"{key}=something-else")
    for choice in offered:
        assert f"'{choice}'" in line
        for written in (choice, choice.upper(), choice.lower()):
            settings_ = [f"{key}={written}", *WITH.get(choice, ())]
            assert load_config(minimal, settings_).required(key) == choice


def test_a_misspelt_rule_is_named_beside_those_that_there_are(minimal):
    for setting in ("rules=[enclosed, reachble]", "shares={reachble: 0.5}"):
        line = refusal(minimal, f"rounds.viability.{setting}")
        assert "reachble" in line and "'reachable'" in line and "'enclosed'" in line
    line = refusal(minimal, "rounds.viability.shares={reachable: 0.7, enclosed: 0.7}")
    assert "rounds.viability: shares add up to 1.4: they may be 1 at most" in line


def test_a_misspelt_tracker_is_named_beside_those_that_there_are(minimal):
    line = refusal(minimal, "training.trackers=[tensorbord]")
    assert "training.trackers" in line and "tensorbord" in line and "'tensorboard'" in line and "'mlflow'" in line


def test_the_folder_of_trackers_is_one_of_this_machine(minimal):
    assert "give a folder of this machine" in refusal(minimal, "training.tracker_dir=s3://bucket/trackers")


def test_an_error_calls_a_section_a_section(minimal):
    for key in ("unet", "training.loss", "rounds.bad_latents", "artifacts"):
        for value in ("null", "3", "[1]", "text"):
            assert f"{key}: should be a section of keys" in refusal(minimal, f"{key}={value}")
