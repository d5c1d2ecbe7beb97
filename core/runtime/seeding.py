"""Random numbers as a function of position: one seed for each (seed, stream, index)."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def derive_seed(seed: int, stream: str, *position: int) -> int:
    """Seed in [0, 2^63) of the stream named `stream` at `position`; the same on every machine."""
    digest = hashlib.sha256(repr((seed, stream, *position)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, stream: str, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator seeded with `derive_seed`. On a GPU it draws other numbers than on the CPU, and much faster."""
    return torch.Generator(device).manual_seed(derive_seed(seed, stream, *position))


def sample_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Standard normal noise [len(seeds), *shape]. Each row depends on its seed alone, not on the batch."""
    rows = [torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(rows)
