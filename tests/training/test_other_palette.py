"""Layouts in other classes and colours through the whole product: prerequisites, a round, audits, what is drawn."""

import base64
import csv
import html
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from core.audit.layout_maps import read_maps
from core.audit.reference import make_reference
from core.checkpoints.imported_models import load_experiment
from core.checkpoints.loading import load_autoencoder, load_checkpoint
from core.config.loading import load_config
from core.data.manifest import read_manifest
from core.data.palette import DEFAULT_PALETTE, Palette
from core.exports.base_files import write_base
from core.generation.bad_latents import generate_bad_latents as generate
from core.inputs.safetensors_files import load_safetensors
from core.records.record_files import read_record
from core.reports.before_and_after import keep_picture
from core.reports.report import make_report
from core.rounds.close_round import close_round
from core.rounds.round import open_round
from core.rounds.run import begin_run
from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.training.prerequisites import STAGES, make_prerequisite, with_prerequisites
from tasks.audit import audit, audit_now
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.export import export
from tasks.generate_bad_latents import generate_bad_latents
from tasks.label import label
from tasks.retrain_discriminator import retrain_discriminator
from tasks.sample import sample
from tests.conftest import TINY
from tests.imginav_files import write_checkpoints, write_config
from tests.in_process import options, refusal
from tests.labels.test_checker import GOOD, START
from tests.made_once import made_once
from tests.palettes import OWN, OWN_CLASSES, redraw, write_palette

pytest_plugins = ["tests.storage_servers"]

COLOURS = {tuple(colour) for colour in OWN.colours}
# Between the pictures of a grid.
GAP = (255, 255, 255)


@pytest.fixture(scope="module")
def made(tmp_path_factory, manifest, trunk):
    """Config file of a tiny run in the palette `OWN`, whose one round is finished and audited; do not write there."""

    def make(folder):
        palette, redrawn = write_palette(folder / "palette.yaml"), redraw(manifest, folder / "layouts")
        path = folder / "tiny.yaml"
        text = TINY.format(manifest=redrawn, root=folder / "artifacts", trunk=trunk)
        text = text.replace("image_size: 32,", f"image_size: 32, palette: {palette},").replace("count: 2", "count: 1")
        path.write_text(text.replace("audit: null", "audit: {num_samples: 12, num_steps: 3, pass_share: 0.5}"))
        config = load_experiment(path)
        for stage in STAGES:
            make_prerequisite(stage, config)
        finish(config)

    return made_once(tmp_path_factory, "other-palette", make) / "tiny.yaml"


def finish(config):
    """Do the first round and its audits."""
    begin_run(config)
    this = open_round(config, 1)
    stages = [
        generate_bad_latents.fn(**this.bad_latents_options()),
        retrain_discriminator.fn(**this.discriminator_options()),
        continue_stage3.fn(this.config_path, recorded=True, artifacts=this.config.artifacts),
    ]
    audits = {name: audit.fn(**given) for name, given in this.audits_options().items()}
    close_round(this, *stages, audits, seconds=1)


@pytest.fixture(scope="module")
def round_1(made) -> Path:
    return made.parent / "artifacts/tiny/round-01"


def colours_of(picture: bytes | Path) -> set[tuple[int, ...]]:
    image = Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    return {tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3).tolist()}


def test_pictures_are_read_in_the_classes_of_the_palette(made, manifest):
    config, original = load_config(made), load_config(made, [f"dataset.manifest={manifest}", "dataset.palette=null"])
    own, default = (
        read_maps(one, read_manifest(Path(one.dataset.manifest), ["layout_path"], one.dataset))
        for one in (config, original)
    )
    # Furniture of two default classes that are one class here may win a cell together.
    assert np.mean(own.classes == OWN_CLASSES[default.classes]) > 0.97
    assert set(np.unique(own.classes)) == set(range(5)) and not own.off_palette.any()


def test_every_stage_that_depends_on_the_palette_records_its_file(made, round_1):
    prerequisites = made.parent / "artifacts/prerequisites"
    stages = [prerequisites / stage for stage in STAGES[1:]]
    stages += [round_1 / stage for stage in ("bad_latents", "stage3", "audit_before", "audit")]
    records = [json.loads((stage / "stage.json").read_text()) for stage in stages]
    records.append(json.loads((round_1 / "round.json").read_text()))
    digests = {record["inputs"]["palette"]["sha256"] for record in records}
    assert len(digests) == 1 and len(records) == 9
    assert "palette" not in json.loads((round_1 / "discriminator/stage.json").read_text())["inputs"]


