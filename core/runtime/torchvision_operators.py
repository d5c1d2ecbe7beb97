"""Makes torchvision importable with a torch build that its compiled operators do not fit."""

import importlib.util
from pathlib import Path

import torch


def declare_missing_operators() -> torch.library.Library | None:
    """A library that declares torchvision's operators if its extension cannot load, otherwise None.

    The registry's torchvision is built for CUDA torch. With a CPU torch its extension fails to load, and
    `import torchvision` stops at `torchvision::nms`. diffusers and lpips import torchvision for pure Python models
    only, so it is enough to declare the operators. Keep a reference to the result.
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
    for name in ("nms", "qnms"):
        schema = f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)
    return library
