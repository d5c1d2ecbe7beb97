"""Labels by a command of the user's: what it is given, what its table means, and how it fails in one line."""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.checkpoints.loading import load_autoencoder
from core.data.palette import DEFAULT_PALETTE
from core.generation.bad_latents import find_shards, generate_bad_latents
from core.models.labelled_latents import LabelledLatents
from core.models.pictures import decode_classes
from core.records.artifacts import round_location
from core.rounds.round import open_round
from core.runtime.errors import InputError
from core.runtime.files import sha256

COUNT = 6
START = """
import csv, os, pathlib, subprocess, sys, time
folder, manifest = map(pathlib.Path, sys.argv[-2:])
rows = list(csv.DictReader(manifest.open()))
def write(rows):
    with manifest.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
"""
# The odd samples are viable.
GOOD = "write([{**row, 'is_viable': number % 2} for number, row in enumerate(rows)])\n"


@pytest.fixture
def checked(config, tmp_path):
    """Config of a run whose layouts a Python script labels, after writing it; `arguments` follow the script."""

    def write(body, *arguments, **values):
        script = tmp_path / "check.py"
        script.write_text(START + body)
        section = {"labels": "command", "command": [sys.executable, "-S", str(script), *arguments], **values}
        return config.with_values(
            {
                "artifacts.root": str(tmp_path / "artifacts"),
                "audit": {"num_samples": 10},
                "rounds.viability": section,
            }
        )

    return write


def generate(config):
    this = open_round(config, 1)
    return generate_bad_latents(this.config, this.bad_latents_request())


def refuse(config, line):
    """The stage is refused with one line, leaves nothing that looks finished and no temporary folder."""
    with pytest.raises(InputError, match=line) as refused:
        generate(config)
    assert "\n" not in str(refused.value) and "scratch" not in str(refused.value)
    left = list(Path(round_location(config, 1)).rglob("*"))
    assert not any(path.name == "stage.json" or ".scratch-" in str(path) or path.suffix == ".png" for path in left)