def test_the_autoencoder_has_a_logit_for_each_class_and_says_what_they_are(made):
    config = with_prerequisites(load_config(made))
    checkpoint = load_checkpoint(config.autoencoder.checkpoint, "autoencoder checkpoint")
    assert checkpoint["state_dict"]["decoder.segmentation.weight"].shape[0] == 5
    assert checkpoint["config"]["palette"] == [[n, list(c)] for n, c in zip(OWN.names, OWN.colours, strict=True)]
    decoder = load_autoencoder(config.autoencoder.checkpoint, config).decoder
    assert decoder.palette == OWN and decoder(torch.zeros(1, *config.latent_shape)).logits.shape == (1, 5, 32, 32)


def test_pictures_of_a_round_are_in_the_colours_of_the_palette(round_1):
    pictures = [*(round_1 / "stage3/samples").glob("*.png"), round_1 / "audit/layouts.png"]
    assert len(pictures) == 5
    for picture in pictures:
        assert colours_of(picture) <= COLOURS | {GAP}, picture
    (real,) = (round_1 / "stage3/samples").glob("*_real.png")
    assert {OWN.colours[OWN.wall], OWN.colours[OWN.background]} < colours_of(real)


def test_audits_have_every_figure(round_1):
    record = json.loads((round_1 / "audit/stage.json").read_text())
    metrics, rules = record["metrics"], json.loads((round_1 / "audit/audit.json").read_text())["rules"]
    figures = [metrics[name] for name in metrics["intervals"]]
    assert len(figures) == 19 and all(isinstance(figure, float) for figure in figures)
    assert metrics["held_out_viable"] >= 0 and {len(values) for values in rules["pieces"].values()} == {3}
    with np.load(round_1 / "audit/layouts.npz") as layouts:
        assert layouts["classes"].shape == (12, 32, 32) and layouts["classes"].max() < 5


def test_a_reference_is_made_again_for_a_palette_that_was_changed_in_place(made, tmp_path):
    path = write_palette(tmp_path / "palette.yaml")
    config, seen = load_config(made).with_values({"dataset.palette": str(path)}), []
    paths = {"manifest": Path(config.required("dataset.manifest"))}
    seen.append(make_reference(config, paths))
    renamed = Palette(tuple(name.replace("storage", "shelf") for name in OWN.names), OWN.colours)
    write_palette(path, renamed)
    seen.append(make_reference(config, paths))
    assert [one.judge.palette for one in seen] == [one.rules.palette for one in seen] == [OWN, renamed]


def test_pictures_in_the_palette_are_audited_without_a_model(made):
    given = options(layouts=made.parent / "layouts/manifest.csv", json=True)
    printed = json.loads(run_command(audit_now, [str(made), *given]))
    assert printed["layouts"] == 12 and printed["viable"] >= 0.5 and printed["on_palette"] == 1.0
    assert printed["rules"]["bounds"]["off_palette"] == [None, 0.0]


def test_pictures_of_another_palette_are_refused(made, manifest):
    line = refusal(run_command, audit_now, [str(made), *options(layouts=manifest)])
    assert re.match(r"error: manifest row \d+: picture .*colours of another palette, most often \(\d", line)
    assert line.endswith("write each class in its colour of dataset.palette")


def test_drawn_layouts_are_in_the_colours_of_the_palette(made, round_1, tmp_path):
    drawn = tmp_path / "drawn"
    run_command(
        sample,
        options(checkpoint=round_1, output_dir=drawn, num_samples=5, seed=3, num_steps=2, grid=True, audit=True),
    )
    found = set().union(*(colours_of(picture) for picture in (drawn / "layouts").glob("*.png")))
    assert found <= COLOURS and colours_of(drawn / "__grid__/layouts.png") <= COLOURS | {GAP}
    assert len(pd.read_csv(drawn / "manifest.csv")) == 5
    inputs = json.loads((drawn / "stage.json").read_text())["inputs"]
    assert inputs["palette"]["path"] == str(made.parent / "palette.yaml")


def test_an_exported_pipeline_knows_names_and_colours(round_1, tmp_path):
    run_command(export, options(checkpoint=round_1, output_dir=tmp_path / "model"))
    settings = json.loads((tmp_path / "model/model_index.json").read_text())
    assert settings["class_names"] == list(OWN.names)
    assert settings["colours"] == [list(colour) for colour in OWN.colours]
    weights = load_file(tmp_path / "model/decoder/diffusion_pytorch_model.safetensors")
    assert weights["segmentation.weight"].shape[0] == 5
    inputs = json.loads((tmp_path / "model/stage.json").read_text())["inputs"]
    assert inputs["palette"]["path"].endswith("/palette.yaml")
    card = (tmp_path / "model/README.md").read_text()
    assert "5 classes: wall, background, storage, rest \\& more, bed." in card and "palette: palette.yaml" in card


