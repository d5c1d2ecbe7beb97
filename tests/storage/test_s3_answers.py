"""If another server answers than S3, or a setting of AWS is wrong, one line names the cause."""

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from core.runtime.errors import InputError
from core.storage.opening import open_store
from core.storage.s3 import retries
from core.storage.s3.answers import Answer
from core.storage.s3.errors import is_transient, refusal
from core.storage.store import ArtifactsSection
from tests.web_servers import HTML, PAGE, answering, make_certificate, sending

pytest_plugins = ["tests.storage_servers"]

KEYS = {"AWS_ACCESS_KEY_ID": "some-user", "AWS_SECRET_ACCESS_KEY": "some-key"}
XML, JSON, TEXT = ({"Content-Type": kind} for kind in ("application/xml", "application/json", "text/plain"))
OPERATIONS = ["GetObject", "HeadObject", "PutObject", "ListObjectsV2", "DeleteObject", "CompleteMultipartUpload"]


@pytest.fixture(autouse=True)
def keys(credentials):
    credentials(KEYS)


@pytest.fixture
def actions(tmp_path):
    """Every kind of request that a store sends, for an endpoint."""

    def of(endpoint, patience_minutes=0.02):
        # A bucket for this endpoint only, because a process remembers what it knows about a server.
        settings = ArtifactsSection(endpoint_url=endpoint, patience_minutes=patience_minutes, cache=str(tmp_path / "c"))
        store = open_store(f"s3://bucket-{endpoint.rpartition(':')[2]}/run", settings)
        (tmp_path / "a").write_bytes(b"a")
        return [
            lambda: store.read("a"),
            lambda: store.measure("a"),
            lambda: list(store.files()),
            lambda: store.create("a", b"a"),
            lambda: store.upload(tmp_path, ["a"]),
            lambda: store.fetch({"a": {"size": 1, "sha256": "0" * 64}}),
        ]

    return of


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, HTML, PAGE), "with text/html: set artifacts.endpoint_url to the address of its S3 port"),
        ((200, HTML | {"ETag": '"5f-1"'}, PAGE), "with text/html"),
        ((200, {}, b""), "it answers HTTP 200 with"),
        ((204, {}, b""), "it answers HTTP 204 with"),
        ((200, XML, b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"/>'), "application/xml"),
        ((200, JSON, b"{}"), "with application/json"),
        ((404, HTML, PAGE), "HTTP 404 with text/html"),
        ((404, JSON, b'{"detail":"Not Found"}'), "HTTP 404 with application/json"),
        ((405, HTML, PAGE), "HTTP 405 with text/html"),
        ((403, HTML, PAGE), "HTTP 403 with text/html"),
        ((500, HTML, PAGE), "with text/html"),
        ((301, {"Location": "https://other.example:9/b?key=secret"}, b""), "it redirects to https://other.example:9:"),
        ((302, HTML | {"Location": "/login"}, PAGE), "it redirects to another address"),
        ((308, HTML | {"Location": "https://[bad"}, PAGE), "its answer is not HTTP"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_server_that_answers_without_s3_is_refused(actions, reply, words):
    with answering(reply) as endpoint:
        for action in actions(endpoint, patience_minutes=5):
            with pytest.raises(InputError, match="this is not an S3 server") as error:
                action()
            assert endpoint in str(error.value) and words in str(error.value)
            assert "secret" not in str(error.value)


@pytest.mark.parametrize("data", [b"SSH-2.0-OpenSSH_9.2p1\r\n", bytes(range(256)), b"<html>hello</html>"], ids=str)
def test_a_server_without_http_is_refused(actions, data):
    with sending(data) as endpoint:
        for action in actions(endpoint, patience_minutes=5):
            with pytest.raises(InputError, match=f"{endpoint}: this is not an S3 server, it does not speak HTTP"):
                action()


def test_http_and_https_are_distinguished(actions, tmp_path):
    certificate = make_certificate(tmp_path)
    with answering((200, HTML, PAGE)) as plain:
        for action in actions(plain.replace("http", "https"), patience_minutes=5):
            with pytest.raises(InputError, match="no TLS connection: if the server speaks http, write http://"):
                action()
    with answering((200, HTML, PAGE), certificate) as encrypted:
        for action in actions(encrypted.replace("https", "http"), patience_minutes=5):
            with pytest.raises(InputError, match="it speaks https, not http: set "):
                action()
        with pytest.raises(InputError, match="no trusted TLS connection: set AWS_CA_BUNDLE"):
            actions(encrypted, patience_minutes=5)[0]()


def test_a_proxys_page_is_transient_after_s3_answers(actions):
    """The page comes three times between two answers, as during a restart of the server."""
    found = b"<ListBucketResult><Name>b</Name></ListBucketResult>"
    replies = [(200, XML, found), *[(200, HTML, PAGE)] * 2, (404, HTML, PAGE), (200, XML, found)]
    left = list(replies)
    with answering(lambda path, body: left.pop(0)) as endpoint:
        listing = actions(endpoint, patience_minutes=1)[2]
        assert listing() == [] and listing() == []
    assert not left


def test_a_gateway_whose_server_is_down_is_waited_for(actions, monkeypatch):
    monkeypatch.setattr(retries, "FIRST_ANSWER_SECONDS", 0.1)
    left = [(502, HTML, PAGE)] * 3 + [(200, XML, b"<ListBucketResult/>")]
    with answering(lambda path, body: left.pop(0)) as endpoint:
        assert actions(endpoint, patience_minutes=1)[2]() == []


def test_an_endless_redirect_is_an_error(actions):
    """boto3 asks for the region of such a redirect with HEAD, and follows the redirect of that as well."""
    error = b"<Error><Code>PermanentRedirect</Code></Error>"
    with answering((301, XML, error)) as endpoint, pytest.raises(InputError, match="the bucket is in another region"):
        actions(endpoint)[0]()


@given(
    operation=st.sampled_from(OPERATIONS),
    status=st.integers(200, 599),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "server", "location", "x-powered-by", "x-amz-cf-id", "date"]),
        st.sampled_from(["text/html", "application/json", "", "https://a.example", "\x00", "text/html; charset=x"]),
    ),
    body=st.binary(max_size=60) | st.sampled_from([b"<html/>", b"<?xml?><a/>", b"<Errors/>", b"", PAGE]),
)
def test_an_answer_without_signs_of_s3_is_not_accepted(operation, status, headers, body):
    answer = Answer(operation, status, headers, None if operation == "GetObject" and status < 300 else body)
    assert not answer.is_from_s3
    assert str(answer.error())


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
def test_the_setting_that_was_used_is_named(monkeypatch, variable):
    with answering((200, HTML, PAGE)) as endpoint:
        monkeypatch.setenv(variable, endpoint)
        with pytest.raises(InputError, match=f"set {variable} to the address"):
            open_store(f"s3://by-{variable.lower().replace('_', '-')}/run", ArtifactsSection()).read("a")
    monkeypatch.setenv(variable, "localhost:9000")
    with pytest.raises(InputError, match=f"^{variable} 'localhost:9000' is not the address of a server"):
        open_store(f"s3://bad-{variable.lower().replace('_', '-')}/run", ArtifactsSection()).read("a")


# --- Settings in AWS's variables and files


@pytest.fixture
def error_line(tmp_path, no_retries):
    """The error line of a store, raised before any request is made."""
    numbers = iter(range(100))

    def of(endpoint="http://127.0.0.1:9"):
        with pytest.raises(InputError) as error:
            open_store(
                f"s3://settings-{id(tmp_path)}-{next(numbers)}/run", ArtifactsSection(endpoint_url=endpoint)
            ).read("a")
        return str(error.value)

    return of


@pytest.mark.parametrize("variable", ["AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"])
@pytest.mark.parametrize(
    "content", [b"region = us-east-1\n", b"[default\n", b"[a]\nb=1\n[a]\n", b"[default]\nregion=\xff"]
)
def test_a_file_of_aws_that_does_not_parse_is_named(monkeypatch, tmp_path, error_line, variable, content):
    broken = tmp_path / "broken"
    broken.write_bytes(content)
    monkeypatch.setenv(variable, str(broken))
    if variable == "AWS_SHARED_CREDENTIALS_FILE":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert error_line() == f"{broken} is not a valid AWS configuration file: correct or remove it"


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
@pytest.mark.parametrize("value", ["secretive\n", "secret ive", "secretivé", "\u200bsecretive", '"secretive\t"'])
def test_a_key_that_cannot_be_sent_is_named_and_not_shown(monkeypatch, error_line, variable, value):
    monkeypatch.setenv(variable, value)
    line = error_line()
    assert line.startswith(f"{variable} of the environment contains a space, a line break or another character")
    assert "secret" not in line.replace(variable, "")


