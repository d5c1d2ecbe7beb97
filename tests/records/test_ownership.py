"""A stage keeps every file in its output folder that no record names."""

from pathlib import Path

import pytest

from core.records.stage_run import run_stage
from core.runtime.errors import InputError
from core.runtime.files import atomic_write
from core.runtime.scratch import open_locked
from core.storage.store import ArtifactsSection
from tests.records.user_files import content, files_below, put, work


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
