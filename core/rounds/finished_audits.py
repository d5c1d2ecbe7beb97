"""Finished audits: their records, and the layouts that they judged."""

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from core.audit.audit import LAYOUTS_NAME
from core.inputs.locations import Location
from core.records.artifacts import RECORD_NAME
from core.records.record_files import entry_of, read_record
from core.rounds.finished_rounds import AuditFigures, RoundRecord
from core.rounds.round import AUDIT_BEFORE
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join


class FinishedAudit(NamedTuple):
    """The record of a finished audit, and where it is."""

    location: Location
    record: dict[str, Any]

    def layouts(self, artifacts: ArtifactsSection) -> Mapping[str, np.ndarray]:
        """The audited layouts: `classes`, uint8 [N, H, W], and which are `viable`, bool [N]."""
        entry = entry_of(self.record, LAYOUTS_NAME, self.location)
        folder = open_store(self.location, artifacts).fetch({LAYOUTS_NAME: entry})
        with np.load(folder / LAYOUTS_NAME) as arrays:
            return dict(arrays)


def finished_audit(location: Location, artifacts: ArtifactsSection) -> FinishedAudit | None:
    """The audit at `location`; None if it is not finished."""
    record = read_record(open_store(location, artifacts), RECORD_NAME)
    return None if record is None else FinishedAudit(location, record)


def audit_before(record: RoundRecord, artifacts: ArtifactsSection) -> AuditFigures | None:
    """Figures of what the round at `record["location"]` started from; None if it was never audited.

    They are only `viable` if that was audited in another run.
    """
    found = finished_audit(join(record["location"], AUDIT_BEFORE), artifacts)
    if found is not None and found.record.get("stage") == "audit":
        return cast(AuditFigures, found.record["metrics"])
    earlier = record.get("earlier_audit")
    if earlier is not None:
        return earlier
    viable = record["metrics"].get("viable_before")
    return None if viable is None else {"viable": viable, "intervals": {"viable": [None, None]}}
