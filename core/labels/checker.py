"""The user's own checker: a command that says of each generated layout whether it is viable."""

import dataclasses
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.labels.label_files import FLAG_COLUMN, PATH_COLUMN, labels_of, read_labels
from core.labels.labelling import label_latents, require_both_kinds
from core.models.labelled_latents import LabelledLatents
from core.models.pictures import decode_classes
from core.networks.autoencoder import Autoencoder, Decoder
from core.runtime.errors import InputError
from core.runtime.scratch import scratch_folder

log = logging.getLogger(__name__)

_COMMAND = "rounds.viability.command"
_MANIFEST = "layouts.csv"
# Latents that are decoded and written at a time.
_BATCH = 64
# Bytes at the end of what a command wrote, in which its last line is looked for, and characters of it that are shown.
_TAIL, _LONGEST_CAUSE = 8192, 200
# What helps if the command takes too few layouts for viable, or too many.
_REMEDIES = {
    True: "train Stages 1 and 2 longer, or let the command take more layouts for viable",
    False: "let the command take fewer layouts for viable",
}


def checker_inputs(config: ExperimentConfig) -> dict[str, Location]:
    """The files of this machine that the words of `rounds.viability.command` name, by the position of each.

    A program that is looked up in PATH is none of them. Raises InputError if there is no command.
    """
    words: Sequence[str] = config.required(_COMMAND)
    files = [word if position or os.sep in word else "" for position, word in enumerate(words)]
    return {f"command_{position}": word for position, word in enumerate(files) if os.path.isfile(word)}


def require_checker(config: ExperimentConfig) -> None:
    """InputError if `rounds.viability.command` names no program that this machine can run."""
    program = config.required(_COMMAND)[0]
    if shutil.which(program) is None:
        raise InputError(
            f"{_COMMAND}: this machine has no program {program}: give the path of an executable file, or the name of "
            "one in PATH"
        )


def label_by_command(
    latents: Tensor, autoencoder: Autoencoder, config: ExperimentConfig, paths: Mapping[str, Path], folder: Path
) -> LabelledLatents:
    """Generated `latents` [N, C, h, w] labelled by the command, with the audit's rules and fifths of each.

    Raises InputError for what `ask_checker` refuses, and if almost all latents get the same label.
    """
    viable = ask_checker(latents, autoencoder.decoder, config, folder)
    require_both_kinds(viable, _COMMAND, _REMEDIES)
    return dataclasses.replace(label_latents(latents, autoencoder, config, paths), viable=torch.tensor(viable))


def ask_checker(latents: Tensor, decoder: Decoder, config: ExperimentConfig, folder: Path) -> list[bool]:
    """Of each of the `latents` [N, C, h, w] whether its layout is viable, as the config's command says.

    The command gets two more arguments: a folder of pictures, in a temporary folder in `folder`, and the manifest in
    it, to which it adds the column `is_viable`. Raises InputError if it cannot be run, fails, takes longer than
    `rounds.viability.command_seconds`, or leaves no table with a flag for each layout.
    """
    require_checker(config)
    section = config.rounds.viability
    pictures = [f"{index:05d}.png" for index in range(len(latents))]
    names = [f"latent_{index:05d}.pt" for index in range(len(latents))]
    with scratch_folder(folder) as scratch:
        layouts = scratch.absolute() / "layouts"
        layouts.mkdir()
        for start in range(0, len(latents), _BATCH):
            maps = decode_classes(latents[start : start + _BATCH], decoder, _BATCH)
            for picture, rgb in zip(
                pictures[start : start + _BATCH], decoder.palette.rgb_from_classes(maps), strict=True
            ):
                Image.fromarray(rgb).save(layouts / picture, compress_level=1)
        manifest = layouts / _MANIFEST
        pd.DataFrame({PATH_COLUMN: names, "layout_path": pictures}).to_csv(manifest, index=False)
        command = [*config.required(_COMMAND), str(layouts), str(manifest)]
        _run(command, section.command_seconds, scratch / "errors.txt")
        try:
            return _verdicts(manifest, names, pictures)
        except InputError as error:
            # The folder is gone when somebody reads the line.
            raise InputError(f"{_COMMAND}: {str(error).replace(str(manifest), _MANIFEST)}") from None


def _run(command: Sequence[str], seconds: float, errors: Path) -> None:
    """Run the command, without a shell, and wait until it has ended well. Its standard error goes to the file `errors`.

    If it takes too long, or the wait is interrupted, it is killed with all processes of its group.
    """
    # Its arguments may hold secrets, so nothing but the program is shown.
    program = f"{_COMMAND}: {command[0]}"
    log.info("%s judges the layouts", program)
    started = time.monotonic()
    with errors.open("wb") as written:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=written,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(
                f"{program} cannot be started ({error.strerror}): name the program that runs it first"
            ) from None
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"{program} took longer than {seconds:g} seconds and was killed: raise {_COMMAND}_seconds, or make it "
                "faster"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if status != 0:
        how = f"ended with exit status {status}" if status > 0 else f"was killed by signal {-status}"
        raise InputError(f"{program} {how} ({_last_line(errors)}): correct it, and run the same command again")
    log.info("%s took %.1f s", program, time.monotonic() - started)


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1][:_LONGEST_CAUSE] if said else "it wrote nothing to standard error"


def _verdicts(manifest: Path, names: Sequence[str], pictures: Sequence[str]) -> list[bool]:
    """The flags of all layouts, in order. The command may have left out one of the two columns that name them."""
    labels = read_labels(manifest)
    known = pictures if labels.viable.keys() & set(pictures) else names
    flags = labels_of(labels, known, "the manifest that the command was given")
    missing = [name for name in known if name not in flags]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"labels {manifest} lack {missing[0]}{others}: write {FLAG_COLUMN} for each layout")
    return list(flags.values())
