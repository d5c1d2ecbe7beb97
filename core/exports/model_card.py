"""The card of an exported model, from what records say: what it is, what it was made from, how good it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.config.experiment import ExperimentConfig
from core.data.palette import DEFAULT_PALETTE
from core.data.palette_file import read_palette
from core.exports.card_parts import card_table, data_sentence, file_table, made_with, stage_table
from core.exports.lineage import Lineage, draw_lineage
from core.records.record_files import Record
from core.reports.audit_table import CHANGE_HEADER, change_table
from core.reports.round_table import ROUND_HEADER, round_row
from core.reports.strengths import STRENGTH_HEADER, audits_by_strength, strength_rows
from core.rounds.finished_audits import audit_before
from core.rounds.finished_rounds import RoundRecord
from core.runtime.escaping import markdown_code, markdown_text
from core.runtime.files import Entry
from core.storage.store import split_location

# Longer values of settings, such as the steps of a schedule, are cut.
_LONGEST_VALUE = 100

_DIFFUSERS_USE = """
```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)  # runs the Python files in the folder
drawn = pipeline(batch_size=4)  # or generator=torch.Generator().manual_seed(1), or latents=noise
drawn.images[0].save("layout.png")  # a picture in the colours of the classes
drawn.class_maps  # uint8 [4, H, W]; pipeline.config.class_names names the classes
```
"""
_IMGINAV_USE = """
A diffusion checkpoint of ImgiNav: `state_dict` with `unet.*`, `decoder.*` and `scheduler.*`, and their `config`.
"""


@dataclass(frozen=True)
class CardRequest:
    """What a card is of: a model in a `form`, drawn from `checkpoint` at a `strength`, and its files.

    `settings` are those that it was made with, by section; `stage` is the record of the stage that made the checkpoint.
    """

    config: ExperimentConfig
    form: str
    checkpoint_name: str
    strength: float | None
    lineage: Lineage
    settings: Mapping[str, Any]
    stage: Record | None
    files: Mapping[str, Entry]


def model_card(request: CardRequest) -> str:
    """The card in Markdown. It names files, never the folders in which they were."""
    rounds = list(request.lineage.rounds.values())
    title = _title(request, rounds)
    lines = [*_head(request.form), f"# Model card: {markdown_text(title)}", "", *_description(request, rounds), ""]
    lines += ["## Use", *(_DIFFUSERS_USE if request.form == "diffusers" else _IMGINAV_USE).splitlines(), ""]
    lines += ["## Files", "", *file_table(request.files)]
    lines += ["", "Weights are fp32, the moving average of the training where it kept one."]
    lines += ["", "## What it was made from", "", "```mermaid", *draw_lineage(request.lineage, title), "```"]
    digests = [(markdown_text(node.title), f"`{node.sha256}`") for node in request.lineage.nodes.values()]
    lines += card_table(("file, or record of a round", "sha256"), digests)
    if rounds:
        lines += ["", "## Rounds", *card_table(ROUND_HEADER, [round_row(record) for record in rounds]), ""]
        lines += _alarms(rounds)
        lines += _audits(request, rounds)
    if request.stage is not None and not rounds:
        lines += ["", "## Training", *stage_table({markdown_text(request.stage["stage"]): _escaped(request.stage)})]
    settings = [(_as_code(key), _as_code(value)) for key, value in _dotted(request.settings)]
    if settings:
        lines += ["", "## Settings that affect results", *card_table(("setting", "value"), settings)]
    return "\n".join(lines) + "\n"


def _head(form: str) -> list[str]:
    """What model hubs read; a licence is for the publisher to add."""
    library = ["library_name: diffusers"] if form == "diffusers" else []
    return ["---", *library, "pipeline_tag: unconditional-image-generation", "---", ""]


def _title(request: CardRequest, rounds: Sequence[RoundRecord]) -> str:
    made = f"{rounds[-1]['experiment']} after round {rounds[-1]['round']}" if rounds else request.checkpoint_name
    return made if request.strength is None else f"{made}, at strength {request.strength:g}"


def _description(request: CardRequest, rounds: Sequence[RoundRecord]) -> Iterator[str]:
    config = request.config
    size, latent, unet = config.dataset.image_size, "x".join(map(str, config.latent_shape)), config.unet
    yield (
        f"A diffusion model of room layouts: {unet.type} with at most {unet.widest} channels, over "
        f"{latent} latents, which predicts {config.scheduler.prediction_type}. Its decoder makes "
        f"{size}x{size} pixels of {_classes(config)}."
    )
    yield ""
    yield f"- **Data**: {data_sentence(config)}; a share of {config.training.train_split} of them to train on."
    if rounds:
        yield f"- **Training**: {len(rounds)} adversarial round{'s' if len(rounds) > 1 else ''}, in the tables below."
    elif request.stage is not None:
        yield f"- **Training**: the stage {markdown_text(request.stage['stage'])}; no adversarial round."
    else:
        yield "- **Training**: not known. No record names this checkpoint; the data are those of the config given."
    if request.strength is not None:
        yield (
            f"- **Strength**: {request.strength:g}. Its weights are start + strength * (end - start), from the start "
            "(0) to the end of the training (1), or beyond."
        )
    yield f"- **Seed**: {config.training.seed} of the training, {config.training.split_seed} of the split."
    yield from made_with(rounds[-1] if rounds else request.stage or {})
    code = "; the Python files in this folder are Apache-2.0" if request.form == "diffusers" else ""
    yield f"- **Licence**: to be filled in by whoever publishes the model{code}."
    yield f"- **Limits**: it draws what its data shows, at {size}x{size} pixels, and some of its layouts are broken."


def _classes(config: ExperimentConfig) -> str:
    """How many classes its layouts have, and those of another palette than the project's own by name."""
    palette = read_palette(config)
    if palette == DEFAULT_PALETTE:
        return "ten classes"
    return f"{len(palette)} classes: {', '.join(map(markdown_text, palette.names))}"


