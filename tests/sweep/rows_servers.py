"""Servers that are others, or say no, and settings that lead to none."""

import os
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from core.storage.opening import open_store
from core.storage.s3.errors import refusal
from core.storage.store import Store, artifacts_of_options
from flows.prefect_api import require_server
from tests.sweep.ground import Ground, Row
from tests.web_servers import HTML, PAGE, Reply, answering, make_certificate, sending

TITLE = "The right server"

KEYS = {
    "AWS_ACCESS_KEY_ID": "some-user",
    "AWS_SECRET_ACCESS_KEY": "some-key",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/none",
    "AWS_SHARED_CREDENTIALS_FILE": "/none",
}
XML, JSON, TEXT = ({"Content-Type": kind} for kind in ("application/xml", "application/json", "text/plain"))
VERSION = b'"3.8.8"'


def _read(endpoint: str | None, ground: Ground, **environment: str) -> Any:
    return _use(lambda store: store.read("a"), endpoint, ground, **environment)


def _use(use: Callable[[Store], Any], endpoint: str | None, ground: Ground, **environment: str) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in (KEYS | environment).items():
            patch.setenv(name, value)
        settings = artifacts_of_options(endpoint_url=endpoint, patience_minutes=0.03)
        # A bucket of the row's own: a process keeps its connections.
        bucket = ground.folder.parent.name[:40].strip("_").replace("_", "-")
        return use(open_store(f"s3://{bucket}/run", settings))


def _store(reply: Reply) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        with answering(reply) as endpoint:
            return _read(endpoint, ground)

    return give


def _bytes(data: bytes) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        with sending(data) as endpoint:
            return _read(endpoint, ground)

    return give


def _encrypted(scheme: str, asked: str) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        certificate = make_certificate(ground.folder) if scheme == "https" else None
        with answering((200, HTML, PAGE), certificate) as endpoint:
            return _read(endpoint.replace(scheme, asked, 1), ground)

    return give


def _settings(**environment: str) -> Callable[[Ground], Any]:
    return lambda ground: _read("http://127.0.0.1:9", ground, **environment)


def _file(variable: str, content: bytes | str, **environment: str) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        return _read(None, ground, **{variable: str(ground.file("aws-file", content))}, **environment)

    return give


def _refused(code: str, status: int) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        raise refusal(ClientError(answer, "PutObject"), "bucket", "https://s3.example")

    return give


def _prefect(reply: Reply | Callable[[str, bytes], Reply], path: str = "/api") -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        with answering(reply) as url:
            return require_server(url + path) or True

    return give


def _below_api(path: str, _: bytes) -> Reply:
    """A Prefect server: a page, and its API below /api."""
    if not path.startswith("/api/"):
        return 200, HTML, PAGE
    return (200, JSON, VERSION) if path == "/api/admin/version" else (404, JSON, b'{"detail":"Not Found"}')


def _listing(body: bytes) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        with answering((200, XML, body)) as endpoint:
            return _use(lambda store: store.folders(), endpoint, ground)

    return give


_ENDLESS = b"<ListBucketResult><IsTruncated>true</IsTruncated>?</ListBucketResult>"
_OBJECT = {"ETag": '"1"', "Last-Modified": "Fri, 27 Nov 2026 12:00:00 GMT", "x-amz-meta-sha256": "0" * 64}
_NOT_S3 = "this is not an S3 server"

