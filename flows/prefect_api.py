"""The Prefect server that commands talk to."""

import contextlib
import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import prefect
from prefect.client.base import ServerType, determine_server_type
from prefect.client.orchestration import get_client
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    get_current_settings,
    temporary_settings,
)

from core.inputs.places import require_plain_address
from core.runtime.errors import InputError

_SECONDS = 20.0
_VERSION = re.compile(r"\d+\.\d+\.[\w.+-]+")
_EXAMPLE = "http://127.0.0.1:4200/api"
# What Prefect raises, as plain RuntimeErrors, where its server is not reached or its own temporary one does not start.
_SERVER_FAILURES = ("Failed to reach API", "ephemeral Prefect API server", "Unable to find an available port")


def configured_server() -> str | None:
    """Address of the server's API that is configured; None where Prefect starts a temporary one.

    Raises InputError if it is to start none either, or for an address with a password in it.
    """
    settings = get_current_settings()
    if not settings.api.url and not settings.server.ephemeral.enabled:
        raise InputError(
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE forbids a temporary Prefect server, and there is no other: set "
            "PREFECT_API_URL, or allow it"
        )
    if settings.api.url:
        require_plain_address(settings.api.url, "PREFECT_API_URL")
    return settings.api.url or None


def require_server(url: str) -> None:
    """InputError unless the API of a Prefect server that lets us in, and that we can talk to, answers at `url`."""
    try:
        answer = _ask(url)
    except httpx.LocalProtocolError:  # whose text holds the header
        raise InputError(
            "PREFECT_API_KEY, PREFECT_API_AUTH_STRING or PREFECT_CLIENT_CUSTOM_HEADERS holds a line break or another "
            "character that cannot be sent: set it again"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
        raise InputError(f"PREFECT_API_URL {url!r} is no address of a server ({error}): such as {_EXAMPLE}") from None
    except httpx.TransportError as error:
        raise InputError(f"no Prefect server answers at {url} ({error}): {_how_to_reach(error)}") from None
    except OSError:  # ssl's own among them
        raise InputError(
            f"PREFECT_API_SSL_CERT_FILE {get_current_settings().api.ssl_cert_file} is no file of certificates: correct "
            "it, or unset it"
        ) from None
    if answer.status_code in (401, 403):
        raise InputError(_not_let_in(url, answer.status_code))
    if answer.status_code in (429, 502, 503, 504):
        raise InputError(f"the Prefect server at {url} is not ready (HTTP {answer.status_code}): try again later")
    with temporary_settings({PREFECT_API_URL: url}):
        is_cloud = determine_server_type() == ServerType.CLOUD
    if is_cloud and answer.status_code == 404:
        return  # Prefect Cloud tells no version, and fits every one
    _require_our_version(url, answer)


@contextlib.contextmanager
def server_errors() -> Iterator[None]:
    """What Prefect raises inside where its server fails leaves as an InputError."""
    where = get_current_settings().api.url or "of this command"
    try:
        yield
    except httpx.HTTPStatusError as error:  # Prefect's own is one
        if error.response.status_code in (401, 403):
            raise InputError(_not_let_in(where, error.response.status_code)) from None
        path, status = error.request.url.path, error.response.status_code
        raise InputError(f"the Prefect server {where} refuses {path} (HTTP {status}): see its log") from None
    except httpx.TransportError as error:
        failed = f"the Prefect server {where} does not answer any more ({type(error).__name__})"
        raise InputError(f"{failed}: run the same command again when it works") from None
    except RuntimeError as error:
        if not any(told in str(error) for told in _SERVER_FAILURES):
            raise
        raise InputError(
            f"the Prefect server {where} fails ({error}): run the same command again; for a temporary one see that "
            "PREFECT_HOME can be written to and is no other version's"
        ) from None


def _ask(url: str) -> httpx.Response:
    """The answer to the question for the server's version, which needs the password that /health does not."""
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        # Prefect's own client, with the password, headers and certificates that are set for it.
        get_client({"timeout": _SECONDS, "follow_redirects": False}, sync_client=True) as client,
    ):
        try:
            return client._client.get("/admin/version")
        except httpx.HTTPStatusError as error:
            return error.response


def _require_our_version(url: str, answer: httpx.Response) -> None:
    found, ours = _version(answer), prefect.__version__
    if found is None:
        raise InputError(_no_api(url, answer))
    if _major(found) != _major(ours):
        raise InputError(
            f"the Prefect server at {url} is version {found}, and this is version {ours}: use a server of version "
            f"{_major(ours)}, or set another PREFECT_API_URL"
        )


def _version(answer: httpx.Response) -> str | None:
    """The version that Prefect's API answers with; None for every other answer."""
    try:
        told = json.loads(answer.content)
    except ValueError:
        return None
    return told if answer.status_code == 200 and isinstance(told, str) and _VERSION.fullmatch(told) else None


def _major(version: str) -> str:
    return version.partition(".")[0]


def _no_api(url: str, answer: httpx.Response) -> str:
    parts = urlsplit(url)
    here = f"{parts.scheme}://{parts.netloc}/api"
    if here != url.rstrip("/"):
        with contextlib.suppress(httpx.HTTPError, httpx.InvalidURL, ValueError, OSError):
            there = _ask(here)
            if _version(there) is not None or there.status_code == 401:
                return f"PREFECT_API_URL {url} is not the address of the server's API: set it to {here}"
    if answer.has_redirect_location:
        target = urlsplit(answer.headers["location"])
        to = f"{target.scheme}://{target.netloc}" if target.netloc else "another page"
        return (
            f"{url} is no Prefect server's API, it redirects to {to}: set PREFECT_API_URL to the server's own address"
        )
    kind = answer.headers.get("content-type", "").partition(";")[0] or "nothing"
    return (
        f"{url} is no Prefect server's API, it answers HTTP {answer.status_code} with {kind}: set PREFECT_API_URL to "
        f"the server's address and /api, such as {_EXAMPLE}"
    )


def _not_let_in(url: str, status: int) -> str:
    settings = get_current_settings().api
    if settings.auth_string is not None:
        return (
            f"the Prefect server at {url} refuses PREFECT_API_AUTH_STRING (HTTP {status}): set it to USER:PASSWORD as "
            "in the server's PREFECT_SERVER_API_AUTH_STRING"
        )
    if settings.key is not None:
        return (
            f"the Prefect server at {url} refuses PREFECT_API_KEY (HTTP {status}): set another, or, for a server of "
            "your own, PREFECT_API_AUTH_STRING"
        )
    return (
        f"the Prefect server at {url} wants a password (HTTP {status}): set PREFECT_API_AUTH_STRING to USER:PASSWORD, "
        "or PREFECT_API_KEY for Prefect Cloud"
    )


def _how_to_reach(error: Exception) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "set PREFECT_API_SSL_CERT_FILE to the file of the authority that signed its certificate"
    if "SSL" in str(error):
        return "if the server speaks http, write http:// in PREFECT_API_URL"
    if isinstance(error, httpx.RemoteProtocolError):
        return "if the server speaks https, write https:// in PREFECT_API_URL; else it is no Prefect server"
    return (
        "run `prefect server start`, set another PREFECT_API_URL, or `prefect config unset PREFECT_API_URL` for a "
        "temporary one"
    )


@contextlib.contextmanager
def server_for_others() -> Iterator[None]:
    """Processes that do a run's tasks report to its server inside, where it is a temporary one too."""
    with get_client(sync_client=True) as client:
        url = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield
