"""The Prefect server that commands talk to."""

import httpx
from prefect.settings import get_current_settings

from core.errors import InputError

_SECONDS = 20.0


def configured_server() -> str | None:
    """Address of the server's API that is configured; None where Prefect would start a temporary one."""
    return get_current_settings().api.url


def require_server(url: str) -> None:
    """InputError if no server answers at `url`; whom it lets in, it says itself."""
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=_SECONDS)
    except httpx.TransportError as error:
        raise InputError(
            f"no Prefect server answers at {url} ({error}): run `prefect server start`, set another "
            "PREFECT_API_URL, or `prefect config unset PREFECT_API_URL` for a temporary one"
        ) from None
