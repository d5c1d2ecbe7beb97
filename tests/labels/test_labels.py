"""Rounds with labels, from the shipped base: what is written, what the discriminator knows, and Stage 3 that learns."""

import copy
import dataclasses
import json
import math
import random
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.config.loading import config_bytes, load_config
from core.generation.bad_latents import find_shards
from core.labels.label_files import generated_names, latents_digest
from core.labels.labelling import require_both_kinds
from core.models.labelled_latents import LabelledLatents
from core.records.artifacts import round_location
from core.rounds.close_round import close_round
from core.rounds.round import open_round
from core.runtime.errors import InputError
from core.runtime.files import sha256
from core.training.prerequisites import with_prerequisites
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator


@pytest.fixture(scope="module")
def rounds(prepared_base):
    """The config and the records of two rounds, without audits."""
    config = load_config(prepared_base)
    return config, [do_round(config, number) for number in (1, 2)]


def digests(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in folder.rglob("*") if path.is_file()}


def do_round(config, number):
    this = open_round(config, number)
    bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
    discriminator = retrain_discriminator.fn(**this.discriminator_options())
    stage3 = continue_stage3.fn(this.config_path, recorded=True, artifacts=config.artifacts)
    return this, close_round(this, bad_latents, discriminator, stage3, {}, 1.0)


def test_stage_2_draws_the_first_samples_and_stage_1_is_not_needed(rounds):
    config, [(first, _), (second, _)] = rounds
    assert with_prerequisites(config).diffusion.stage1_checkpoint is None
    assert first.generator == str(config.diffusion.stage2_checkpoint)
    assert second.generator == first.stage3_checkpoint


def test_every_generated_latent_has_its_label_source_and_rules(rounds):
    _, [(first, record), _] = rounds
    folder = f"{first.location}/bad_latents"
    rows = pd.read_csv(f"{folder}/discriminator_manifest.csv")
    generated = rows[rows["source"] == "generated"].set_index("latent_path")
    labelled = LabelledLatents.load(f"{folder}/labelled_latents.pt")
    assert len(generated) == len(labelled) == 128 and (rows["source"] == "real").sum() == 32
    for index in range(128):
        kind = "viable" if labelled.viable[index] else "bad"
        row = generated.loc[f"{kind}_latents/{kind}_latent_{index:05d}.pt"]
        assert row["is_viable"] == (row["label"] == 1) == labelled.viable[index].item() == (row["score"] == 1)
        kept = [row[rule] for rule in labelled.rules]
        assert kept == labelled.kept[index].tolist() and labelled.viable[index] == all(kept)
        assert torch.equal(torch.load(f"{folder}/{row.name}"), labelled.latents[index])
    share = labelled.viable.double().mean().item()
    assert record["metrics"]["viable_share"] == share and 0.2 < share < 0.7
    assert len(torch.load(f"{folder}/bad_latents_all.pt")) == 128 - labelled.viable.sum()
    assert len(torch.load(f"{folder}/viable_latents_all.pt")) == labelled.viable.sum()


def test_the_record_says_what_the_discriminator_knows_of_viability(rounds):
    _, [(first, record), _] = rounds
    metrics = record["metrics"]
    assert 0 <= metrics["viability_auc_low"] <= metrics["viability_auc"] <= metrics["viability_auc_high"] <= 1
    assert all(0 <= metrics[f"viable_fifth_{number}"] <= 1 for number in range(1, 6))
    assert "auc_reachable" in metrics and record["taught"][0] == "viable" and "reachable" in record["taught"]
    history = pd.read_csv(f"{first.location}/discriminator/discriminator_history.csv")
    assert history["viability_auc"].notna().all() and len(history) == 2


