"""compare-ablations: training with and without the adversarial term, from the same start for the same steps."""

import logging
import time
from collections.abc import Sequence

from core.audit.audit import audit_stage
from core.checkpoints.imported_models import load_experiment
from core.config.experiment import ExperimentConfig
from core.inputs.locations import Location
from core.records.stage_result import StageResult
from core.reports.comparison import Ablation, list_ablations, require_free_results, start_ablation, write_results
from core.rounds.close_round import close_round
from core.rounds.round import AUDIT, AUDIT_BEFORE, Round, open_round
from core.rounds.run import begin_run, hold_run
from core.runtime.errors import LeaseError
from core.training.prerequisites import STAGES, hold_prerequisites, make_prerequisite, with_prerequisites
from tasks.audit import audit
from tasks.command_line import run_command, say
from tasks.continue_stage3 import continue_stage3
from tasks.generate_bad_latents import generate_bad_latents
from tasks.retrain_discriminator import retrain_discriminator

log = logging.getLogger("core.reports.comparison")


def compare_ablations(config: Location, output_dir: Location = "docs/evidence", overrides: Sequence[str] = ()) -> str:
    """Train and audit every unfinished ablation of a config's comparison; the table of the results.

    Several processes started at once share the ablations. Writes {name}.csv, {name}.md and {name}.png to
    `output_dir`.
    """
    experiment = load_experiment(config, overrides)
    ablations = list_ablations(experiment)
    require_free_results(experiment, output_dir)
    _prepare([experiment, *(ablation.config for ablation in ablations)])
    start = start_ablation(experiment)
    with hold_run(start.config, wait=True):
        stage2 = with_prerequisites(experiment).required("diffusion.stage2_checkpoint")
        _audit(start, stage2, start.final_audit, start.num_samples)
        # Figures are comparable only for equally many layouts, so there is one audit as large as those of rounds.
        before = _audit(start, stage2, start.first_audit, experiment.required("audit").num_samples)
    for position, ablation in enumerate(ablations, 1):
        log.info("ablation %d of %d: %s, seed %d", position, len(ablations), ablation.name, ablation.seed)
        try:
            with hold_run(ablation.config):
                _train(ablation, before)
        except LeaseError as error:
            log.info("left to another process: %s", error)
    return write_results(experiment, output_dir)


def _prepare(configs: Sequence[ExperimentConfig]) -> None:
    """Make what their rounds start from: with other labels a round may start from another stage."""
    for config in {config.rounds.viability.labels: config for config in configs}.values():
        with hold_prerequisites(config, wait=True):
            for stage in STAGES:
                make_prerequisite(stage, config)


def _train(ablation: Ablation, before: StageResult) -> None:
    """Do the ablation's unfinished rounds, then audit its last model."""
    begin_run(ablation.config)
    for number in range(1, ablation.config.rounds.count + 1):
        this = open_round(ablation.config, number)
        if this.record is None:
            _do_round(this, before)
    _audit(ablation, this.stage3_checkpoint, ablation.final_audit, ablation.num_samples)


def _do_round(this: Round, before: StageResult) -> None:
    began = time.monotonic()
    bad_latents = generate_bad_latents.fn(**this.bad_latents_options())
    discriminator = retrain_discriminator.fn(**this.discriminator_options())
    stage3 = continue_stage3.fn(this.config_path, recorded=True, artifacts=this.config.artifacts)
    seconds = time.monotonic() - began
    # The first round of every ablation starts from the same model, which is audited once.
    audits = {AUDIT_BEFORE: before} if this.parent is None else {}
    audits |= {name: audit.fn(**options) for name, options in this.audits_options().items() if name == AUDIT}
    close_round(this, bad_latents, discriminator, stage3, audits, seconds)


def _audit(ablation: Ablation, checkpoint: Location, output_dir: str, num_samples: int) -> StageResult:
    config = with_prerequisites(ablation.config)
    record = audit_stage(config, checkpoint, output_dir, num_samples, config.required("audit").seed)
    return {"output_dir": output_dir, "metrics": record["metrics"]}


if __name__ == "__main__":
    say(run_command(compare_ablations))
