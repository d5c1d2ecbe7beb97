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

from core.inputs.locations import require_plain_address
from core.runtime.errors import InputError

_SECONDS = 20.0
_VERSION = re.compile(r"\d+\.\d+\.[\w.+-]+")
_EXAMPLE = "http://127.0.0.1:4200/api"
# Texts of Prefect's RuntimeErrors if its server is not reached, or its temporary one does not start.
_SERVER_FAILURES = ("Failed to reach API", "ephemeral Prefect API server", "Unable to find an available port")


def configured_server() -> str | None:
    """Address of the API of the configured server; None if Prefect may start a temporary one.

    Raises InputError if neither is so, or if the address holds a password.
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
    """InputError unless a Prefect server's API of our version answers at `url` and accepts our credentials."""
    try:
        answer = _ask(url)
    except httpx.LocalProtocolError:  # its text holds the header
        raise InputError(
            "PREFECT_API_KEY, PREFECT_API_AUTH_STRING or PREFECT_CLIENT_CUSTOM_HEADERS holds a line break or another "
            "character that cannot be sent: set it again"
        ) from None
    except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
        raise InputError(
            f"PREFECT_API_URL {url!r} is not the address of a server ({error}): write one such as {_EXAMPLE}"
        ) from None
    except httpx.TransportError as error:
        raise InputError(f"no Prefect server answers at {url} ({error}): {_how_to_reach(error)}") from None
    except OSError:  # ssl's own among them
        raise InputError(
            f"PREFECT_API_SSL_CERT_FILE {get_current_settings().api.ssl_cert_file} is not a file of certificates: "
            "correct it, or unset it"
        ) from None
    if answer.status_code in (401, 403):
        raise InputError(_refused(url, answer.status_code))
    if answer.status_code in (429, 502, 503, 504):
        raise InputError(f"the Prefect server at {url} is not ready (HTTP {answer.status_code}): try again later")
    with temporary_settings({PREFECT_API_URL: url}):
        is_cloud = determine_server_type() == ServerType.CLOUD
    if is_cloud and answer.status_code == 404:
        return  # Prefect Cloud shows no version and works with every client
    _require_our_version(url, answer)


@contextlib.contextmanager
def server_errors() -> Iterator[None]:
    """Errors that Prefect raises inside the block because its server fails become InputErrors."""
    where = get_current_settings().api.url or "of this command"
    try:
        yield
    except httpx.HTTPStatusError as error:  # PrefectHTTPStatusError is a subclass
        if error.response.status_code in (401, 403):
            raise InputError(_refused(where, error.response.status_code)) from None
        path, status = error.request.url.path, error.response.status_code
        raise InputError(f"the Prefect server {where} refuses {path} (HTTP {status}): see its log") from None
    except httpx.TransportError as error:
        failed = f"the Prefect server {where} no longer answers ({type(error).__name__})"
        raise InputError(f"{failed}: run the same command again when it works") from None
    except RuntimeError as error:
        if not any(text in str(error) for text in _SERVER_FAILURES):
            raise
        raise InputError(
            f"the Prefect server {where} fails ({error}): run the same command again; for a temporary one check "
            "that PREFECT_HOME can be written to and is not that of another version"
        ) from None


def _ask(url: str) -> httpx.Response:
    """The answer to a request for the server's version; unlike /health it needs the password."""
    with (
        temporary_settings({PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}),
        # Prefect's own client, with its configured password, headers and certificates.
        get_client({"timeout": _SECONDS, "follow_redirects": False}, sync_client=True) as client,
    ):
        try:
            return client._client.get("/admin/version")
        except httpx.HTTPStatusError as error:
            return error.response


def _require_our_version(url: str, answer: httpx.Response) -> None:
    found, ours = _version(answer), prefect.__version__
    if found is None:
        raise InputError(_not_an_api(url, answer))
    if _major(found) != _major(ours):
        raise InputError(
            f"the Prefect server at {url} is version {found}, and this is version {ours}: use a server of version "
            f"{_major(ours)}, or set another PREFECT_API_URL"
        )


def _version(answer: httpx.Response) -> str | None:
    """The version in the answer of Prefect's API; None for any other answer."""
    try:
        version = json.loads(answer.content)
    except ValueError:
        return None
    return version if answer.status_code == 200 and isinstance(version, str) and _VERSION.fullmatch(version) else None


def _major(version: str) -> str:
    return version.partition(".")[0]


def _not_an_api(url: str, answer: httpx.Response) -> str:
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
            f"{url} is not a Prefect server's API, it redirects to {to}: set PREFECT_API_URL to the server's own "
            "address"
        )
    kind = answer.headers.get("content-type", "").partition(";")[0] or "nothing"
    return (
        f"{url} is not a Prefect server's API, it answers HTTP {answer.status_code} with {kind}: set PREFECT_API_URL "
        f"to the server's address and /api, such as {_EXAMPLE}"
    )


def _refused(url: str, status: int) -> str:
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
        return "if the server speaks https, write https:// in PREFECT_API_URL; otherwise it is not a Prefect server"
    return (
        "run `prefect server start`, set another PREFECT_API_URL, or `prefect config unset PREFECT_API_URL` for a "
        "temporary one"
    )


@contextlib.contextmanager
def server_for_others() -> Iterator[None]:
    """Inside, other processes that do the run's tasks report to its server, even if it is a temporary one."""
    with get_client(sync_client=True) as client:
        url = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield
