"""What Stage 3 starts from: autoencoder, latents, Stage 1 and Stage 2, unless the config names them."""

from collections.abc import Sequence
from typing import Any

from prefect import flow

from core.checkpoints.imported_models import load_experiment
from core.training.prerequisites import STAGES, hold_prerequisites
from flows.command import run_flow, say
from flows.gpu_slot import gpu_slot
from flows.parameters import ConfigLocation, Override
from flows.restarts import Restarts, require_few_restarts
from flows.run_labels import label_run
from tasks.prerequisites import encode_layouts, generate_layouts, train_autoencoder, train_stage1, train_stage2


@flow(name="prerequisites")
def prerequisites(
    config: ConfigLocation, overrides: Sequence[Override] = (), wait: bool = False, *, restarts: Restarts = 0
) -> dict[str, Any]:
    """Make what Stage 3 starts from, unless it is finished under the artefact root.

    Args:
        config: YAML file of the experiment, a path on the worker or an s3:// address.
        overrides: Settings of the config to change, each as key.path=value.
        wait: If another process makes them, wait for it instead of ending.
        restarts: How many times in a row the run crashed; the automation that restarts it sets this.
    """
    require_few_restarts(restarts)
    experiment = load_experiment(config, overrides)
    label_run(experiment, "prerequisites")
    with hold_prerequisites(experiment, wait), gpu_slot(experiment):
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
        made = (
            f"{summary['seconds']:>8} s  {summary['metrics']}" if summary else "provided by the config, or not needed"
        )
        say(f"{stage:<12} {made}")
