"""label: a page on which a person says which of a round's generated layouts are viable."""

from collections.abc import Sequence

from core.checkpoints.imported_models import load_experiment
from core.inputs.locations import Location
from core.inputs.section import Rounds, Samples
from core.reports.label_page import write_label_page
from tasks.command_line import run_command, say


def label(
    config: Location, round: Rounds, output: Location, count: Samples = 300, overrides: Sequence[str] = ()
) -> str:
    """Write one HTML file on which a person labels layouts that a round generated, and saves labels.csv."""
    page = write_label_page(load_experiment(config, overrides), round, output, count)
    return f"{page.path}: {page.shown} of {page.generated} layouts to label; open it in a browser"


if __name__ == "__main__":
    say(run_command(label))
