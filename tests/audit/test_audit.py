"""The audit as a command and in a round: its files, its output, its effect on the run."""

import json
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from core.audit.audit import audit_checkpoint
from core.audit.reference import make_reference
from core.audit.rules import RULES
from core.checkpoints.loading import load_checkpoint
from core.checkpoints.strength import FromStart
from core.config.loading import config_bytes, load_config
from core.inputs.tensor_files import save_tensors
from core.records.record_files import create_record, read_record
from core.rounds.close_round import close_round
from core.rounds.planning import next_round, stop_reason
from core.rounds.round import AUDIT, AUDIT_BEFORE, open_round
from core.rounds.run import begin_run, hold_run
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from core.training.prerequisites import with_prerequisites
from tasks.audit import audit, audit_now
from tests.commands import run
from tests.conftest import own_copy


@pytest.fixture(scope="module")
def audited(prepared, tmp_path_factory):
    """Config of a tiny experiment with an audit."""
    path = own_copy(prepared, tmp_path_factory.mktemp("audited"))
    path.write_text(path.read_text().replace("audit: null", "audit: {num_samples: 12, pass_share: 0.5}"))
    return path


@pytest.fixture(scope="module")
def stage2(audited):
    return with_prerequisites(load_config(audited)).diffusion.stage2_checkpoint


@pytest.mark.filterwarnings("ignore:'tasks.audit' found in sys.modules")
def test_the_command_prints_one_json_object_last(audited, stage2, monkeypatch, capsys):
    arguments = ["--config", str(audited), "--checkpoint", stage2, "--num_samples", "10", "--json"]
    monkeypatch.setattr(sys, "argv", ["tasks.audit", *arguments])
    # In this process, where the classifier of the two-sample test trains for a few steps only.
    runpy.run_module("tasks.audit", run_name="__main__")
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed["layouts"] == 10 and 0 <= printed["viable"] <= 1
    figures = printed["intervals"].keys()
    assert figures >= {
        "viable",
        *RULES,
        "frechet_distance",
        "two_sample_accuracy",
        "memorised",
        "judge_sound",
        "doorless",
    }
    assert printed.keys() >= figures
    assert set(printed["rules"]) == {"scale", "pieces", "bounds"}
    assert set(printed["judge"]) == {"body", "bounds"} and 0 <= printed["judge_held_out"] <= 1


def test_layouts_in_files_are_audited_too(audited, manifest):
    printed = json.loads(audit_now(audited, layouts=manifest, json=True))
    assert printed["layouts"] == 12 and printed["viable"] >= 0.5 and printed["on_palette"] == 1.0
    assert printed["judge_sound"] >= 0.5 and printed["doorless"] == 0
    shown = audit_now(audited, layouts=manifest)
    assert re.search(r"^  judge_sound +[\d.]+  \[", shown, re.MULTILINE)
    assert re.search(r"of held-out real layouts [\d.]+ are viable, [\d.]+ sound$", shown)


@pytest.fixture
def without_models(tmp_path):
    """A config without models, artefacts and manifest."""
    path = tmp_path / "bare.yaml"
    path.write_text(
        "experiment: {name: bare}\ndataset: {}\naudit: {pass_share: 0.5}\n"
        f"artifacts: {{root: {tmp_path / 'none'}}}\n"
    )
    return path


def test_layouts_in_files_need_no_model(without_models, manifest):
    printed = json.loads(audit_now(without_models, layouts=manifest, real=manifest, image_size=32, json=True))
    assert printed["layouts"] == 12 and printed["viable"] >= 0.5
    assert printed["rules"]["bounds"]["off_palette"] == [None, 0.0]  # of the pictures themselves
    own = [f"dataset.manifest={manifest}"]
    assert json.loads(audit_now(without_models, layouts=manifest, image_size=32, json=True, overrides=own)) == printed
    assert not (without_models.parent / "none").exists()


def test_real_layouts_are_required(without_models, manifest):
    with pytest.raises(InputError, match=r"dataset\.manifest is missing"):
        audit_now(without_models, layouts=manifest)
    with pytest.raises(InputError, match="--image_size 5: it must be from 16"):
        audit_now(without_models, layouts=manifest, real=manifest, image_size=5)
    with pytest.raises(InputError, match="--real and --image_size go with --layouts"):
        audit_now(without_models, checkpoint="a.pt", real=manifest)


