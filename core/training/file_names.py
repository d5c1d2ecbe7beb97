"""Names, below a stage's folder, of the files that a diffusion training writes."""

TRAJECTORIES_NAME = "checkpoints/trajectories.pt"


def checkpoint_name(stage: str, kind: str) -> str:
    """The checkpoint of a kind: best, latest or epoch_NNN."""
    return f"checkpoints/{stage}_checkpoint_{kind}.pt"


def samples_name(stage: str, epoch: int | str) -> str:
    """The picture of layouts that the EMA weights generate after an epoch."""
    return f"samples/{stage}_epoch_{epoch:>03}_samples.png"


def real_layouts_name(stage: str) -> str:
    """The picture of real layouts of the validation split."""
    return f"samples/{stage}_real.png"


def extremes_name(stage: str) -> str:
    """The picture of the generated layouts with the best scores of the discriminator, then of those with the worst."""
    return f"samples/{stage}_best_and_worst.png"


def metrics_name(stage: str) -> str:
    """The table of losses and scores, with a row for each epoch."""
    return f"{stage}_metrics.csv"


def stage3_files(name: str) -> list[str]:
    """Every file that continue-stage-3 of the experiment `name` writes; `*` stands for digits."""
    return [
        *(checkpoint_name(name, kind) for kind in ("best", "latest", "epoch_*")),
        TRAJECTORIES_NAME,
        f"samples/{name}_epoch_*_samples.png",
        real_layouts_name(name),
        extremes_name(name),
        metrics_name(name),
    ]
