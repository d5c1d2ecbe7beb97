"""report-round: the results of a round, in Prefect's UI and beside the artefacts."""

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from core.checkpoints.imported_models import load_experiment
from core.inputs.locations import Location
from core.inputs.section import Rounds
from core.reports.report import keep_report, make_report
from core.runtime.escaping import markdown_text
from core.storage.store import ArtifactsSection
from tasks.command_line import run_command, say


@task(name="report-round", cache_policy=NO_CACHE)
def report_round(config: Location, number: Rounds, *, artifacts: ArtifactsSection | None = None) -> str:
    """Write `report.html` of a run up to a finished round, and a Markdown artefact in Prefect; the page's address.

    `config` is the config file in the round's folder.
    """
    experiment = load_experiment(config, artifacts=artifacts)
    report = make_report(experiment, number)
    page = keep_report(experiment, report.html)
    if TaskRunContext.get() is not None:
        key = f"{experiment.experiment.name}-round-{number:02d}".lower().replace("_", "-").replace(".", "-")
        create_markdown_artifact(report.markdown, key, f"Round {number} of {markdown_text(experiment.experiment.name)}")
    return page


if __name__ == "__main__":
    say(run_command(report_round.fn))
