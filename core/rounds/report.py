"""What a round came to, for a person: tables, curves and pictures, as Markdown for one round and HTML for a run."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from PIL import Image

from core.config.experiment import ExperimentConfig
from core.records.artifacts import RECORD_NAME, REPORT_NAME, ROUND_RECORD, round_location, run_location
from core.records.lease import publishing_store
from core.records.stage_records import entry_of, read_record
from core.rounds.curves import draw_curves
from core.rounds.round_table import METRIC_TITLES
from core.runtime.errors import InputError, one_line
from core.runtime.escaping import markdown_code, markdown_text
from core.storage.opening import open_store
from core.storage.store import Store, join, replace
from core.training.training_files import extremes_name, metrics_name, real_layouts_name, samples_name

# Larger pictures are shrunk to this width: Prefect keeps them in its database.
_PICTURE_BYTES = 200_000
_WIDTH = 640
_STAGE_TITLES = {"bad_latents": "bad latents", "discriminator": "discriminator", "stage3": "Stage 3"}


@dataclass(frozen=True)
class Picture:
    """A PNG and what it shows."""

    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture itself as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Report:
    """Markdown on one round; HTML on the run up to that round, one page that needs no other file."""

    markdown: str
    html: str


def make_report(config: ExperimentConfig, number: int) -> Report:
    """Figures and curves of the rounds up to `number`, what they draw, and where everything lies.

    Raises InputError if one of them is not finished, or a picture of it is missing or altered.
    """
    records = _records(config, number)
    curves = _curves(config, records)
    rounds = [
        {
            "number": record["round"],
            "alarms": [one_line(alarm) for alarm in record.get("alarms", [])],
            "audit": _audit_lines(record),
            "pictures": list(_pictures(config, record)),
            "locations": _locations(record),
        }
        for record in reversed(records)
    ]
    rows = [_row(record) for record in records]
    html = _TEMPLATE.render(name=config.experiment.name, header=_HEADER, rows=rows, curves=curves, rounds=rounds)
    parts = [f"# {markdown_text(config.experiment.name)} · round {number}", _markdown_table(records)]
    parts += [f"**Alarm:** {markdown_text(alarm)}" for alarm in rounds[0]["alarms"]]
    if rounds[0]["audit"]:
        parts.append("\n".join(["## Audit\n", *(f"- {markdown_text(line)}" for line in rounds[0]["audit"])]))
    parts += [_markdown(picture) for picture in [curves, *rounds[0]["pictures"]]]
    parts.append(
        "\n".join(["## Artefacts\n", *(f"- {name}: {markdown_code(place)}" for name, place in rounds[0]["locations"])])
    )
    return Report("\n\n".join(parts) + "\n", html)


def round_summary(config: ExperimentConfig, number: int) -> str:
    """The figures of the rounds up to `number` and what the last one draws, as Markdown short enough for a question."""
    records = _records(config, number)
    before, after, *_ = _pictures(config, records[-1])
    return "\n\n".join([_markdown_table(records), _markdown(before), _markdown(after)])


def keep_report(config: ExperimentConfig, html: str) -> str:
    """Write the run's `report.html`; its address."""
    store = publishing_store(run_location(config), config.artifacts)
    replace(store, REPORT_NAME, html.encode())
    return join(store.uri, REPORT_NAME)


def _records(config: ExperimentConfig, number: int) -> list[dict[str, Any]]:
    records = []
    for position in range(1, number + 1):
        location = round_location(config, position)
        record = read_record(open_store(location, config.artifacts), ROUND_RECORD)
        if record is None:
            raise InputError(f"{location} holds no finished round: there is nothing to report yet")
        # Where it lies now, should the root have been moved since.
        records.append(record | {"location": location})
    return records


_HEADER = ["round", "epochs", *METRIC_TITLES, "weight", "minutes"]


