"""Every command with an output that cannot be written, and with arguments that make no sense."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.runtime.errors import InputError
from tests.commands import Command
from tests.sweep.ground import Ground, Row

TITLE = "Commands: output that cannot be written, arguments that make no sense"

COMMANDS = sorted(
    ".".join(path.with_suffix("").parts)
    for folder in ("flows", "tasks")
    for path in Path(folder).glob("*.py")
    if '__name__ == "__main__"' in path.read_text()
)


def _ended(module: str, *arguments: str, output: str | None = None) -> Callable[[Ground], Any]:
    """Run the command; an InputError of its last line where it exits with 2, as `run_command` leaves for one."""

    def give(ground: Ground) -> Any:
        command = Command(module, *arguments, output=output)
        said, errors = command.communicate(60)
        assert "Traceback" not in errors, errors
        lines = errors.strip().splitlines()
        assert len(lines) <= 1, errors
        if command.returncode == 2:
            raise InputError(lines[-1])
        return command.returncode == 0 and (output is not None or said)

    return give


_DRAWING = ["--output_dir", "layouts", "--num_samples", "1", "--seed", "1"]

ROWS = [
    *(
        Row(module, "--help to a full disk", _ended(module, "--help", output="/dev/full"), meaning="it ends quietly")
        for module in COMMANDS
    ),
    *(
        Row(module, "an option that it does not have", _ended(module, "--no-such-option"), ("error: ",))
        for module in COMMANDS
    ),
    *(
        Row(
            module,
            "a config that does not exist",
            _ended(module, "missing.yaml", *more),
            ("missing.yaml", "give the path of a"),
        )
        for module, more in {
            "flows.adversarial_round": [],
            "flows.adversarial_training": [],
            "flows.prerequisites": [],
            "flows.watch_data": [],
            "tasks.audit": ["--checkpoint", "a.pt"],
            "tasks.compare_ablations": [],
            "tasks.continue_stage3": [],
            "tasks.export_base": ["--output_dir", "base"],
            "tasks.export": ["--checkpoint", "a.pt", "--output", "b.safetensors"],
            "tasks.label": ["--round", "1", "--output", "labels.html"],
            "tasks.report_round": ["--number", "1"],
            "tasks.sample": ["--checkpoint", "a.pt", *_DRAWING],
        }.items()
    ),
    *(
        Row(
            module,
            f"--strength {strength}",
            _ended(module, "missing.yaml", "--checkpoint", "a.pt", *more, "--strength", strength),
            ("--strength", "must be"),
        )
        for module, more in {
            "tasks.audit": [],
            "tasks.export": ["--output", "b.safetensors"],
            "tasks.sample": _DRAWING,
        }.items()
        for strength in ("2.5", "nan")
    ),
    *(
        Row(
            "tasks.sample",
            " ".join(given),
            _ended("tasks.sample", "missing.yaml", "--checkpoint", "a.pt", *_DRAWING, *given),
            says,
        )
        for given, says in [
            (("--num_samples", "0"), ("--num_samples 0", "must be greater than 0")),
            (("--num_samples", "-1"), ("--num_samples -1", "must be greater than 0")),
            (("--seed", "-1"), ("--seed -1", "must be greater than or equal to 0")),
            (("--batch_size", "0"), ("--batch_size 0", "must be greater than 0")),
            (("--num_steps", "0"), ("--num_steps 0", "must be greater than 0")),
            (("--sampler", "euler"), ("--sampler", "euler", "ddim", "dpm_solver")),
        ]
    ),
    Row("flows.status", "a folder that does not exist", _ended("flows.status", "nowhere"), ("nowhere holds no run",)),
    Row("flows.collect_garbage", "the same", _ended("flows.collect_garbage", "nowhere"), ("nowhere holds no run",)),
]
