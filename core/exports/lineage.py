"""What a model was made from, file by file and round by round, as records say: its digests, and a drawing of it."""

import contextlib
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from core.records.artifacts import ROUND_RECORD
from core.records.input_files import record_of
from core.records.record_files import Record
from core.records.record_forms import parse_record
from core.rounds.finished_rounds import InputEntry, RoundRecord
from core.runtime.errors import InputError
from core.runtime.escaping import mermaid_text
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, join, split_location

# Inputs of a round that its parent stands for.
_PARENT, _OF_PARENT = "parent", ("parent", "generator")
# With more rounds than this, a drawing shows the first and the last, and how many are between.
_MOST_ROUNDS = 12


class Node(NamedTuple):
    """A file or round by its `title`, the sha256 of the file or of the round's record, and the kind of its box."""

    title: str
    sha256: str
    is_computed: bool


@dataclass
class Lineage:
    """The files and rounds that a model comes from, by digest, and pairs of digests: from which, what was made.

    `rounds` are the records of its rounds by digest, the oldest first, each with the location where it is now. `ends`
    are the digests of what the model itself was made from.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    edges: dict[tuple[str, str], None] = field(default_factory=dict)
    rounds: dict[str, RoundRecord] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)


def trace_lineage(inputs: Mapping[str, InputEntry], round_location: str | None, artifacts: ArtifactsSection) -> Lineage:
    """The lineage of a model made from these files, and of the round at `round_location`, if one made its checkpoint.

    What no record can be found of is a file without a past. The checkpoint is called `diffusion` in `inputs`.
    """
    lineage = Lineage()
    if round_location is not None:
        _add_rounds(lineage, round_location, artifacts)
    lineage.ends = list(lineage.rounds)[-1:]
    for name, entry in inputs.items():
        if name != "diffusion" or not lineage.rounds:
            _add_file(lineage, name, entry, artifacts)
            lineage.ends.append(entry["sha256"])
    return lineage


def draw_lineage(lineage: Lineage, model: str) -> list[str]:
    """Lines of a Mermaid drawing of a lineage, which ends in the model called `model`. All text is escaped."""
    between = list(lineage.rounds)[1:-1] if len(lineage.rounds) > _MOST_ROUNDS else []
    names = {digest: f"n{number}" for number, digest in enumerate(lineage.nodes)} | dict.fromkeys(between, "between")
    lines = ["flowchart TD"]
    for digest, node in lineage.nodes.items():
        if digest not in between:
            label = f'"{mermaid_text(node.title)}<br>{node.sha256[:12]}"'
            lines.append(f"    {names[digest]}[{label}]" if node.is_computed else f"    {names[digest]}[({label})]")
    if between:
        lines.append(f'    between["{len(between)} more rounds"]')
    lines.append(f'    model(["{mermaid_text(model)}"])')
    arrows = [(names[made_from], names[made]) for made_from, made in lineage.edges]
    arrows += [(names[digest], "model") for digest in lineage.ends]
    return lines + [f"    {tail} --> {head}" for tail, head in dict.fromkeys(arrows) if tail != head]


def _add_rounds(lineage: Lineage, location: str, artifacts: ArtifactsSection) -> None:
    """Add the round at `location` and all before it, and what they were made from."""
    before: str | None = None
    for digest, record in reversed(_rounds_back_from(location, artifacts)):
        for name, entry in record["inputs"].items():
            is_new = entry["sha256"] not in lineage.nodes
            if is_new and (before is None or name not in _OF_PARENT):
                _add_file(lineage, name, entry, artifacts)
                lineage.edges[entry["sha256"], digest] = None
        if before is not None:
            lineage.edges[before, digest] = None
        title = f"round {record['round']} of {record['experiment']}"
        lineage.nodes[digest], lineage.rounds[digest] = Node(title, digest, True), record
        before = digest


def _add_file(lineage: Lineage, name: str, entry: InputEntry, artifacts: ArtifactsSection) -> None:
    """Add a file, and what it and that was made from."""
    waiting = [(name, entry)]
    while waiting:
        name, entry = waiting.pop()
        digest, file = entry["sha256"], entry["path"].rstrip("/").rpartition("/")[2]
        if digest in lineage.nodes:
            continue
        record = _record_of(entry, artifacts)
        lineage.nodes[digest] = Node(
            f"{name if record is None else record['stage']}: {file}", digest, record is not None
        )
        if record is not None:
            waiting += record["inputs"].items()
            lineage.edges |= {(inner["sha256"], digest): None for inner in record["inputs"].values()}


def _record_of(entry: InputEntry, artifacts: ArtifactsSection) -> Record | None:
    """The record of the stage that made exactly this file; None if there is none that can be read."""
    with contextlib.suppress(InputError):  # it is damaged, or in a bucket that cannot be reached any more
        record = record_of(entry["path"], artifacts)
        if record is not None and record.get("stage"):
            made = any(output["sha256"] == entry["sha256"] for output in record["outputs"].values())
            return record if made else None
    return None


def _rounds_back_from(location: str, artifacts: ArtifactsSection) -> list[tuple[str, RoundRecord]]:
    """Digest and record of the round at `location` and of those before it, the newest first."""
    found: list[tuple[str, RoundRecord]] = []
    at: tuple[str, str | None] | None = (location, None)
    while at is not None and (read := _read_round(*at, artifacts)) is not None:
        digest, record = read
        if any(digest == earlier for earlier, _ in found):
            break
        found.append((digest, {**record, "location": at[0]}))
        at = _place_of_parent(record, at[0], artifacts)
    return found


def _read_round(location: str, sha256: str | None, artifacts: ArtifactsSection) -> tuple[str, RoundRecord] | None:
    """Digest and record of the round at `location`; None if there is none, or none with this digest."""
    with contextlib.suppress(InputError):
        file = open_store(location, artifacts).read(ROUND_RECORD)
        if file is not None:
            digest = hashlib.sha256(file.data).hexdigest()
            record = cast(RoundRecord, parse_record(file.data, location, ROUND_RECORD))
            return (digest, record) if sha256 in (None, digest) else None
    return None


def _place_of_parent(record: RoundRecord, location: str, artifacts: ArtifactsSection) -> tuple[str, str] | None:
    """Location and digest of the round that this one continues: as recorded or, in a run that moved, beside it."""
    entry = record["inputs"].get(_PARENT)
    if entry is None:
        return None
    recorded = entry["path"].rpartition("/")[0]
    beside = join(split_location(location)[0], recorded.rpartition("/")[2])
    for place in (recorded, beside):
        if _read_round(place, entry["sha256"], artifacts) is not None:
            return place, entry["sha256"]
    return None
