"""The command that draws layouts into a folder: its files, who can read them, what its bytes depend on, refusals."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from core.audit.rules import RULES
from core.checkpoints.loading import load_autoencoder, load_checkpoint, load_unet
from core.config.loading import load_config
from core.data.layouts import LayoutPictures
from core.data.manifest import originals, read_manifest, split_by_layout
from core.data.palette import DEFAULT_PALETTE, Palette
from core.generation import draw_layouts as drawing
from core.generation import layout_model
from core.inputs.tensor_files import save_tensors
from core.labels.labelling import judge_latents
from core.models.sampling import CPU_BATCH, sample_latents
from core.records import stage_run
from core.rounds.close_round import close_round
from core.rounds.model_source import find_model
from core.rounds.round import open_round
from core.rounds.run import begin_run
from core.runtime import progress
from core.storage import local_store
from core.storage.opening import open_store
from core.training.prerequisites import with_prerequisites
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator
from tasks.sample import sample
from tests.in_process import content, options, refusal
from tests.processes import killed_at

pytest_plugins = ["tests.storage_servers"]

AUDIT = "audit={pass_share: 0.5, num_steps: 3}"


def draw(prepared, output_dir, **values):
    """What the command prints after drawing 5 layouts of Stage 2 of the tiny experiment, or what `values` say."""
    stage2 = with_prerequisites(load_config(prepared)).diffusion.stage2_checkpoint
    given = {"checkpoint": stage2, "config": prepared, "num_samples": 5, "seed": 3, "num_steps": 2}
    chosen = {name: value for name, value in (given | values).items() if value is not None}
    return run_command(sample, options(output_dir=output_dir, **chosen))


@pytest.fixture(scope="module")
def drawn(prepared, tmp_path_factory):
    """A folder of 5 layouts with everything that may be asked for; tests do not write there."""
    folder = tmp_path_factory.mktemp("drawn") / "layouts of 5"
    printed = draw(prepared, folder, grid=True, audit=True, sets=[AUDIT])
    viable = pd.read_csv(folder / "manifest.csv")["is_viable"].sum()
    assert printed == f"5 layouts, {viable} viable, 0 empty: {folder}"
    return folder


def test_the_files_are_those_that_are_documented(drawn):
    assert {path for path in content(drawn)} == {
        "manifest.csv",
        "metadata.jsonl",
        "__grid__/layouts.png",
        *(f"layouts/{position:05d}.png" for position in range(5)),
    }
    rows = pd.read_csv(drawn / "manifest.csv")
    assert rows.columns.tolist() == [
        *("layout_path", "is_empty", "is_augmented", "position", "seed", "is_viable"),
        *RULES,
    ]
    assert rows["position"].tolist() == [0, 1, 2, 3, 4] and not rows["is_augmented"].any()
    assert rows["seed"].is_unique
    assert set(json.loads((drawn / "stage.json").read_text())["outputs"]) == set(content(drawn))


def test_pictures_and_verdicts_are_those_of_the_seeds_in_the_manifest(drawn, prepared, config):
    judging = config.with_values({"audit": {"pass_share": 0.5, "num_steps": 3}})
    rows = pd.read_csv(drawn / "manifest.csv")
    unet = load_unet(config.diffusion.stage2_checkpoint, config)
    latents = sample_latents(unet, config, rows["seed"].tolist(), 2, 32, "test")
    paths = {"manifest": config.dataset.manifest, "autoencoder": config.autoencoder.checkpoint}
    autoencoder = load_autoencoder(config.autoencoder.checkpoint, config)
    labelled, _ = judge_latents(latents, autoencoder, judging, {name: Path(path) for name, path in paths.items()})
    assert rows["is_viable"].tolist() == labelled.viable.tolist()
    assert rows[list(labelled.rules)].to_numpy().tolist() == labelled.kept.tolist()
    assert not rows[list(labelled.rules)].all(axis=None)  # an untrained model breaks some rule
    expected = autoencoder.decoder(latents).logits.argmax(1).numpy()
    for name, classes in zip(rows["layout_path"], expected, strict=True):
        with Image.open(drawn / name) as picture:
            assert picture.mode == "RGB" and np.array_equal(np.asarray(picture), DEFAULT_PALETTE.rgb[classes])


def test_the_sheet_shows_the_layouts_in_order(drawn):
    sheet = np.asarray(Image.open(drawn / "__grid__/layouts.png"))
    second = np.asarray(Image.open(drawn / "layouts/00001.png"))
    tile = sheet[2:130, 132:260]  # enlarged four times, beside the first
    assert np.array_equal(tile, second.repeat(4, 0).repeat(4, 1))


def test_it_is_a_dataset_of_this_project(drawn, prepared):
    config = load_config(prepared, [f"dataset.manifest={drawn}/manifest.csv"])
    rows = read_manifest(config.dataset.manifest, ["layout_path"], config.dataset)
    assert len(originals(rows)) == 5
    training, held_out = split_by_layout(rows, 0.6, 0)
    assert (len(training), len(held_out)) == (3, 2)
    pictures = LayoutPictures(rows, "layout_path", 32, DEFAULT_PALETTE)
    assert np.array_equal(DEFAULT_PALETTE.classes_from_rgb(pictures.rgb(4)), pictures.batch([4]).classes[0].numpy())


def as_imagefolder(folder):
    """The rows that the datasets library's `imagefolder` reads, by the rules in its source.

    All files below the folder count but hidden ones and those in folders that begin with two underscores. Pictures are
    known by their ending, metadata by one of three names. There must be one kind of metadata, whose rows name the
    pictures by `file_name`, relative to it; versions before 3.4 refuse a picture without a row. Words such as `train`
    or `test` in a name would make splits of the files.
    """
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    seen = [name for name in names if not any(part.startswith((".", "__")) for part in name.parts)]
    metadata = [name for name in seen if name.name in ("metadata.csv", "metadata.jsonl", "metadata.parquet")]
    pictures = {name.as_posix() for name in seen if {".png", ".jpg", ".webp"} & set(name.suffixes)}
    assert [str(name) for name in metadata] == ["metadata.jsonl"]
    words = {"train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation", "data"}
    assert not any(words & set(part.replace("-", ".").replace("_", ".").split(".")) for n in seen for part in n.parts)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().splitlines()]
    forms = {tuple((name, type(value)) for name, value in row.items()) for row in rows}
    assert len(forms) == 1  # a column has one type
    assert all(not name.endswith(("_file_name", "file_names")) for name in rows[0])  # they would be pictures too
    assert [row["file_name"] for row in rows] == sorted(pictures)
    assert all(abs(value) < 2**63 for row in rows for value in row.values() if isinstance(value, int))
    return rows


def test_it_is_an_imagefolder_of_the_datasets_library(drawn):
    read = pd.DataFrame(as_imagefolder(drawn))
    rows = pd.read_csv(drawn / "manifest.csv").rename(columns={"layout_path": "file_name"})
    pd.testing.assert_frame_equal(read, rows)


def test_an_empty_layout_is_marked_so_and_no_config_reads_it(config, prepared, tmp_path, monkeypatch):
    decode = layout_model.decode_maps

    def blank_third(latents, decoder, batch_size):
        maps = decode(latents, decoder, batch_size)
        maps.classes[2] = 9
        return maps

    monkeypatch.setattr(layout_model, "decode_maps", blank_third)
    assert draw(prepared, tmp_path / "out") == f"5 layouts, 1 empty: {tmp_path}/out"
    rows = read_manifest(tmp_path / "out/manifest.csv", ["layout_path"], config.dataset)
    assert rows["position"].tolist() == [0, 1, 3, 4]


@pytest.fixture(scope="module")
def undisturbed(prepared, tmp_path_factory):
    """Content of a folder of 130 layouts, drawn at once."""
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    draw(prepared, folder, num_samples=130, grid=True)
    return content(folder)


@pytest.mark.parametrize("values", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 8}, {"threads": 2}], ids=str)
def test_the_bytes_do_not_depend_on_how_they_are_computed(prepared, undisturbed, tmp_path, monkeypatch, values):
    monkeypatch.setattr(drawing, "_LEAST_PART", 64)
    threads = values.pop("threads", 1)
    try:
        torch.set_num_threads(threads)
        draw(prepared, tmp_path / "out", num_samples=130, grid=True, **values)
    finally:
        torch.set_num_threads(1)
    assert content(tmp_path / "out") == undisturbed


def test_a_layout_depends_on_its_seed_and_position_alone(prepared, undisturbed, tmp_path, monkeypatch):
    decode, decoded = layout_model.decode_maps, []
    monkeypatch.setattr(layout_model, "decode_maps", lambda *given: decoded.append(len(given[0])) or decode(*given))
    draw(prepared, tmp_path / "few")
    draw(prepared, tmp_path / "other", seed=4)
    assert set(decoded) == {CPU_BATCH}  # a smaller batch may round otherwise
    few, other = (content(tmp_path / name) for name in ("few", "other"))
    pictures = [name for name in few if name.startswith("layouts/")]
    assert len(pictures) == 5 and all(few[name] == undisturbed[name] for name in pictures)
    assert all(few[name] != other[name] for name in pictures)


@pytest.mark.parametrize("values", [{"num_steps": 3}, {"sampler": "dpm_solver"}], ids=str)
def test_steps_and_sampler_change_what_is_drawn(prepared, undisturbed, tmp_path, values):
    draw(prepared, tmp_path / "out", **values)
    assert content(tmp_path / "out")["layouts/00000.png"] != undisturbed["layouts/00000.png"]


KILLS = {
    "sampling": (layout_model, "sample_latents", 2),
    "a part's record": (drawing.LatentParts, "add", 3),
    "the pictures": (drawing, "atomic_write", 70),
    "the sheet": (drawing, "save_grid", 1),
    "publishing": (local_store.LocalStore, "_add", 50),
    "the record": (stage_run, "create_record", 1),
    "the end": (stage_run.StoredWorkspace, "drop_states", 1),
}


@pytest.mark.parametrize("at", KILLS)
def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(prepared, undisturbed, tmp_path, monkeypatch, at):
    monkeypatch.setattr(drawing, "_LEAST_PART", 64)
    killed_at(*KILLS[at], lambda: draw(prepared, tmp_path / "out", num_samples=130, grid=True))
    assert (tmp_path / "out/state").exists()
    sampled = []
    monkeypatch.setattr(
        layout_model, "sample_latents", lambda *given: sampled.append(len(given[2])) or sample_latents(*given)
    )
    draw(prepared, tmp_path / "out", num_samples=130, grid=True)
    assert content(tmp_path / "out") == undisturbed
    expected = {"sampling": [64, 2], "a part's record": [2]}
    assert sampled == expected.get(at, [])  # only what was missing


def stop(*_):
    raise KeyboardInterrupt


def test_a_killed_folder_is_not_taken_for_other_settings(prepared, tmp_path, monkeypatch):
    with monkeypatch.context() as stopped, pytest.raises(SystemExit):
        stopped.setattr(Palette, "rgb_from_classes", stop)
        draw(prepared, tmp_path / "out")
    before = content(tmp_path / "out")
    assert any(name.startswith("state/parts/") for name in before)
    assert "holds a drawing made with seed 3, now it is 4" in refusal(draw, prepared, tmp_path / "out", seed=4)
    assert content(tmp_path / "out") == before


def test_a_finished_folder_is_left_as_it_is(prepared, tmp_path, capsys):
    first = draw(prepared, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert draw(prepared, tmp_path / "out", batch_size=7) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert "drawing: already done" in capsys.readouterr().err


def test_without_a_terminal_lines_say_how_long_it_takes(prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drawing, "_LEAST_PART", 64)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    draw(prepared, tmp_path / "out", num_samples=130)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(", about ")[0] for line in lines] == [
        *(f"drawing: {done} of 3 parts" for done in (1, 2)),
        *(f"pictures: {done} of 3 batches" for done in (1, 2)),
    ]
    assert all(line.endswith(" left") for line in lines)


def test_a_bucket_gets_the_same_files(prepared, undisturbed, tmp_path, moto_place):
    output, sets = f"{moto_place.uri}/out", [f"artifacts.cache={tmp_path}/cache"]
    draw(prepared, output, num_samples=130, grid=True, sets=sets)
    store = open_store(output, moto_place.artifacts)
    stored = {file.name: store.read(file.name).data for file in store.files() if file.name != "stage.json"}
    assert stored == undisturbed
    draw(prepared, output, num_samples=130, grid=True, sets=sets)  # already done


@pytest.fixture(scope="module")
def run(shared_experiment):
    """Folder of a run of the tiny experiment whose first two rounds are finished and whose third is begun."""
    config = load_config(shared_experiment, ["rounds.count=3"])
    begin_run(config)
    for number in (1, 2):
        this = open_round(config, number)
        bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
        discriminator = retrain_discriminator.fn(**this.discriminator_options())
        stage3 = continue_stage3.fn(this.config_path, recorded=True, artifacts=config.artifacts)
        close_round(this, bad_latents, discriminator, stage3, {}, 1.0)
    return Path(open_round(config, 3).location).parent


def model(run, number):
    return run / f"round-{number:02d}/stage3/checkpoints/tiny_checkpoint_latest.pt"


@pytest.mark.parametrize(
    ("named", "number"),
    [("round-01", 1), ("round-01/", 1), ("round-01/round.json", 1), ("round-02", 2), ("", 2)],
)
def test_a_round_or_a_run_knows_its_model_and_config(run, named, number):
    found = find_model(f"{run}/{named}")
    assert Path(found.checkpoint) == model(run, number)
    assert found.config.experiment.name == "tiny" and found.config.required("autoencoder.checkpoint")


def test_a_round_is_enough_to_draw(prepared, run, tmp_path):
    draw(prepared, tmp_path / "round", checkpoint=run / "round-02", config=None)
    draw(prepared, tmp_path / "file", checkpoint=model(run, 2))
    assert content(tmp_path / "round") == content(tmp_path / "file")


def test_a_round_in_a_bucket_is_enough_too(prepared, run, tmp_path, moto_place):
    place = moto_place.open().below("round-01")
    files = [path.relative_to(run / "round-01").as_posix() for path in (run / "round-01").rglob("*") if path.is_file()]
    place.upload(run / "round-01", files)
    sets = [f"artifacts.cache={tmp_path}/cache"]
    draw(prepared, tmp_path / "there", checkpoint=place.uri, config=None, sets=sets)
    draw(prepared, tmp_path / "here", checkpoint=run / "round-01", config=None)
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_a_strength_draws_between_a_start_and_the_checkpoint(prepared, run, config, tmp_path):
    end = run / "round-02"
    draw(prepared, tmp_path / "end", checkpoint=end, config=None)
    draw(prepared, tmp_path / "start", checkpoint=run / "round-01", config=None)
    draw(prepared, tmp_path / "at 1", checkpoint=end, config=None, strength=1)  # from the config's Stage 2
    draw(prepared, tmp_path / "at 0", checkpoint=end, config=None, start=run / "round-01", strength=0)
    assert content(tmp_path / "at 1") == content(tmp_path / "end")
    assert content(tmp_path / "at 0") == content(tmp_path / "start")
    said = refusal(draw, prepared, tmp_path / "at 1", checkpoint=end, config=None)
    assert "made with strength 1.0, now it is None" in said


def test_another_autoencoder_than_the_round_s_is_refused(prepared, run, config, tmp_path):
    made = load_checkpoint(config.autoencoder.checkpoint, "checkpoint")
    moved = {name: value + 1 for name, value in made["state_dict"].items()}
    save_tensors(made | {"state_dict": moved}, tmp_path / "other.pt")
    sets = [f"autoencoder.checkpoint={tmp_path}/other.pt"]
    said = refusal(draw, prepared, tmp_path / "out", checkpoint=run / "round-01", config=None, sets=sets)
    assert "was made with the autoencoder" in said and "would draw something else" in said
    assert not (tmp_path / "out").exists()


@pytest.fixture
def bad(prepared, run, config, tmp_path):
    """Files and folders that are no model, by name."""
    folder = tmp_path / "bad"
    folder.mkdir()
    made = load_checkpoint(config.diffusion.stage2_checkpoint, "checkpoint")
    smaller = {name: value[:1] for name, value in made["state_dict"].items()}
    save_tensors(made | {"state_dict": smaller}, folder / "smaller.pt")
    (folder / "text.pt").write_text("no model")
    (folder / "empty").mkdir()
    return folder


REFUSED = {
    "no layouts": ({"num_samples": 0}, ["--num_samples 0: it must be greater than 0"]),
    "less than none": ({"num_samples": -1}, ["--num_samples -1: it must be greater than 0"]),
    "a seed below 0": ({"seed": -1}, ["--seed -1: it must be greater than or equal to 0"]),
    "no such sampler": ({"sampler": "euler"}, ["--sampler", "euler", "ddim", "dpm_solver"]),
    "more steps than there are": ({"num_steps": 101}, ["--num_steps 101", "scheduler.num_steps 100"]),
    "no such file": ({"checkpoint": "{bad}/none.pt"}, ["--checkpoint", "none.pt does not exist"]),
    "no model": ({"checkpoint": "{bad}/text.pt"}, ["text.pt"]),
    "a model of another size": ({"checkpoint": "{bad}/smaller.pt"}, ["smaller.pt has another architecture"]),
    "a file without its config": ({"config": None}, ["--checkpoint", "give --config CONFIG too"]),
    "a folder without a round": ({"checkpoint": "{bad}/empty"}, ["bad/empty holds no finished round"]),
    "a round that is not there": ({"checkpoint": "{run}/round-07", "config": None}, ["round-07 does not exist"]),
    "a round that is not finished": ({"checkpoint": "{run}/round-03", "config": None}, ["holds no finished round"]),
    "its record": ({"checkpoint": "{run}/round-03/round.json", "config": None}, ["holds no finished round"]),
    "a start without a strength": ({"start": "{bad}/text.pt"}, ["--start goes with --strength"]),
    "a start that is not there": ({"strength": 1, "start": "{bad}/none.pt"}, ["--start", "none.pt does not exist"]),
    "too strong": ({"strength": 2.5, "start": "{bad}/text.pt"}, ["--strength 2.5: it must be less than or equal to 2"]),
    "an audit without its section": ({"audit": True}, ["audit is missing: set it in the config"]),
    "no real layouts to judge by": (
        {
            "checkpoint": "{run}/round-01",
            "config": None,
            "audit": True,
            "sets": [AUDIT, "dataset.filters={num_rooms: 9}"],
        },
        ["no row is left after dataset.filters"],
    ),
}


@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_line_and_nothing_is_written(prepared, run, bad, tmp_path, given):
    values, words = REFUSED[given]
    filled = {n: v.format(bad=bad, run=run) if isinstance(v, str) else v for n, v in values.items()}
    before = {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *run.rglob("*"))}
    line = refusal(draw, prepared, tmp_path / "out", **filled)
    assert line.startswith("error: ") and all(word in line for word in words), line
    assert {path: path.stat().st_mtime_ns for path in (*tmp_path.rglob("*"), *run.rglob("*"))} == before


@pytest.mark.parametrize("name", ["notes.txt", "layouts/00000.png", "manifest.csv", "state/mine.pt", "stage.json"])
def test_a_folder_with_other_files_is_refused_by_name(prepared, tmp_path, name):
    mine = tmp_path / "out" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert name in refusal(draw, prepared, tmp_path / "out")
    assert content(tmp_path) == ({} if name == "stage.json" else {f"out/{name}": b"mine"}) and mine.exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": 4}, "seed 3, now it is 4"),
        ({"num_samples": 6}, "num_samples 5, now it is 6"),
        ({"num_steps": 3}, "num_steps 2, now it is 3"),
        ({"sampler": "dpm_solver"}, "sampler ddim, now it is dpm_solver"),
        ({"grid": None}, "grid True, now it is False"),
        ({"audit": None}, "audited True, now it is False"),
        ({"sets": ["audit={pass_share: 0.6}"]}, "audit.pass_share 0.5, now it is 0.6"),
    ],
    ids=str,
)
def test_a_folder_of_other_settings_is_refused_by_name(prepared, drawn, values, words):
    given = {"grid": True, "audit": True, "sets": [AUDIT]} | values
    before = content(drawn)
    said = refusal(draw, prepared, drawn, **given)
    assert words in said and str(drawn) in said and content(drawn) == before


def test_a_moved_folder_is_still_a_dataset(drawn, config, tmp_path):
    shutil.copytree(drawn, tmp_path / "moved")
    rows = read_manifest(tmp_path / "moved/manifest.csv", ["layout_path"], config.dataset)
    assert all(path.startswith(str(tmp_path / "moved")) and Path(path).is_file() for path in rows["layout_path"])
    assert len(as_imagefolder(tmp_path / "moved")) == 5
