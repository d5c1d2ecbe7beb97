"""A crashed run is started again by an automation, but not without end."""

from typing import Annotated

from pydantic import Field

from core.inputs.section import NUMBER
from core.runtime.errors import InputError

# What ends this many runs in a row, such as too little memory, ends the next one too.
MOST_RESTARTS = 5

Restarts = Annotated[int, NUMBER, Field(ge=0, le=1000)]


def require_few_restarts(restarts: int) -> None:
    """InputError if the run crashed too often in a row for another try."""
    if restarts > MOST_RESTARTS:
        raise InputError(
            f"crashed {restarts} times in a row and is not tried again: see the logs of those runs, mend the cause "
            "(often too little memory), and start it again by hand; it goes on where it was"
        )
