"""sample-shard: a share of a round's bad latents, by whichever process takes it."""

from core.bad_latents import BadLatentsRequest
from core.bad_latents import sample_shard as sample
from core.config import ExperimentConfig
from core.latent_parts import Shard
from tasks.stage_task import stage_task


@stage_task("sample-shard")
def sample_shard(config: ExperimentConfig, request: BadLatentsRequest, shard: Shard) -> None:
    """Sample a shard's bad latents, where generate-bad-latents of the same request finds them."""
    sample(config, request, shard)
