"""Everything that is true without Prefect: data, models, losses, stages, records."""

from core.torchvision_operators import declare_missing_operators

# Before any module of this package imports diffusers or lpips, which both import torchvision.
_operators = declare_missing_operators()