_ENDPOINTS = [
    ("a page", _store((200, HTML, PAGE)), (_NOT_S3, "text/html", "artifacts.endpoint_url")),
    ("a page with an ETag", _store((200, HTML | {"ETag": '"5f-2"'}, PAGE)), (_NOT_S3, "text/html")),
    ("JSON with an ETag", _store((200, JSON | {"ETag": 'W/"2-a"'}, b"{}")), (_NOT_S3, "application/json")),
    (
        "MinIO's console",
        _store(
            (
                403,
                XML,
                b"<Error><Code>AccessDenied</Code><Message>S3 API Requests must be made to API port.</Message></Error>",
            )
        ),
        (_NOT_S3, "it is MinIO's console", "its S3 port"),
    ),
    (
        "a time that is none",
        _store((200, _OBJECT | {"Last-Modified": "soon"}, b"x")),
        ("an invalid number or date",),
    ),
    ("an empty answer", _store((200, {}, b"")), (_NOT_S3, "HTTP 200")),
    ("an answer without content", _store((204, {}, b"")), (_NOT_S3, "HTTP 204")),
    ("JSON", _store((200, JSON, b"{}")), (_NOT_S3, "application/json")),
    ("XML that is not S3's", _store((200, XML, b"<rss/>")), (_NOT_S3, "application/xml")),
    ("a page of status 404", _store((404, HTML, PAGE)), (_NOT_S3, "HTTP 404")),
    ("JSON of status 404", _store((404, JSON, b"{}")), (_NOT_S3, "HTTP 404")),
    ("nothing, with status 404", _store((404, {}, b"")), (_NOT_S3, "HTTP 404")),
    ("a page of status 405", _store((405, HTML, PAGE)), (_NOT_S3, "HTTP 405")),
    ("a page that wants a login", _store((401, HTML, PAGE)), (_NOT_S3, "HTTP 401")),
    ("a page of status 500", _store((500, HTML, PAGE)), (_NOT_S3, "text/html")),
    (
        "a redirect to https",
        _store((301, {"Location": "https://s3.example:9/?k=v"}, b"")),
        ("redirects to https://s3.example:9:",),
    ),
    ("a redirect to a login", _store((302, HTML | {"Location": "/login"}, PAGE)), ("redirects to another address",)),
    (
        "a redirect for good",
        _store((308, {"Location": "https://s3.example"}, b"")),
        ("redirects to https://s3.example",),
    ),
    (
        "a region without a name",
        _store((301, XML, b"<Error><Code>PermanentRedirect</Code></Error>")),
        ("another region", "AWS_DEFAULT_REGION"),
    ),
    ("an SSH server", _bytes(b"SSH-2.0-OpenSSH_9.2p1\r\n"), (_NOT_S3, "not speak HTTP")),
    ("any bytes", _bytes(bytes(range(256))), (_NOT_S3, "not speak HTTP")),
    ("a server that hangs up", _bytes(b""), ("no S3 server answers there", "artifacts.endpoint_url")),
    ("http asked of https", _encrypted("https", "http"), ("it speaks https, not http",)),
    ("https asked of http", _encrypted("http", "https"), ("if the server speaks http, write http://",)),
    ("a certificate nobody trusts", _encrypted("https", "https"), ("no trusted TLS connection", "AWS_CA_BUNDLE")),
    ("wrong bytes of an object", _store((200, _OBJECT, b"x")), ("other bytes than were stored", "check the server")),
    (
        "a full bucket's refusal",
        _store((403, XML, b"<Error><Code>QuotaExceeded</Code></Error>")),
        ("space or quota is used up",),
    ),
]

_LISTS = [
    (given, _listing(body), says)
    for given, body, says in (
        (
            "pages without end",
            _ENDLESS.replace(b"?", b"<NextContinuationToken>a</NextContinuationToken>"),
            "to its end",
        ),
        ("a page without the next", _ENDLESS.replace(b"?", b""), "to its end"),
        (
            "a size that is a word",
            b"<ListBucketResult><Contents><Size>x</Size></Contents></ListBucketResult>",
            "an invalid number",
        ),
    )
]

_AWS = [
    ("a config that does not parse", _file("AWS_CONFIG_FILE", "region = x\n"), ("aws-file", "not a valid AWS config")),
    (
        "a config in Latin-1",
        _file("AWS_CONFIG_FILE", b"[default]\nregion=\xff\n"),
        ("aws-file", "not a valid AWS config"),
    ),
    (
        "credentials that do not parse",
        _file("AWS_SHARED_CREDENTIALS_FILE", "[default\n", AWS_ACCESS_KEY_ID=""),
        ("aws-file", "not a valid AWS config"),
    ),
    ("a style that is none", _file("AWS_CONFIG_FILE", "[default]\ns3 =\n  addressing_style = x\n"), ("style x",)),
    ("a section that is a word", _file("AWS_CONFIG_FILE", "[default]\ns3 = x\n"), ("AWS settings of this machine",)),
    ("a key with a line break", _settings(AWS_ACCESS_KEY_ID="a\n"), ("AWS_ACCESS_KEY_ID", "a line break")),
    ("a secret with a space", _settings(AWS_SECRET_ACCESS_KEY="a b"), ("AWS_SECRET_ACCESS_KEY", "a space")),
    ("a token with an accent", _settings(AWS_SESSION_TOKEN="é"), ("AWS_SESSION_TOKEN", "keys do not have")),
    ("no keys", _settings(AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY=""), ("no S3 credentials found",)),
    ("a profile that is not there", _settings(AWS_PROFILE="x"), ("a valid AWS_PROFILE",)),
    ("a region with a line break", _settings(AWS_DEFAULT_REGION="us-east-1\n"), ("AWS region", "a line break")),
    (
        "keys that have expired",
        _file(
            "AWS_CONFIG_FILE",
            '[default]\ncredential_process = /bin/echo \'{"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "b", '
            '"Expiration": "2020-01-01T00:00:00Z"}\'\n',
            AWS_ACCESS_KEY_ID="",
            AWS_SECRET_ACCESS_KEY="",
            AWS_ENDPOINT_URL="http://127.0.0.1:9",
        ),
        ("have expired", "log in again"),
    ),
    ("a proxy that is none", _settings(HTTP_PROXY="http://"), ("HTTP_PROXY",)),
    (
        "a host's name with an underscore",
        lambda ground: _read("http://minio_server:9000", ground),
        ("artifacts.endpoint_url 'http://minio_server:9000'", "letters, digits and '-'"),
    ),
    ("a region with a space", _settings(AWS_DEFAULT_REGION="us east"), ("us east",)),
    ("a token file that is not there", _settings(AWS_WEB_IDENTITY_TOKEN_FILE="/none"), ("TOKEN_FILE /none",)),
    (
        "certificates that are none",
        lambda ground: _read("https://127.0.0.1:9", ground, AWS_CA_BUNDLE="/none"),
        ("AWS_CA_BUNDLE /none",),
    ),
    (
        "an endpoint without http",
        lambda ground: _read(None, ground, AWS_ENDPOINT_URL="localhost:9000"),
        ("AWS_ENDPOINT_URL 'localhost:9000' is not the address",),
    ),
    *(
        (f"the endpoint {url!r}", lambda ground, url=url: _read(url, ground), ("--endpoint_url", "not the address"))
        for url in ("", "localhost", "ftp://localhost", "http://", "http://localhost:99999", "http://localhost /x")
    ),
]

