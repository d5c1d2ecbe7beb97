"""Runs, prerequisites, caches and tables take no folder over that holds something else."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.config.loading import load_config
from core.records.created_files import CreatedFiles
from core.reports.comparison import require_free_results
from core.rounds.run import begin_run, hold_run
from core.runtime.errors import InputError, LeaseError
from core.storage.download_cache import DownloadCache
from core.training.prerequisites import hold_prerequisites
from tests.records.user_files import content, files_below, put


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


def test_a_run_that_another_process_begins_meanwhile_is_ours(prepared, tmp_path):
    with ThreadPoolExecutor(4) as pool:  # three look at the folder while its record is written
        for number in range(20):
            config = load_config(prepared, [f"artifacts.root={tmp_path}", f"experiment.name=run{number}"])
            for each in [pool.submit(begin_run, config), *(pool.submit(_look_at, config) for _ in range(3))]:
                each.result()


def _look_at(config):
    for _ in range(5):
        with contextlib.suppress(LeaseError), hold_run(config):
            pass


def test_our_run_continues_with_notes_of_the_user_in_it(prepared, tmp_path):
    config = load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    with hold_run(config):
        begin_run(config)
    mine = put(tmp_path / "root/tiny/notes.txt")
    with hold_run(config):
        begin_run(config)
    assert content(*mine) == mine


def test_a_folder_called_prerequisites_is_not_taken_over(prepared, tmp_path):
    mine = put(tmp_path / "root/prerequisites/src/main.py")
    config = load_config(prepared, [f"artifacts.root={tmp_path / 'root'}"])
    said = r"prerequisites holds src/main.py, which .* choose another artifacts.root"
    with pytest.raises(InputError, match=said), hold_prerequisites(config):
        pytest.fail("it took the folder over")
    assert files_below(tmp_path / "root") == mine.keys()


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
