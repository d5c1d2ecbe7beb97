"""Makes torchvision importable beside a torch build that its compiled operators do not fit."""

import importlib.util
from pathlib import Path

import torch


def declare_missing_operators() -> torch.library.Library | None:
    """Library that declares torchvision's operators where its extension cannot load, else None.

    The registry's torchvision is built for CUDA torch; beside a CPU torch its extension fails to load and
    `import torchvision` then stops at `torchvision::nms`. diffusers and lpips import torchvision for pure
    Python models only, so declaring the schemas is enough. The result must stay alive.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return None
    extensions = list(Path(spec.origin).parent.glob("_C*.so"))
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
    except OSError:
        extensions = []
    if extensions:
        return None
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