def test_the_command_labels_every_generated_layout(checked, tmp_path):
    config = checked(f"import shutil\nshutil.copytree(folder, {str(tmp_path / 'seen')!r})\n{GOOD}print('noise')\n")
    record = generate(config)
    folder = Path(round_location(config, 1), "bad_latents")
    labelled = LabelledLatents.load(folder / "labelled_latents.pt")
    assert labelled.viable.tolist() == [False, True] * (COUNT // 2) and labelled.score is None
    assert labelled.kept.shape == (COUNT, len(labelled.rules)) and labelled.rules
    rows = pd.read_csv(folder / "discriminator_manifest.csv").set_index("latent_path")
    assert (rows["source"] == "generated").sum() == COUNT
    for sample in range(COUNT):
        kind = "viable" if sample % 2 else "bad"
        row = rows.loc[f"{kind}_latents/{kind}_latent_{sample:05d}.pt"]
        assert row["is_viable"] == (row["score"] == 1) == bool(sample % 2)
        assert row["furniture_fifth"] == labelled.fifth[sample].item()
        assert [row[rule] for rule in labelled.rules] == labelled.kept[sample].tolist()
    assert torch.load(folder / "viable_latents_all.pt").equal(labelled.latents[1::2])
    assert record["metrics"]["viable_share"] == 0.5 and record["metrics"]["bad_latents"] == 3
    assert not list(folder.rglob("*.png")) and not list(folder.rglob(".scratch-*"))
    # What the command saw: pictures in the palette's colours, of the config's size.
    seen = pd.read_csv(tmp_path / "seen" / "layouts.csv")
    assert list(seen["latent_path"]) == [f"latent_{sample:05d}.pt" for sample in range(COUNT)]
    pictures = np.stack([np.asarray(Image.open(tmp_path / "seen" / name)) for name in seen["layout_path"]])
    decoder = load_autoencoder(Path(config.autoencoder.checkpoint), config).decoder
    assert np.array_equal(pictures, DEFAULT_PALETTE.rgb_from_classes(decode_classes(labelled.latents, decoder)))
    assert pictures.shape == (COUNT, 32, 32, 3)


def test_the_command_and_the_files_that_it_names_are_part_of_what_a_stage_is_made_from(checked, tmp_path):
    rules = tmp_path / "rules.txt"
    rules.write_text("1")
    counted = f"with open({str(tmp_path / 'count')!r}, 'a') as file: file.write('x')\n{GOOD}"
    config = checked(counted, str(rules), "--strict")
    record = generate(config)
    digests = {name: entry["sha256"] for name, entry in record["inputs"].items() if name.startswith("command")}
    assert digests == {
        "command_0": sha256(Path(sys.executable)),
        "command_2": sha256(tmp_path / "check.py"),
        "command_3": sha256(rules),
    }
    assert record["settings"]["judged"]["command"] == list(config.rounds.viability.command)
    generate(config)
    assert (tmp_path / "count").read_text() == "x", "a finished stage asks no second time"
    generate(config.with_values({"rounds.viability.command_seconds": 5}))
    with pytest.raises(InputError, match=r"holds a bad latents made with judged\.command \["):
        generate(checked(counted, str(rules)))
    rules.write_text("2")
    with pytest.raises(InputError, match=r"made with input command_3 \w+, now it is \w+"):
        generate(checked(counted, str(rules), "--strict"))


@pytest.mark.parametrize("kept", ["layout_path", "latent_path"])
def test_one_of_the_two_columns_of_names_is_enough_in_any_order(checked, kept):
    viable = "[{'%s': row['%s'], 'is_viable': 'yes' if n < 2 else 'no'} for n, row in enumerate(rows)][::-1]"
    config = checked(f"write({viable % (kept, kept)})\n")
    generate(config)
    labelled = LabelledLatents.load(Path(round_location(config, 1), "bad_latents", "labelled_latents.pt"))
    assert labelled.viable.tolist() == [True] * 2 + [False] * 4


def test_the_command_gets_the_environment_and_a_relative_path_starts_where_the_run_does(checked, tmp_path, monkeypatch):
    (tmp_path / "viable.txt").write_text("1 3")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_CHECKER", "viable.txt")
    body = "viable = open(os.environ['OF_THE_CHECKER']).read().split()\n"
    config = checked(f"{body}write([{{**row, 'is_viable': str(n) in viable}} for n, row in enumerate(rows)])\n")
    assert generate(config)["metrics"]["viable_share"] == pytest.approx(2 / COUNT)


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            "sys.exit('no model')",
            r"python\S* ended with exit status 1 \(no model\): correct it, and run",
        ),
        ("raise ValueError('7 rooms')", r"ended with exit status 1 \(ValueError: 7 rooms\): correct it"),
        ("sys.exit(3)", r"ended with exit status 3 \(it wrote nothing to standard error\): correct it"),
        ("os.kill(os.getpid(), 9)", r"was killed by signal 9 \(it wrote nothing to standard error\): correct it"),
        ("sys.exit('x' * 100_000)", r"ended with exit status 1 \(x{200}\): correct it"),
        ("pass", r"labels layouts\.csv has no column is_viable; it has latent_path, layout_path: add it"),
        ("manifest.unlink()", r"labels layouts\.csv does not exist"),
        ("manifest.write_bytes(b'\\x89PNG\\r\\n\\xff')", r"labels layouts\.csv is not UTF-8 text in line 1"),
        ("manifest.write_text('')", r"labels layouts\.csv is empty: it needs a header"),
        (
            "write([{**row, 'is_viable': 1} for row in rows[:4]])",
            r"labels layouts\.csv lack latent_00004\.pt and 1 more: write is_viable for each layout$",
        ),
        (
            "write([{**row, 'is_viable': '' if n == 3 else 1} for n, row in enumerate(rows)])",
            r"labels layouts\.csv: row 4: is_viable is empty",
        ),
        ("write([{**row, 'is_viable': 0.7} for row in rows])", r"row 1: is_viable is '0\.7', which is neither yes nor"),
        (
            "write([{**row, 'is_viable': 1} for row in [*rows, rows[0]]])",
            r"layouts\.csv: row 7: latent_00000\.pt is there twice",
        ),
        (
            "write([{**row, 'is_viable': 1} for row in [*rows, {**rows[0], 'latent_path': 'z.pt'}]])",
            r"labels layouts\.csv name z\.pt, which the manifest that the command was given does not have",
        ),
        (
            "write([{'layout_path': name, 'is_viable': 1} for name in ('00000.png', 'z.png')])",
            r"labels layouts\.csv name z\.png, which the manifest",
        ),
        (
            "write([{**row, 'is_viable': 0} for row in rows])",
            r"0 of 6 layouts are viable, at least 2% of each kind are needed to learn from: train Stages 1 and 2 "
            "longer, or let the command take more layouts for viable$",
        ),
        (
            "write([{**row, 'is_viable': 1} for row in rows])",
            r"0 of 6 layouts are not viable, .*: let the command take fewer layouts for viable$",
        ),
    ],
)
def test_a_command_that_fails_is_one_line(checked, body, line):
    refuse(checked(f"{body}\n"), rf"^rounds\.viability\.command: .*{line}")


