"""The report of a round, as Markdown, and of its run, as one HTML page: metrics, curves, audits and pictures."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from core.config.experiment import ExperimentConfig
from core.records.artifacts import RECORD_NAME, REPORT_NAME, round_location, run_location
from core.records.lease import publishing_store
from core.records.record_files import entry_of, read_record
from core.reports.audit_table import AUDIT_HEADER, AuditTable, audit_table
from core.reports.curves import draw_curves, draw_fifths, draw_strengths
from core.reports.knowledge import known_of_viability, viable_by_fifths
from core.reports.page_templates import page_template
from core.reports.round_table import ROUND_HEADER, round_row
from core.reports.strengths import STRENGTH_HEADER, audits_by_strength, strength_rows
from core.reports.time_left import time_left
from core.rounds.alarms import taught_figures
from core.rounds.finished_audits import audit_before
from core.rounds.finished_rounds import AuditFigures, RoundRecord, read_round_record
from core.runtime.errors import InputError, one_line
from core.runtime.escaping import markdown_code, markdown_text
from core.storage.opening import open_store
from core.storage.store import Store, join, replace
from core.training.file_names import extremes_name, metrics_name, real_layouts_name, samples_name

# A picture file above this size is shrunk to the width, because Prefect keeps pictures in its database.
_PICTURE_BYTES = 200_000
_WIDTH = 640
_STAGE_TITLES = {"bad_latents": "bad latents", "discriminator": "discriminator", "stage3": "Stage 3"}
_PAGE = "report.html.jinja"


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a `data:` address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class RoundPart:
    """What a report shows of one round; `locations` are titles and addresses.

    `known` is what the discriminator knows of viability and `fifths` a picture of it. They and `audit` are None in a
    round without them. `strengths` are the rows of the table by strength, and `strength_curve` a picture of it.
    """

    number: int
    alarms: list[str]
    known: str | None
    fifths: Picture | None
    audit: AuditTable | None
    pictures: list[Picture]
    locations: list[tuple[str, str]]
    strengths: Sequence[Sequence[str]] = ()
    strength_curve: Picture | None = None


@dataclass(frozen=True)
class Report:
    """Markdown on one round, and HTML on the run up to that round: one page that needs no other file."""

    markdown: str
    html: str


def make_report(config: ExperimentConfig, number: int) -> Report:
    """The report of round `number`, and of the run up to it.

    Raises InputError if one of the rounds is not finished, or if a picture of it is missing or altered.
    """
    records = _records(config, number)
    curves = _curves(config, records)
    first = audit_before(records[0], config.artifacts)
    parts = [_round_part(config, record, first) for record in reversed(records)]
    name = config.experiment.name
    left = time_left(records, config.rounds.count)
    html = render_page(name, [round_row(record) for record in records], curves, parts, left)
    return Report(_round_markdown(name, _markdown_table(records), curves, parts[0]), html)


def render_page(
    name: str,
    rows: Sequence[Sequence[str]],
    curves: Picture,
    rounds: Sequence[RoundPart],
    left: str | None = None,
) -> str:
    """HTML page of the run `name`: a table of `rows`, the curves, and a part for each round. All text is escaped.

    `left` says how long the rounds after them will take.
    """
    return page_template(_PAGE).render(
        name=name,
        header=ROUND_HEADER,
        rows=rows,
        left=left,
        curves=curves,
        rounds=rounds,
        audit_header=AUDIT_HEADER,
        strength_header=STRENGTH_HEADER,
    )


def round_summary(config: ExperimentConfig, number: int) -> str:
    """Markdown, short enough for a question: metrics up to round `number`, and samples before and after that round."""
    records = _records(config, number)
    before, after, *_ = _pictures(config, records[-1])
    return "\n\n".join([_markdown_table(records), _markdown(before), _markdown(after)])


def keep_report(config: ExperimentConfig, html: str) -> str:
    """Write the run's `report.html`; its address."""
    store = publishing_store(run_location(config), config.artifacts)
    replace(store, REPORT_NAME, html.encode())
    return join(store.uri, REPORT_NAME)


def _records(config: ExperimentConfig, number: int) -> list[RoundRecord]:
    """The records up to round `number`, each with the location where the round is now: its root may have moved."""
    records: list[RoundRecord] = []
    for position in range(1, number + 1):
        location = round_location(config, position)
        record = read_round_record(config, position)
        if record is None:
            raise InputError(f"{location} holds no finished round: there is nothing to report yet")
        records.append({**record, "location": location})
    return records


def _round_part(config: ExperimentConfig, record: RoundRecord, first: AuditFigures | None) -> RoundPart:
    strengths = audits_by_strength(config, record, first)
    taught = record.get("taught", taught_figures(config))
    return RoundPart(
        number=record["round"],
        alarms=[one_line(alarm) for alarm in record.get("alarms", [])],
        known=known_of_viability(record["metrics"]),
        fifths=_fifths(record),
        audit=audit_table(record.get("audit"), taught),
        pictures=list(_pictures(config, record)),
        locations=_locations(record),
        strengths=strength_rows(strengths),
        strength_curve=Picture("Audits by strength", draw_strengths(strengths)) if strengths else None,
    )