def _alarms(rounds: Sequence[RoundRecord]) -> list[str]:
    alarms = [
        f"- Round {record['round']}: {markdown_text(alarm)}" for record in rounds for alarm in record.get("alarms", [])
    ]
    return ["Alarms:", "", *alarms] if alarms else ["No round raised an alarm."]


def _audits(request: CardRequest, rounds: Sequence[RoundRecord]) -> list[str]:
    """The audits of what the first round started from and of the last audited round, and those at a strength."""
    audited = next((record for record in reversed(rounds) if record.get("audit") is not None), None)
    after = None if audited is None else audited.get("audit")
    if audited is None or after is None:
        return ["", "## Audit", "", "No round was audited."]
    artifacts, first = request.config.artifacts, rounds[0]
    before = audit_before(first, artifacts)
    table = change_table(before, after, audited.get("taught", []))
    start = f"what round {first['round']} started from" if before is not None else "not audited"
    of = "" if request.strength is None else " None of them is of this strength."
    lines = ["", "## Audit", ""]
    lines.append(
        f"Of generated layouts, with 95 % intervals; before: {start}, after: round {audited['round']}."
        f"{of} {markdown_text(table.taught)}"
    )
    lines += card_table(CHANGE_HEADER, [[markdown_text(cell) for cell in row] for row in table.rows])
    known = {"viable": after.get("held_out_viable"), "sound": after.get("judge_held_out")}
    held_out = [f"{share:.3f} are {what}" for what, share in known.items() if isinstance(share, float)]
    if held_out:
        lines += ["", f"Of the held-out real layouts themselves {' and '.join(held_out)}."]
    run = split_location(rounds[-1]["location"])[0]
    own = next(record for record in rounds if split_location(record["location"])[0] == run)
    strengths = strength_rows(audits_by_strength(request.config, rounds[-1], audit_before(own, artifacts)))
    if strengths:
        lines += ["", "Audits of models between the start of the run (strength 0) and its end (1), and beyond:"]
        lines += card_table(STRENGTH_HEADER, [[markdown_text(cell) for cell in row] for row in strengths])
    return lines


def _escaped(record: Record) -> dict[str, Any]:
    """The stage's record with metrics that are shown as they are."""
    metrics = {markdown_text(name): _as_shown(value) for name, value in record["metrics"].items()}
    return {"metrics": metrics, "seconds": record["seconds"]}


def _as_shown(value: object) -> object:
    return value if isinstance(value, float) else markdown_text(value)


def _as_code(text: str) -> str:
    """A cell of a table; GitHub's tables end a cell at a bar in code, too."""
    return markdown_text(text) if "|" in text else markdown_code(text)


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key and value as JSON of every setting."""
    for name, value in sorted(settings.items()):
        key = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(value, dict) and value:
            yield from _dotted(value, key)
        else:
            text = json.dumps(value, ensure_ascii=False)
            yield key, text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} ..."
