"""The card of an exported model: what it says of rounds, audits, alarms and lineage, and that it shows text as text."""

import hashlib
import json
import re
import shutil

import pytest

from core.checkpoints.loading import load_checkpoint
from core.config.loading import config_bytes, load_config
from core.inputs.tensor_files import save_tensors
from core.records.record_files import record_bytes
from core.training.prerequisites import with_prerequisites
from tasks.export import export

FIGURES = {"viable": 0.4, "enclosed": 0.75, "judge_sound": 0.25, "coverage": 0.5, "frechet_distance": 6.5}


def entry(path):
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def audit(moved=0.0):
    """Figures of an audit, each `moved`, with intervals of 0.01 to both sides."""
    figures = {name: value + moved for name, value in FIGURES.items()}
    intervals = {name: [value - 0.01, value + 0.01] for name, value in figures.items()}
    return {**figures, "held_out_viable": 0.987, "judge_held_out": 0.975, "intervals": intervals}


def write_rounds(run, config, count, **of_last):
    """Finished rounds in the folder `run`, with what `of_last` says in the record of the last."""
    checkpoint, before = config.diffusion.stage2_checkpoint, None
    for number in range(1, count + 1):
        folder = run / f"round-{number:02d}"
        model = folder / "stage3/checkpoints/tiny_checkpoint_latest.pt"
        model.parent.mkdir(parents=True)
        shutil.copy(checkpoint, model)
        (folder / "config.yaml").write_bytes(config_bytes(config))
        named = {"manifest": config.dataset.manifest, "autoencoder": config.autoencoder.checkpoint}
        named |= {"parent": before, "generator": model} if before else {"stage2": checkpoint}
        record = {
            "stage": "round",
            "round": number,
            "location": str(folder),
            "experiment": "tiny",
            "inputs": {name: {"path": str(path), **entry(type(run)(path))} for name, path in named.items()},
            "settings": {"training": {"seed": 42, "learning_rate": 0.0003}, "dataset": {"filters": {"a|b": ["<i>"]}}},
            "outputs": {"config.yaml": entry(folder / "config.yaml")},
            "metrics": {
                "first_epoch": number - 1,
                "epoch": number,
                "discriminator_val_acc": 0.625,
                "viability_before": 0.5,
                "viability_after": 0.5625,
            },
            "alarms": [],
            "seconds": 90.0,
            "size": 1,
            "code": {"python": "3.11.7", "torch": "2.13.0", "commit": "abc"},
        }
        if number == 1:
            record["metrics"]["viable_before"], record["earlier_audit"] = 0.4, audit()
        record |= of_last if number == count else {}
        (folder / "round.json").write_bytes(record_bytes(record))
        before = folder / "round.json"
    (run / "run.json").write_bytes(record_bytes({"experiment": "tiny", "parent": None}))
    return run


def card_of(output_dir, checkpoint, *given, **named):
    export(checkpoint, *given, output_dir=output_dir, **named)
    return (output_dir / "README.md").read_text()


def drawing(card):
    """Labels by node, and arrows, of the drawing in a card; every line of it is one or the other."""
    (block,) = re.findall(r"^```mermaid\nflowchart TD\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    labels, arrows = {}, []
    for line in block.splitlines():
        arrow = re.fullmatch(r"    (\w+) --> (\w+)", line)
        node = re.fullmatch(r'    (\w+)(?:\["|\[\("|\(\[")([\w .#;<>-]+)(?:"\]|"\)\]|"\]\))', line)
        assert arrow or node, line
        if arrow:
            arrows.append(arrow.groups())
        else:
            labels[node[1]] = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), node[2].partition("<br>")[0])
    assert all(end in labels for arrow in arrows for end in arrow)
    return labels, arrows


@pytest.fixture
def run(tmp_path, config):
    return write_rounds(
        tmp_path / "tiny", config, 2, audit=audit(0.05), taught=["viable"], alarms=["viable <b>fell</b>"]
    )


def test_the_card_of_a_round_holds_what_its_records_say(run, tmp_path):
    card = card_of(tmp_path / "out", run)
    assert "\n# Model card: tiny after round 2\n" in card and "\nlibrary_name: diffusers\n" in card
    assert "| 1 | 1 to 1 | 0.6250 | 0.5000 | 0.5625 |" in card and "| 2 | 2 to 2 |" in card
    assert r"| viable | 0.400 \[0.390, 0.410\] | 0.450 \[0.440, 0.460\] | taught | higher |" in card
    assert r"| frechet distance | 6.500 \[6.490, 6.510\] | 6.550 \[6.540, 6.560\] | not taught | lower |" in card
    assert "before: what round 1 started from, after: round 2." in card
    assert "Of the held-out real layouts themselves 0.987 are viable and 0.975 are sound." in card
    assert r"- Round 2: viable \<b\>fell\</b\>" in card and "python 3.11.7, torch 2.13.0" in card
    assert "**Licence**: to be filled in by whoever publishes the model" in card
    assert "| `training.learning_rate` | `0.0003` |" in card and r"| dataset.filters.a\|b |" in card
    assert str(tmp_path) not in card  # it is published
    for path in (tmp_path / "out").rglob("*"):
        if path.is_file() and path.name not in ("README.md", "stage.json"):
            assert f"| `{path.relative_to(tmp_path / 'out')}` | {path.stat().st_size:,} |" in card
            assert entry(path)["sha256"] in card


