"""retrain-discriminator: train a discriminator to tell real latents from bad ones."""

from core.inputs.locations import Location
from core.inputs.section import Batch, Epochs, Few, LearningRate, Seed
from core.records.stage_result import StageResult
from core.storage.store import ArtifactsSection
from core.trackers.tracking import TrackedStage
from core.training.train_discriminator import DiscriminatorRequest, train_discriminator
from tasks.command_line import run_command, say
from tasks.stage_task import stage_task


@stage_task("retrain-discriminator")
def retrain_discriminator(
    real_latents: Location,
    fake_latents: Location,
    output_dir: Location,
    epochs: Epochs = 50,
    batch_size: Batch = 64,
    learning_rate: LearningRate = 0.0002,
    seed: Seed = 42,
    device: str = "auto",
    use_amp: bool | None = None,
    labelled_latents: Location | None = None,
    learn_labels: bool = False,
    processes: Few = 1,
    *,
    artifacts: ArtifactsSection | None = None,
    tracked: TrackedStage | None = None,
) -> StageResult:
    """Train a fresh discriminator on real and fake latents, each a .pt or .npy file or a folder of them.

    With `labelled_latents` it is measured how well its score ranks generated latents by viability, and with
    `learn_labels` it is trained on viable ones of them against the others. It computes in bfloat16 if that is faster on
    the device, unless `use_amp` is false. Several `processes` of this machine may train it together. Writes
    discriminator_best.pt and discriminator_history.csv to `output_dir`; returns the metrics of the stage's record.
    """
    request = DiscriminatorRequest(
        real_latents=real_latents,
        fake_latents=fake_latents,
        output_dir=output_dir,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        use_amp=use_amp is not False,
        labelled_latents=labelled_latents,
        learn_labels=learn_labels,
        processes=processes,
        tracked=tracked,
    )
    record = train_discriminator(request, artifacts)
    return {"output_dir": str(output_dir), "metrics": record["metrics"], "seconds": record["seconds"]}


if __name__ == "__main__":
    made = run_command(retrain_discriminator.fn)
    metrics = made["metrics"]
    say(f"validation accuracy {metrics['val_acc']:.3f} (epoch {metrics['best_epoch']}) in {made['output_dir']}")