def test_the_same_seed_draws_the_same_layouts_and_another_others(audited, stage2):
    config = with_prerequisites(load_config(audited))
    first, again, other = (audit_checkpoint(config, stage2, 10, seed) for seed in (7, 7, 8))
    assert first.as_json() == again.as_json()
    assert (first.layouts.classes == again.layouts.classes).all()
    assert (first.layouts.classes != other.layouts.classes).any()
    more = audit_checkpoint(config, stage2, 12, 7)
    assert (more.layouts.classes[:10] == first.layouts.classes).all()


@pytest.mark.parametrize("arguments", [[], ["--checkpoint", "a.pt", "--layouts", "m.csv"]])
def test_a_checkpoint_and_layouts_exclude_each_other(audited, arguments):
    done = run("tasks.audit", "--config", audited, *arguments)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: give either --checkpoint, a model to audit, or --layouts")


def test_too_few_layouts_are_refused(audited, stage2):
    with pytest.raises(InputError, match="4 layouts are too few to audit: give at least 10"):
        audit_checkpoint(with_prerequisites(load_config(audited)), stage2, 4, 7)


def test_a_missing_checkpoint_is_named(audited, tmp_path):
    done = run("tasks.audit", audited, "--checkpoint", tmp_path / "no.pt")
    assert done.returncode == 2 and str(tmp_path / "no.pt") in done.stderr.splitlines()[-1]


def stage(metrics):
    return {"metrics": metrics}


STAGE3 = {"epoch": 1, "first_epoch": 0, "viability_before": 0.4, "viability_after": 0.6, "val_noise_loss": 0.2}


def audit_figures(viable):
    intervals = {name: [viable - 0.03, viable + 0.03] for name in ("viable", "coverage")}
    return {"viable": viable, "coverage": viable, "intervals": intervals}


def close_with(config, number, before, after, **changes):
    """Record of a round whose stages are stand-ins, with these audits."""
    with hold_run(config):
        begin_run(config)
        this = open_round(config, number)
        store = open_store(this.location, this.config.artifacts)
        for name in ("bad_latents", "discriminator", "stage3"):
            if store.below(name).read("stage.json") is None:
                create_record({"outputs": {}}, store.below(name), "stage.json")
        latest = this.stage3_checkpoint.removeprefix(f"{this.location}/")
        store.create(latest, b"weights")
        figures = {AUDIT_BEFORE: before, AUDIT: after}
        audits = {
            name: {"output_dir": f"elsewhere/{name}", "metrics": audit_figures(viable)}
            for name, viable in figures.items()
            if viable is not None
        }
        parts = stage({"bad_latent_std": 1.0}), stage({"val_acc": 0.7}), stage(STAGE3 | changes)
        return close_round(this, *parts, audits, seconds=1.0)


@pytest.fixture
def with_audit(prepared, tmp_path):
    def config(*overrides):
        return load_config(own_copy(prepared, tmp_path), ["audit={}", *overrides])

    return config


def test_a_worse_round_is_in_its_record_and_the_log(with_audit, caplog):
    config = with_audit()
    record = close_with(config, 1, 0.5, 0.3)
    assert record["metrics"]["viable_before"] == 0.5 and record["metrics"]["viable"] == 0.3
    assert any("viable layouts fell from 0.500 to 0.300" in alarm for alarm in record["alarms"])
    assert "round 1: viable layouts fell" in caplog.text
    assert stop_reason(config, 1) is None and next_round(config) == 2


def test_a_round_without_an_audit_is_compared_with_the_last_audit_before_it(with_audit):
    config = with_audit("audit.every=3", "rounds.count=4")
    assert [list(open_round(config, 1).audits_options())] == [[AUDIT_BEFORE]]
    first = close_with(config, 1, 0.5, None)
    assert first["metrics"]["viable_before"] == 0.5 and first["metrics"]["viable"] is first["audit"] is None
    assert list(open_round(config, 2).audits_options()) == []
    close_with(config, 2, None, None)
    assert list(open_round(config, 3).audits_options()) == [AUDIT]
    third = close_with(config, 3, None, 0.3)
    assert third["metrics"]["viable_before"] == 0.5 and any("fell from 0.500 to 0.300" in a for a in third["alarms"])
    assert list(open_round(config, 4).audits_options()) == [AUDIT]  # the last round is always audited


