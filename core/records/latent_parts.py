"""Sampled latents in parts of some seeds each. Several processes may make parts, and a crash loses no finished part."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.inputs.state_form import is_plain, kind_of
from core.inputs.tensor_files import load_tensors, save_tensors
from core.records.artifacts import PARTS_FOLDER, STATE_FOLDER, is_part_record
from core.records.provenance import refuse_difference
from core.records.record_files import read_record, record_bytes
from core.records.record_forms import RecordError
from core.records.workspace import workspace_folder
from core.runtime.errors import InputError
from core.runtime.files import Entry
from core.storage.store import ArtifactsSection, Store, cache_folder


class Shard(NamedTuple):
    """The bad latents that one process samples: from `first` up to, not including, `last`."""

    first: int
    last: int


@dataclass(frozen=True)
class LatentParts:
    """`count` latents as files `state/parts/bad_latents_{first}-{last}.pt` of `size` latents in a stage's store.

    A part is finished once its record exists, which is created after it and holds its provenance. Its bytes do not
    depend on the process, so two processes may make the same part. Parts are deleted with the stage's other states.
    """

    store: Store
    provenance: dict[str, Any]
    count: int
    size: int
    artifacts: ArtifactsSection

    def missing(self) -> list[range]:
        """Positions of the latents of every missing part; InputError if a part has another provenance."""
        made = self._made()
        return [part for part in self._parts() if _name(part) not in made]

    def add(self, part: range, latents: Tensor) -> None:
        """Publish the latents of a part, and then its record."""
        name = _name(part)
        with workspace_folder(self.store, cache_folder(self.artifacts)) as folder:
            save_tensors(latents, folder / f"{name}.pt", on_disk=False)
            entries = self._folder.upload(folder, [f"{name}.pt"])
        self._folder.create(f"{name}.json", record_bytes(self.provenance | {"outputs": entries}))

    def read(self) -> Tensor:
        """All latents [count, C, h, w] in order, once all parts are finished; InputError if one is gone or altered."""
        made, names = self._made(), [_name(part) for part in self._parts()]
        gone = next((name for name in names if name not in made), None)
        if gone is not None:
            raise InputError(
                f"{self._folder.uri}/{gone}.pt was removed meanwhile, as another process does that finishes the same: "
                "run the same command again"
            )
        entries = {f"{name}.pt": made[name] for name in names}
        folder = self._folder.fetch(entries)
        return torch.cat([self._latents(folder, part) for part in self._parts()])

    def _latents(self, folder: Path, part: range) -> Tensor:
        path, shape = folder / f"{_name(part)}.pt", [len(part), *self.provenance["settings"]["latent_shape"]]
        latents = load_tensors(path, "bad latents")
        has_shape = isinstance(latents, Tensor) and is_plain(latents) and list(latents.shape) == shape
        if not isinstance(latents, Tensor) or not has_shape or not torch.isfinite(latents).all():
            raise InputError(
                f"bad latents {path} are {kind_of(latents)}, not finite numbers {shape}: move the file and its record "
                "elsewhere, and the part is made again"
            )
        return latents

    @property
    def _folder(self) -> Store:
        return self.store.below(STATE_FOLDER).below(PARTS_FOLDER)

    def _parts(self) -> list[range]:
        return [range(first, min(first + self.size, self.count)) for first in range(0, self.count, self.size)]

    def _made(self) -> dict[str, Entry]:
        """Size and digest of each finished part, by its name."""
        made = {}
        for name in _recorded(self._folder):
            record = read_record(self._folder, f"{name}.json")
            if record is not None:  # otherwise the stage was finished in the meantime
                refuse_difference(record, self.provenance, self._folder.uri)
                if f"{name}.pt" not in record["outputs"]:
                    raise RecordError(
                        f"record {self._folder.uri}/{name}.json does not name {name}.pt: move it elsewhere, and the "
                        "part is made again"
                    )
                made[name] = record["outputs"][f"{name}.pt"]
        return made


def parts_progress(states: Store) -> str | None:
    """How many latents the parts in a stage's store of states hold, in words; None if there are none."""
    spans = [name.removeprefix("bad_latents_").split("-") for name in _recorded(states.below(PARTS_FOLDER))]
    return f"{sum(int(last) - int(first) for first, last in spans)} bad latents" if spans else None


def _name(part: range) -> str:
    return f"bad_latents_{part.start:06d}-{part.stop:06d}"


def _recorded(folder: Store) -> list[str]:
    return [file.name.removesuffix(".json") for file in folder.files() if is_part_record(file.name)]
