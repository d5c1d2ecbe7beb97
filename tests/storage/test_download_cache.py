"""The cache of downloads."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.runtime.errors import InputError
from core.storage.download_cache import DownloadCache
from tests.storage.entries import entry_of, written
from tests.storage.faults import counted

pytest_plugins = ["tests.storage_servers"]


def test_a_corrupt_download_is_fetched_again_from_an_intact_store(moto_place, tmp_path):
    store = moto_place.open()
    entries = written(tmp_path / "made", {"a.pt": b"weights"})
    store.upload(tmp_path / "made", entries)
    digest = entries["a.pt"]["sha256"]
    view = store.fetch(entries)
    cached = tmp_path / "cache" / "sha256" / digest[:2] / digest
    assert cached.samefile(view / "a.pt")
    cached.chmod(0o644)
    cached.write_bytes(b"Weights")
    assert (store.fetch(entries) / "a.pt").read_bytes() == b"weights"
    assert cached.read_bytes() == b"weights"


def test_a_corrupt_object_is_named_after_it_was_fetched_twice(moto_place):
    store = moto_place.open()
    moto_place.overwrite("a.pt", b"Weights")
    with counted("GetObject") as requests, pytest.raises(InputError, match=r"some run/a\.pt is altered"):
        store.fetch({"a.pt": entry_of(b"weights")})
    assert len(requests) == 2


def test_a_later_fetch_extends_the_same_folder(moto_place, tmp_path):
    store = moto_place.open()
    entries = written(tmp_path / "made", {"a": b"a", "b": b"b", "c/d": b"d"})
    store.upload(tmp_path / "made", entries)
    first = store.fetch({"a": entries["a"]})
    second = moto_place.open().fetch({"b": entries["b"], "c/d": entries["c/d"]})
    assert first == second
    assert sorted(path.name for path in first.rglob("*") if path.is_file()) == ["a", "b", "d"]
    with counted("GetObject") as requests:
        below = store.below("c").fetch({"d": entries["c/d"]})
    assert (below / "d").read_bytes() == b"d"
    assert below != first
    assert requests == []


def test_the_least_recently_used_downloads_are_removed_first(tmp_path):
    cache = DownloadCache(tmp_path / "cache", 250)
    contents = {name: name.encode() * 100 for name in "abc"}
    downloads = []

    def fetch(name):
        def download(path):
            downloads.append(name)
            path.write_bytes(contents[name])
            return entry_of(contents[name])

        assert cache.link(entry_of(contents[name]), tmp_path / "view" / name, download) == entry_of(contents[name])
        time.sleep(0.02)

    for name in "abac":
        fetch(name)
    cache.trim()
    assert {name: (tmp_path / "view" / name).read_bytes() for name in "abc"} == contents
    assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("sha256/*/*")) == 200
    for name in "acb":
        fetch(name)
    assert downloads == ["a", "b", "c", "b"]


def test_a_file_with_another_ending_is_not_the_caches(tmp_path):
    cache = DownloadCache(tmp_path / "cache", 0)
    other = tmp_path / "cache" / "sha256" / "ab" / f"{'ab' * 32}.bak"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"of the user")
    cache.trim()
    assert other.read_bytes() == b"of the user"


def test_threads_download_the_same_content_once(tmp_path):
    cache = DownloadCache(tmp_path / "cache", 1000)
    downloads = []

    def download(path):
        downloads.append(path)
        time.sleep(0.1)
        path.write_bytes(b"x")
        return entry_of(b"x")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: cache.link(entry_of(b"x"), tmp_path / f"view/{number}", download), range(4)))
    assert len(downloads) == 1


FETCH = """
import os, sys
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection
store = open_store(sys.argv[1], ArtifactsSection(endpoint_url=sys.argv[2], cache=sys.argv[3]))
print(store.fetch({"a": {"size": 1, "sha256": sys.argv[4]}}), flush=True)
if sys.argv[5] == "killed":
    os.kill(os.getpid(), 9)
"""


def test_files_that_a_process_fetched_are_removed_when_it_ends(radosgw_place, tmp_path):
    radosgw_place.overwrite("a", b"a")
    cache, digest = tmp_path / "cache", entry_of(b"a")["sha256"]
    arguments = [radosgw_place.uri, radosgw_place.artifacts.endpoint_url, str(cache), digest]

    def fetch(end):
        command = [sys.executable, "-c", FETCH, *arguments, end]
        return Path(subprocess.run(command, capture_output=True, text=True, check=end == "ended").stdout.strip())

    killed = fetch("killed")
    assert (killed / "a").read_bytes() == b"a"
    assert not fetch("ended").exists()
    assert not killed.exists()
    assert (cache / "sha256" / digest[:2] / digest).exists()