def test_a_command_that_takes_too_long_is_killed_with_what_it_started(checked, tmp_path):
    pid = tmp_path / "pid"
    body = f"child = subprocess.Popen(['sleep', '600'])\nopen({str(pid)!r}, 'w').write(str(child.pid))\ntime.sleep(600)"
    line = r"^rounds\.viability\.command: \S+ took longer than 2 seconds and was killed: raise rounds\.viability\.comma"
    refuse(checked(f"{body}\n", command_seconds=2), line)
    assert has_ended(pid)


def has_ended(pid):
    """Whether the process ends within seconds: a killed one may take a moment to go."""
    state, until = Path("/proc", pid.read_text(), "stat"), time.monotonic() + 5
    while time.monotonic() < until:
        # Where nobody collects it, a killed process stays as a zombie.
        with contextlib.suppress(FileNotFoundError):
            if state.read_text().rpartition(")")[2].split()[0] not in "ZX":
                time.sleep(0.05)
                continue
        return True
    return False


def test_an_interrupted_run_ends_the_command_too(checked, tmp_path):
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(os.getpid()))\nos.kill(os.getppid(), 2)\ntime.sleep(600)\n"
    config = checked(body)
    with pytest.raises(KeyboardInterrupt):
        generate(config)
    assert has_ended(pid)
    assert not list(Path(round_location(config, 1)).rglob("*.png"))


def test_after_a_failure_the_corrected_command_labels_the_same_latents(checked):
    failing = checked("sys.exit(1)\n")
    refuse(failing, "exit status 1")
    sampled = [torch.load(path) for path in sorted(Path(round_location(failing, 1)).rglob("*.pt"))]
    generate(checked(GOOD))
    labelled = LabelledLatents.load(Path(round_location(failing, 1), "bad_latents", "labelled_latents.pt"))
    assert torch.cat(sampled).equal(labelled.latents)


@pytest.mark.parametrize("program", ["no-such-program-of-this-test", "./nowhere.py", "check.py", "./check.py"])
def test_a_program_that_cannot_be_run_is_refused_before_anything_is_sampled(checked, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where check.py is, which is neither in PATH nor executable
    config = checked(GOOD, command=[program])
    line = rf"^rounds\.viability\.command: this machine has no program {program}: give the path of an executable file"
    refuse(config, line)
    this = open_round(config, 1)
    with pytest.raises(InputError, match=line):
        find_shards(this.config, this.bad_latents_request(), 2)
    left = [path for path in Path(round_location(config, 1)).rglob("*") if path.is_file()]
    assert {path.name for path in left} == {"config.yaml"}


def test_a_script_without_the_name_of_its_interpreter_is_refused(checked, tmp_path):
    script = tmp_path / "check"
    script.write_bytes(b"\0no program")
    script.chmod(0o755)
    refuse(checked(GOOD, command=[str(script)]), r"check cannot be started \(.*\): name the program that runs it first")


def test_arguments_are_not_shown(checked, caplog):
    caplog.set_level("DEBUG")
    refuse(checked("sys.exit(1)\n", "--key", "hunter2"), "exit status 1")
    generate(checked(GOOD, "--key", "hunter2"))
    assert "judges the layouts" in caplog.text and "hunter2" not in caplog.text


def test_labels_by_a_command_need_an_audit(checked):
    config = checked(GOOD).with_values({"audit": None})
    with pytest.raises(InputError, match=r"^audit is missing: set it in the config"):
        generate(config)
    shutil.rmtree(config.artifacts.root)


def test_a_round_names_the_script_among_its_inputs(checked, tmp_path):
    this = open_round(checked(GOOD), 1)
    assert this.provenance["inputs"]["command_2"]["sha256"] == sha256(tmp_path / "check.py")
    assert this.provenance["settings"]["rounds"]["viability"]["command"][2] == str(tmp_path / "check.py")
    json.dumps(this.provenance)
