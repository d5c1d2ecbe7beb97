"""The contract of every store, on a folder, on moto and on a real server, and the rest of the S3 store."""

import contextlib
import functools
import hashlib
import itertools
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError, ResponseStreamingError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from moto.core.botocore_stubber import BotocoreStubber, MockRawResponse

from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.download_cache import DownloadCache
from core.storage.opening import open_store
from core.storage.ordered_hash import HashedFile
from core.storage.s3 import listing, retries, transfer
from core.storage.store import ArtifactsSection, artifacts_of_options

pytest_plugins = ["tests.storage_servers"]


def entry_of(data: bytes) -> Entry:
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def written(folder: Path, files: dict[str, bytes]) -> dict[str, Entry]:
    """Write the files; their entries, as in records."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return {name: entry_of(data) for name, data in files.items()}


class Refused(Exception):
    """Raised by the write checks of these tests."""


@contextlib.contextmanager
def refusing():
    raise Refused
    yield


class CountingCheck:
    """A write check that allows the first `allowed` changes."""

    def __init__(self, allowed: int):
        self.calls, self._allowed = 0, allowed
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self):
        with self._lock:
            self.calls += 1
            if self.calls > self._allowed:
                raise Refused
        yield


# --- the contract of every store


def test_a_small_file_is_absent_and_then_complete(place):
    store = place.open()
    assert store.read("a/b.json") is None
    assert store.measure("a/b.json") is None
    assert list(store.files()) == []
    assert store.folders() == []
    assert store.create("a/b.json", b"whole")
    there = store.read("a/b.json")
    assert there.data == b"whole"
    assert 0 <= there.age < 30
    assert store.measure("a/b.json") == entry_of(b"whole")


def test_a_file_is_created_once(place):
    store = place.open()
    assert store.create("lease.json", b"mine")
    assert not store.create("lease.json", b"yours")
    assert not store.create("lease.json", b"mine")
    assert store.read("lease.json").data == b"mine"


def test_only_one_of_eight_threads_creates_a_file(place):
    store = place.open()
    with ThreadPoolExecutor(8) as pool:
        for race in range(3):
            barrier = threading.Barrier(8)

            def create(nonce, race=race, barrier=barrier):
                barrier.wait()
                return store.create(f"race-{race}", b"%d" % nonce)

            won = list(pool.map(create, range(8)))
            assert sum(won) == 1
            assert store.read(f"race-{race}").data == b"%d" % won.index(True)


def test_compare_and_swap_replaces_only_the_given_version(place):
    store = place.open()
    store.create("pointer", b"one")
    first = store.read("pointer").version
    second = store.compare_and_swap("pointer", b"two", first)
    assert second == store.read("pointer").version != first
    assert store.compare_and_swap("pointer", b"three", first) is None
    assert store.read("pointer").data == b"two"
    assert store.compare_and_swap("nothing", b"here", first) is None
    assert store.read("nothing") is None


def test_no_count_is_lost_among_threads(place):
    store = place.open()
    store.create("counter", b"0 -")

    def count(thread):
        done = 0
        while done < 4:
            there = store.read("counter")
            number = int(there.data.split()[0]) + 1
            if store.compare_and_swap("counter", f"{number} {thread}-{done}".encode(), there.version) is not None:
                done += 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    assert store.read("counter").data.split()[0] == b"24"


def test_files_are_uploaded_and_fetched(place, tmp_path):
    store = place.open()
    files = {"a.pt": b"weights", "empty": b"", "deep/er/b.csv": b"x,y\n" * 1000}
    entries = written(tmp_path / "made", files)
    assert store.upload(tmp_path / "made", files) == entries
    assert store.upload(tmp_path / "made", files) == entries
    fetched = store.fetch(entries)
    assert {name: (fetched / name).read_bytes() for name in files} == files
    assert {name: store.measure(name) for name in files} == entries
    assert {file.name: file.size for file in store.files()} == {name: len(data) for name, data in files.items()}


def test_another_content_replaces_a_file(place, tmp_path):
    store = place.open()
    store.upload(tmp_path / "old", written(tmp_path / "old", {"a.pt": b"older"}))
    entries = written(tmp_path / "new", {"a.pt": b"newer"})
    store.upload(tmp_path / "new", entries)
    assert (store.fetch(entries) / "a.pt").read_bytes() == b"newer"


@pytest.mark.parametrize("bad", [b"Weights", b"weigh"], ids=["altered", "truncated"])
def test_an_altered_file_is_named(place, tmp_path, bad):
    store = place.open()
    entries = written(tmp_path / "made", {"stage/a.pt": b"weights", "stage/b.pt": b"more"})
    store.upload(tmp_path / "made", entries)
    place.overwrite("stage/a.pt", bad)
    with pytest.raises(InputError) as error:
        store.fetch(entries)
    assert (
        f"{place.uri}/stage/a.pt is altered: recorded with 7 bytes, sha256 {entries['stage/a.pt']['sha256'][:12]}"
        in (str(error.value))
    )
    assert f"found with {len(bad)} bytes, sha256 {entry_of(bad)['sha256'][:12]}" in str(error.value)


def test_a_missing_file_is_named(place):
    store = place.open()
    with pytest.raises(InputError, match=r"/stage/gone\.pt is missing"):
        store.fetch({"stage/gone.pt": entry_of(b"gone")})


def test_a_missing_source_file_raises(place, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        place.open().upload(tmp_path, {"nowhere": entry_of(b"x")})
    assert list(place.open().files()) == []


def test_names_that_leave_the_root_are_refused(place, tmp_path):
    store = place.open()
    actions = [
        lambda name: store.read(name),
        lambda name: store.create(name, b""),
        lambda name: store.compare_and_swap(name, b"", "version"),
        lambda name: store.measure(name),
        lambda name: store.fetch({name: entry_of(b"")}),
        lambda name: store.upload(tmp_path, {name: entry_of(b"")}),
        lambda name: store.delete([name]),
        lambda name: store.below(name),
    ]
    for action, name in itertools.product(actions, ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "a/"]):
        with pytest.raises(InputError, match="not the name of a file"):
            action(name)


def test_names_of_any_script(place, tmp_path):
    store = place.open()
    files = {"räume/plan 1 (+&%?=#).png": b"1", "部屋.json": b"2", "sha256:ab~'!*": b"3", "n" * 200: b"4"}
    entries = written(tmp_path / "made", files)
    store.upload(tmp_path / "made", entries)
    assert {file.name for file in store.files()} == set(files)
    assert {name: (store.fetch(entries) / name).read_bytes() for name in files} == files
    assert {name: store.read(name).data for name in files} == files
    store.delete(files)
    assert list(store.files()) == []


def test_files_are_listed_in_order_and_below_a_folder_only(place):
    store = place.open()
    names = ["demo/1", "demo/2/x", "demo/2/y", "demo2/1", "demo2.json"]
    for name in reversed(names):
        store.create(name, name.encode())
    assert sorted(names) == sorted(file.name for file in store.files())
    assert [file.name for file in store.below("demo").files()] == ["1", "2/x", "2/y"]
    assert [file.name for file in store.below("demo").below("2").files()] == ["x", "y"]
    assert store.folders() == ["demo", "demo2"]
    assert store.below("demo").folders() == ["2"]
    assert store.below("demo").uri == f"{place.uri}/demo"
    assert open_store(f"{place.uri}/demo", place.artifacts).read("2/x").data == b"demo/2/x"
    assert all(0 <= file.age < 30 and file.size == len(file.name) for file in store.files())


def test_many_files_are_listed(place, tmp_path):
    if place.client is None:
        pytest.skip("a folder is listed at once")
    for number in range(7):
        place.overwrite(f"many/{number}", b"")
    store = place.open().below("many")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listing, "pages", functools.partial(listing.pages, MaxKeys=3))
        assert [file.name for file in store.files()] == [str(number) for number in range(7)]


def test_deleting_a_missing_file_is_not_an_error(place):
    store = place.open()
    store.create("a/1", b"1")
    store.create("a/2", b"2")
    store.delete(["a/1", "a/gone"])
    store.delete([])
    assert [file.name for file in store.files()] == ["a/2"]


def test_a_write_check_that_raises_prevents_every_change(place, tmp_path):
    store = place.open()
    store.create("there", b"old")
    checked = store.with_write_check(refusing)
    entries = written(tmp_path / "made", {"new": b"new", "there": b"new"})
    changes = [
        lambda: checked.create("new", b"new"),
        lambda: checked.compare_and_swap("there", b"new", store.read("there").version),
        lambda: checked.upload(tmp_path / "made", entries),
        lambda: checked.delete(["there"]),
        lambda: checked.below("deeper").create("new", b"new"),
    ]
    for change in changes:
        with pytest.raises(Refused):
            change()
    assert [file.name for file in store.files()] == ["there"]
    assert checked.read("there").data == b"old"


part = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda text: text not in (".", "..", ".lock")
)


@hypothesis_settings(max_examples=30, deadline=None)
@given(parts=st.lists(part, min_size=1, max_size=4), data=st.binary(max_size=2000))
def test_any_bytes_come_back_under_any_name(parts, data):
    name = "/".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder, ArtifactsSection())
        assert store.create(name, data)
        assert store.read(name).data == data
        assert store.measure(name) == entry_of(data)
        assert [file.name for file in store.files()] == [name]


def test_only_paths_and_s3_addresses_are_stores():
    with pytest.raises(InputError, match="neither a local path nor an s3:// address"):
        open_store("gs://bucket/prefix", ArtifactsSection())
    with pytest.raises(InputError, match="is not the address of a store"):
        open_store("s3://bucket/a//b", ArtifactsSection())


# --- S3: parts


@pytest.fixture(params=["moto", "radosgw"])
def s3_place(request):
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def short_parts(monkeypatch):
    """Files from 5 MiB on are sent in parts of 5 MiB, the smallest size that S3 allows."""
    monkeypatch.setattr(transfer, "PART_BYTES", 5 * 2**20)


def test_a_large_file_goes_in_parts(s3_place, short_parts, tmp_path):
    store = s3_place.open()
    entries = written(tmp_path / "made", {"big.pt": os.urandom(12 * 2**20 + 1)})
    check = CountingCheck(100)
    assert store.with_write_check(check).upload(tmp_path / "made", ["big.pt"]) == entries
    assert check.calls == 5  # begin, three parts, complete
    assert store.with_write_check(check).upload(tmp_path / "made", ["big.pt"]) == entries
    assert check.calls == 5
    assert (store.fetch(entries) / "big.pt").read_bytes() == (tmp_path / "made" / "big.pt").read_bytes()
    assert store.measure("big.pt") == entries["big.pt"]
    assert store.unfinished_uploads(0) == []


@pytest.mark.parametrize("allowed", [0, 1, 4])
def test_a_write_check_that_raises_during_an_upload_leaves_no_part(s3_place, short_parts, tmp_path, allowed):
    store = s3_place.open()
    entries = written(tmp_path / "made", {"big.pt": os.urandom(12 * 2**20)})
    with pytest.raises(Refused):
        store.with_write_check(CountingCheck(allowed)).upload(tmp_path / "made", entries)
    assert list(store.files()) == []
    assert store.unfinished_uploads(0) == []


def test_an_altered_large_file_is_named(s3_place, short_parts, tmp_path):
    store = s3_place.open()
    entries = written(tmp_path / "made", {"big.pt": bytes(6 * 2**20)})
    with pytest.raises(InputError, match=r"big\.pt is missing"):
        store.fetch(entries)
    s3_place.overwrite("big.pt", bytes(6 * 2**20 - 1))
    with pytest.raises(InputError, match=r"big\.pt is altered: .* found with 6291455 bytes"):
        store.fetch(entries)
    s3_place.overwrite("big.pt", b"")
    with pytest.raises(InputError, match=r"big\.pt is altered: .* found with 0 bytes"):
        store.fetch(entries)


def test_a_file_that_changes_while_it_is_sent_is_not_kept(moto_place, short_parts, tmp_path):
    entries = written(tmp_path / "made", {"big": bytes(5 * 2**20)})

    @contextlib.contextmanager
    def changing():
        (tmp_path / "made" / "big").write_bytes(bytes(5 * 2**20 - 1) + b"1")
        yield

    with pytest.raises(InputError, match="big was changed while it was stored"):
        moto_place.open().with_write_check(changing).upload(tmp_path / "made", entries)
    assert list(moto_place.open().files()) == []


def test_a_large_file_of_another_content_is_replaced(s3_place, short_parts, tmp_path):
    store = s3_place.open()
    s3_place.overwrite("big.pt", bytes(6 * 2**20))
    entries = written(tmp_path / "made", {"big.pt": os.urandom(6 * 2**20)})
    assert store.upload(tmp_path / "made", ["big.pt"]) == entries
    assert store.measure("big.pt") == entries["big.pt"]


def test_a_lost_completion_is_not_confused_with_another_object_of_that_size(moto_place, short_parts, tmp_path):
    store = moto_place.open()
    moto_place.overwrite("big.pt", bytes(6 * 2**20))
    entries = written(tmp_path / "made", {"big.pt": os.urandom(6 * 2**20)})
    with faulty("CompleteMultipartUpload", (404, "NoSuchUpload")), counted("UploadPart") as parts:
        assert store.upload(tmp_path / "made", ["big.pt"]) == entries
    assert len(parts) == 4
    assert store.measure("big.pt") == entries["big.pt"]


def test_unfinished_uploads_are_found_and_aborted(s3_place):
    store = s3_place.open()
    begin = s3_place.client.create_multipart_upload
    begin(Bucket=s3_place.bucket, Key="some run/a/big.pt")
    begin(Bucket=s3_place.bucket, Key="some run2/big.pt")
    assert store.unfinished_uploads(0) == ["a/big.pt"]
    assert store.below("a").unfinished_uploads(0) == ["big.pt"]
    assert store.unfinished_uploads(1e9) == []
    store.abort_uploads(1e9)
    assert store.unfinished_uploads(0) == ["a/big.pt"]
    store.abort_uploads(0)
    assert store.unfinished_uploads(0) == []


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 0, 1, 2, 3], [1, 0, 1, 2, 3]], ids=str)
def test_the_hash_of_pieces_in_any_order(tmp_path, order):
    pieces = [os.urandom(1000), os.urandom(1000), os.urandom(1000), os.urandom(7)]
    with HashedFile(tmp_path / "file") as file:
        for number in order:
            file.seek(1000 * number)
            file.write(pieces[number])
        assert file.entry() == entry_of(b"".join(pieces))


def test_the_hash_is_of_what_was_written_last(tmp_path):
    with HashedFile(tmp_path / "file") as file:
        for start, data in [(0, b"aaaa"), (4, b"bbbb"), (0, b"cccc")]:
            file.seek(start)
            file.write(data)
        assert file.entry() == entry_of(b"ccccbbbb")


# --- S3: the cache


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


# --- S3: failures

LOST_ANSWER = "lost answer"
DROPPED = "dropped"
CUT = "cut off"
SLOW_DOWN = (503, "SlowDown")
SECRET = "moto-secret"


@contextlib.contextmanager
def faulty(operation, *faults):
    """moto fails at the first requests of this kind: with an HTTP status and S3 code, no answer, or a lost answer.

    Yields the addresses of the requests that it received.
    """
    left, serve, seen = list(faults), BotocoreStubber.__call__, []

    def fail(self, event_name, request, **options):
        if event_name != f"before-send.s3.{operation}":
            return serve(self, event_name, request, **options)
        seen.append(request.url)
        fault = left.pop(0) if left else None
        if fault == LOST_ANSWER:
            serve(self, event_name, request, **options)
        if fault in (LOST_ANSWER, DROPPED):
            raise ConnectionClosedError(endpoint_url=request.url)
        if fault is None:
            return serve(self, event_name, request, **options)
        if fault == CUT:
            answer = serve(self, event_name, request, **options)
            whole = answer.raw.read()
            return AWSResponse(request.url, 200, answer.headers, MockRawResponse(whole[: len(whole) // 2]))
        status, code = fault
        body = "" if request.method == "HEAD" else f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>"
        return AWSResponse(request.url, status, HeadersDict(), MockRawResponse(body.encode()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BotocoreStubber, "__call__", fail)
        yield seen


def counted(operation):
    """The addresses of the requests of this kind."""
    return faulty(operation)


@pytest.mark.parametrize(
    "faults",
    [
        [SLOW_DOWN, SLOW_DOWN],
        [(500, "InternalError")],
        [DROPPED],
        [(409, "ConditionalRequestConflict")],
        [(429, "TooManyRequests")],
    ],
    ids=str,
)
def test_transient_failures_are_retried(moto_place, tmp_path, faults):
    store = moto_place.open()
    with faulty("PutObject", *faults):
        assert store.create("a", b"a")
    with faulty("GetObject", *faults):
        assert store.read("a").data == b"a"
    with faulty("HeadObject", *faults), faulty("ListObjectsV2", *faults), faulty("DeleteObject", *faults):
        assert [file.name for file in store.files()] == ["a"]
        store.delete(["a"])


def test_truncated_answers_are_requested_again(moto_place, short_parts, tmp_path):
    store = moto_place.open()
    entries = written(tmp_path / "made", {"a": b"a" * 10_000, "big": bytes(6 * 2**20)})
    with faulty("CompleteMultipartUpload", CUT), counted("UploadPart") as parts:
        store.upload(tmp_path / "made", entries)
    assert len(parts) == 2
    with faulty("ListObjectsV2", CUT, CUT):
        assert [file.name for file in store.files()] == ["a", "big"]
    with faulty("GetObject", CUT):
        assert store.read("a").data == b"a" * 10_000
    with faulty("GetObject", CUT, None, CUT):
        assert {name: store.measure(name) for name in entries} == entries
    with faulty("GetObject", CUT, CUT):
        store.fetch(entries)


def test_parts_that_fail_are_sent_again(moto_place, short_parts, tmp_path):
    store = moto_place.open()
    entries = written(tmp_path / "made", {"big.pt": os.urandom(11 * 2**20)})
    check = CountingCheck(100)
    with faulty("UploadPart", SLOW_DOWN, DROPPED, LOST_ANSWER), faulty("CompleteMultipartUpload", SLOW_DOWN):
        store.with_write_check(check).upload(tmp_path / "made", entries)
    assert check.calls >= 5
    with faulty("GetObject", SLOW_DOWN, DROPPED):
        assert (store.fetch(entries) / "big.pt").stat().st_size == 11 * 2**20


def test_a_completion_whose_answer_was_lost_is_found(moto_place, short_parts, tmp_path):
    store = moto_place.open()
    entries = written(tmp_path / "made", {"big.pt": os.urandom(5 * 2**20)})
    with faulty("CompleteMultipartUpload", LOST_ANSWER, (404, "NoSuchUpload")), counted("UploadPart") as parts:
        store.upload(tmp_path / "made", entries)
    assert len(parts) == 1
    with faulty("CompleteMultipartUpload", (404, "NoSuchUpload")), counted("UploadPart") as parts:
        store.below("again").upload(tmp_path / "made", entries)
    assert len(parts) == 2


def test_the_write_check_runs_before_every_attempt(moto_place):
    store = moto_place.open()
    store.create("there", b"")
    check = CountingCheck(2)
    with faulty("PutObject", SLOW_DOWN, DROPPED), pytest.raises(Refused):
        store.with_write_check(check).create("a", b"a")
    assert check.calls == 3
    assert store.read("a") is None


def test_a_write_whose_answer_was_lost_is_settled_by_reading(moto_place):
    store = moto_place.open()
    store.create("there", b"")
    with faulty("PutObject", LOST_ANSWER) as requests:
        assert store.create("a", b"mine")
    assert len(requests) == 2
    version = store.read("a").version
    with faulty("PutObject", LOST_ANSWER):
        swapped = store.compare_and_swap("a", b"mine again", version)
    assert swapped == store.read("a").version
    with faulty("PutObject", DROPPED):
        assert not store.create("a", b"other")
        assert store.compare_and_swap("a", b"other", version) is None
    assert store.read("a").data == b"mine again"


def test_a_body_whose_connection_breaks_is_read_again(radosgw_place, monkeypatch, tmp_path):
    radosgw_place.overwrite("a", b"weights")
    store, read, broken = radosgw_place.open(), StreamingBody.read, []

    def break_off(self, amount=None):
        if len(broken) < 3:
            broken.append(self)
            raise ResponseStreamingError(error="reset")
        return read(self, amount)

    for look in [
        lambda: store.read("a").data == b"weights",
        lambda: store.measure("a") == entry_of(b"weights"),
        lambda: (store.fetch({"a": entry_of(b"weights")}) / "a").read_bytes() == b"weights",
    ]:
        broken.clear()
        with monkeypatch.context() as patch:
            patch.setattr(StreamingBody, "read", break_off)
            assert look()
        assert len(broken) == 3


def test_waiting_and_its_end_are_logged_once(moto_place, caplog, monkeypatch):
    monkeypatch.setattr(retries, "_LONGEST_PAUSE", 0.1)
    store = moto_place.open()
    store.create("a", b"a")
    with caplog.at_level(logging.INFO, "core.storage.s3.server"), faulty("GetObject", *[SLOW_DOWN] * 8):
        assert store.read("a").data == b"a"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "does not answer: waiting for it up to 60 s" in caplog.messages[0]
    assert "answers again" in caplog.messages[1]


def test_retries_end_after_the_patience(moto_place):
    store = moto_place.open(patience_minutes=0.01)
    with faulty("GetObject", *[SLOW_DOWN] * 50), pytest.raises(InputError) as error:
        store.read("a")
    assert "the server failed for 0.01 min (artifacts.patience_minutes): run the same command again" in str(error.value)
    assert moto_place.bucket in str(error.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((403, "AccessDenied"), "access denied to PutObject"),
        ((404, "NoSuchBucket"), "there is no such bucket"),
        ((403, "InvalidAccessKeyId"), "refuses the credentials"),
        ((403, "SignatureDoesNotMatch"), "refuses the credentials"),
        ((400, "ExpiredToken"), "the session of the credentials has ended: set a new AWS_SESSION_TOKEN"),
        ((400, "AuthorizationHeaderMalformed"), "in another region"),
        ((403, "RequestTimeTooSkewed"), "the clock of this machine is wrong"),
        ((400, "QuotaExceeded"), "its space or quota is used up: free some"),
        ((503, "XMinioStorageFull"), "its space or quota is used up: free some"),
        ((400, "MalformedXML"), "the server refuses PutObject with MalformedXML"),
    ],
    ids=str,
)
def test_permanent_errors_are_not_retried_and_are_one_sentence(
    moto_place, tmp_path, short_parts, no_retries, fault, words
):
    store = moto_place.open()
    store.create("there", b"")
    entries = written(tmp_path / "made", {"a": b"a"})
    large = written(tmp_path / "made", {"big": bytes(5 * 2**20)})
    for operation, change in [
        ("PutObject", lambda: store.create("a", b"a")),
        ("PutObject", lambda: store.upload(tmp_path / "made", entries)),
        ("CreateMultipartUpload", lambda: store.upload(tmp_path / "made", large)),
        ("GetObject", lambda: store.read("there")),
        ("GetObject", lambda: store.fetch(entries)),
        ("ListObjectsV2", lambda: list(store.files())),
    ]:
        with faulty(operation, *[fault] * 4), pytest.raises(InputError) as error:
            change()
        assert words.replace("PutObject", operation) in str(error.value)
        assert moto_place.bucket in str(error.value)
        assert SECRET not in str(error.value)
        assert "\n" not in str(error.value)


def test_a_missing_bucket_is_named(s3_place, short_parts, tmp_path):
    store = open_store("s3://nobody-made-this/run", s3_place.artifacts)
    for action in [
        lambda: store.read("a"),
        lambda: store.create("a", b""),
        lambda: list(store.files()),
        lambda: store.fetch({"a": entry_of(b"")}),
        lambda: store.fetch({"big": entry_of(bytes(6 * 2**20))}),
        lambda: store.upload(tmp_path, written(tmp_path, {"a": b""})),
        lambda: store.upload(tmp_path, written(tmp_path, {"big": bytes(6 * 2**20)})),
    ]:
        with pytest.raises(InputError, match=r"bucket nobody-made-this at https?://\S+: there is no such bucket"):
            action()


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_an_error_about_credentials_does_not_show_them(radosgw_place, monkeypatch, name):
    monkeypatch.setenv(name, "wrong-one")
    with pytest.raises(InputError, match="the server refuses the credentials") as error:
        radosgw_place.open(patience_minutes=3).read("a")
    assert "wrong-one" not in str(error.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(error.value)


def test_no_credentials(credentials, monkeypatch):
    credentials({})
    store = open_store("s3://without-credentials/run", ArtifactsSection(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(InputError, match="no S3 credentials found: set AWS_ACCESS_KEY_ID"):
        store.read("a")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    store = open_store("s3://without-profile/run", ArtifactsSection(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(InputError, match="no S3 credentials found: set AWS_ACCESS_KEY_ID"):
        store.read("a")


def test_a_mistyped_endpoint_is_given_up_early(credentials, monkeypatch):
    credentials({"AWS_ACCESS_KEY_ID": "user", "AWS_SECRET_ACCESS_KEY": "very-secret"})
    monkeypatch.setattr(retries, "FIRST_ANSWER_SECONDS", 1)
    store = open_store("s3://mistyped/run", ArtifactsSection(endpoint_url="http://127.0.0.1:9"))
    with pytest.raises(
        InputError, match=r"http://127\.0\.0\.1:9: no S3 server answers there: check artifacts\.endpoint_url"
    ):
        store.read("a")
    with pytest.raises(InputError, match=r"--endpoint_url: '127\.0\.0\.1' is not the address of a server"):
        artifacts_of_options(endpoint_url="127.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1")
    with pytest.raises(InputError, match=r"AWS_ENDPOINT_URL '127\.0\.0\.1' is not the address of a server"):
        open_store("s3://mistyped-elsewhere/run", ArtifactsSection()).read("a")


@pytest.mark.parametrize("bucket", ["Not_A_Bucket!", "x"])
def test_an_impossible_bucket_name(radosgw_place, bucket):
    with pytest.raises(InputError, match=r"not a valid bucket name|there is no such bucket"):
        open_store(f"s3://{bucket}/run", radosgw_place.artifacts).create("a", b"")


# --- S3: servers without conditional writes


@pytest.fixture(params=["juicefs", "If-Match", "If-None-Match"])
def place_without_conditions(request, monkeypatch):
    """A store that ignores conditions: a real one, and moto which drops one of the two headers."""
    place = request.getfixturevalue("juicefs_place" if request.param == "juicefs" else "moto_place")
    if request.param != "juicefs":
        serve = BotocoreStubber.__call__

        def ignore(self, event_name, **options):
            sent = options["request"]
            if request.param in sent.headers:
                del sent.headers[request.param]
            return serve(self, event_name, **options)

        monkeypatch.setattr(BotocoreStubber, "__call__", ignore)
    return place


def test_a_store_that_ignores_conditions_is_refused(place_without_conditions):
    store = place_without_conditions.open()
    with pytest.raises(
        InputError, match=r"two processes could overwrite one another: .*artifacts\.single_writer: true"
    ):
        store.create("a", b"a")
    with pytest.raises(InputError, match="single_writer"):
        store.compare_and_swap("a", b"a", "version")
    assert place_without_conditions.client.list_objects_v2(Bucket=place_without_conditions.bucket)["KeyCount"] == 0


def test_a_single_writer_may_use_it(place_without_conditions, tmp_path, short_parts):
    store = place_without_conditions.open(single_writer=True)
    assert store.create("a", b"1")
    assert not store.create("a", b"2")
    version = store.read("a").version
    assert store.compare_and_swap("a", b"3", version) == store.read("a").version
    assert store.compare_and_swap("a", b"4", version) is None
    assert store.read("a").data == b"3"
    entries = written(tmp_path / "made", {"a": b"5", "b/c": b"6", "big": os.urandom(6 * 2**20)})
    store.upload(tmp_path / "made", entries)
    assert {name: entry_of((store.fetch(entries) / name).read_bytes()) for name in entries} == entries
    store.delete(entries)
    assert list(store.files()) == []


def test_a_store_that_rejects_conditions_is_refused(moto_place):
    with faulty("PutObject", (501, "NotImplemented")), pytest.raises(InputError, match="single_writer"):
        moto_place.open().create("a", b"a")


def test_the_probe_runs_once_and_leaves_nothing(s3_place):
    store = s3_place.open()
    store.create("a", b"a")
    s3_place.open().below("b").create("a", b"a")
    found = s3_place.client.list_objects_v2(Bucket=s3_place.bucket)["Contents"]
    assert [item["Key"] for item in found] == ["some run/a", "some run/b/a"]


# --- S3: a server that is killed


@pytest.mark.parametrize("direction", ["upload", "fetch"])
def test_a_server_that_is_killed_and_comes_back_later(
    radosgw, radosgw_place, short_parts, tmp_path, caplog, monkeypatch, direction
):
    store = radosgw_place.open(patience_minutes=2)
    files = {f"small/{number}": os.urandom(300_000) for number in range(40)} | {"big": os.urandom(150 * 2**20)}
    entries = written(tmp_path / "made", files)
    if direction == "fetch":
        store.upload(tmp_path / "made", entries)

    requests, send, noticed = itertools.count(1), URLLib3Session.send, threading.Event()

    def send_or_kill(session, request):
        if next(requests) == 20:
            radosgw.kill()
        return send(session, request)

    def come_back():
        noticed.wait()
        radosgw.start_gateway()

    monkeypatch.setattr(URLLib3Session, "send", send_or_kill)
    line = logging.Handler()
    line.emit = lambda record: noticed.set()  # the first says that the server does not answer
    log = logging.getLogger("core.storage.s3_client")
    log.addHandler(line)
    restart = threading.Thread(target=come_back)
    restart.start()
    try:
        with caplog.at_level(logging.INFO, "core.storage.s3.server"):
            if direction == "upload":
                store.upload(tmp_path / "made", entries)
            else:
                store.fetch(entries)
        assert noticed.is_set() and next(requests) > 20
    finally:
        log.removeHandler(line)
        noticed.set()
        restart.join()
    fetched = store.fetch(entries)
    assert {name: entry_of((fetched / name).read_bytes()) for name in entries} == entries
    assert sorted(file.name for file in store.files()) == sorted(entries)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
