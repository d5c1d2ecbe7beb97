"""Everything that does not depend on Prefect: data, models, losses, stages, records."""

import os

# Before torch is imported: OpenMP threads that wait spin for a moment, as steps here are short, and then sleep. On two
# free cores that is twice as fast as sleeping at once; on busy ones spinning for long is ten times slower.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

from core.runtime.log_lines import install_log_lines
from core.runtime.torchvision_operators import declare_missing_operators

install_log_lines()
# Before any module of this package imports diffusers or lpips, which both import torchvision.
_operators = declare_missing_operators()
