"""LPIPS (Zhang et al., 2018) with a trunk that may have to be found offline."""

import logging
import socket
import warnings
from pathlib import Path

import lpips
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.config.loss_sections import PerceptualLossSection
from core.inputs.tensor_files import load_tensors
from core.models.lpips_trunk import INSTALLED
from core.runtime.errors import InputError

log = logging.getLogger(__name__)

# AlexNet's pooling leaves nothing of smaller pictures.
_SMALLEST_SIDE = 64
_DOWNLOAD_TIMEOUT_SECONDS = 10


class Perceptual(nn.Module):
    """Frozen LPIPS distance; `trunk` says where its weights come from: a file, `torchvision`, or `random`."""

    def __init__(self, net: lpips.LPIPS, trunk: str):
        super().__init__()
        self.net = net
        self.trunk = trunk
        self.eval().requires_grad_(False)

    def forward(self, rgb: Tensor, target: Tensor) -> Tensor:
        """Distance [B] of pictures [B, 3, H, W] in [-1, 1]."""
        if rgb.shape[-1] < _SMALLEST_SIDE:
            rgb, target = (F.interpolate(x, size=_SMALLEST_SIDE, mode="nearest") for x in (rgb, target))
        return self.net(rgb, target).flatten()


def build_perceptual(section: PerceptualLossSection) -> Perceptual:
    """LPIPS with the trunk of `section.backbone`, else the installed one, else torchvision's, else random weights.

    The installed one is `core.models.lpips_trunk`'s. Torchvision's is cached or downloaded. Random weights are said in
    one warning line and in `trunk`, which stages write to their record. Raises InputError for a named file that
    is missing or of another network.
    """
    installed = INSTALLED.get(section.net)
    named = section.backbone or (installed if installed and installed.exists() else None)
    if named is not None:
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
            str(error).splitlines()[0],
        )
    finally:
        socket.setdefaulttimeout(timeout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same random trunk in every process, so that a resumed run sees the same loss
        return Perceptual(_lpips(section.net, random_trunk=True), "random")


def _lpips(net: str, random_trunk: bool) -> lpips.LPIPS:
    with warnings.catch_warnings():
        # lpips calls torchvision and torch.load in ways they have deprecated.
        warnings.simplefilter("ignore")
        return lpips.LPIPS(net=net, pnet_rand=random_trunk, verbose=False)


def _load_trunk(net: lpips.LPIPS, path: Path) -> None:
    """Copy torchvision `features.N.*` (or `N.*`) weights into the trunk, whose keys are `sliceK.N.*`."""
    weights = load_tensors(path, "LPIPS trunk")
    if not isinstance(weights, dict):
        raise InputError(f"LPIPS trunk {path} holds no weights: give torchvision's state_dict of the network")
    by_layer = {key.removeprefix("features."): value for key, value in weights.items()}
    own = net.net.state_dict()
    for key, value in own.items():
        source = by_layer.get(key.split(".", 1)[1])
        if source is None or source.shape != value.shape:
            raise InputError(f"LPIPS trunk {path} does not fit: {key} is missing or of another shape")
        value.copy_(source)