def test_a_round_of_steps_is_one_epoch_of_them(rounds):
    _, [(_, first), (second, last)] = rounds
    assert (first["metrics"]["epoch"], last["metrics"]["epoch"]) == (1, 2)
    checkpoint = torch.load(second.stage3_checkpoint, weights_only=True)
    assert checkpoint["step"] == 6 and len(checkpoint["training_history"]) == 2
    assert all(math.isfinite(row["train_discriminator_loss"]) for row in checkpoint["training_history"])


def test_a_discriminator_of_real_against_generated_is_measured_too(prepared_base, tmp_path):
    """With the documented labels, the verdicts teach nothing and are in the record all the same."""
    config = load_config(prepared_base).with_values(
        {
            "experiment.name": "documented",
            "diffusion.stage1_checkpoint": load_config(prepared_base).diffusion.stage2_checkpoint,
            "rounds.viability": {},
            "discriminator.form": "renoise",
            "discriminator.batch_fraction": 0.25,
            "discriminator.trajectories": {"num_samples": 8, "states": 2, "num_steps": 6},
        }
    )
    this, record = do_round(config, 1)
    metrics, rows = record["metrics"], pd.read_csv(f"{this.location}/bad_latents/discriminator_manifest.csv")
    assert {"viability_auc", "viable_share"} <= metrics.keys() and record["taught"] == []
    assert not rows.loc[rows["source"] == "generated", "is_viable"].any()
    assert len(torch.load(f"{this.location}/bad_latents/bad_latents_all.pt")) == 128


def test_the_same_epochs_at_once_or_one_by_one_give_the_same_bytes(rounds, tmp_path):
    _, [(first, _), _] = rounds

    def train(folder, epochs):
        values = [f"experiment.save_path={tmp_path / folder}", f"training.epochs={epochs}"]
        continue_stage3.fn(first.config_path, overrides=values)
        return digests(tmp_path / folder)

    train("pieces", 1)
    pieces, whole = train("pieces", 3), train("whole", 3)
    assert pieces.pop("samples/labels_epoch_001_samples.png")
    for files in (pieces, whole):
        del files["checkpoints/labels_checkpoint_best.pt"]  # it names the epochs of the training that wrote it
    assert pieces == whole


def test_real_latents_that_stand_in_for_viable_ones_teach_another_model(rounds, tmp_path):
    _, [(first, _), _] = rounds
    path, latest = tmp_path / "real.yaml", "checkpoints/labels_checkpoint_latest.pt"
    settings = ["rounds.viability.real_share=0.5", f"experiment.save_path={tmp_path / 'stage3'}"]
    path.write_bytes(config_bytes(load_config(first.config_path, settings)))
    continue_stage3.fn(path, recorded=True)
    assert sha256(tmp_path / "stage3" / latest) != sha256(Path(first.location, "stage3", latest))


@given(viable=st.integers(0, 300), others=st.integers(1, 300))
def test_at_least_two_percent_of_each_kind_are_required(viable, others):
    kinds, rarer = [True] * viable + [False] * others, min(viable, others)
    remedies = {True: "draw better ones", False: "judge by more rules"}
    if rarer > 0 and 50 * rarer >= viable + others:
        require_both_kinds(kinds, "labels x", remedies)
        return
    kind = "viable" if viable <= others else "not viable"
    line = rf"^labels x: {rarer} of {viable + others} layouts (is|are) {kind}, at least 2% of each kind are needed to "
    with pytest.raises(InputError, match=line) as refused:
        require_both_kinds(kinds, "labels x", remedies)
    assert str(refused.value).endswith(remedies[viable <= others])


def test_labels_by_rules_need_an_audit(prepared_base):
    config = load_config(prepared_base).with_values({"audit": None, "experiment.name": "unaudited"})
    with pytest.raises(InputError, match=r"^audit is missing: set it in the config"):
        generate_bad_latents.fn(**open_round(config, 1).bad_latents_options())


