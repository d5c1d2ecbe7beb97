"""Parts that all model cards share: sentences and tables in Markdown, in which text from outside is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

from core.config.experiment import ExperimentConfig
from core.runtime.escaping import markdown_text
from core.runtime.files import Entry

_VERSIONS = ("python", "torch", "diffusers")


def data_sentence(config: ExperimentConfig) -> str:
    """What the config's data are."""
    synthetic = config.dataset.synthetic
    if synthetic is None:
        return "the layouts of a manifest"
    fewest, most = synthetic.rooms
    rooms = f"{fewest} to {most} rooms" if fewest < most else f"{most} room{'s' if most > 1 else ''}"
    return f"{synthetic.count:,} layouts of {rooms} from this project's generator, seed {synthetic.seed}"


def made_with(record: Mapping[str, Any]) -> list[str]:
    """A line on the versions that a record names; none if it names none."""
    code = record.get("code")
    known: Mapping[str, Any] = code if isinstance(code, dict) else {}
    versions = ", ".join(f"{name} {markdown_text(known[name])}" for name in _VERSIONS if name in known)
    return [f"- **Made with**: {versions}."] if versions else []


def file_table(files: Mapping[str, Entry]) -> list[str]:
    """Lines of a table of files with their sizes and digests. Their names are the project's own."""
    rows = (f"| `{name}` | {entry['size']:,} | `{entry['sha256']}` |" for name, entry in files.items())
    return ["| file | bytes | sha256 |", "|---|---|---|", *rows]


def stage_table(records: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of a table of finished stages, by name: seconds and metrics; none without a stage."""
    rows: list[tuple[str, ...]] = []
    for stage, record in records.items():
        metrics = [f"{name} {_short(value)}" for name, value in sorted(record["metrics"].items())]
        rows.append((stage, f"{record['seconds']:.0f}", ", ".join(metrics)))
    return card_table(("stage", "seconds", "metrics"), rows)


def card_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table after an empty one, of cells that are Markdown already; none without rows."""
    if not rows:
        return []
    return ["", *(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))]


def _short(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
