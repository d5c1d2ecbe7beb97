"""Large files of an S3 store, which are sent in parts."""

import contextlib
import os

import pytest

from core.runtime.errors import InputError
from tests.storage.entries import CountingCheck, Refused, written
from tests.storage.faults import counted, faulty

pytest_plugins = ["tests.storage_servers"]


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
