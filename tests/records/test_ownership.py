"""Files of the user are never removed or overwritten, only files that one of our records names."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config.loading import load_config
from core.inputs.tensor_files import save_tensors
from core.models.discriminator import LatentDiscriminator
from core.records.artifacts import run_location
from core.records.created_files import CreatedFiles
from core.records.ownership import OwnFiles
from core.records.record_files import read_record
from core.records.stage_run import run_stage
from core.rounds.comparison import require_free_results
from core.rounds.garbage import find_garbage, remove_garbage
from core.rounds.run import begin_run, hold_run
from core.runtime.errors import InputError, LeaseError
from core.runtime.files import atomic_write
from core.runtime.scratch import locked_folder, open_locked, scratch_folder
from core.storage.download_cache import DownloadCache
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from core.training.prerequisites import hold_prerequisites
from flows.collect_garbage import collect_garbage
from tasks.command_line import run_command
from tasks.continue_stage3 import continue_stage3

LONG_AGO = time.time() - 3 * 24 * 3600


@pytest.fixture(scope="module")
def discriminator(tmp_path_factory) -> Path:
    path, sizes = tmp_path_factory.mktemp("discriminator") / "best.pt", {"latent_channels": 4, "latent_size": 8}
    save_tensors({"state_dict": LatentDiscriminator(**sizes).state_dict(), "config": sizes}, path)
    return path


@pytest.fixture
def train(prepared, discriminator, tmp_path):
    """Run the command continue-stage-3 into `folder`, with settings."""

    def run(folder: Path, *arguments: str, **values: object) -> None:
        values = {
            "experiment.save_path": folder,
            "discriminator.checkpoint": discriminator,
            "discriminator.trajectories.num_samples": 2,
            "rounds.bad_latents.num_steps": 2,
            "rounds.viability_samples": 2,
            "training.epochs": 1,
        } | values
        flags = [f"--set={key}={value}" for key, value in values.items()]
        run_command(continue_stage3.fn, [str(prepared), *arguments, *flags])

    return run


def put(*paths: Path) -> dict[Path, bytes]:
    """Files of the user that are days old."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine: " + path.name.encode())
        os.utime(path, (LONG_AGO, LONG_AGO))
    return content(*paths)


def content(*paths: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in paths}


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


# --- Stage 3 outside of a round


@pytest.mark.parametrize("name", ["checkpoints/stage2_best.pt", "samples/mine.png", "notes.txt", ".hidden"])
def test_a_save_path_that_holds_anything_else_is_refused_by_name(train, tmp_path, capsys, name):
    before = put(tmp_path / "out" / name)
    with pytest.raises(SystemExit) as left:
        train(tmp_path / "out")
    assert left.value.code == 2
    problem = f"error: {tmp_path / 'out'} holds {name}, which another program made, or whose record is missing: "
    remedy = "choose another experiment.save_path, or move the files there away\n"
    assert capsys.readouterr().err.endswith(problem + remedy)
    assert files_below(tmp_path / "out") == before.keys() and content(*before) == before


def test_a_folder_of_another_experiment_is_refused(train, tmp_path, capsys):
    train(tmp_path / "out")
    before = content(*files_below(tmp_path / "out"))
    with pytest.raises(SystemExit):
        train(tmp_path / "out", **{"experiment.name": "other"})
    assert "holds tiny_metrics.csv, which" in capsys.readouterr().err
    assert content(*files_below(tmp_path / "out")) == before


def test_no_resume_removes_only_files_of_the_training(train, tmp_path):
    folder = tmp_path / "out"
    train(folder, **{"training.epochs": 2, "training.save_interval": 2})
    kept = folder / "checkpoints/tiny_checkpoint_epoch_002.pt"
    mine = put(folder / "checkpoints/tiny_checkpoint_best_kept.pt", folder / "samples/mine.png", folder / "notes.txt")
    assert kept.exists()
    train(folder, "--no-resume")
    assert not kept.exists() and content(*mine) == mine
    history = torch.load(folder / "checkpoints/tiny_checkpoint_latest.pt", weights_only=True)["training_history"]
    assert [row["epoch"] for row in history] == [1]


