"""S3 servers without conditional writes."""

import os

import pytest
from moto.core.botocore_stubber import BotocoreStubber

from core.runtime.errors import InputError
from tests.storage.entries import entry_of, written
from tests.storage.faults import faulty

pytest_plugins = ["tests.storage_servers"]


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