# With nothing but diffusers.
ELSEWHERE = """
import sys

for name in ("core", "tasks", "flows", "tests", "torchvision"):
    sys.modules[name] = None
import numpy as np
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
drawn = pipeline(4, 2, torch.Generator().manual_seed(1))
np.savez(sys.argv[2], classes=drawn.class_maps, images=np.stack([np.asarray(image) for image in drawn.images]))
"""


def test_an_exported_pipeline_draws_in_the_colours_of_the_palette(round_1, tmp_path):
    run_command(export, options(checkpoint=round_1, output_dir=tmp_path / "model"))
    command = [sys.executable, "-I", "-c", ELSEWHERE, tmp_path / "model", tmp_path / "drawn.npz"]
    environment = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "drawn.npz") as drawn:
        assert drawn["classes"].shape == (4, 32, 32) and drawn["classes"].max() < 5
        assert np.array_equal(drawn["images"], OWN.rgb[drawn["classes"]])


def test_an_exported_file_and_a_base_know_the_palette(made, round_1, tmp_path):
    entries = [[name, list(colour)] for name, colour in zip(OWN.names, OWN.colours, strict=True)]
    run_command(export, options(checkpoint=round_1, output=tmp_path / "model.safetensors"))
    found = json.loads(load_safetensors(tmp_path / "model.safetensors", "model").text["config"])
    assert found["palette"] == entries
    config = load_experiment(made).with_values({"audit": None})
    write_base(config, made, tmp_path / "base")
    load_autoencoder(tmp_path / "base/autoencoder.safetensors", config)
    with pytest.raises(InputError, match=r"autoencoder\.safetensors has 5 classes, the project's own palette has 10: "):
        load_autoencoder(tmp_path / "base/autoencoder.safetensors", config.with_values({"dataset.palette": None}))


def test_the_page_to_label_layouts_on_shows_names_and_colours(made, tmp_path):
    run_command(label, [str(made), *options(round=1, output=tmp_path / "labels.html")])
    page = (tmp_path / "labels.html").read_text()
    legend = re.findall(r'<li><i style="background: rgb\(([^)]*)\)"></i>(.*?)</li>', page)
    assert [html.unescape(name) for _, name in legend] == list(OWN.names)
    assert [tuple(map(int, colour.split(","))) for colour, _ in legend] == list(OWN.colours)
    assert "rest &amp; more" in page and "rest & more" not in page
    pictures = re.findall(r'"picture": "([^"]+)"', page)
    assert len(pictures) == 6
    assert all(colours_of(base64.b64decode(picture)) <= COLOURS for picture in pictures)


def test_report_and_before_and_after_are_in_the_colours_of_the_palette(made, round_1, tmp_path):
    config = load_config(made)
    records = [open_round(config, 1).record]
    picture = keep_picture(config, records)
    assert colours_of(Path(picture)) <= COLOURS | {GAP}
    assert make_report(config, 1).html.count("data:image/png") == 5


def test_a_checker_sees_pictures_in_the_palette(made, tmp_path):
    script = tmp_path / "check.py"
    seen = tmp_path / "seen"
    script.write_text(f"{START}import shutil\nshutil.copytree(folder, {str(seen)!r})\n{GOOD}")
    values = {
        "artifacts.root": str(tmp_path / "artifacts"),
        "rounds.viability": {"labels": "command", "command": [sys.executable, "-S", str(script)]},
    }
    config = with_prerequisites(load_config(made)).with_values(values)
    record = generate(open_round(config, 1).config, open_round(config, 1).bad_latents_request())
    assert record["metrics"]["viable_share"] == 0.5
    with (seen / "layouts.csv").open() as file:
        pictures = [seen / row["layout_path"] for row in csv.DictReader(file)]
    assert len(pictures) == 6 and all(colours_of(picture) <= COLOURS for picture in pictures)


def changed_palette(tmp_path):
    return write_palette(
        tmp_path / "changed.yaml",
        Palette.of(
            dict(zip("ab", OWN.colours[2:4], strict=True))
            | {name: colour for name, colour in zip(OWN.names, OWN.colours, strict=True) if name not in OWN.names[2:4]}
        ),
    )


