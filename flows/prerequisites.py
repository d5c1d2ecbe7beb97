"""Autoencoder, latents, Stage 1, Stage 2: whichever the config does not already provide."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from core.config import load_config
from core.prerequisites import STAGES, hold_prerequisites
from core.store import Location
from flows.command import run_flow, say
from tasks.prerequisites import encode_layouts, generate_layouts, train_autoencoder, train_stage1, train_stage2


@flow(name="prerequisites")
def prerequisites(config: Location, overrides: Sequence[str] = (), wait: bool = False) -> dict[str, Any]:
    """Make what Stage 3 starts from; what is finished under the artefact root is not made again."""
    experiment = load_config(config, overrides)
    with hold_prerequisites(experiment, wait):
        made = (
            generate_layouts(experiment),
            train_autoencoder(experiment),
            encode_layouts(experiment),
            train_stage1(experiment),
            train_stage2(experiment),
        )
    return dict(zip(STAGES, made, strict=True))


if __name__ == "__main__":
    for stage, summary in run_flow(prerequisites).items():
        say(
            f"{stage:<12} "
            + (f"{summary['seconds']:>8} s  {summary['metrics']}" if summary else "provided by the config")
        )
