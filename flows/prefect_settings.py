"""Prefect's settings for the flows, in every working folder; variables of the user's environment take precedence.

Prefect reads the pyproject.toml of the working folder, so settings there hold in the project's folder only.
"""

import os
import sys

SETTINGS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # Epoch lines are part of a run's logs.
    "PREFECT_LOGGING_EXTRA_LOGGERS": "core",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # A temporary server creates its database first, which takes long on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
}


def apply_settings() -> None:
    """Give Prefect, and a server that it starts, the settings that the environment does not set."""
    missing = {name: value for name, value in SETTINGS.items() if name not in os.environ}
    os.environ.update(missing)
    if missing and "prefect.context" in sys.modules:
        # It was imported before and has read its settings.
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()
