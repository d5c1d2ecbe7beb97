"""sample: layouts that a model draws, as pictures in a folder that is also a dataset."""

from collections.abc import Sequence

from core.checkpoints.strength import choose_start
from core.config.round_sections import SamplerName
from core.generation.draw_layouts import DrawRequest, draw_layouts
from core.inputs.locations import Location
from core.inputs.section import Batch, Samples, Seed, Steps, Strength
from core.rounds.model_source import find_model, find_start
from tasks.command_line import run_command, say


def sample(
    checkpoint: Location,
    output_dir: Location,
    num_samples: Samples,
    seed: Seed,
    config: Location | None = None,
    num_steps: Steps | None = None,
    sampler: SamplerName = "ddim",
    batch_size: Batch | None = None,
    grid: bool = False,
    audit: bool = False,
    start: Location | None = None,
    strength: Strength | None = None,
    overrides: Sequence[str] = (),
) -> str:
    """Draw layouts into a folder or bucket: pictures, manifest.csv, metadata.jsonl.

    `checkpoint` is a file, with its `config`, or the folder or record of a finished round, or a run's folder. Without
    `num_steps` they are as many as audits take. With `strength` the model has the weights
    start + strength * (checkpoint - start); the start is the config's Stage 2 without `start`.
    """
    model = find_model(checkpoint, config, overrides)
    if start is not None and strength is not None:
        start = find_start(start, model.config.artifacts)
    request = DrawRequest(
        checkpoint=model.checkpoint,
        output_dir=output_dir,
        num_samples=num_samples,
        seed=seed,
        num_steps=num_steps or model.config.audit_steps,
        sampler=sampler,
        batch_size=batch_size or model.config.rounds.bad_latents.batch_size,
        grid=grid,
        audit=audit,
        from_start=choose_start(model.config, start, strength),
    )
    metrics = draw_layouts(model.config, request)["metrics"]
    counted = "".join(f", {metrics[name]} {name}" for name in ("viable", "empty") if metrics.get(name) is not None)
    return f"{metrics['layouts']} layouts{counted}: {output_dir}"


if __name__ == "__main__":
    say(run_command(sample))
