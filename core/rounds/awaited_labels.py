"""The label file that rounds wait for, where a person labels while the run is already started."""

import re
from pathlib import Path

from core.config.experiment import ExperimentConfig
from core.inputs.locations import is_remote
from core.labels.label_sources import label_inputs
from core.records.artifacts import CONFIG_NAME, ROUND_FOLDER
from core.runtime.escaping import markdown_code
from core.storage.opening import open_store
from core.storage.store import join, split_location

_PAGE = "labels.html"


def awaited_labels(config: ExperimentConfig) -> str | None:
    """Markdown that says which label file is missing, and how it is made; None if it is there, or none is needed.

    Raises InputError if a setting is missing, or if there is nothing to label at `rounds.viability.latents`.
    """
    section = config.rounds.viability
    if section.labels != "file":
        return None
    file = label_inputs(config)["labels"]
    folder, name = split_location(file)
    there = open_store(folder, config.artifacts).measure(name) is not None if is_remote(file) else Path(file).exists()
    if there:
        return None
    latents = str(section.latents).rstrip("/")
    above, _ = split_location(latents)
    number = ROUND_FOLDER.fullmatch(above.rpartition("/")[2])
    if number is None:
        how = f"Label layouts of {markdown_code(latents)}"
    else:
        count = int(re.sub("[^0-9]", "", number[0]))
        command = f"python -m tasks.label {join(above, CONFIG_NAME)} --round {count} --output {_PAGE}"
        how = f"Make the page to label layouts on with {markdown_code(command)}, label them"
    return f"The rounds learn from {markdown_code(file)}, which does not exist. {how}, and put labels.csv there."
