"""Parts of latents drawn by one process or by several together."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.records.latent_parts import LatentParts
from core.runtime import distributed
from core.runtime.progress import each


def fill_parts(
    parts: LatentParts,
    wanted: Sequence[range],
    draw: Callable[[Sequence[int]], Tensor],
    stage: str,
    lines: bool = False,
) -> None:
    """Add the `wanted` parts. `draw` gives the latents [n, C, h, w] at n positions, to every process that joined.

    Several processes draw as many parts at once as there are processes, and the first one adds them.
    """
    wanted, several = distributed.from_first(list(wanted)), distributed.size()
    for chunk in each([wanted[i : i + several] for i in range(0, len(wanted), several)], stage, "parts", lines):
        latents = draw([position for part in chunk for position in part])
        if distributed.rank() == 0:
            for part, rows in zip(chunk, torch.split(latents, [len(part) for part in chunk]), strict=True):
                parts.add(part, rows.clone())  # a file of a view would hold all of them