def test_a_discriminator_that_knows_nothing_stops_a_run_that_learns_from_its_scores(with_audit):
    knows = {"viability_auc": 0.52, "viability_auc_low": 0.47, "viability_auc_high": 0.57}
    config = with_audit("rounds.on_regression=stop")
    record = close_with(config, 1, 0.3, 0.4, **knows)
    line = "the discriminator knows nothing of viability: AUC 0.520 (0.470 to 0.570) on generated latents that it did "
    assert record["alarms"] == [line + "not see"] and stop_reason(config, 1).endswith(line + "not see")


def test_the_run_stops_after_a_worse_round_if_configured(with_audit):
    config = with_audit("rounds.on_regression=stop")
    close_with(config, 1, 0.5, 0.3)
    assert stop_reason(config, 1).startswith("stopped after round 1 (rounds.on_regression): ")


def test_a_worse_round_halves_the_weight_of_the_next(with_audit):
    config = with_audit("rounds.on_regression=halve_weight", "rounds.count=3")
    close_with(config, 1, 0.5, 0.3)
    following = open_round(config, 2).config.discriminator
    assert (following.weight, following.balance) == (0.05, 0.25)
    assert close_with(config, 2, None, 0.4)["metrics"]["viable_before"] == 0.3


def test_the_next_round_continues_from_the_best(with_audit):
    config = with_audit("rounds.on_regression=keep_best", "rounds.count=4")
    close_with(config, 1, 0.4, 0.5)
    close_with(config, 2, None, 0.3)
    third = open_round(config, 3)
    assert third.generator.endswith("round-01/stage3/checkpoints/tiny_checkpoint_latest.pt")
    assert third.config.training.epochs == 2


def test_a_stage_leaves_figures_layouts_and_a_picture(audited, stage2, tmp_path):
    config = tmp_path / "filled.yaml"
    config.write_bytes(config_bytes(with_prerequisites(load_config(audited))))
    made = audit.fn(config, stage2, tmp_path / "audit", num_samples=12)
    figures = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for name in ("viable", "judge_sound", "doorless", "judge_held_out"):
        assert figures[name] == made["metrics"][name]
    with np.load(tmp_path / "audit" / "layouts.npz") as layouts:
        assert layouts["classes"].shape == (12, 32, 32) and layouts["viable"].mean() == pytest.approx(figures["viable"])
    assert (tmp_path / "audit" / "layouts.png").exists()
    record = read_record(open_store(str(tmp_path / "audit"), ArtifactsSection()), "stage.json")
    assert (
        record["metrics"]["intervals"]["viable"][0] <= figures["viable"] <= record["metrics"]["intervals"]["viable"][1]
    )


def test_an_audit_by_an_earlier_version_is_still_finished(audited, stage2, tmp_path, monkeypatch):
    config = tmp_path / "filled.yaml"
    config.write_bytes(config_bytes(with_prerequisites(load_config(audited))))
    audit.fn(config, stage2, tmp_path / "audit", num_samples=12)
    path = tmp_path / "audit" / "stage.json"
    record = json.loads(path.read_text())
    for name in ("judge_sound", "doorless"):
        del record["metrics"][name], record["metrics"]["intervals"][name]
    del record["metrics"]["judge_held_out"]
    path.write_text(json.dumps(record))
    monkeypatch.setattr("core.audit.audit._sample", None)  # nothing is audited again
    assert audit.fn(config, stage2, tmp_path / "audit", num_samples=12)["metrics"] == record["metrics"]


def test_too_few_real_layouts_are_refused(audited, stage2):
    config = with_prerequisites(load_config(audited)).with_values({"training.train_split": 0.99})
    with pytest.raises(InputError, match=r"11 original .* and 1 held out.*training.train_split, or audit: null"):
        audit_checkpoint(config, stage2, 10, 7)


def test_the_reference_is_made_of_training_and_held_out_originals(audited):
    config = with_prerequisites(load_config(audited))
    paths = {"manifest": Path(config.dataset.manifest), "autoencoder": Path(config.autoencoder.checkpoint)}
    reference = make_reference(config, paths)
    assert (len(reference.training), len(reference.held_out)) == (9, 3)
    assert make_reference(config, paths) is reference
    assert make_reference(config.with_values({"audit.pass_share": 0.6}), paths) is not reference


