"""How long the rounds that a run has left will take, from the seconds in the records of its finished rounds."""

from collections.abc import Sequence

from core.rounds.finished_rounds import RoundRecord
from core.runtime.progress import duration

# Rounds that the estimate is the mean of. The first round is left out where there are others: it also audits its start.
_ROUNDS = 3


def seconds_left(records: Sequence[RoundRecord], count: int) -> float | None:
    """Seconds for the rounds after the finished `records`, of `count`; None before the first, 0 after the last."""
    if not records:
        return None
    known = [record["seconds"] for record in (records[1:] or records)[-_ROUNDS:]]
    return max(0, count - len(records)) * sum(known) / len(known)


def time_left(records: Sequence[RoundRecord], count: int) -> str | None:
    """The same in words; None where nothing is known, or left."""
    seconds, rounds = seconds_left(records, count), count - len(records)
    if not seconds:
        return None
    return f"about {duration(seconds)} for the {rounds} round{'s' if rounds > 1 else ''} left"
