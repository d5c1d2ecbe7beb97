"""A check for new data: if the layouts changed since the last round, an automation can start one more round."""

from collections.abc import Sequence

from prefect import flow

from core.checkpoints.imported_models import load_experiment
from core.rounds.run import has_new_data
from flows.command import run_flow, say
from flows.parameters import ConfigLocation, Override
from flows.round_events import DATA_CHANGED, announce
from flows.run_labels import label_run


@flow(name="watch-data")
def watch_data(config: ConfigLocation, overrides: Sequence[Override] = ()) -> bool:
    """Emit an event if the content of the experiment's manifest changed since its last finished round.

    Args:
        config: YAML file of the experiment, a path on the worker or an s3:// address.
        overrides: Settings of the config to change, each as key.path=value.
    """
    experiment = load_experiment(config, overrides)
    label_run(experiment, "watch data")
    changed = has_new_data(experiment)
    if changed:
        announce(DATA_CHANGED, experiment.experiment.name, config, overrides)
    return changed


if __name__ == "__main__":
    say("the data changed" if run_flow(watch_data) else "the data is that of the last round")