def test_an_audit_at_a_strength_is_of_a_model_between_both(audited, stage2, tmp_path):
    made = load_checkpoint(stage2, "checkpoint")
    moved = {name: value * 0.5 for name, value in made["state_dict"].items()}
    save_tensors(made | {"state_dict": moved}, tmp_path / "end.pt")

    def figures(checkpoint, **options):
        return json.loads(audit_now(audited, checkpoint, num_samples=10, json=True, **options))

    ends, between = [figures(stage2), figures(tmp_path / "end.pt")], figures(tmp_path / "end.pt", strength=0.5)
    assert [figures(tmp_path / "end.pt", start=stage2, strength=at) for at in (0.0, 1.0)] == ends
    assert between not in ends


@pytest.mark.parametrize("options", [{"strength": 0.5}, {"start": "a.pt"}])
def test_pictures_have_no_strength(audited, manifest, options):
    with pytest.raises(InputError, match="--start and --strength go with --checkpoint"):
        audit_now(audited, layouts=manifest, **options)


def test_a_run_stops_once_audits_in_a_row_found_nothing_better_and_says_which_round_to_keep(with_audit):
    config = with_audit("rounds.patience=2", "rounds.count=9", "audit.every=2")
    close_with(config, 1, 0.4, None)
    close_with(config, 2, None, 0.5)
    close_with(config, 3, None, None)
    close_with(config, 4, None, 0.5)  # as good is not better
    close_with(config, 5, None, None)
    assert [stop_reason(config, number) for number in range(1, 6)] == [None] * 5
    close_with(config, 6, None, 0.45)
    reason = stop_reason(config, 6)
    assert reason.startswith("stopped after round 6 (rounds.patience): each of the last 2 audits found no more viable")
    assert "than round 2 (0.500): keep it with python -m tasks.export --checkpoint " in reason
    assert "/tiny/round-02, or start another run from it with --fork-from " in reason and reason.endswith("/round-02")
    assert stop_reason(config.with_values({"rounds.patience": None}), 6) is None
    assert stop_reason(config.with_values({"rounds.patience": 3}), 6) is None


def test_a_run_that_is_never_better_than_its_start_says_so(with_audit):
    config = with_audit("rounds.patience=1")
    close_with(config, 1, 0.4, 0.4)
    assert stop_reason(config, 1).endswith("than the model that round 1 started from (0.400): keep that one")


def test_the_last_round_audits_each_strength_between_the_start_and_its_end(with_audit):
    config = with_audit("rounds.count=2", "audit.strengths=[0.5, 1.5]")
    assert list(open_round(config, 1).audits_options()) == [AUDIT_BEFORE, AUDIT]
    close_with(config, 1, 0.4, 0.5)
    last = open_round(config, 2)
    options = last.audits_options()
    assert list(options) == [AUDIT, "audit_strength_0.5", "audit_strength_1.5"]
    stage2 = with_prerequisites(config).diffusion.stage2_checkpoint
    for strength in (0.5, 1.5):
        own = options[f"audit_strength_{strength}"]
        assert own.pop("from_start") == FromStart(stage2, strength)
        assert own == options[AUDIT] | {"output_dir": f"{last.location}/audit_strength_{strength}"}
    without = config.with_values({"audit.strengths": []})
    assert list(open_round(without, 2).audits_options()) == [AUDIT]


def test_strengths_of_another_start_are_refused_before_the_round(with_audit, tmp_path):
    config = with_audit("rounds.count=2", "audit.strengths=[0.5]")
    close_with(config, 1, 0.4, 0.5)
    other = tmp_path / "other.pt"
    made = load_checkpoint(with_prerequisites(config).diffusion.stage2_checkpoint, "checkpoint")
    save_tensors(made | {"epoch": 99}, other)
    with pytest.raises(InputError, match=r"need the model that round 1 started from, and .*other\.pt is another"):
        open_round(config.with_values({"diffusion.stage2_checkpoint": str(other)}), 2)


def test_a_strength_twice_is_refused(audited):
    with pytest.raises(InputError, match=r"audit\.strengths.*holds 0\.5 twice: give each strength once"):
        load_config(audited, ["audit.strengths=[0.5, 0.50]"])


def test_the_record_of_an_audit_at_a_strength_names_both_checkpoints(audited, stage2, tmp_path):
    config = tmp_path / "filled.yaml"
    config.write_bytes(config_bytes(with_prerequisites(load_config(audited))))
    audit.fn(config, stage2, tmp_path / "audit", num_samples=10, from_start=FromStart(stage2, 0.5))
    record = json.loads((tmp_path / "audit" / "stage.json").read_text())
    assert record["inputs"]["start"]["path"] == record["inputs"]["diffusion"]["path"] == stage2
    assert record["settings"]["strength"] == 0.5
