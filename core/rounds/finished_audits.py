"""Finished audits: their records, and the layouts that they judged."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from core.audit.audit import LAYOUTS_NAME
from core.inputs.locations import Location
from core.records.artifacts import RECORD_NAME
from core.records.record_files import entry_of, read_record
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection


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