@pytest.mark.parametrize("given", ["another file", "no file"])
def test_a_finished_round_is_refused_with_another_palette(made, round_1, tmp_path, given):
    palette = str(changed_palette(tmp_path)) if given == "another file" else None
    before = {path: path.read_bytes() for path in round_1.parent.rglob("*.*") if path.is_file()}
    config = load_config(made).with_values({"dataset.palette": palette})
    now = "the project's own" if palette is None else "[0-9a-f]{12}"
    line = rf"round-01 holds a round made with input palette [0-9a-f]{{12}}, now it is {now}: choose another folder "
    for refused in (begin_run, lambda config: open_round(config, 2)):
        with pytest.raises(InputError, match=line):
            refused(config)
    assert {path: path.read_bytes() for path in round_1.parent.rglob("*.*") if path.is_file()} == before


def test_a_finished_round_without_a_palette_is_refused_with_one(prepared, tmp_path):
    config = with_prerequisites(load_config(prepared))
    autoencoder = json.loads(Path(config.autoencoder.checkpoint).parent.joinpath("stage.json").read_text())
    assert "palette" not in autoencoder["inputs"]
    with_palette = load_config(prepared).with_values({"dataset.palette": str(write_palette(tmp_path / "p.yaml"))})
    line = r"autoencoder holds a autoencoder made with input palette the project's own, now it is [0-9a-f]{12}: "
    with pytest.raises(InputError, match=line):
        make_prerequisite("autoencoder", with_palette)


def test_a_palette_may_move_and_a_finished_run_stays_finished(made, round_1, tmp_path):
    moved = tmp_path / "moved.yaml"
    moved.write_bytes((made.parent / "palette.yaml").read_bytes())
    config = load_config(made).with_values({"dataset.palette": str(moved)})
    assert open_round(config, 1).record is not None
    for stage in STAGES[1:]:
        assert make_prerequisite(stage, config) == read_record(
            open_store(made.parent / "artifacts/prerequisites" / stage, config.artifacts), "stage.json"
        )


def test_a_palette_in_a_bucket_is_the_same_as_its_copy_here(made, moto_place, tmp_path):
    moto_place.overwrite("own.yaml", (made.parent / "palette.yaml").read_bytes())
    root = made.parent / "artifacts"
    artifacts = moto_place.artifacts.model_dump() | {"root": str(root)}
    config = load_config(made).with_values({"dataset.palette": f"{moto_place.uri}/own.yaml", "artifacts": artifacts})
    assert open_round(config, 1).record is not None
    fresh = config.with_values({"artifacts.root": str(tmp_path / "artifacts")})
    assert make_prerequisite("autoencoder", fresh)["inputs"]["palette"]["path"] == f"{moto_place.uri}/own.yaml"
    ours, theirs = (Path(with_prerequisites(one).required("autoencoder.checkpoint")) for one in (fresh, config))
    assert ours != theirs and ours.read_bytes() == theirs.read_bytes()


def test_an_autoencoder_of_another_palette_is_refused(made, config, tmp_path):
    own, ours = with_prerequisites(load_config(made)), config
    path = own.autoencoder.checkpoint
    remedy = "give an autoencoder and a palette that belong together, or leave autoencoder.checkpoint out to train one"
    cases = [
        (ours.autoencoder.checkpoint, own, f"has 10 classes, dataset.palette {own.dataset.palette} has 5: {remedy}"),
        (path, ours, f"has 5 classes, the project's own palette has 10: {remedy}"),
    ]
    changed = changed_palette(tmp_path)
    cases.append(
        (
            path,
            own.with_values({"dataset.palette": str(changed)}),
            "was trained with another palette: its class 0 is ['wall', [20, 20, 20]], that of dataset.palette "
            f"{changed} is ['a', [30, 30, 200]]: {remedy}",
        )
    )
    for checkpoint, used, line in cases:
        with pytest.raises(InputError) as told:
            load_autoencoder(checkpoint, used)
        assert str(told.value) == f"autoencoder checkpoint {checkpoint} {line}"


@pytest.mark.parametrize("which", ["both", "autoencoder"])
def test_models_of_imginav_are_refused_with_another_palette(tmp_path, which):
    diffusion, autoencoder = write_checkpoints(tmp_path)
    path = write_config(diffusion, autoencoder)
    palette = write_palette(tmp_path / "palette.yaml")
    sets = [f"dataset.palette={palette}"]
    if which == "autoencoder":
        sets += ["diffusion.stage1_checkpoint=null", "diffusion.stage2_checkpoint=null"]
    line = (
        rf"^checkpoint .*autoencoder\.pt is of ImgiNav, whose models have the 10 classes and colours of "
        rf"core/data/palette\.py, and dataset\.palette {palette} has 5 of its own: leave dataset\.palette out, or give "
        r"another model$"
    )
    with pytest.raises(InputError, match=line):
        load_experiment(path, sets)
    ours = write_palette(tmp_path / "ours.yaml", DEFAULT_PALETTE)
    load_experiment(path, [f"dataset.palette={ours}"])
