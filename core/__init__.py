"""Everything that is true without Prefect: data, models, losses, stages, records."""

import os

# Before torch is imported: waiting OpenMP threads that spin make training ten times slower on a shared machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from core.torchvision_operators import declare_missing_operators

# Before any module of this package imports diffusers or lpips, which both import torchvision.
_operators = declare_missing_operators()
