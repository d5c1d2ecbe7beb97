"""What every store promises, tried on a folder, on moto and on a real server."""

import functools
import itertools
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.s3 import listing
from core.storage.store import ArtifactsSection
from tests.storage.entries import Refused, entry_of, refusing, written

pytest_plugins = ["tests.storage_servers"]


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


def test_a_file_that_comes_and_goes_is_absent_or_complete(place):
    store, seconds = place.open(), 2
    assert store.create("run.json", b"whole")

    def come_and_go():
        while time.monotonic() < ends:
            store.delete(["run.json"])
            store.create("run.json", b"whole")

    def look():
        seen = set()
        while time.monotonic() < ends:
            found = store.read("run.json")
            seen.add((found and found.data, (store.measure("run.json") or {}).get("size")))
        return seen

    ends = time.monotonic() + seconds
    with ThreadPoolExecutor(3) as pool:
        changes, *looks = pool.submit(come_and_go), pool.submit(look), pool.submit(look)
    changes.result()
    assert set().union(*(each.result() for each in looks)) <= set(itertools.product((None, b"whole"), (None, 5)))


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
