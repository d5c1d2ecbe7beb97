"""What the task of a stage hands to the round it is part of."""

from collections.abc import Mapping
from typing import Any, NotRequired, TypedDict


class StageResult(TypedDict):
    """Where the files of a stage are, and the metrics of its record; `seconds` that it took."""

    output_dir: str
    metrics: Mapping[str, Any]
    seconds: NotRequired[float]
