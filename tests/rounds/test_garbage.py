"""Garbage is what crashes left; a file of the user is never garbage."""

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.config.loading import load_config
from core.records.artifacts import run_location
from core.records.ownership import OwnFiles
from core.records.record_files import read_record
from core.records.stage_run import run_stage
from core.rounds.garbage import find_garbage, remove_garbage
from core.rounds.run import begin_run, hold_run
from core.runtime.scratch import open_locked, scratch_folder
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
from flows.collect_garbage import collect_garbage
from tasks.command_line import run_command
from tests.records.user_files import content, files_below, put, work


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
