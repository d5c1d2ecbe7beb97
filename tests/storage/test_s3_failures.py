"""An S3 server that fails for a while is waited for; one that refuses is named in a line."""

import itertools
import logging
import os
import threading

import pytest
from botocore.exceptions import ResponseStreamingError
from botocore.httpsession import URLLib3Session
from botocore.response import StreamingBody

from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.s3 import retries
from core.storage.store import ArtifactsSection, artifacts_of_options
from tests.storage.entries import CountingCheck, Refused, entry_of, written
from tests.storage.faults import CUT, DROPPED, LOST_ANSWER, SECRET, SLOW_DOWN, counted, faulty

pytest_plugins = ["tests.storage_servers"]


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
    log = logging.getLogger("core.storage.s3.server")
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
