"""Which finished rounds were announced, that is, had their events sent."""

from core.config.experiment import ExperimentConfig
from core.records.artifacts import ANNOUNCED_NAME, round_location
from core.records.record_files import read_record, record_bytes
from core.rounds.finished_rounds import last_finished_round
from core.storage.opening import open_store


def last_unannounced_round(config: ExperimentConfig) -> int | None:
    """Number of the last finished round if its events were not sent, because its process died before; else None."""
    number = last_finished_round(config)
    return None if number == 0 or is_announced(config, number) else number


def is_announced(config: ExperimentConfig, number: int) -> bool:
    """Whether the events of the finished round `number` were sent."""
    return read_record(open_store(round_location(config, number), config.artifacts), ANNOUNCED_NAME) is not None


def note_announced(config: ExperimentConfig, number: int) -> None:
    """Store that the events of the finished round `number` were sent. A later start sends them again without this."""
    # Without the run's lease: a run that one of the events started may hold it by now.
    store = open_store(round_location(config, number), config.artifacts)
    store.create(ANNOUNCED_NAME, record_bytes({"round": number}))