def test_no_resume_that_fails_at_its_start_removes_nothing(train, tmp_path, capsys):
    train(tmp_path / "out")
    before = content(*files_below(tmp_path / "out"))
    with pytest.raises(SystemExit):
        train(tmp_path / "out", "--no-resume", **{"discriminator.checkpoint": tmp_path / "missing.pt"})
    assert "missing.pt does not exist" in capsys.readouterr().err
    assert content(*files_below(tmp_path / "out")) == before


def test_a_training_without_its_latest_checkpoint_is_not_restarted_unasked(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder, **{"training.epochs": 2})
    (folder / "checkpoints/tiny_checkpoint_latest.pt").rename(tmp_path / "moved.pt")
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder)
    said = "tiny_checkpoint_best.pt is of epoch 2, and there is no tiny_checkpoint_latest.pt beside it to resume from"
    assert said in capsys.readouterr().err
    assert content(*files_below(folder)) == before
    train(folder, "--no-resume")
    assert (folder / "checkpoints/tiny_checkpoint_latest.pt").exists()


def test_a_restart_removes_no_input_of_the_training(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder)
    best = folder / "checkpoints/tiny_checkpoint_best.pt"
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder, "--no-resume", **{"diffusion.stage2_checkpoint": best})
    said = f"diffusion.stage2_checkpoint {best} is a file that a new start removes: move it, or choose another "
    assert said in capsys.readouterr().err
    assert content(*files_below(folder)) == before


def test_a_training_of_an_earlier_version_is_continued_but_not_replaced(train, tmp_path, capsys):
    folder = tmp_path / "out"
    train(folder)
    (folder / "made.json").unlink()  # earlier versions kept none
    before = content(*files_below(folder))
    with pytest.raises(SystemExit):
        train(folder, "--no-resume")
    assert "which another program made" in capsys.readouterr().err
    assert content(*files_below(folder)) == before
    train(folder, **{"training.epochs": 2})
    latest = torch.load(folder / "checkpoints/tiny_checkpoint_latest.pt", weights_only=True)
    assert latest["epoch"] == 2