def test_stage_3_without_labels_or_with_those_of_another_model_is_refused(rounds, tmp_path):
    _, [(first, _), _] = rounds
    out = f"experiment.save_path={tmp_path / 'out'}"
    with pytest.raises(InputError, match=r"discriminator\.labelled_latents is missing"):
        continue_stage3.fn(first.config_path, overrides=[out, "discriminator.labelled_latents=null"])
    labelled = LabelledLatents.load(f"{first.location}/bad_latents/labelled_latents.pt")
    small = LabelledLatents(labelled.latents[:, :4], labelled.viable, labelled.fifth, labelled.rules, labelled.kept)
    small.save(tmp_path / "small.pt")
    with pytest.raises(InputError, match=r"labelled latents .* have shape \[4, 8, 8\], the model's have \[6, 8, 8\]"):
        continue_stage3.fn(
            first.config_path, overrides=[out, f"discriminator.labelled_latents={tmp_path / 'small.pt'}"]
        )
    assert not (tmp_path / "out" / "checkpoints").exists()


@pytest.fixture
def by_hand(rounds, tmp_path):
    """Config of a new run, with a file of labels of a round's latents: `viable` by sample, and the file's digest."""
    config, [(first, _), _] = rounds
    folder = f"{first.location}/bad_latents"
    outputs = json.loads(Path(folder, "stage.json").read_text())["outputs"]
    names = generated_names(outputs)
    own_digest = latents_digest(outputs[name]["sha256"] for name in names)

    def write(viable, digest=own_digest, **values):
        rows = [f"{names[sample]},{said},{digest}" for sample, said in viable.items()]
        path = tmp_path / "labels.csv"
        path.write_text("\n".join(["latent_path,is_viable,latents_sha256", *rows, ""]))
        section = {"labels": "file", "file": str(path), "latents": folder, **values}
        # With the seed of the labelled round the new one would draw the same latents.
        return config.with_values({"experiment.name": tmp_path.name, "training.seed": 3, "rounds.viability": section})

    write.known = LabelledLatents.load(f"{folder}/labelled_latents.pt")
    write.rules = dict(enumerate(write.known.viable.tolist()))
    return write


def some(viable, count):
    """`count` of the labels, in any order."""
    return dict(random.Random(1).sample(sorted(viable.items()), count))


def test_a_critic_carries_a_persons_labels_over_to_fresh_latents(by_hand, caplog):
    config = by_hand(some(by_hand.rules, 100))
    this, record = do_round(config, 1)
    metrics, folder = record["metrics"], f"{this.location}/bad_latents"
    assert metrics["labels_used"] == 100
    assert 0.65 < metrics["critic_auc_low"] <= metrics["critic_auc"] <= metrics["critic_auc_high"] <= 1
    assert "the critic that learnt" not in caplog.text
    labelled = LabelledLatents.load(f"{folder}/labelled_latents.pt")
    assert len(labelled) == 128 and not torch.equal(labelled.latents, by_hand.known.latents)
    assert torch.equal(labelled.viable, labelled.score > 0.5)
    by_rules = labelled.kept.all(1)
    assert (labelled.viable == by_rules).double().mean() > 0.75 and (labelled.viable != by_rules).any()
    rows = pd.read_csv(f"{folder}/discriminator_manifest.csv")
    rows = rows[rows["source"] == "generated"].set_index("latent_path")
    for index in range(128):
        kind = "viable" if labelled.viable[index] else "bad"
        row = rows.loc[f"{kind}_latents/{kind}_latent_{index:05d}.pt"]
        assert row["score"] == pytest.approx(labelled.score[index].item(), abs=1e-12)
        assert row["is_viable"] == labelled.viable[index].item()
    # Discriminator and Stage 3 learn from these labels.
    assert 0.2 < metrics["viable_share"] < 0.7 and 0 < metrics["discriminator_val_acc"] < 1 and metrics["epoch"] == 1
    assert torch.load(f"{folder}/viable_latents_all.pt").equal(labelled.latents[labelled.viable])
    discriminator = json.loads(Path(this.location, "discriminator", "stage.json").read_text())
    assert discriminator["settings"]["learn_labels"]
    assert discriminator["inputs"]["labelled"]["sha256"] == sha256(Path(folder, "labelled_latents.pt"))
    history = torch.load(this.stage3_checkpoint, weights_only=True)["training_history"]
    assert math.isfinite(history[0]["train_discriminator_loss"])
    made_from = json.loads(Path(folder, "stage.json").read_text())["inputs"]
    assert made_from["labels"]["sha256"] == sha256(Path(config.rounds.viability.file))
    assert made_from["labelled"]["sha256"] == sha256(Path(config.rounds.viability.latents, "labelled_latents.pt"))
    # Other labels are another run.
    by_hand(some(by_hand.rules, 101))
    with pytest.raises(InputError, match=r"round-01 holds a round made with input labels \w+, now it is \w+"):
        open_round(config, 1)