def test_the_lineage_goes_back_to_the_data(run, config, tmp_path):
    card = card_of(tmp_path / "out", run)
    labels, arrows = drawing(card)
    names = {label: node for node, label in labels.items()}
    autoencoder, stage1, stage2 = (
        names[f"{stage}: {stage}_checkpoint_best.pt"] for stage in ("autoencoder", "stage1", "stage2")
    )
    first, second = names["round 1 of tiny"], names["round 2 of tiny"]
    chain = [(stage1, stage2), (stage2, first), (first, second), (second, "model"), (autoencoder, "model")]
    assert set(chain) <= set(arrows) and (autoencoder, names["latents: manifest.csv"]) in arrows
    assert (autoencoder, first) in arrows and (autoencoder, second) not in arrows  # it is the same
    assert labels["model"] == "tiny after round 2"
    for path in (run / "round-01/round.json", run / "round-02/round.json", config.autoencoder.checkpoint):
        assert f"`{entry(type(run)(path))['sha256']}` |" in card


def test_a_run_that_moved_has_the_same_card(run, tmp_path):
    before = card_of(tmp_path / "out", run)
    moved = run.rename(tmp_path / "elsewhere")
    assert card_of(tmp_path / "moved", moved) == before


def test_a_parent_that_was_written_again_is_not_taken_for_it(run, tmp_path):
    record = json.loads((run / "round-01/round.json").read_text())
    (run / "round-01/round.json").write_bytes(record_bytes(record | {"seconds": 1.0}))
    labels, _ = drawing(card_of(tmp_path / "out", run))
    assert "parent: round.json" in labels.values() and "round 1 of tiny" not in labels.values()


def test_the_checkpoint_of_a_round_has_the_card_of_the_round(run, prepared, tmp_path):
    checkpoint = run / "round-02/stage3/checkpoints/tiny_checkpoint_latest.pt"
    assert card_of(tmp_path / "file", checkpoint, prepared) == card_of(tmp_path / "round", run)


def test_of_many_rounds_the_drawing_shows_the_ends(config, tmp_path):
    card = card_of(tmp_path / "out", write_rounds(tmp_path / "tiny", config, 15))
    labels, arrows = drawing(card)
    assert "13 more rounds" in labels.values() and "round 2 of tiny" not in labels.values()
    ends = [next(node for node, label in labels.items() if label == f"round {n} of tiny") for n in (1, 15)]
    assert {(ends[0], "between"), ("between", ends[1]), (ends[1], "model")} <= set(arrows)
    assert "| 15 | 15 to 15 |" in card and "No round was audited." in card and "No round raised an alarm." in card


def test_a_stage_before_the_rounds_has_its_own_record(prepared, config, tmp_path):
    card = card_of(tmp_path / "out", config.diffusion.stage2_checkpoint, prepared)
    assert "# Model card: stage2\\_checkpoint\\_best.pt\n" in card and "the stage stage2; no adversarial round" in card
    assert re.search(r"\| stage2 \| \d+ \| .*val\\_noise\\_loss 0\.\d{4}", card)
    assert drawing(card)[1]


def test_the_card_of_a_bare_checkpoint_says_what_is_known(prepared, config, tmp_path):
    odd = tmp_path / 'm"]; click n0 "javascript:x" --> `y` <b>|.pt'
    shutil.copy(config.diffusion.stage2_checkpoint, odd)
    card = card_of(tmp_path / "out", odd, prepared, strength=0.5, start=config.diffusion.stage2_checkpoint)
    assert "**Training**: not known. No record names this checkpoint" in card and "**Strength**: 0.5." in card
    labels, arrows = drawing(card)
    assert labels["model"] == f"{odd.name}, at strength 0.5" and len(arrows) >= 3
    assert f"`{entry(odd)['sha256']}`" in card and "| `unet.base_channels` | `16` |" in card
    assert "<b>" not in re.sub(r"\\<b\\>", "", card)


def test_settings_of_a_checkpoint_are_shown_as_text(prepared, config, tmp_path):
    made = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")
    settings = made["config"] | {"note": "a `b` <script> | c", "long": list(range(500))}
    save_tensors({"state_dict": made["state_dict"], "config": settings}, tmp_path / "m.pt")
    card = card_of(tmp_path / "out", tmp_path / "m.pt", prepared)
    assert r'| `note` | "a \`b\` \<script\> \| c" |' in card
    assert max(map(len, card.splitlines())) < 600


def test_the_config_of_the_demo_needs_no_prerequisites(tmp_path):
    config = with_prerequisites(load_config("configs/demo.yaml"))
    card = card_of(tmp_path / "out", config.diffusion.stage2_checkpoint, "configs/demo.yaml")
    assert "800 layouts of 1 room from this project's generator" in card and "predicts v_prediction" in card
