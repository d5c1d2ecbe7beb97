"""A page on which a person says which of a round's generated layouts are viable: one HTML file that needs no other."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from core.checkpoints.loading import find_checkpoint, load_autoencoder
from core.config.experiment import ExperimentConfig
from core.data.latents import read_latent
from core.data.manifest import choose_rows
from core.data.palette import Palette
from core.inputs.locations import Location, is_remote
from core.inputs.table_files import read_table
from core.labels.label_files import DIGEST_COLUMN, FLAG_COLUMN, PATH_COLUMN, generated_names, latents_digest
from core.models.pictures import decode_classes
from core.networks.autoencoder import Decoder
from core.records.artifacts import RECORD_NAME, round_location
from core.records.input_files import describe_input, local_path
from core.records.record_files import entry_of, read_record
from core.records.record_forms import RecordError
from core.reports.page_templates import page_template
from core.runtime.device import pick_device
from core.runtime.errors import InputError
from core.runtime.files import Entry, atomic_write, open_input, require_writable
from core.runtime.seeding import derive_seed
from core.storage.opening import open_store
from core.storage.store import Store, join
from core.training.prerequisites import with_prerequisites

_MANIFEST = "discriminator_manifest.csv"
# How every label page begins, so that one is recognised before it is replaced.
_START = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta name="generator" content="adversarial-layouts: label page">\n'
)
_PAGE = "label_page.html.jinja"


@dataclass(frozen=True)
class LabelPage:
    """A page that was written to `path`: it shows `shown` of the `generated` layouts."""

    path: Path
    shown: int
    generated: int


@dataclass(frozen=True)
class _Generated:
    """The stage that generated latents: its store and record, and the names of the latents in order of sample."""

    store: Store
    record: Mapping[str, Any]
    names: Sequence[str]


def write_label_page(config: ExperimentConfig, source: int | Location, output: Location, count: int) -> LabelPage:
    """The page after writing it to `output`, with `count` of the generated layouts, or all if there are fewer.

    `source` is the number of a round, or the folder that generate-bad-latents wrote. A larger `count` shows the same
    layouts and more. Raises InputError if nothing was generated there yet, a file is missing or altered, the config has
    another autoencoder, or `output` is a file that is not a label page.
    """
    page = _page_path(output)
    location = join(round_location(config, source), "bad_latents") if isinstance(source, int) else str(source)
    title = f"round {source}" if isinstance(source, int) else location
    config = with_prerequisites(config)
    made = _generated(config, location)
    require_writable(page.parent)
    seed = derive_seed(config.training.seed, "layouts to label")
    shown = choose_rows(pd.DataFrame({PATH_COLUMN: made.names}), count, seed)[PATH_COLUMN].tolist()
    decoder = _decoder(config, made)
    classes = _decoded(config, made, shown, decoder)
    digest = latents_digest(_entry(made, name)["sha256"] for name in made.names)
    html = render_label_page(f"{config.experiment.name} · {title}", shown, classes, decoder.palette, digest)
    with atomic_write(page) as file:
        file.write(html.encode())
    return LabelPage(page, len(shown), len(made.names))


def render_label_page(title: str, names: Sequence[str], classes: np.ndarray, palette: Palette, digest: str) -> str:
    """HTML page to label the layouts `names` on, whose class maps in the palette are `classes`, uint8 [N, H, W].

    `digest` tells the latents of one round from those of another: it goes into the saved file, and the browser keeps
    the labels under it. All text is escaped.
    """
    layouts = [{"path": name, "picture": _picture(each, palette)} for name, each in zip(names, classes, strict=True)]
    data = {
        "digest": digest,
        "columns": [PATH_COLUMN, FLAG_COLUMN, DIGEST_COLUMN],
        "side": classes.shape[2],
        "layouts": layouts,
    }
    colours = dict(zip(palette.names, palette.colours, strict=True))
    return _START + page_template(_PAGE).render(title=title, data=data, palette=colours)


def _page_path(output: Location) -> Path:
    """The path `output`; InputError if it is not one of this machine, or has a file that is not a label page."""
    if is_remote(output):
        raise InputError(f"--output {output} is an address: give the path of a file on this machine")
    path = Path(output)
    if path.is_dir():
        raise InputError(f"--output {path} is a folder: give the path of a file, such as {path / 'labels.html'}")
    if path.exists():
        with open_input(path, "--output") as file:
            if file.read(len(_START)) != _START.encode():
                raise InputError(f"--output {path} is there and is not a label page: give another path")
    return path


def _generated(config: ExperimentConfig, location: str) -> _Generated:
    store = open_store(location, config.artifacts)
    record = read_record(store, RECORD_NAME)
    if record is None:
        raise InputError(f"{location} holds no generated latents yet: run the round first")
    folder = store.fetch({_MANIFEST: entry_of(record, _MANIFEST, location)})
    rows = read_table(folder / _MANIFEST, "manifest", (PATH_COLUMN,))
    if PATH_COLUMN not in rows.columns:
        raise InputError(f"manifest {folder / _MANIFEST} has no column {PATH_COLUMN}: generate the latents again")
    names = generated_names(rows[PATH_COLUMN].astype(str))
    if not names:
        raise InputError(f"manifest {folder / _MANIFEST} names no generated latents: generate them again")
    return _Generated(store, record, names)


def _entry(made: _Generated, name: str) -> Entry:
    return entry_of(made.record, name, made.store.uri)


def _decoder(config: ExperimentConfig, made: _Generated) -> Decoder:
    """The decoder of the latents; InputError if they were made with another autoencoder than the config's."""
    checkpoint = find_checkpoint(config.required("autoencoder.checkpoint"))
    before = made.record.get("inputs", {}).get("autoencoder")
    if before is None:
        raise RecordError(f"record {made.store.uri}/{RECORD_NAME} does not name the autoencoder: put back a copy of it")
    if describe_input(checkpoint, "autoencoder", config.artifacts)["sha256"] != before["sha256"]:
        raise InputError(
            f"{made.store.uri} was made with the autoencoder {before['path']}, the config has {checkpoint}, which "
            f"would draw something else: set autoencoder.checkpoint={before['path']}"
        )
    autoencoder = load_autoencoder(local_path(checkpoint, config.artifacts), config)
    return autoencoder.to(pick_device(config.training.device)).decoder


def _decoded(config: ExperimentConfig, made: _Generated, names: Sequence[str], decoder: Decoder) -> np.ndarray:
    """Class maps of the latents, uint8 [N, H, W]."""
    folder = made.store.fetch({name: _entry(made, name) for name in names})
    latents = torch.stack([read_latent(folder / name, config.latent_shape) for name in names])
    return decode_classes(latents, decoder)


def _picture(classes: np.ndarray, palette: Palette) -> str:
    """PNG of a class map in the palette's colours, base64. Its pixels are enlarged by the browser."""
    image = Image.fromarray(classes)
    image.putpalette(palette.rgb.tobytes())
    made = io.BytesIO()
    image.save(made, format="PNG", optimize=True)
    return base64.b64encode(made.getvalue()).decode()
