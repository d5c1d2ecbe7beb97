"""What a check of a config found, as a table for people."""

from dataclasses import dataclass, field

from core.checkpoints.model_facts import ModelFacts
from core.generation.model_check import Faults
from core.inputs.locations import Location
from core.runtime.errors import printable

_HEADER = ("model", "made by", "network", "tensors used", "parameters", "file")


@dataclass
class ConfigCheck:
    """The models and the figures that were found, in their order, and a line for each thing that is wrong."""

    faults: Faults = field(default_factory=Faults)
    _models: list[tuple[str, ...]] = field(default_factory=list)
    _figures: list[tuple[str, str]] = field(default_factory=list)

    def add_model(self, name: str, network: str, facts: ModelFacts, place: Location) -> None:
        """A model that was loaded and fits the config."""
        tensors = f"{facts.used} of {facts.tensors}"
        self._models.append((name, facts.made_by, network, tensors, f"{facts.parameters:,}", str(place)))

    def add_refused(self, name: str, place: Location) -> None:
        """A model that was refused; a line of `faults` says why."""
        self._models.append((name, "refused", "", "", "", str(place)))

    def add_figure(self, name: str, text: str) -> None:
        """Something else that was found."""
        self._figures.append((name, text))

    def as_text(self) -> str:
        """A line for each model, in columns, and below them one for each figure."""
        rows = [_HEADER, *self._models] if self._models else []
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        models = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        first = max((len(name) for name, _ in self._figures), default=0)
        figures = [f"{name:<{first}}  {text}" for name, text in self._figures]
        return "\n".join(
            printable(line.rstrip()) for line in (*models, *([""] if models and figures else []), *figures)
        )
