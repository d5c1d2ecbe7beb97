"""Every section of the config under one name, until all imports name the module of each."""

from core.config.dataset_sections import *  # noqa: F403
from core.config.discriminator_sections import *  # noqa: F403
from core.config.experiment import *  # noqa: F403
from core.config.loading import *  # noqa: F403
from core.config.loss_sections import *  # noqa: F403
from core.config.model_sections import *  # noqa: F403
from core.config.round_sections import *  # noqa: F403
from core.config.training_sections import *  # noqa: F403
