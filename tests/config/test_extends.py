"""`extends`: what a config takes from another file, in which order, and what is refused in one line."""

from pathlib import Path

import pytest
import yaml

from core.config.loading import config_bytes, load_config
from core.runtime.errors import InputError

pytest_plugins = ["tests.storage_servers"]

BASE = """
experiment: {name: base}
dataset: {manifest: /data/manifest.csv, filters: {is_empty: [false], area: [1, 2]}}
training: {epochs: 7, learning_rate: 1.0e-4, scheduler: {type: cosine}}
prerequisites: {stage1: {epochs: 3}}
rounds: {count: 2}
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    return tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_config(path, overrides)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_maps_merge_and_everything_else_replaces(folder):
    child = "{name: child}\ntraining: {epochs: 9, scheduler: null}\ndataset: {filters: {area: [3]}}"
    config = load_config(write(folder / "child.yaml", f"extends: base.yaml\nexperiment: {child}\nprerequisites: null"))
    assert config.experiment.name == "child"
    assert (config.training.epochs, config.training.learning_rate, config.training.scheduler) == (9, 1e-4, None)
    assert config.dataset.filters == {"is_empty": [False], "area": [3]}
    assert config.prerequisites is None and config.rounds.count == 2


def test_a_file_that_only_extends_is_the_same_config(folder):
    assert load_config(write(folder / "child.yaml", "extends: base.yaml")) == load_config(folder / "base.yaml")


def test_a_chain_is_read_to_its_end_each_file_from_its_own_folder(folder):
    write(folder / "sizes" / "large.yaml", "extends: ../base.yaml\ntraining: {epochs: 8}\nrounds: {count: 5}")
    config = load_config(write(folder / "mine" / "my.yaml", "extends: ../sizes/large.yaml\ntraining: {epochs: 9}"))
    assert (config.training.epochs, config.rounds.count, config.training.learning_rate) == (9, 5, 1e-4)


def test_an_absolute_path_and_variables_are_places(folder, monkeypatch, tmp_path_factory):
    monkeypatch.setenv("CONFIGS_OF_TEST", str(folder))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for named in (folder / "base.yaml", "$CONFIGS_OF_TEST/base.yaml"):
        assert load_config(write(elsewhere / "c.yaml", f"extends: {named}")).rounds.count == 2


def test_overrides_apply_last(folder):
    path = write(folder / "child.yaml", "extends: base.yaml\ntraining: {epochs: 9}")
    config = load_config(path, ["training.epochs=11", "rounds.count=4"])
    assert (config.training.epochs, config.rounds.count) == (11, 4)


def test_the_recorded_config_is_complete(folder, tmp_path_factory):
    config = load_config(write(folder / "child.yaml", "extends: base.yaml"))
    recorded = tmp_path_factory.mktemp("run") / "config.yaml"
    recorded.write_bytes(config_bytes(config))
    assert "extends" not in yaml.safe_load(recorded.read_text())
    assert load_config(recorded) == config


def test_both_forms_of_the_loss_may_meet(folder):
    composite = "{type: CompositeLoss, losses: [{type: MSELoss}, {type: DiscriminatorLoss, weight: 0.3}]}"
    write(folder / "published.yaml", f"extends: base.yaml\ntraining: {{loss: {composite}}}")
    config = load_config(
        write(folder / "child.yaml", "extends: published.yaml\ntraining: {loss: {noise_loss: {weight: 2.0}}}")
    )
    assert config.loss_weights == {"noise": 2.0, "adversarial": 0.3}


def test_a_missing_file_is_named_with_the_one_that_extends_it(folder):
    line = refusal(write(folder / "child.yaml", "extends: nowhere.yaml"))
    assert line.startswith(f"config {folder}/child.yaml: extends {folder}/nowhere.yaml does not exist")


@pytest.mark.parametrize(
    ("files", "chain"),
    [({"a": "a"}, "a a"), ({"a": "b", "b": "a"}, "a b a"), ({"a": "b", "b": "c", "c": "b"}, "a b c b")],
)
def test_a_circle_is_refused(folder, files, chain):
    for name, extended in files.items():
        write(folder / f"{name}.yaml", f"extends: {extended}.yaml")
    named = " -> ".join(f"{folder}/{name}.yaml" for name in chain.split())
    assert f"in a circle ({named})" in refusal(folder / "a.yaml")


def test_a_circle_through_a_linked_folder_is_refused(folder):
    (folder / "link").symlink_to(folder)
    write(folder / "a.yaml", "extends: link/a.yaml")
    assert "in a circle" in refusal(folder / "a.yaml")


@pytest.mark.parametrize(
    ("named", "cause"),
    [
        ("5", "should be the path of a YAML file, got 5"),
        ("[base.yaml]", "should be the path of a YAML file"),
        ("''", "is empty"),
        ("$UNDEFINED_OF_TEST/a.yaml", "$UNDEFINED_OF_TEST is not set"),
        ("gs://bucket/a.yaml", "write s3://BUCKET/PREFIX"),
        (".", "is a folder"),
    ],
)
def test_what_is_not_a_file_is_refused(folder, named, cause):
    line = refusal(write(folder / "child.yaml", f"extends: {named}"))
    assert line.startswith(f"config {folder}/child.yaml: extends") and cause in line


def test_an_extended_file_that_holds_no_config_is_named(folder):
    write(folder / "list.yaml", "- a")
    write(folder / "broken.yaml", "a: [")
    assert f"{folder}/list.yaml holds no mapping" in refusal(write(folder / "c.yaml", "extends: list.yaml"))
    assert f"{folder}/broken.yaml is not valid YAML" in refusal(write(folder / "c.yaml", "extends: broken.yaml"))


def test_a_wrong_key_is_reported_with_the_file_in_which_it_stands(folder):
    write(folder / "wrong.yaml", "extends: base.yaml\nrounds: {cuont: 3}\ntraining: {epochs: many}")
    child = write(folder / "child.yaml", "extends: wrong.yaml\ntraining: {epochs: 3}")
    assert f"config {folder}/wrong.yaml: unknown key rounds.cuont" in refusal(child)
    write(folder / "wrong.yaml", "extends: base.yaml\ntraining: {epochs: many}")
    assert load_config(child).training.epochs == 3
    assert f"config {child}: training.epochs: " in refusal(write(child, "extends: wrong.yaml\ntraining: {epochs: no}"))
    assert f"config {folder}/wrong.yaml: training.epochs: " in refusal(write(child, "extends: wrong.yaml"))
    assert f"config {child}: training.epochs: " in refusal(child, "training.epochs=few")


def test_a_wrong_loss_is_reported_with_the_file_in_which_it_stands(folder):
    write(folder / "wrong.yaml", "extends: base.yaml\ntraining: {loss: {type: HuberLoss}}")
    line = refusal(write(folder / "child.yaml", "extends: wrong.yaml"))
    assert line.startswith(f"config {folder}/wrong.yaml: training.loss: unknown loss type HuberLoss")


def test_only_a_file_can_extend(folder):
    assert "only a file can extend another" in refusal(folder / "base.yaml", "extends=other.yaml")


def test_a_config_in_a_bucket_extends_its_neighbour_and_a_file_elsewhere(moto_place, folder):
    for name, text in {"base.yaml": BASE, "sub/child.yaml": "extends: ../base.yaml\nrounds: {count: 4}"}.items():
        moto_place.overwrite(f"configs/{name}", text.encode())
    assert load_config(f"{moto_place.uri}/configs/sub/child.yaml").rounds.count == 4
    local = write(folder / "local.yaml", f"extends: {moto_place.uri}/configs/base.yaml\ntraining: {{epochs: 4}}")
    assert load_config(local).training.epochs == 4
    moto_place.overwrite("configs/far.yaml", b"extends: ../../../other/base.yaml")
    with pytest.raises(InputError, match="is outside the bucket"):
        load_config(f"{moto_place.uri}/configs/far.yaml")
    moto_place.overwrite("configs/lost.yaml", b"extends: nowhere.yaml")
    with pytest.raises(InputError, match=r"lost\.yaml: extends s3://.*/nowhere\.yaml does not exist"):
        load_config(f"{moto_place.uri}/configs/lost.yaml")


def test_the_earlier_name_of_ablations_may_meet_the_present_one(folder):
    path = write(folder / "earlier.yaml", "extends: base.yaml\ncomparison: {arms: {control: {}, a: {}}}\n")
    child = write(folder / "child.yaml", "extends: earlier.yaml\ncomparison: {ablations: {b: {}}}\n")
    assert set(load_config(path).comparison.ablations) == {"control", "a"}
    assert set(load_config(child).comparison.ablations) == {"control", "a", "b"}


def test_an_override_is_not_reported_as_a_line_of_a_file(folder):
    path = write(folder / "child.yaml", "extends: base.yaml\n")
    assert refusal(path, "rounds.foo=1").startswith(f"config {path}: unknown key rounds.foo")
    assert refusal(path, "rounds.count.foo=1") == "--set rounds.count.foo: count is a value, not a section"


@pytest.mark.parametrize("address", ["s3://bucket", "s3://bucket/folder/"])
def test_a_bucket_or_folder_is_not_a_config(address):
    with pytest.raises(InputError, match=rf"^{address} is a bucket or a folder: give the address of a file"):
        load_config(address)