def _row(record: Mapping[str, Any]) -> list[str]:
    metrics = record["metrics"]
    figures = [metrics.get(name) for name in METRIC_TITLES.values()] + [metrics.get("discriminator_weight")]
    shown = ["" if value is None else f"{value:.4f}" for value in figures]
    epochs = f"{metrics['first_epoch'] + 1} to {metrics['epoch']}"
    return [str(record["round"]), epochs, *shown, f"{record['seconds'] / 60:.1f}"]


def _markdown_table(records: Sequence[Mapping[str, Any]]) -> str:
    lines = [_HEADER, ["---"] * len(_HEADER), *(_row(record) for record in records)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown(picture: Picture) -> str:
    caption = markdown_text(picture.caption)
    return f"**{caption}**\n\n![{caption}]({picture.uri})"


def _audit_lines(record: Mapping[str, Any]) -> list[str]:
    """The figures of the audit after a round, with their intervals; none without an audit."""
    audit = record.get("audit")
    if audit is None:
        return []
    shown = []
    for name, (low, high) in audit["intervals"].items():
        value, low, high = ("-" if number is None else f"{number:.3f}" for number in (audit[name], low, high))
        shown.append(f"{name.replace('_', ' ')} {value} [{low}, {high}]")
    return shown


def _locations(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    places = {"round": record["location"]} | {
        title: join(record["location"], folder) for folder, title in _STAGE_TITLES.items()
    }
    return [(title, one_line(place)) for title, place in places.items()]


def _curves(config: ExperimentConfig, records: Sequence[Mapping[str, Any]]) -> Picture:
    name = metrics_name(config.experiment.name)
    folder, stage = _stage3(config, records[-1])
    history = pd.read_csv(folder.fetch({name: entry_of(stage, name, folder.uri)}) / name)
    metrics = [{"round": record["round"], **record["metrics"]} for record in records]
    return Picture("Losses by epoch; viability and discriminator accuracy by round", draw_curves(history, metrics))


def _pictures(config: ExperimentConfig, record: Mapping[str, Any]) -> Iterator[Picture]:
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


def _stage3(config: ExperimentConfig, record: Mapping[str, Any]) -> tuple[Store, Mapping[str, Any]]:
    store = open_store(join(record["location"], "stage3"), config.artifacts)
    stage = read_record(store, RECORD_NAME)
    if stage is None:
        raise InputError(f"{store.uri} has lost its {RECORD_NAME}: run the same command again")
    return store, stage


def _thumbnail(path: Path) -> bytes:
    """PNG of the picture, made smaller if it is a large file: plain colours, so that a palette holds them."""
    data = path.read_bytes()
    if len(data) <= _PICTURE_BYTES:
        return data
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((_WIDTH, _WIDTH), Image.Resampling.BOX)
    made = io.BytesIO()
    small.quantize(64, dither=Image.Dither.NONE).save(made, format="PNG", optimize=True)
    return made.getvalue()


_TEMPLATE = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1400px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
figure { margin: 1rem 0 }
.pictures { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem }
img { max-width: 100% }
.alarm { color: #a00; font-weight: bold }
code { background: #f3f3f3 }
</style>
</head>
<body>
<h1>{{ name }}</h1>
<table>
<tr>{% for title in header %}<th>{{ title }}</th>{% endfor %}</tr>
{% for row in rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<figure><img src="{{ curves.uri }}" alt="{{ curves.caption }}"><figcaption>{{ curves.caption }}</figcaption></figure>
{% for round in rounds %}
<h2>Round {{ round.number }}</h2>
{% for alarm in round.alarms %}
<p class="alarm">Alarm: {{ alarm }}</p>
{% endfor %}
{% if round.audit %}
<p>Audit, with 95 % intervals: {{ round.audit | join("; ") }}</p>
{% endif %}
<div class="pictures">
{% for picture in round.pictures %}
<figure><img src="{{ picture.uri }}" alt="{{ picture.caption }}"><figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
</div>
<ul>
{% for title, location in round.locations %}
<li>{{ title }}: <code>{{ location }}</code></li>
{% endfor %}
</ul>
{% endfor %}
</body>
</html>
"""
)
