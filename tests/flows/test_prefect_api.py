"""The server at PREFECT_API_URL must have Prefect's API; errors say what to change."""

import subprocess
import sys
from pathlib import Path

import httpx
import prefect
import pytest
from prefect import settings as prefect_settings
from prefect.settings import PREFECT_HOME, get_current_settings, temporary_settings

from core.runtime.errors import InputError
from flows.prefect_api import configured_server, require_server, server_errors
from flows.temporary_server import TemporaryServer
from tests.web_servers import HTML, PAGE, answering, make_certificate, sending

JSON = {"Content-Type": "application/json"}
VERSION = (200, JSON, f'"{prefect.__version__}"'.encode())
UNAUTHORIZED = (401, JSON, b'{"exception_message":"Unauthorized"}')


def with_settings(**values):
    """Prefect's settings by name."""
    return temporary_settings({getattr(prefect_settings, name): value for name, value in values.items()})


def served(api):
    """A server as Prefect's is: a page, and an API below /api."""

    def reply(path, _):
        if not path.startswith("/api/"):
            return 200, HTML, PAGE
        return api if path == "/api/admin/version" else (404, JSON, b"{}")

    return reply


def test_the_api_is_let_pass():
    with answering(served(VERSION)) as url:
        require_server(f"{url}/api")
        require_server(f"{url}/api/")


@pytest.mark.parametrize("api", [VERSION, UNAUTHORIZED])
@pytest.mark.parametrize("path", ["", "/", "/dashboard", "/api/flows"])
def test_an_address_beside_the_api_is_told_the_right_one(api, path):
    with answering(served(api)) as url, pytest.raises(InputError, match=f"set it to {url}/api$"):
        require_server(url + path)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((200, HTML, PAGE), "it answers HTTP 200 with text/html: set PREFECT_API_URL to the server's address and /api"),
        ((200, JSON, b"true"), "it answers HTTP 200 with application/json"),
        ((200, JSON, b'"OK"'), "is not a Prefect server's API"),
        ((404, JSON, b"{}"), "it answers HTTP 404 with application/json"),
        ((500, HTML, PAGE), "it answers HTTP 500 with text/html"),
        ((302, {"Location": "https://login.example/?secret=1"}, b""), "it redirects to https://login.example: set"),
        ((200, JSON, b'"2.20.9"'), "is version 2.20.9, and this is version"),
        ((503, {}, b""), "is not ready (HTTP 503): try again later"),
    ],
    ids=str,
)
def test_something_else_is_named(reply, words):
    with answering(reply) as url, pytest.raises(InputError) as error:
        require_server(f"{url}/api")
    assert f"{url}/api" in str(error.value) and words in str(error.value) and "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "wants a password (HTTP 401): set PREFECT_API_AUTH_STRING to USER:PASSWORD, or PREFECT_API_KEY"),
        ({"PREFECT_API_AUTH_STRING": "me:hidden"}, "refuses PREFECT_API_AUTH_STRING (HTTP 401)"),
        ({"PREFECT_API_KEY": "hidden"}, "refuses PREFECT_API_KEY (HTTP 401)"),
    ],
    ids=["none", "password", "key"],
)
def test_who_is_not_let_in_is_told_what_to_set(settings, words):
    with answering(served(UNAUTHORIZED)) as url, with_settings(**settings), pytest.raises(InputError) as error:
        require_server(f"{url}/api")
    assert words in str(error.value) and "hidden" not in str(error.value)


def test_a_key_that_cannot_be_sent_is_not_shown():
    with answering(served(VERSION)) as url, with_settings(PREFECT_API_KEY="hidden\nkey"):
        with pytest.raises(InputError, match=r"PREFECT_API_KEY, .* holds a line break") as error:
            require_server(f"{url}/api")
        assert "hidden" not in str(error.value)