def test_the_round_learns_from_the_labels_alone_if_the_critic_knows_too_little(by_hand, caplog):
    drawn = random.Random(2)
    said = some({sample: drawn.random() < 0.5 for sample in by_hand.rules}, 100)
    this, record = do_round(by_hand(said), 1)
    assert record["metrics"]["critic_auc"] == pytest.approx(0.5, abs=0.15)
    assert record["metrics"]["labels_used"] == 100
    line = (
        r"the critic that learnt from 100 labels has an AUC of 0\.\d{3} \(.*rounds\.viability\.least_auc is 0\.65: the "
    )
    assert re.search(line + "round learns from the labelled latents alone", caplog.text)
    labelled = LabelledLatents.load(f"{this.location}/bad_latents/labelled_latents.pt")
    samples = sorted(said)
    assert torch.equal(labelled.latents, by_hand.known.latents[samples]) and labelled.score is None
    assert labelled.viable.tolist() == [said[sample] for sample in samples]
    assert torch.equal(labelled.kept, by_hand.known.kept[samples])
    rows = pd.read_csv(f"{this.location}/bad_latents/discriminator_manifest.csv")
    rows = rows[rows["source"] == "generated"]
    assert len(rows) == 100 and (rows["score"] == rows["is_viable"]).all()
    assert "viability_auc" in record["metrics"] and record["metrics"]["epoch"] == 1


@pytest.mark.parametrize(
    ("count", "change", "line"),
    [
        (100, {"file": None}, r"^rounds\.viability\.file is missing: set it in the config"),
        (100, {"latents": None}, r"^rounds\.viability\.latents is missing: set it in the config"),
        (100, {"file": "/none.csv"}, r"^labels input /none\.csv does not exist: give the path of an existing file"),
        (100, {"latents": "/none"}, r"^rounds\.viability\.latents: /none holds no finished generate-bad-latents: give"),
        (100, {"digest": "0a" * 8}, r"^labels \S+ are of other latents \(latents_sha256 0a0a0a0a0a0a0a0a\) than those"),
        (19, {}, r"^labels \S+: only 19 labelled, at least 20 layouts are needed: label more layouts$"),
    ],
)
def test_labels_that_teach_nothing_are_refused(by_hand, count, change, line):
    refuse(by_hand(some(by_hand.rules, count), **change), line)


def refuse(config, line):
    """The round is refused with one line, and leaves no more than its config."""
    with pytest.raises(InputError, match=line) as refused:
        generate_bad_latents.fn(**open_round(config, 1).bad_latents_options())
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=line):  # nothing is sampled in shards either
        this = open_round(config, 1)
        find_shards(this.config, this.bad_latents_request(), 2)
    assert {path.name for path in Path(round_location(config, 1)).rglob("*") if path.is_file()} <= {"config.yaml"}


def test_labels_of_one_kind_are_refused(by_hand):
    few = dict.fromkeys(range(96), True)
    refuse(
        by_hand(few), r"^labels \S+: 0 of 96 layouts are not viable, at least 2% of each kind are needed to learn from"
    )
    refuse(
        by_hand(few | dict.fromkeys(range(4), False)), r"4 of 96 layouts are not viable, at least 5 of each kind are"
    )