def test_a_folder_that_another_process_trains_in_is_left_alone(train, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    with locked_folder(tmp_path / "out"), pytest.raises(SystemExit) as left:
        train(tmp_path / "out")
    assert left.value.code == LeaseError.exit_status
    assert "is being trained in by another process" in capsys.readouterr().err
    assert not files_below(tmp_path / "out")


def test_checkpoints_may_be_on_another_disk(train, tmp_path):
    folder, disk = tmp_path / "out", tmp_path / "disk"
    folder.mkdir()
    disk.mkdir()
    (folder / "checkpoints").symlink_to(disk)
    train(folder, **{"training.epochs": 2, "training.save_interval": 2})
    kept, mine = disk / "tiny_checkpoint_epoch_002.pt", put(disk / "mine.pt")
    assert kept.exists()
    train(folder, "--no-resume")
    assert not kept.exists() and content(*mine) == mine


def test_foreign_checkpoints_on_another_disk_are_not_overwritten(train, tmp_path, capsys):
    mine = put(tmp_path / "disk/tiny_checkpoint_best.pt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").symlink_to(tmp_path / "disk")
    with pytest.raises(SystemExit):
        train(tmp_path / "out")
    assert "out holds checkpoints/tiny_checkpoint_best.pt, which" in capsys.readouterr().err
    assert content(*mine) == mine and files_below(tmp_path / "disk") == mine.keys()


def test_a_folder_that_the_file_system_makes_is_ignored(train, tmp_path):
    put(tmp_path / "out/.nfs000000000a1b2c3d00000001")
    (tmp_path / "out/lost+found").mkdir()
    train(tmp_path / "out")
    (tmp_path / "cache/lost+found").mkdir(parents=True)
    DownloadCache(tmp_path / "cache", 1)


def test_a_made_json_of_another_tool_is_refused(train, tmp_path, capsys):
    before = put(tmp_path / "out/made.json")
    with pytest.raises(SystemExit):
        train(tmp_path / "out")
    assert "holds made.json, which" in capsys.readouterr().err
    assert content(*before) == before


# --- partial files


def test_partial_files_of_a_dead_process_are_removed_by_the_next_write(tmp_path):
    left, others = (
        tmp_path / ".a.json.4711.partial",
        put(tmp_path / ".b.json.4711.partial", tmp_path / ".a.json.partial"),
    )
    left.write_bytes(b"half")
    with open_locked(tmp_path / ".a.json.4712.partial"):
        with atomic_write(tmp_path / "a.json") as file:
            file.write(b"whole")
        assert (tmp_path / ".a.json.4712.partial").exists(), "a process that lives writes it"
    assert not left.exists() and content(*others) == others


# --- output folders of stages


def work(workspace, _) -> dict[str, int]:
    for name in ("a.txt", "folder/b.txt"):
        (workspace.folder / name).parent.mkdir(exist_ok=True)
        (workspace.folder / name).write_text("made")
    return {}


@pytest.mark.parametrize(
    "name",
    [
        "a.txt",
        "folder/mine.txt",
        "state/mine.pt",
        "state/000001.json",
        "state/000001-000002/mine.jpg",
        ".mine.jpg.4711.partial",
        "lease.json",
    ],
)
def test_an_output_folder_that_holds_anything_else_is_refused_before_any_work(tmp_path, name):
    before = put(tmp_path / "out" / name)
    with pytest.raises(
        InputError,
        match=rf"out holds {name}, which another program made, or whose record is missing: choose another folder",
    ):
        run_stage("stage", tmp_path / "out", {}, {}, lambda *_: pytest.fail("it began to work"))
    assert files_below(tmp_path / "out") == before.keys() and content(*before) == before


@pytest.mark.parametrize("name", ["a.txt", "folder"])
def test_files_behind_links_in_an_output_folder_are_not_overwritten(tmp_path, name):
    mine = put(tmp_path / "mine/b.txt")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / ("mine/b.txt" if name == "a.txt" else "mine"))
    with pytest.raises(InputError, match=rf"out holds {name}[^,]*, which"):
        run_stage("stage", tmp_path / "out", {}, {}, lambda *_: pytest.fail("it began to work"))
    assert content(*mine) == mine


