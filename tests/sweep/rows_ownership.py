"""Files of the user's where we would write or remove."""

from collections.abc import Callable
from typing import Any

from core.config.experiment import ExperimentConfig
from core.config.loading import load_config
from core.records.artifacts import round_location
from core.records.stage_run import run_stage
from core.reports.comparison import require_free_results
from core.rounds.garbage import find_garbage, remove_garbage
from core.rounds.run import begin_run, hold_run
from core.storage.download_cache import DownloadCache
from core.storage.store import ArtifactsSection
from core.training.continue_stage3 import continue_stage3
from core.training.prerequisites import hold_prerequisites
from tests.sweep.ground import Ground, Row

TITLE = "Files of the user's where we would write"

Give = Callable[[Ground], Any]


def _beside(give: Give, *names: str) -> Give:
    """`give`, in whose folder files of these names lie before; they are there and unchanged after it."""

    def checked(ground: Ground) -> Any:
        files = [ground.file(name, f"mine: {name}") for name in names]
        try:
            return give(ground)
        finally:
            assert [file.read_text() for file in files] == [f"mine: {name}" for name in names], "a file was lost"

    return checked


def _config(ground: Ground, **values: object) -> ExperimentConfig:
    rooted = {"artifacts.root": str(ground.folder / "root"), "prerequisites": None}
    return ground.config.with_values(rooted | {key.replace("__", "."): value for key, value in values.items()})


def _stage(folder: str) -> Give:
    def give(ground: Ground) -> Any:
        return run_stage("stage", ground.folder / folder, {}, {}, lambda *_: {})

    return give


def _linked(give: Give) -> Give:
    """`give`, in whose output folder a folder of the user's is linked; its file is unchanged after it."""

    def checked(ground: Ground) -> Any:
        mine, out = ground.file("mine/a.pt", "mine"), ground.folder / "out"
        out.mkdir()
        (out / "linked").symlink_to(mine.parent)
        try:
            return give(ground)
        finally:
            assert mine.read_text() == "mine", "a file was lost"

    return checked


def _train(resume: bool | None) -> Give:
    def give(ground: Ground) -> Any:
        values = {"experiment__save_path": str(ground.folder / "out"), "training__epochs": 1}
        discriminator = str(ground.file("discriminator.pt"))
        return continue_stage3(_config(ground, **values, discriminator__checkpoint=discriminator), resume, False)

    return give


def _run(ground: Ground) -> Any:
    with hold_run(_config(ground)):
        return True


def _prerequisites(ground: Ground) -> Any:
    config = _config(ground, dataset__manifest=str(ground.manifest), autoencoder__checkpoint=None)
    with hold_prerequisites(config.with_values({"diffusion.stage1_checkpoint": None})):
        return True


def _collected(ground: Ground) -> Any:
    """Whether garbage collection finds nothing in a run that was begun before the files were put there."""
    config = _config(ground, experiment__name="other")
    with hold_run(config):
        begin_run(config)
    for name in ("notes.txt", "round-01/stage3/mine.pt", "round-01/state/mine.pt", "stage3/mine.pt"):
        ground.file(f"root/other/{name}", "mine")
    (garbage,) = find_garbage(str(ground.folder / "root"), 0, ArtifactsSection())
    removed = remove_garbage(garbage.uri, 0, ArtifactsSection())
    return not garbage.files and not removed.files and (ground.folder / "root/other/round-01/state/mine.pt").exists()


def _fork(ground: Ground) -> Any:
    config = _config(ground, experiment__name="other")
    return begin_run(config, round_location(config, 1))


_SAVE_PATH, _OUTPUT = "experiment.save_path", "--output_dir"
_RUN = "experiment.name or artifacts.root"
ROWS = [
    *(
        Row(
            "continue-stage-3",
            f"a save_path that holds {name}",
            _beside(_train(None), f"out/{name}"),
            (name, _SAVE_PATH),
        )
        for name in ("checkpoints/stage2.pt", "samples/mine.png", "log.txt", ".git/config", "made.json")
    ),
    Row(
        "continue-stage-3 --no-resume",
        "a save_path that holds checkpoints and no record of ours",
        _beside(_train(False), "out/checkpoints/tiny_checkpoint_latest.pt", "out/tiny_metrics.csv"),
        ("tiny_metrics.csv", _SAVE_PATH),
    ),
    *(
        Row("a stage", f"an output folder that holds {name}", _beside(_stage("out"), f"out/{name}"), (name, _OUTPUT))
        for name in (
            "bad_latents_all.pt",
            "stage.json.bak",
            "state/best.pt",
            "state/parts/mine.pt",
            "state/000001-000002/frame.png",
            ".photo.jpg.4711.partial",
            ".scratch-mine/a",
            "run.json",
            "lease.json",
            "round-01/round.json",
        )
    ),
    Row("a stage", "the whole disk", lambda _: run_stage("stage", "/", {}, {}, lambda *_: {}), ("/ holds", _OUTPUT)),
    Row("a stage", "an output folder with a link to files of the user's", _linked(_stage("out")), ("a.pt", _OUTPUT)),
    Row("a stage", "the user's home folder", _beside(_stage("."), "photos/a.jpg", "mail/inbox"), ("inbox", _OUTPUT)),
    *(
        Row("a run", f"a folder of its name that holds {name}", _beside(_run, f"root/tiny/{name}"), (name, _RUN))
        for name in ("main.py", "run.json", "round-01/notes.txt", "config.yaml", "report.html", "stage3/mine.pt")
    ),
    *(
        Row(
            "config",
            f"artifacts.root {root}",
            lambda ground, root=root: load_config(ground.config_path, [f"artifacts.root={root}"]),
            ("artifacts.root", "give a folder"),
        )
        for root in ("/", "//", "/.", "/tmp/..")
    ),
    Row("a run", "a fork of a round that is not there", _fork, ("round-01", "give the address of a finished round")),
    *(
        Row(
            "prerequisites",
            f"a folder prerequisites that holds {name}",
            _beside(_prerequisites, f"root/prerequisites/{name}"),
            (name, "artifacts.root"),
        )
        for name in ("src/main.py", "stage1/model.pt", "layouts/images/a.png")
    ),
    Row(
        "the download cache",
        "a folder of photos",
        _beside(lambda ground: DownloadCache(ground.folder / "cache", 0), "cache/a.jpg"),
        ("a.jpg", "artifacts.cache"),
    ),
    Row(
        "compare-ablations",
        "an output folder with a table of that name",
        _beside(lambda ground: require_free_results(ground.config, str(ground.folder)), "tiny.csv"),
        ("tiny.csv", "--output_dir"),
    ),
    Row("collect-garbage", "files of the user's in every folder of a run", _collected, meaning="they are no garbage"),
    Row(
        "collect-garbage",
        "a folder prerequisites without any record",
        _beside(
            lambda ground: not find_garbage(str(ground.folder), 0, ArtifactsSection())[0].files, "prerequisites/a/b.pt"
        ),
        meaning="nothing in it is garbage",
    ),
    Row(
        "collect-garbage",
        "a folder without runs",
        _beside(lambda ground: find_garbage(str(ground.folder), 0, ArtifactsSection()), "a/b.pt"),
        ("holds no run",),
    ),
]
