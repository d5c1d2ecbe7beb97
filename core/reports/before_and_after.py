"""What the rounds of a run changed: the audits before the first and after the last, compared seed by seed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from core.audit.bootstrap import Interval, mean_interval
from core.audit.layout_maps import read_maps
from core.audit.reference import split_originals
from core.config.experiment import ExperimentConfig
from core.data.palette import Palette
from core.data.palette_file import read_palette
from core.models.pictures import grid_png
from core.records.artifacts import BEFORE_AFTER_NAME, round_location, run_location
from core.records.input_files import local_path
from core.records.lease import publishing_store
from core.records.provenance import difference
from core.reports.audit_table import short
from core.reports.comparison import fewer_failures
from core.rounds.finished_audits import FinishedAudit, finished_audit
from core.rounds.finished_rounds import RoundRecord
from core.rounds.round import AUDIT, AUDIT_BEFORE
from core.runtime.seeding import derive_seed
from core.storage.store import join, replace
from core.training.prerequisites import with_prerequisites

# The figures that are shown, besides the share of viable layouts.
_FIGURES = ("judge_sound", "doorless", "frechet_distance")
_SHOWN, _COLUMNS = 32, 4


@dataclass(frozen=True)
class BothEnds:
    """The audits before the first round of a run and after round `number`, its last, of layouts of the same noise."""

    number: int
    before: FinishedAudit
    after: FinishedAudit


def both_ends(config: ExperimentConfig, records: Sequence[RoundRecord]) -> BothEnds | None:
    """The audits at both ends of the run with these rounds; None if one was not made, or if they cannot be compared.

    They cannot where they were made with other settings or of other data.
    """
    if not records:
        return None
    number = records[-1]["round"]
    before = finished_audit(join(round_location(config, 1), AUDIT_BEFORE), config.artifacts)
    after = finished_audit(join(round_location(config, number), AUDIT), config.artifacts)
    if before is None or after is None:
        return None
    other, now = (_without_model(audit.record) for audit in (before, after))
    return BothEnds(number, before, after) if difference(other, now) is None else None


def _without_model(record: Mapping[str, Any]) -> dict[str, Any]:
    """What an audit was made from, without the model that it judged."""
    inputs = {name: entry for name, entry in record["inputs"].items() if name != "diffusion"}
    return {**record, "inputs": inputs}


def keep_picture(config: ExperimentConfig, records: Sequence[RoundRecord]) -> str | None:
    """Address of the picture `before | after | real` after writing it to the run's folder; None without both audits.

    Before and after show the layouts of the same noise. The process must hold the run.
    """
    ends = both_ends(config, records)
    if ends is None:
        return None
    before, after = (end.layouts(config.artifacts)["classes"][:_SHOWN] for end in (ends.before, ends.after))
    pictures = _side_by_side([before, after, _real(config)], read_palette(config))
    data = grid_png(pictures, len(pictures) // _rows(len(before)))
    store = publishing_store(run_location(config), config.artifacts)
    kept = store.read(BEFORE_AFTER_NAME)
    if kept is None or kept.data != data:
        replace(store, BEFORE_AFTER_NAME, data)
    return join(store.uri, BEFORE_AFTER_NAME)


def ending(config: ExperimentConfig, records: Sequence[RoundRecord]) -> list[str]:
    """Lines on what the rounds changed; the last one is the verdict and names the picture. Empty without both audits.

    The intervals are 95 % bootstrap intervals over the noise seeds. Those of `viable` and of fewer failures are paired.
    """
    ends = both_ends(config, records)
    if ends is None:
        return []
    viable = [end.layouts(config.artifacts)["viable"] for end in (ends.before, ends.after)]
    more, fewer = _paired(*viable)
    before, after = (end.record["metrics"] for end in (ends.before, ends.after))
    lines = [
        f"{len(viable[0])} layouts of the same noise, before the rounds -> after round {ends.number}, 95 % intervals:",
        f"  viable            {viable[0].mean():.3f} -> {viable[1].mean():.3f}, {_text(more, '+.3f')} paired; "
        f"{_text(fewer, '.1%')} fewer failures",
    ]
    for name in _FIGURES:
        if name in before and name in after:
            lines.append(f"  {name:<17} {_with_interval(before, name)} -> {_with_interval(after, name)}")
    picture = join(run_location(config), BEFORE_AFTER_NAME)
    return [*lines, f"{_verdict(more, before, after)}; before | after | real: {picture}"]


def _paired(before: np.ndarray, after: np.ndarray) -> tuple[Interval, Interval]:
    """By how much the share of viable layouts rose, and the share of failures that are gone."""
    rng = np.random.default_rng(derive_seed(0, "before and after"))
    more = mean_interval(after.astype(float) - before.astype(float), rng)
    return more, fewer_failures([(after, before)], rng)


def _verdict(more: Interval, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """In words, whether the share of viable layouts rose, and whether the Fréchet distance did beyond its interval."""
    if more.low > 0:
        verdict = "more layouts are viable than before"
    elif more.high < 0:
        verdict = "FEWER layouts are viable than before"
    else:
        verdict = "NOT SHOWN that more layouts are viable than before: the interval contains 0"
    distance, high = after.get("frechet_distance"), before["intervals"].get("frechet_distance", (None, None))[1]
    if distance is not None and high is not None and distance > high:
        verdict += "; the Fréchet distance is WORSE, beyond its interval before"
    return verdict


def _text(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def _with_interval(metrics: Mapping[str, Any], name: str) -> str:
    value, low, high = map(short, (metrics[name], *metrics["intervals"][name]))
    return f"{value} [{low}, {high}]"


def _real(config: ExperimentConfig) -> np.ndarray:
    """Class maps of the first real held-out layouts, uint8 [N, H, W]."""
    config = with_prerequisites(config)
    manifest = local_path(config.required("dataset.manifest"), config.artifacts)
    _, held_out = split_originals(config, manifest)
    return read_maps(config, held_out.head(_SHOWN)).classes


def _rows(count: int) -> int:
    return math.ceil(count / _COLUMNS)


def _side_by_side(blocks: Sequence[np.ndarray], palette: Palette) -> np.ndarray:
    """uint8 RGB [N, H, W, 3], row by row: blocks of class maps beside each other, a white column between them.

    All blocks get as many rows as the first.
    """
    side, rows = blocks[0].shape[1:], _rows(len(blocks[0]))
    parts = []
    for classes in blocks:
        block = np.full((rows * _COLUMNS, *side, 3), 255, np.uint8)
        shown = classes[: len(block)]
        block[: len(shown)] = palette.rgb_from_classes(shown)
        parts += [block.reshape(rows, _COLUMNS, *side, 3), np.full((rows, 1, *side, 3), 255, np.uint8)]
    sheet: np.ndarray = np.concatenate(parts[:-1], axis=1).reshape(-1, *side, 3)
    return sheet
