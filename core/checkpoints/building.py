"""Weights checked for a model whose sizes a file names, before memory is allocated for it."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from core.inputs.state_form import checked_weights
from core.runtime.errors import InputError, first_line


def checked_for(
    build: Callable[[], nn.Module], weights: dict[str, Tensor], part: Path, fault: str, remedy: str
) -> dict[str, Tensor]:
    """`weights` checked for the model that `build` makes of the sizes in `part`.

    InputError with the `fault` and `remedy` if these sizes give no model, and if it has other weights.
    """
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            sketch = build()
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError, AttributeError) as error:
        raise InputError(f"{part}: {fault} ({first_line(error)}): {remedy}") from None
    return checked_weights(weights, sketch, part)
