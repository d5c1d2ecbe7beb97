"""The base of an experiment as files that travel with a repository: autoencoder, Stage 2, a card, their digests."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from core.audit.audit import audit_checkpoint
from core.audit.layout_maps import decode_maps
from core.audit.reference import make_reference, split_originals
from core.audit.rules import VIABLE
from core.checkpoints.loading import (
    export_checkpoint,
    find_checkpoint,
    load_autoencoder,
    load_checkpoint,
    load_unet,
)
from core.config.experiment import ExperimentConfig
from core.data.layouts import LayoutPictures
from core.data.palette_file import read_palette
from core.exports.card_parts import card_table, data_sentence, file_table, made_with, stage_table
from core.exports.model_file import KEPT_SETTINGS
from core.inputs.listed_digests import LIST_NAME, digest_list
from core.inputs.locations import Location
from core.inputs.state_form import with_prefix
from core.models.pictures import encode_pictures
from core.records.artifacts import RECORD_NAME, prerequisites_location
from core.records.created_files import CreatedFiles
from core.records.input_files import local_path
from core.records.record_files import Record, read_record
from core.runtime.device import pick_device
from core.runtime.errors import InputError
from core.runtime.files import Entry, atomic_write, file_entry, require_writable
from core.storage.opening import open_store
from core.storage.store import join
from core.training.prerequisites import STAGES, with_prerequisites

AUTOENCODER_NAME, STAGE2_NAME, CARD_NAME = "autoencoder.safetensors", "stage2.safetensors", "README.md"
_FILES = (AUTOENCODER_NAME, STAGE2_NAME, LIST_NAME, CARD_NAME)
# Figures of the audit in the card, and what they are called there.
_FIGURES = {
    "viable": "viable by the audit's rules",
    "judge_sound": "sound by the second judge",
    "doorless": "houses without a door",
    "frechet_distance": "Fréchet distance",
    "coverage": "coverage",
    "memorised": "memorised",
}


def write_base(config: ExperimentConfig, config_path: Location, folder: Path) -> list[str]:
    """Names of the files after writing the base of `config`, whose prerequisites are finished, to the user's `folder`.

    These are both models as `.safetensors` (of Stage 2 the EMA weights), a model card, and SHA256SUMS. With an `audit`
    section the card holds the figures of an audit of the model. Raises InputError, before anything is written, for an
    unfinished prerequisite, and if the folder holds a file of these names that this command did not make.
    """
    require_writable(folder)
    made = CreatedFiles(folder)
    made.require_free(_FILES, "--output_dir")
    config = with_prerequisites(config)
    inputs = {"autoencoder": config.autoencoder.checkpoint, "diffusion": config.diffusion.stage2_checkpoint}
    if None in inputs.values():
        raise InputError(
            f"the prerequisites of config {config_path} are not finished: run python -m flows.prerequisites "
            f"{config_path} first"
        )
    inputs["manifest"] = config.required("dataset.manifest")
    paths = {name: local_path(find_checkpoint(str(path)), config.artifacts) for name, path in inputs.items()}
    # Both fit the config and are finite, or this raises.
    load_autoencoder(paths["autoencoder"], config)
    load_unet(paths["diffusion"], config)
    figures = list(_figures(config, paths)) if config.audit is not None else []
    made.declare(_FILES, "--output_dir")
    _export(paths["autoencoder"], "autoencoder checkpoint", folder / AUTOENCODER_NAME)
    _export(paths["diffusion"], "diffusion checkpoint", folder / STAGE2_NAME)
    files = {name: file_entry(folder / name) for name in (AUTOENCODER_NAME, STAGE2_NAME)}
    with atomic_write(folder / LIST_NAME) as file:
        file.write(digest_list({name: entry["sha256"] for name, entry in files.items()}))
    with atomic_write(folder / CARD_NAME) as file:
        file.write(_card(config, config_path, folder, files, figures).encode())
    return list(_FILES)


def _export(path: Path, what: str, target: Path) -> None:
    """The checkpoint at `path` as `.safetensors`: without the weights that a moving average replaces."""
    checkpoint = load_checkpoint(path, what)
    weights = checkpoint["state_dict"]
    if with_prefix(weights, "unet_ema."):
        weights = {name: weight for name, weight in weights.items() if name.startswith("unet_ema.")}
    config = checkpoint["config"]
    if what.startswith("diffusion"):
        config = {name: config[name] for name in KEPT_SETTINGS if name in config}
    export_checkpoint(weights, config, target)


def _figures(config: ExperimentConfig, paths: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Rows of the card: what was measured, and the figure with its interval."""
    section = config.required("audit")
    audit = audit_checkpoint(config, paths["diffusion"], section.num_samples, section.seed)
    for name, title in _FIGURES.items():
        figure = audit.figures[name]
        yield title, f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    yield "held-out layouts themselves: viable", f"{audit.reference.held_out_viable():.3f}"
    yield "held-out layouts themselves: sound", f"{audit.reference.judge_held_out():.3f}"
    yield "held-out layouts through the autoencoder: viable", f"{_decoded_viable(config, paths):.3f}"