def test_an_output_folder_may_be_a_link_and_hold_a_link_to_itself(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/self").symlink_to(tmp_path / "disk")
    run_stage("stage", tmp_path / "out", {}, {}, work)
    assert (tmp_path / "disk/stage.json").exists()


def test_a_stage_whose_first_state_is_incomplete_runs_again(tmp_path, monkeypatch):
    def dies(workspace, _):
        workspace.keep("latest.pt", lambda: {"epoch": 1}, "epoch 1")
        workspace.settle()

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr("core.storage.local_store.LocalStore.create", _create_but_no_state)
        run_stage("stage", tmp_path / "out", {}, {}, dies, ArtifactsSection(state_minutes=0))
    assert list((tmp_path / "out/state").glob("000000-000001/*"))
    run_stage("stage", tmp_path / "out", {}, {}, work)


def _create_but_no_state(store, name, data):
    if name != "publishing.json":
        raise RuntimeError("the machine died")
    path = Path(store.uri) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return True


def test_the_second_of_two_processes_at_one_stage_is_refused(tmp_path):
    def slow_work(workspace, paths):
        run_stage("stage", tmp_path / "out", {}, {}, work)
        return work(workspace, paths)

    with pytest.raises(InputError, match=r"stage.json was written by another process meanwhile"):
        run_stage("stage", tmp_path / "out", {}, {}, slow_work)


def test_a_folder_with_other_artefacts_of_ours_is_refused(tmp_path):
    run_stage("stage", tmp_path / "root/one", {}, {}, work)
    with pytest.raises(InputError, match=r"root holds one/a.txt, which"):
        run_stage("stage", tmp_path / "root", {}, {}, work)


def test_a_file_that_appears_in_place_of_an_output_stays(tmp_path):
    def slow_work(workspace, paths):
        put(tmp_path / "out/a.txt")
        return work(workspace, paths)

    with pytest.raises(InputError, match=r"out holds a.txt, which"):
        run_stage("stage", tmp_path / "out", {}, {}, slow_work)
    assert (tmp_path / "out/a.txt").read_bytes() == b"mine: a.txt"
    assert not (tmp_path / "out/stage.json").exists()


def test_a_stage_that_died_while_publishing_runs_again_in_its_folder(tmp_path, monkeypatch):
    from core.records import stage_run

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(stage_run, "create_record", lambda *_: (_ for _ in ()).throw(RuntimeError("the machine died")))
        run_stage("stage", tmp_path / "out", {}, {}, work)
    assert (tmp_path / "out/folder/b.txt").exists()
    run_stage("stage", tmp_path / "out", {}, {}, work)
    assert {path.relative_to(tmp_path / "out").as_posix() for path in files_below(tmp_path / "out")} == {
        "a.txt",
        "folder/b.txt",
        "stage.json",
    }


# --- runs and prerequisites


def test_a_run_does_not_start_in_a_folder_with_other_files(prepared, tmp_path, monkeypatch):
    mine = put(tmp_path / "core/config.py", tmp_path / "core/models/unet.py")
    monkeypatch.chdir(tmp_path)
    config = load_config(prepared, ["artifacts.root=.", "experiment.name=core"])
    said = r"core holds config.py, which another program made.* choose another experiment.name or artifacts.root"
    with pytest.raises(InputError, match=said), hold_run(config):
        pytest.fail("it took the folder over")
    with pytest.raises(InputError, match=said):
        begin_run(config)
    assert files_below(tmp_path) == mine.keys() and content(*mine) == mine


def test_a_run_json_of_another_tool_is_not_our_run(prepared, tmp_path):
    (tmp_path / "root/tiny").mkdir(parents=True)
    (tmp_path / "root/tiny/run.json").write_text('{"id": 7}')
    config = load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    put(tmp_path / "root/tiny/config.yaml")
    with pytest.raises(InputError, match=r"tiny holds run.json, which"), hold_run(config):
        pytest.fail("it took the folder over")


def test_our_run_continues_with_notes_of_the_user_in_it(prepared, tmp_path):
    config = load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    with hold_run(config):
        begin_run(config)
    mine = put(tmp_path / "root/tiny/notes.txt")
    with hold_run(config):
        begin_run(config)
    assert content(*mine) == mine


def test_a_run_starts_beside_a_stage3_outside_of_it(train, prepared, tmp_path):
    root, config = tmp_path / "root", load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    train(root / "tiny/stage3")
    train(root / "tiny/by-hand")
    (root / "tiny/stage3/made.json").unlink()  # of an earlier version
    before = content(*files_below(root))
    for path in before:
        os.utime(path, (LONG_AGO, LONG_AGO))
    with hold_run(config):
        begin_run(config)
    run_command(collect_garbage, [str(root), "--delete"])
    assert content(*before) == before


def test_a_folder_called_prerequisites_is_not_taken_over(prepared, tmp_path):
    mine = put(tmp_path / "root/prerequisites/src/main.py")
    config = load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    said = r"prerequisites holds src/main.py, which .* choose another artifacts.root"
    with pytest.raises(InputError, match=said), hold_prerequisites(config):
        pytest.fail("it took the folder over")
    assert files_below(tmp_path / "root") == mine.keys()


# --- garbage


@pytest.fixture(scope="module")
def finished(prepared, tmp_path_factory) -> Path:
    """A root with finished prerequisites and a run that was started; each test copies it."""
    root = tmp_path_factory.mktemp("finished")
    shutil.copytree(prepared.parent / "artifacts/prerequisites", root / "prerequisites")
    config = load_config(prepared, [f"artifacts.root={root}"])
    with hold_run(config):
        begin_run(config)
    run_stage("stage", f"{run_location(config)}/round-01/stage3", {}, {}, work)
    return root


def test_a_file_of_the_user_in_our_folders_is_not_garbage(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    folders = [path for path in root.rglob("*") if path.is_dir()]
    names = ["mine.pt", "latest.pt", ".hidden", "x.partial", ".scratch-mine", "checkpoint.json", "state/mine.pt"]
    mine = put(*(folder / name for folder in folders for name in names))
    run_command(collect_garbage, [str(root), "--delete", "--grace_hours", "0"])
    assert content(*mine) == mine


def test_folders_of_the_user_with_our_names_are_not_garbage(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    names = ["frames/state/000001-000002/1.png", "state/000001-000001/a.pt", "round-01/mine/state/000001-000001/a.pt"]
    mine = put(*(root / "tiny" / name for name in [*names, "photos/.a.jpg.4711.partial"]))
    remove_garbage(f"{root}/tiny", 0, ArtifactsSection())
    assert content(*mine) == mine


def test_a_pipe_where_scratch_folders_have_their_owner_is_not_waited_for(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    mine = put(root / "tiny/.scratch-4711-0123abcd/a.pt")
    os.mkfifo(root / "tiny/.scratch-4711-0123abcd/.owner")
    assert not remove_garbage(f"{root}/tiny", 0, ArtifactsSection()).files
    assert content(*mine) == mine


PARTS = st.sampled_from(
    ["round-01", "stage3", "state", "parts", "000001-000001", "checkpoints", "prerequisites", "latents", "mine"]
)
NAMES = st.sampled_from(
    [
        "000001-000001.json",
        "tiny_checkpoint_latest.pt",
        "stage.json",
        "run.json",
        "made.json",
        "lease.json",
        "config.yaml",
    ]
) | st.from_regex(r"[a-z0-9_.-]{1,20}", fullmatch=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(folders=st.lists(PARTS, max_size=4), name=NAMES)
def test_in_a_folder_without_records_only_temporary_names_are_ours(tmp_path_factory, folders, name):
    root = tmp_path_factory.mktemp("any")
    path = "/".join([*folders, name])
    put(root / path) if name not in (".", "..") else None
    found = OwnFiles(open_store(root, ArtifactsSection())).find(path)
    scratch = "state" in folders or name.endswith(".partial")
    assert found is None or scratch


def test_temporary_files_are_garbage_unless_their_process_lives(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    stage = root / "tiny/round-01/bad_latents"
    dead = put(stage / ".scratch-4711-0123abcd/.owner", stage / ".scratch-4711-0123abcd/a.pt")
    dead |= put(root / "tiny/.report.html.0123456789abcdef.partial")
    with scratch_folder(stage.parent / "discriminator") as living:
        (living / "a.pt").write_bytes(b"at work")
        with open_locked(root / "tiny/.round.json.0123456789abcdef.partial"):
            found = {
                file.name: file.why
                for garbage in find_garbage(str(root), 0, ArtifactsSection())
                for file in garbage.files
            }
    assert {f"{root}/tiny/{name}" for name in found} == {str(path) for path in dead}
    assert set(found.values()) == {
        "temporary folder of a process that has ended",
        "partial file of a process that has ended",
    }


def test_states_of_a_running_stage_are_kept(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    stage = root / "tiny/round-02/stage3"
    put(stage / "state/000001-000001/a.pt")
    with scratch_folder(stage):
        assert not [file for garbage in find_garbage(str(root), 0, ArtifactsSection()) for file in garbage.files]
    assert [file.why for garbage in find_garbage(str(root), 0, ArtifactsSection()) for file in garbage.files]


def test_a_run_whose_lease_cannot_be_read_is_named_after_the_garbage_of_the_others(finished, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    shutil.copytree(root / "tiny", root / "other")
    (root / "other/lease.json").write_text("{}")
    left = put(root / "tiny/round-01/stage3/state/000001-000001.json")
    with pytest.raises(SystemExit) as stop:
        run_command(collect_garbage, [str(root), "--delete"])
    assert stop.value.code == 2 and not files_below(root) & left.keys()
    assert f"{root}/other/lease.json" in capsys.readouterr().err.splitlines()[-1]


def test_a_record_names_only_files_below_its_folder(finished, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    mine = put(root / "tiny/mine.pt")
    record = root / "tiny/round-01/stage3/stage.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"outputs": {"../../mine.pt": {}}}))
    remove_garbage(f"{root}/tiny", 0, ArtifactsSection())
    assert content(*mine) == mine


def test_the_list_says_why_and_nothing_is_removed_without_delete(finished, tmp_path, capsys):
    root = tmp_path / "root"
    shutil.copytree(finished, root)
    left = put(root / "tiny/round-01/stage3/state/000001-000001.json")
    run_command(collect_garbage, [str(root)])
    assert "1 files" in capsys.readouterr().out and content(*left) == left
    run_command(collect_garbage, [str(root), "--delete"])
    assert "000001-000001.json  " in (out := capsys.readouterr().out) and "state of a finished stage" in out
    assert not files_below(root) & left.keys()
    assert read_record(open_store(root / "tiny/round-01/stage3", ArtifactsSection()), "stage.json") is not None


@pytest.mark.parametrize("hours", ["-1", "nan"])
def test_a_grace_period_that_means_nothing_is_refused(finished, capsys, hours):
    with pytest.raises(SystemExit) as left:
        run_command(collect_garbage, [str(finished), f"--grace_hours={hours}"])
    assert left.value.code == 2 and "--grace_hours" in capsys.readouterr().err


# --- other folders of the user


def test_a_cache_in_a_folder_with_other_files_is_refused(tmp_path):
    mine = put(tmp_path / "cache/photo.jpg")
    with pytest.raises(InputError, match=r"cache holds photo.jpg, which .* choose another artifacts.cache"):
        DownloadCache(tmp_path / "cache", 0)
    assert files_below(tmp_path) == mine.keys()


def test_a_full_cache_removes_only_downloads(tmp_path):
    cache, digest = DownloadCache(tmp_path / "cache", 0), "ab" * 32
    mine = put(tmp_path / "cache/sha256/ab/mine.pt", tmp_path / "cache/sha256/x/y", tmp_path / "cache/notes.txt")
    (download,) = put(tmp_path / "cache/sha256/ab" / digest)
    DownloadCache(tmp_path / "cache", 0).trim()  # it was tagged when it was empty
    cache.trim()
    assert not download.exists() and content(*mine) == mine


def test_results_do_not_overwrite_files_of_the_same_name(prepared, tmp_path):
    config = load_config(prepared)
    mine = put(tmp_path / "tiny.csv")
    with pytest.raises(InputError, match=r"holds tiny.csv, which .* choose another --output_dir"):
        require_free_results(config, str(tmp_path))
    with pytest.raises(InputError, match=r"holds tiny.csv, which"):
        CreatedFiles(tmp_path).declare(["tiny.csv"], "--output_dir")
    assert files_below(tmp_path) == mine.keys()
    CreatedFiles(tmp_path).declare(["other.csv"], "--output_dir")
    (tmp_path / "other.csv").write_text("made")
    CreatedFiles(tmp_path).declare(["other.csv"], "--output_dir")  # ours, so it may be made again
