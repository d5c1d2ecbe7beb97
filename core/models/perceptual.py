"""LPIPS (Zhang et al., 2018), with a trunk that can be found offline."""

import logging
import socket
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from core.config.loss_sections import PerceptualLossSection
from core.inputs.tensor_files import load_tensors
from core.models.lpips_trunk import INSTALLED
from core.runtime.errors import InputError, first_line

log = logging.getLogger(__name__)

# AlexNet's pooling would reduce smaller pictures to nothing.
_SMALLEST_SIDE = 64
_DOWNLOAD_TIMEOUT_SECONDS = 10


class Perceptual(nn.Module):
    """Frozen LPIPS distance. `trunk` is the source of its weights: a file's name, `torchvision` or `random`."""

    def __init__(self, net: lpips.LPIPS, trunk: str):
        super().__init__()
        self.net = net
        self.trunk = trunk
        self.eval().requires_grad_(False)

    def forward(self, rgb: Tensor, target: Tensor) -> Tensor:
        """LPIPS distance [B] of pictures [B, 3, H, W] in [-1, 1]."""
        if rgb.shape[-1] < _SMALLEST_SIDE:
            rgb, target = (F.interpolate(x, size=_SMALLEST_SIDE, mode="nearest") for x in (rgb, target))
        distance: Tensor = self.net(rgb, target).flatten()
        return distance


def build_perceptual(section: PerceptualLossSection) -> Perceptual:
    """LPIPS with the trunk of `section.backbone`, else the installed one, else torchvision's, else random weights.

    `core.models.lpips_trunk` installs a trunk. Torchvision's is cached or downloaded. Random weights are reported in
    one warning line and in `trunk`, which stages write to their record. Raises InputError if the file of `backbone`
    is missing or belongs to another network.
    """
    installed = INSTALLED.get(section.net)
    named = section.backbone or (installed if installed and installed.exists() else None)
    if named is not None:
        with _NoInitialWeights():
            net = _lpips(section.net, random_trunk=True)
        _load_trunk(net, Path(named))
        return Perceptual(net, Path(named).name)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_SECONDS)
    try:
        return Perceptual(_lpips(section.net, random_trunk=False), "torchvision")
    except (OSError, RuntimeError) as error:
        log.warning(
            "perceptual loss uses a RANDOM %s trunk: torchvision's weights are not cached and cannot be downloaded "
            "(%s); name a file in training.loss.semantic_loss.perceptual_loss.backbone",
            section.net,
            first_line(error),
        )
    finally:
        socket.setdefaulttimeout(timeout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random trunk in every process, so that a resumed run has the same loss
        return Perceptual(_lpips(section.net, random_trunk=True), "random")


class _NoInitialWeights(TorchFunctionMode):
    """Inside, new layers have arbitrary weights. For a network whose weights are all read from files.

    torchvision builds AlexNet with its classifier, which LPIPS drops: its 58 million weights take most of a second.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def _lpips(net: str, random_trunk: bool) -> lpips.LPIPS:
    with warnings.catch_warnings():
        # lpips uses deprecated arguments of torchvision and torch.load.
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pnet_rand=random_trunk, verbose=False)


def _load_trunk(net: lpips.LPIPS, path: Path) -> None:
    """Copy torchvision's weights `features.N.*` or `N.*` into the trunk, whose keys are `sliceK.N.*`."""
    weights = load_tensors(path, "LPIPS trunk")
    if not isinstance(weights, dict):
        raise InputError(f"LPIPS trunk {path} does not hold weights: give torchvision's state_dict of the network")
    by_layer = {key.removeprefix("features."): value for key, value in weights.items()}
    own = net.net.state_dict()
    for key, value in own.items():
        source = by_layer.get(key.split(".", 1)[1])
        if source is None or source.shape != value.shape:
            raise InputError(f"LPIPS trunk {path} does not fit: {key} is missing or has another shape")
        value.copy_(source)
