"""The reference of an audit: calibrated rules and a second judge, real layouts, and a space of features."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from core.audit.calibration import calibrate
from core.audit.layout_features import FeatureSpace
from core.audit.layout_maps import LayoutMaps, decode_maps, read_maps
from core.audit.rules import VIABLE, Rules
from core.audit.second_judge import SOUND, SecondJudge
from core.checkpoints.loading import load_autoencoder
from core.config.experiment import ExperimentConfig
from core.config.round_sections import AuditSection
from core.data.layout_scale import typical_scale
from core.data.layouts import LayoutPictures
from core.data.manifest import originals, read_manifest, split_by_layout
from core.data.palette import Palette
from core.data.palette_file import read_palette
from core.models.pictures import encode_pictures
from core.records.input_files import describe_input
from core.runtime.device import pick_device
from core.runtime.errors import InputError

# The input files that it is made from; an audit has others too.
_INPUTS = ("manifest", "autoencoder")


@dataclass(frozen=True)
class Reference:
    """What layouts are compared with: rules, the second judge, real layouts of both splits, a space of features."""

    rules: Rules
    judge: SecondJudge
    training: LayoutMaps
    held_out: LayoutMaps
    features: FeatureSpace

    def held_out_viable(self) -> float:
        """Share of the real layouts of the validation split that keep every rule."""
        return float(self.rules.check(self.held_out.classes, self.held_out.off_palette)[VIABLE].mean())

    def judge_held_out(self) -> float:
        """Share of the real layouts of the validation split that the second judge finds sound."""
        return float(self.judge.check(self.held_out.classes)[SOUND].mean())


def make_reference(config: ExperimentConfig, paths: Mapping[str, Path]) -> Reference:
    """The reference of the config's layouts, from the manifest and, if given, the autoencoder among `paths`.

    With an autoencoder it is for generated layouts: the bounds of colours come from real layouts that went through the
    decoder. Without one it is for pictures, with bounds from the real pictures themselves. A process makes it once for
    the same files and settings. Raises InputError for fewer than two original layouts in a split.
    """
    palette = read_palette(config)
    settings = (config.audit, config.dataset, palette, config.autoencoder, config.training.loss.perceptual)
    training = (config.training.train_split, config.training.split_seed, config.training.device)
    named = [(name, path) for name, path in sorted(paths.items()) if name in _INPUTS]
    files = [(name, describe_input(path, name, config.artifacts)["sha256"]) for name, path in named]
    return _make_reference(_Provenance(repr((settings, training, files)), config, paths, palette))


def split_originals(config: ExperimentConfig, manifest: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Manifest rows of the original layouts: those of the training split, and those held out."""
    rows = read_manifest(manifest, [config.dataset.outputs.rgb], config.dataset)
    training, held_out = split_by_layout(rows, config.training.train_split, config.training.split_seed)
    return originals(training), originals(held_out)


@dataclass(frozen=True)
class _Provenance:
    """What a reference is made from. The `key` decides equality: the settings that count and the files' hashes."""

    key: str
    config: ExperimentConfig = field(compare=False)
    paths: Mapping[str, Path] = field(compare=False)
    palette: Palette = field(compare=False)


# Cached for the whole process: it is slow to make, and a run audits several checkpoints against one reference, each in
# its own Prefect task. Tasks cannot pass it on, since only small values go through Prefect.
@functools.cache
def _make_reference(provenance: _Provenance) -> Reference:
    config, paths, palette = provenance.config, provenance.paths, provenance.palette
    training, held_out = split_originals(config, paths["manifest"])
    if min(len(training), len(held_out)) < 2:
        raise InputError(
            f"audit: {len(training)} original layouts to train on and {len(held_out)} held out, it needs two of each: "
            "give more layouts, another training.train_split, or audit: null"
        )
    section: AuditSection = config.required("audit")
    real = read_maps(config, training)  # first, since its errors name the row of a bad picture
    column, size = config.dataset.outputs.rgb, config.dataset.image_size
    scale = section.pixels_per_metre or typical_scale(training, column, size, palette)
    shown = real
    if "autoencoder" in paths:
        # A decoder's colours are not exactly those of the palette.
        pictures = LayoutPictures(training, column, size, palette)
        autoencoder = load_autoencoder(paths["autoencoder"], config).to(pick_device(config.training.device))
        latents = encode_pictures(pictures, autoencoder, config.rounds.bad_latents.batch_size, "real layouts")
        shown = decode_maps(latents, autoencoder.decoder)
    rules = calibrate(real.classes, shown.off_palette, scale, section.pass_share, palette)
    features = FeatureSpace.fit(real.classes, config.training.loss.perceptual, palette)
    judge = SecondJudge.calibrate(real.classes, palette)
    return Reference(rules, judge, real, read_maps(config, held_out), features)