def _round_markdown(name: str, table: str, curves: Picture, part: RoundPart) -> str:
    blocks = [f"# {markdown_text(name)} · round {part.number}", table]
    blocks += [f"**Alarm:** {markdown_text(alarm)}" for alarm in part.alarms]
    if part.known:
        blocks.append(markdown_text(part.known))
    if part.fifths:
        blocks.append(_markdown(part.fifths))
    if part.audit:
        blocks += ["## Audit", markdown_text(part.audit.taught), _escaped_rows(AUDIT_HEADER, part.audit.rows)]
    if part.strengths:
        blocks.append("## From the start to the end of the run, and beyond")
        blocks.append(_escaped_rows(STRENGTH_HEADER, part.strengths))
    blocks += [_markdown(picture) for picture in [curves, *part.pictures]]
    places = [f"- {title}: {markdown_code(place)}" for title, place in part.locations]
    blocks.append("\n".join(["## Artefacts\n", *places]))
    return "\n\n".join(blocks) + "\n"


def _markdown_table(records: Sequence[RoundRecord]) -> str:
    return _markdown_rows(ROUND_HEADER, [round_row(record) for record in records])


def _escaped_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return _markdown_rows(header, [[markdown_text(cell) for cell in row] for row in rows])


def _markdown_rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _markdown(picture: Picture) -> str:
    caption = markdown_text(picture.caption)
    return f"**{caption}**\n\n![{caption}]({picture.uri})"


def _locations(record: RoundRecord) -> list[tuple[str, str]]:
    places = {"round": record["location"]} | {
        title: join(record["location"], folder) for folder, title in _STAGE_TITLES.items()
    }
    return [(title, one_line(place)) for title, place in places.items()]


def _curves(config: ExperimentConfig, records: Sequence[RoundRecord]) -> Picture:
    name = metrics_name(config.experiment.name)
    folder, stage = _stage3(config, records[-1])
    history = pd.read_csv(folder.fetch({name: entry_of(stage, name, folder.uri)}) / name)
    audits = _audits(config, records)
    shown = ["Losses by epoch", "viability and discriminator accuracy by round"]
    if audits:
        shown.append("audits by round")
    return Picture("; ".join(shown), draw_curves(history, records, audits))


def _audits(config: ExperimentConfig, records: Sequence[RoundRecord]) -> list[tuple[int, AuditFigures]]:
    """The audits of the run, each with the number of the round before it; 0 is what the first round started from."""
    audits = [(record["round"], audit) for record in records if (audit := record.get("audit")) is not None]
    first = audit_before(records[0], config.artifacts)
    return audits if first is None else [(records[0]["round"] - 1, first), *audits]


def _fifths(record: RoundRecord) -> Picture | None:
    shares = viable_by_fifths(record["metrics"])
    if shares is None:
        return None
    told = ", ".join(f"{share:.2f}" for share in shares)
    return Picture(f"Viable share by fifths of the discriminator's score, from the lowest: {told}", draw_fifths(shares))


def _pictures(config: ExperimentConfig, record: RoundRecord) -> Iterator[Picture]:
    experiment, metrics = config.experiment.name, record["metrics"]
    folder, stage = _stage3(config, record)
    shown = {
        samples_name(experiment, metrics["first_epoch"]): "Before the round (same seeds as below)",
        samples_name(experiment, metrics["epoch"]): "After the round",
        real_layouts_name(experiment): "Real layouts of the validation split",
        extremes_name(experiment): "Best (top) and worst (bottom) by the discriminator, after the round",
    }
    fetched = folder.fetch({name: entry_of(stage, name, folder.uri) for name in shown})
    for name, caption in shown.items():
        yield Picture(caption, _thumbnail(fetched / name))


def _stage3(config: ExperimentConfig, record: RoundRecord) -> tuple[Store, Mapping[str, Any]]:
    store = open_store(join(record["location"], "stage3"), config.artifacts)
    stage = read_record(store, RECORD_NAME)
    if stage is None:
        raise InputError(f"{store.uri} has lost its {RECORD_NAME}: run the same command again")
    return store, stage


def _thumbnail(path: Path) -> bytes:
    """PNG of the picture, shrunk if the file is large. Layouts have few colours, so a palette suffices."""
    data = path.read_bytes()
    if len(data) <= _PICTURE_BYTES:
        return data
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDTH, _WIDTH), Image.Resampling.BOX)
    made = io.BytesIO()
    small.quantize(64, dither=Image.Dither.NONE).save(made, format="PNG", optimize=True)
    return made.getvalue()
