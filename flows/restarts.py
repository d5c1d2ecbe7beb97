"""The limit on how often an automation restarts a crashed run."""

from typing import Annotated

from pydantic import Field

from core.inputs.section import NUMBER
from core.runtime.errors import InputError

# A cause that crashed this many runs in a row, such as too little memory, will crash the next one too.
MOST_RESTARTS = 5

Restarts = Annotated[int, NUMBER, Field(ge=0, le=1000)]


def require_few_restarts(restarts: int) -> None:
    """InputError if the run crashed too often in a row."""
    if restarts > MOST_RESTARTS:
        raise InputError(
            f"crashed {restarts} times in a row and is not restarted: see the logs of those runs, fix the cause "
            "(often too little memory) and start the run yourself; it continues where it stopped"
        )
