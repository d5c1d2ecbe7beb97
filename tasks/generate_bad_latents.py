"""generate-bad-latents: the discriminator's dataset from the current model."""

from core.checkpoints.imported_models import load_experiment
from core.config.round_sections import SamplerName
from core.generation.bad_latents import BadLatentsRequest
from core.generation.bad_latents import generate_bad_latents as generate
from core.inputs.locations import Location
from core.inputs.section import Batch, Samples, Seed, Steps
from core.records.stage_result import StageResult
from core.storage.store import ArtifactsSection
from tasks.command_line import run_command, say
from tasks.stage_task import stage_task


@stage_task("generate-bad-latents")
def generate_bad_latents(
    manifest: Location,
    autoencoder_checkpoint: Location,
    diffusion_checkpoint: Location,
    diffusion_config: Location,
    output_dir: Location,
    num_samples: Samples = 5000,
    batch_size: Batch = 32,
    num_steps: Steps = 100,
    seed: Seed = 42,
    device: str = "auto",
    *,
    held_out: bool = True,
    real_variants: bool = False,
    sampler: SamplerName = "ddim",
    judged: bool = False,
    artifacts: ArtifactsSection | None = None,
) -> StageResult:
    """Encode real layouts and generate as many bad latents with the diffusion model.

    Writes real_latents/, real_latents_all.pt, bad_latents/, bad_latents_all.pt and discriminator_manifest.csv
    to `output_dir`; returns the metrics of the stage's record. `held_out` is false inside a round: layouts of the
    validation split are never used. With `real_variants`, rotated and mirrored layouts count as real too. If layouts
    are `judged`, or the config's rounds.viability.labels is rules, labelled_latents.pt holds the audit's verdicts; if
    it is file, those of a critic that learnt from a person's labels; if it is command, those of the user's program.
    """
    request = BadLatentsRequest(
        manifest=manifest,
        autoencoder_checkpoint=autoencoder_checkpoint,
        diffusion_checkpoint=diffusion_checkpoint,
        output_dir=output_dir,
        num_samples=num_samples,
        batch_size=batch_size,
        num_steps=num_steps,
        seed=seed,
        device=device,
        held_out=held_out,
        real_variants=real_variants,
        sampler=sampler,
        judged=judged,
    )
    config = load_experiment(
        diffusion_config, artifacts=artifacts, diffusion=[diffusion_checkpoint], autoencoder=autoencoder_checkpoint
    )
    record = generate(config, request)
    return {"output_dir": str(output_dir), "metrics": record["metrics"], "seconds": record["seconds"]}


if __name__ == "__main__":
    made = run_command(generate_bad_latents.fn)
    metrics = made["metrics"]
    say(f"{metrics['real_latents']} real and {metrics['bad_latents']} bad latents in {made['output_dir']}")