def _decoded_viable(config: ExperimentConfig, paths: Mapping[str, Path]) -> float:
    """Share of the real held-out layouts that keep every rule once they went through the autoencoder."""
    _, held_out = split_originals(config, paths["manifest"])
    pictures = LayoutPictures(held_out, config.dataset.outputs.rgb, config.dataset.image_size, read_palette(config))
    autoencoder = load_autoencoder(paths["autoencoder"], config).to(pick_device(config.training.device))
    latents = encode_pictures(pictures, autoencoder, config.rounds.bad_latents.batch_size, "held-out layouts")
    maps = decode_maps(latents, autoencoder.decoder)
    return float(make_reference(config, paths).rules.check(maps.classes, maps.off_palette)[VIABLE].mean())


def _card(
    config: ExperimentConfig,
    config_path: Location,
    folder: Path,
    files: Mapping[str, Entry],
    figures: list[tuple[str, str]],
) -> str:
    size, latent = config.dataset.image_size, "x".join(map(str, config.latent_shape))
    records = _records(config)
    seed = config.prerequisites.seed if config.prerequisites is not None else config.training.seed
    lines = [
        f"# Model card: the base `{config.experiment.name}`",
        "",
        f"An autoencoder of layouts ({size}x{size} pixels to {latent} latents) and a diffusion model of its latents "
        f"after Stage 2 (UNet of {config.unet.base_channels} base channels, depth {config.unet.depth}). "
        "Adversarial rounds start from them.",
        "",
        f"- **Data**: {data_sentence(config)}; a share of {config.training.train_split} of them to train on.",
        f"- **Seed**: {seed} of the trainings, {config.training.split_seed} of the split.",
        *made_with(records.get("stage2", {})),
        "- **Licence**: Apache-2.0, as the repository.",
        f"- **Limits**: it draws what its data shows, at {size}x{size} pixels, and many of its layouts are broken. "
        "It is a start for fine-tuning. On another processor, the same commands give other bytes.",
        "",
        "```bash",
        f"python -m flows.prerequisites {config_path}",
        f"python -m tasks.export_base {config_path} --output_dir {folder}",
        "```",
        "",
        "`make base` gives both commands for `configs/base.yaml`.",
        "",
        *file_table(files),
        "",
        f"Weights are fp32, of Stage 2 the moving average. The metadata of each file hold its settings as JSON. "
        f"`{LIST_NAME}` is checked when a file is read.",
    ]
    lines += stage_table(records)
    if figures:
        audit = config.required("audit")
        steps = config.audit_steps
        lines += ["", f"Audit of {audit.num_samples:,} generated layouts ({steps} steps of DDIM, 95 % intervals):"]
        lines += card_table(("figure", "value"), figures)
    return "\n".join(lines) + "\n"


def _records(config: ExperimentConfig) -> dict[str, Record]:
    """The record of each finished prerequisite under the config's root."""
    places = {stage: open_store(join(prerequisites_location(config), stage), config.artifacts) for stage in STAGES}
    found = {stage: read_record(store, RECORD_NAME) for stage, store in places.items()}
    return {stage: record for stage, record in found.items() if record is not None}