_ANSWERS = [
    *((code, _refused(code, status), ("space or quota is used up", code)) for code, status in (
        ("QuotaExceeded", 403), ("XMinioStorageFull", 507), ("InsufficientStorage", 507), ("ServiceQuotaExceeded", 400)
    )),
    *((code, _refused(code, 400), ("session", "AWS_SESSION_TOKEN", code)) for code in (
        "ExpiredToken", "RequestExpired", "TokenRefreshRequired"
    )),
    ("RequestTimeTooSkewed", _refused("RequestTimeTooSkewed", 403), ("the clock of this machine",)),
]  # fmt: skip

_API = "not a Prefect server's API"
_PREFECT = [
    ("the UI's address", _prefect(_below_api, ""), ("set it to http://127.0.0.1", "/api")),
    ("an address below the API", _prefect(_below_api, "/api/flows"), ("set it to http://127.0.0.1", "/api")),
    ("a page", _prefect((200, HTML, PAGE)), (_API, "text/html", "/api")),
    ("JSON of another service", _prefect((200, JSON, b'{"status":"ok"}')), (_API, "application/json")),
    ("a word of another service", _prefect((200, JSON, b'"OK"')), (_API,)),
    ("status 404", _prefect((404, JSON, b"{}")), (_API, "HTTP 404")),
    ("status 401", _prefect((401, JSON, b"{}")), ("PREFECT_API_AUTH_STRING", "PREFECT_API_KEY")),
    ("status 403", _prefect((403, JSON, b"{}")), ("HTTP 403", "PREFECT_API_KEY")),
    ("status 503", _prefect((503, {}, b"")), ("is not ready (HTTP 503)",)),
    (
        "a redirect",
        _prefect((302, {"Location": "https://login.example/x"}, b"")),
        ("redirects to https://login.example",),
    ),
    ("version 2", _prefect((200, JSON, b'"2.20.1"')), ("is version 2.20.1", "use a server of version 3")),
    ("nobody", lambda ground: require_server("http://127.0.0.1:9/api"), ("no Prefect server answers", "server start")),
    ("no address", lambda ground: require_server("localhost:4200/api"), ("PREFECT_API_URL 'localhost:4200/api'",)),
]

ROWS = [
    *(Row("S3 store", f"an endpoint: {given}", give, says) for given, give, says in _ENDPOINTS),
    *(Row("S3 store", f"a listing: {given}", give, (says,)) for given, give, says in _LISTS),
    *(Row("S3 store", f"AWS's settings: {given}", give, says) for given, give, says in _AWS),
    *(Row("S3 store", f"the answer {given}", give, says) for given, give, says in _ANSWERS),
    *(Row("Prefect server", given, give, says) for given, give, says in _PREFECT),
    Row("Prefect server", "its API", _prefect(_below_api), meaning="a server to report to"),
    Row("Prefect server", "its API and a slash", _prefect(_below_api, "/api/"), meaning="the same server"),
]
