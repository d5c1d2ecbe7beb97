"""A comparison of ablations, small: what is certain of it, and what it writes."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.audit.bootstrap import Interval
from core.checkpoints.loading import load_checkpoint
from core.config.loading import load_config
from core.reports.comparison import fewer_failures, list_ablations
from core.rounds.round import open_round
from core.runtime.errors import InputError
from core.training.prerequisites import with_prerequisites
from tasks.compare_ablations import compare_ablations
from tests.conftest import own_copy

COMPARISON = """
audit: {num_samples: 10, pass_share: 0.5}
comparison:
  seeds: [1]
  num_samples: 12
  ablations:
    control: {settings: {discriminator.weight: 0}}
    published: {settings: {discriminator.form: published}}
    renoise: {settings: {discriminator.balance: null}}
    online: {settings: {discriminator.update: online}}
"""


@pytest.fixture(scope="module")
def compared(prepared, tmp_path_factory):
    """Config, folder of results and printed table of a finished comparison."""
    folder = tmp_path_factory.mktemp("compared")
    path = own_copy(prepared, folder)
    path.write_text(path.read_text().replace("audit: null", COMPARISON))
    return path, folder / "results", compare_ablations(path, str(folder / "results"))


def test_what_any_ablation_starts_from_is_made(compared, tmp_path, monkeypatch):
    """Of the config itself, which names Stage 2 and takes the rules' labels, no round starts from Stage 1."""

    class PreparedError(Exception):
        pass

    def stop(*_):
        raise PreparedError

    monkeypatch.setattr("tasks.compare_ablations._audit", stop)
    named = with_prerequisites(load_config(compared[0]))
    settings = [
        f"artifacts.root={tmp_path}/artifacts",
        f"autoencoder.checkpoint={named.autoencoder.checkpoint}",
        f"diffusion.stage2_checkpoint={named.diffusion.stage2_checkpoint}",
        "rounds.viability.labels=rules",
    ]
    made = tmp_path / "artifacts/prerequisites/stage1/stage.json"
    with pytest.raises(PreparedError):
        compare_ablations(compared[0], str(tmp_path / "results"), settings)
    assert not made.exists()
    settings.append("comparison.ablations.renoise.settings={rounds.viability.labels: generated}")
    with pytest.raises(PreparedError):
        compare_ablations(compared[0], str(tmp_path / "results"), settings)
    assert made.exists()


def final_weights(path, name):
    ablation = next(ablation for ablation in list_ablations(load_config(path)) if ablation.name == name)
    last = open_round(ablation.config, ablation.config.rounds.count)
    return load_checkpoint(last.stage3_checkpoint, "checkpoint")["state_dict"]


def test_the_published_formulation_equals_the_control_bit_for_bit(compared):
    control, published = (final_weights(compared[0], name) for name in ("control", "published"))
    assert all(torch.equal(value, published[key]) for key, value in control.items())


@pytest.mark.parametrize("ablation", ["renoise", "online"])
def test_an_adversarial_ablation_does_not_equal_the_control(compared, ablation):
    control, other = (final_weights(compared[0], name) for name in ("control", ablation))
    assert any(not torch.equal(value, other[key]) for key, value in control.items())


def test_every_figure_of_every_audit_is_a_row(compared):
    _, folder, table = compared
    rows = pd.read_csv(folder / "tiny.csv")
    ablations = ["control", "published", "renoise", "online"]
    assert rows["ablation"].tolist() == ["stage2"] * 2 + [ablation for ablation in ablations for _ in range(3)]
    assert rows["final"].tolist() == [False, True] + [False, False, True] * 4
    assert rows["samples"].tolist() == [10, 12] + [10, 10, 12] * 4
    assert (rows["viable_low"] <= rows["viable"]).all() and (rows["viable"] <= rows["viable_high"]).all()
    same = rows[rows["final"] & rows["ablation"].isin(["control", "published"])]
    assert same["frechet_distance"].nunique() == 1
    assert (folder / "tiny.png").stat().st_size > 1000
    by_round = pd.read_csv(folder / "tiny_rounds.csv")
    assert by_round["ablation"].tolist() == [ablation for ablation in ablations for _ in range(2)]
    assert by_round["round"].tolist() == [1, 2] * 4 and by_round["viable_share"].between(0, 1).all()
    assert by_round["judge_sound"].notna().all() and by_round["val_noise_loss"].gt(0).all()
    with Image.open(folder / "tiny_rounds.png") as picture:
        assert picture.format == "PNG" and picture.width > 500
    assert table in (folder / "tiny.md").read_text()
    assert "fewer_failures" in table.splitlines()[0]


def test_a_finished_comparison_is_not_done_again(compared, monkeypatch):
    path, folder, table = compared
    records = {str(p): p.stat().st_mtime_ns for p in path.parent.rglob("round.json")}
    assert compare_ablations(path, str(folder)) == table
    assert records == {str(p): p.stat().st_mtime_ns for p in path.parent.rglob("round.json")} and len(records) == 8


def test_arms_share_their_seeds_and_differ_in_what_they_say(compared):
    ablations = list_ablations(load_config(compared[0], ["comparison.ablations.renoise.seeds=[2, 1]"]))
    assert [(ablation.name, ablation.seed) for ablation in ablations][-1] == ("renoise", 2)
    assert ablations[0].config.discriminator.weight == 0 and ablations[0].config.training.seed == 1
    assert ablations[0].config.experiment.name == "tiny-control-1"


def test_a_comparison_needs_its_control(compared):
    with pytest.raises(
        InputError, match="control nothing is none of the ablations control, published, renoise, online"
    ):
        load_config(compared[0], ["comparison.control=nothing"])


def test_fewer_failures_is_relative_to_the_control():
    rng = np.random.default_rng(0)
    control = rng.random(4000) < 0.5
    better = control | (rng.random(4000) < 0.5)
    found = fewer_failures([(better, control)] * 3, np.random.default_rng(1))
    assert isinstance(found, Interval) and found.value == pytest.approx(0.5, abs=0.03)
    assert found.low < found.value < found.high and found.high - found.low < 0.1
    same = fewer_failures([(control, control)] * 3, np.random.default_rng(1))
    assert same == (0, 0, 0)  # paired: the same noise gave the same layouts


@pytest.mark.parametrize(
    ("comparison", "words"),
    [
        (
            "{ablations: {control: {settings: {training.seed: 3}}}}",
            "ablations.control sets training.seed, or the whole section",
        ),
        ("{ablations: {control: {settings: {training: {seed: 3}}}}}", "ablations.control sets training.seed"),
        ("{ablations: {control: {settings: {experiment.name: x}}}}", "two trainings would be the run x"),
        (
            "{ablations: {control: {}, a: {settings: {experiment.name: tiny-control-1}}}, seeds: [1]}",
            "run tiny-control-1",
        ),
    ],
)
def test_no_two_trainings_of_a_comparison_are_one(prepared, comparison, words):
    with pytest.raises(InputError, match=words):
        list_ablations(load_config(prepared, [f"comparison={comparison}"]))


def test_the_earlier_name_of_ablations_still_loads(compared, tmp_path):
    earlier = tmp_path / "earlier.yaml"
    earlier.write_text(compared[0].read_text().replace("ablations:", "arms:"))
    assert load_config(earlier) == load_config(compared[0])
    with pytest.raises(InputError, match="arms is an earlier name of ablations: keep one of the two"):
        load_config(earlier, ["comparison.ablations={control: {}}"])