def test_a_key_in_a_file_that_cannot_be_sent_is_named(monkeypatch, tmp_path, error_line):
    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = ab cd\naws_secret_access_key = hidden\n")
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert error_line().startswith("aws_access_key_id of the AWS credentials file contains a space")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("AWS_DEFAULT_REGION", "us east", "'us east' doesn't match"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "sometimes", "request_checksum_calculation"),
        ("AWS_DEFAULTS_MODE", "fast", "fast"),
        ("AWS_PROFILE", "nobody", "a valid AWS_PROFILE"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/nowhere/token", "AWS_WEB_IDENTITY_TOKEN_FILE /nowhere/token cannot be read"),
    ],
)
def test_an_invalid_setting_of_aws_is_named(monkeypatch, error_line, variable, value, words):
    monkeypatch.setenv(variable, value)
    assert words in error_line(None)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("credential_process = /nowhere/program", "the program /nowhere/program that credential_process"),
        ("credential_process = echo hello", "the AWS settings of this machine cannot be used"),
        ("credential_process = false", "gives no credentials"),
        ("role_arn = arn:aws:iam::1:role/x\nsource_profile = nobody", 'source_profile "nobody"'),
        ("s3 = fast", "the AWS settings of this machine cannot be used"),
        ("s3 =\n  addressing_style = sideways", "sideways"),
        ("sso_start_url = https://x.example\nsso_region = a\nsso_account_id = 1\nsso_role_name = r", "log in again"),
    ],
)
def test_an_unusable_profile_is_named(monkeypatch, tmp_path, error_line, section, words):
    file = tmp_path / "config"
    file.write_text(f"[default]\n{section}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    if "s3 =" not in section:
        for name in KEYS:
            monkeypatch.delenv(name)
    assert words in error_line(None if "s3 =" in section else "http://127.0.0.1:9")


def test_an_invalid_file_of_certificates_is_named(monkeypatch, tmp_path, error_line):
    for bundle in (tmp_path / "nowhere", tmp_path / "text"):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        (tmp_path / "text").write_text("no certificate")
        assert error_line("https://127.0.0.1:9").startswith(f"AWS_CA_BUNDLE {bundle} is not a file of certificates")


# --- Errors of the server


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("QuotaExceeded", 403),
        ("XMinioStorageFull", 507),
        ("XMinioAdminBucketQuotaExceeded", 400),
        ("ServiceQuotaExceededException", 402),
        ("InsufficientStorage", 503),
        ("507", 507),
    ],
)
def test_a_full_bucket_is_named_and_not_retried(code, status):
    error = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
    assert not is_transient(error)
    assert "its space or quota is used up" in str(refusal(error, "bucket", "http://server"))


@pytest.mark.parametrize("code", ["ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"])
def test_an_expired_session_asks_for_a_new_token(code):
    error = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 403}}, "PutObject")
    line = str(refusal(error, "bucket", "http://server"))
    assert "AWS_SESSION_TOKEN" in line and "log in again" in line and "AWS_SECRET_ACCESS_KEY" not in line


# --- Wrong bytes


DIGEST = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"  # of b"a"
OBJECT = {"ETag": '"1"', "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT", "x-amz-meta-sha256": DIGEST}


def test_wrong_bytes_are_read_again(actions):
    left = [b"b", b"", b"a"]
    with answering(lambda path, body: (200, OBJECT, left.pop(0))) as endpoint:
        assert actions(endpoint)[0]().data == b"a"
    assert not left


def test_bytes_that_stay_wrong_are_an_error_of_the_server(actions):
    with answering((200, OBJECT, b"b")) as endpoint, pytest.raises(InputError) as error:
        actions(endpoint)[0]()
    line = str(error.value)
    assert f"the server at {endpoint} gave 3 times other bytes than were stored" in line and "remove" not in line


@pytest.mark.parametrize("kept", [{}, {"x-amz-meta-sha256": "of something else"}])
def test_an_object_of_another_program_is_read_unchanged(actions, kept):
    headers = {name: value for name, value in OBJECT.items() if "sha256" not in name} | kept
    with answering((200, headers, b"anything")) as endpoint:
        assert actions(endpoint)[0]().data == b"anything"


def test_objects_of_moto_are_read(moto_place):
    store = moto_place.open()
    assert store.create("a", b"mine") and store.read("a").data == b"mine"
    moto_place.overwrite("a", b"another's")
    assert store.read("a").data == b"another's"