def test_http_https_and_certificates(tmp_path):
    certificate = make_certificate(tmp_path)
    with answering(served(VERSION)) as url, pytest.raises(InputError, match="if the server speaks http, write http://"):
        require_server(f"{url}/api".replace("http", "https"))
    with answering(served(VERSION), certificate) as url:
        with pytest.raises(InputError, match="if the server speaks https, write https://"):
            require_server(f"{url}/api".replace("https", "http"))
        with pytest.raises(InputError, match="set PREFECT_API_SSL_CERT_FILE"):
            require_server(f"{url}/api")
        with with_settings(PREFECT_API_SSL_CERT_FILE=str(certificate)):
            require_server(f"{url}/api")
    with (
        with_settings(PREFECT_API_SSL_CERT_FILE="/nowhere"),
        pytest.raises(InputError, match="CERT_FILE /nowhere is not"),
    ):
        require_server("https://127.0.0.1:9/api")
    with sending(b"SSH-2.0-OpenSSH\r\n") as url, pytest.raises(InputError, match="no Prefect server answers at"):
        require_server(url)


@pytest.mark.parametrize("url", ["localhost:4200/api", "ftp://localhost/api", "http://local\nhost/api"])
def test_what_is_no_address_is_told_what_one_looks_like(url):
    with pytest.raises(InputError, match=r"^PREFECT_API_URL .* is not the address of a server .*such as http://127"):
        require_server(url)


def test_a_server_that_fails_later_ends_in_a_line():
    request = httpx.Request("POST", "http://127.0.0.1:9/api/flows/")
    for error, words in [
        (httpx.HTTPStatusError("", request=request, response=httpx.Response(404)), r"refuses /api/flows/ \(HTTP 404\)"),
        (httpx.HTTPStatusError("", request=request, response=httpx.Response(401)), "wants a password"),
        (httpx.ConnectError("refused"), "no longer answers"),
        (RuntimeError("Failed to reach API at http://127.0.0.1:9/api"), "Failed to reach API"),
        (RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server."), "PREFECT_HOME"),
    ]:
        with pytest.raises(InputError, match=words), server_errors():
            raise error
    with pytest.raises(RuntimeError, match="a mistake of our own"), server_errors():
        raise RuntimeError("a mistake of our own")


def test_no_server_at_all_is_told():
    with with_settings(PREFECT_API_URL="", PREFECT_SERVER_EPHEMERAL_ENABLED=True):
        assert configured_server() is None
    with (
        with_settings(PREFECT_API_URL="", PREFECT_SERVER_EPHEMERAL_ENABLED=False),
        pytest.raises(InputError, match="set PREFECT_API_URL, or allow it"),
    ):
        configured_server()


# --- The temporary server


@pytest.fixture
def home(tmp_path):
    """A PREFECT_HOME of this test's own."""
    with temporary_settings({PREFECT_HOME: tmp_path}):
        yield tmp_path


HOLD = """
import sys
from flows.temporary_server import TemporaryServer
with TemporaryServer().own_database():
    print("held", flush=True)
    sys.stdin.read()
"""


def database():
    return get_current_settings().server.database.connection_url.get_secret_value()


def test_a_second_command_s_server_has_a_database_of_its_own(home, monkeypatch):
    monkeypatch.setenv("PREFECT_HOME", str(home))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout.readline() == "held\n"
        second = TemporaryServer()
        with second.own_database():
            own = database()
            assert str(home) not in own
        folder = Path(own.removeprefix("sqlite+aiosqlite:///")).parent
        assert folder.is_dir()
        second.end()
        assert not folder.exists()
        first.kill()
    third = TemporaryServer()
    with third.own_database():  # the first is gone, however it ended
        assert database() == f"sqlite+aiosqlite:///{home}/prefect.db"


def test_a_database_of_the_user_s_is_left(home):
    with with_settings(PREFECT_SERVER_DATABASE_CONNECTION_URL="sqlite+aiosqlite:////mine.db"):
        for _ in range(2):
            with TemporaryServer().own_database():
                assert database() == "sqlite+aiosqlite:////mine.db"


def test_a_home_that_cannot_be_written_to_is_named(home):
    file = home / "file"
    file.touch()
    with (
        temporary_settings({PREFECT_HOME: file / "home"}),
        pytest.raises(InputError, match=f"PREFECT_HOME {file}/home cannot be written to"),
        TemporaryServer().own_database(),
    ):
        pass
