"""How Prefect behaves for the flows, whatever folder they are started from; what a user's environment says goes first.

Prefect reads pyproject.toml of the working folder, so that what stands there holds in the project's folder alone.
"""

import os
import sys

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Epoch lines are part of a run's logs.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "core",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A temporary server makes its database first, which takes long on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def apply_settings() -> None:
    """Have Prefect, and the server that it may start, take these settings where the environment says nothing."""
    missing = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(missing)
    if missing and "prefect.context" in sys.modules:
        # Imported before: it has read its settings.
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