def test_labels_of_latents_that_the_folder_lacks_are_refused(by_hand):
    config = by_hand(some(by_hand.rules, 100))
    path = Path(config.rounds.viability.file)
    path.write_text(path.read_text() + "bad_latents/bad_latent_99999.pt,true,\n")
    refuse(
        config, r"^labels \S+ name bad_latents/bad_latent_99999\.pt, which \S+/bad_latents does not have: give the lab"
    )


def test_latents_that_nobody_judged_or_of_another_shape_or_autoencoder_are_refused(by_hand, tmp_path):
    config, folder = by_hand(some(by_hand.rules, 100)), tmp_path / "copy"
    shutil.copytree(config.rounds.viability.latents, folder)
    record = json.loads((folder / "stage.json").read_text())
    copied = config.with_values({"rounds.viability.latents": str(folder)})

    def altered(name, labelled=None):
        changed = copy.deepcopy(record)
        if labelled is None:
            del changed["outputs"][name]
        else:
            labelled.save(folder / name)
            changed["outputs"][name] = {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        (folder / "stage.json").write_text(json.dumps(changed))
        return copied

    known, name = by_hand.known, "labelled_latents.pt"
    refuse(
        altered(name), r"^rounds\.viability\.latents: \S+/copy has no labelled_latents\.pt: give the folder bad_latents"
    )
    small = dataclasses.replace(known, latents=known.latents[:, :4])
    refuse(
        altered(name, small), r"of \S+/copy have shape \[4, 8, 8\], the model's have \[6, 8, 8\]: give latents that a"
    )
    refuse(
        altered(name, known.at(torch.arange(127))),
        r"copy has 128 generated latents and 127 in labelled_latents\.pt: put",
    )
    record["inputs"]["autoencoder"]["sha256"] = "0a" * 32
    refuse(
        altered(name, known), r"was made with the autoencoder \S+, this run has \S+: its latents mean something else; s"
    )


def test_discriminator_and_stage_3_learn_from_the_labels_of_a_command(rounds, tmp_path):
    """The pictures of a layout with a bed and of one without differ in colour, so a program can tell them apart."""
    script = tmp_path / "check.py"
    script.write_text(
        "import pathlib, sys\nfrom PIL import Image\nimport pandas as pd\n"
        "folder, rows = pathlib.Path(sys.argv[1]), pd.read_csv(sys.argv[2])\n"
        "colours = [dict(map(reversed, Image.open(folder / name).getcolors())) for name in rows['layout_path']]\n"
        "rows['is_viable'] = [(228, 26, 28) in found for found in colours]\n"
        "rows.to_csv(sys.argv[2], index=False)\n"
    )
    config = rounds[0].with_values(
        {
            "experiment.name": "commanded",
            "rounds.viability": {"labels": "command", "command": [sys.executable, str(script)]},
        }
    )
    this, record = do_round(config, 1)
    metrics = record["metrics"]
    assert 0.02 < metrics["viable_share"] < 0.98 and "viability_auc" in metrics and metrics["epoch"] == 1
    assert record["taught"] == []
    discriminator = json.loads(Path(this.location, "discriminator", "stage.json").read_text())
    assert discriminator["settings"]["learn_labels"]
    labelled = Path(this.location, "bad_latents", "labelled_latents.pt")
    assert discriminator["inputs"]["labelled"]["sha256"] == sha256(labelled)
    history = torch.load(this.stage3_checkpoint, weights_only=True)["training_history"]
    assert math.isfinite(history[0]["train_discriminator_loss"])
    # Another script is another run.
    script.write_text(script.read_text() + "# stricter\n")
    with pytest.raises(InputError, match=r"round-01 holds a round made with input command_1 \w+, now it is \w+"):
        open_round(config, 1)
