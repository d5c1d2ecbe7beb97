"""The Prefect server that commands talk to."""

import contextlib
from collections.abc import Iterator

import httpx
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from core.errors import InputError
from core.places import require_plain_address

_SECONDS = 20.0


def configured_server() -> str | None:
    """Address of the server's API that is configured; None where Prefect would start a temporary one."""
    url = get_current_settings().api.url
    if url is not None:
        require_plain_address(url, "PREFECT_API_URL")
    return url


def require_server(url: str) -> None:
    """InputError if no server answers at `url`; whom it lets in, it says itself."""
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=_SECONDS)
    except httpx.TransportError as error:
        raise InputError(
            f"no Prefect server answers at {url} ({error}): run `prefect server start`, set another "
            "PREFECT_API_URL, or `prefect config unset PREFECT_API_URL` for a temporary one"
        ) from None


@contextlib.contextmanager
def server_for_others() -> Iterator[None]:
    """Processes that do a run's tasks report to its server inside, where it is a temporary one too."""
    with get_client(sync_client=True) as client:
        url = str(client.api_url)
    with temporary_settings({PREFECT_API_URL: url}):
        yield
