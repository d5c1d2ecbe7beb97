"""Everything that does not depend on Prefect: data, models, losses, stages, records."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

# Before torch is imported: OpenMP threads that wait spin for a moment, as steps here are short, and then sleep. On two
# free cores that is twice as fast as sleeping at once; on busy ones spinning for long is ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from core.runtime.log_lines import install_log_lines
from core.runtime.torchvision_operators import declare_missing_operators

install_log_lines()
# Before any module of this package imports diffusers or lpips, which both import torchvision.
_operators = declare_missing_operators()

if TYPE_CHECKING:
    from core.generation.layout_model import LayoutModel
    from core.inputs.locations import Location


def load_model(path: "Location", config: "Location | None" = None, overrides: Sequence[str] = ()) -> "LayoutModel":
    """A model to draw with: `load_model(path).sample(16, seed=1)`.

    `path` and `config` are what `tasks.sample` takes as `--checkpoint` and `--config`, `overrides` what it takes with
    `--set`. Raises InputError (`core.runtime.errors`), one line, for what is no model.
    """
    # These take seconds, which most importers of `core` can save.
    from core.generation.layout_model import load_layout_model
    from core.rounds.model_source import find_model

    named = find_model(path, config, overrides)
    return load_layout_model(named.config, named.checkpoint)
