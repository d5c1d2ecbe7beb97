"""sample-shard: sample a part of a round's bad latents, in any process."""

from core.config.experiment import ExperimentConfig
from core.generation.bad_latents import BadLatentsRequest
from core.generation.bad_latents import sample_shard as sample
from core.records.latent_parts import Shard
from tasks.stage_task import stage_task


@stage_task("sample-shard")
def sample_shard(config: ExperimentConfig, request: BadLatentsRequest, shard: Shard) -> None:
    """Sample the bad latents of a shard and store them; generate-bad-latents of the same request finds them there."""
    sample(config, request, shard)
