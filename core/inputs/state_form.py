"""Checks of the parts of a saved training: weights, optimizer state, progress.

Each function checks one part of a loaded file and returns it ready for use. Callers check all parts before they use any
of them. A part of another form raises InputError, which names the file and the field.
"""

import hashlib
import logging
import math
import numbers
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from core.runtime.errors import InputError

log = logging.getLogger(__name__)

# The moments that Adam and AdamW keep for every parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The largest count of epochs or steps that is accepted.
_MOST = 10**9
_MOST_VALUES = 100_000
# DistributedDataParallel, torch.compile and FSDP put these into the names of weights.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}


class Source(NamedTuple):
    """The file that a state comes from: what it is, its path, and what to do if it is wrong."""

    what: str
    path: Path | str
    remedy: str

    def error(self, field: str, problem: str) -> InputError:
        """The error for a field of the file."""
        return InputError(f"{self.what} {self.path} has another form: {field} {problem}: {self.remedy}")


def are_weights(value: Any) -> bool:
    """Whether `value` is a dictionary of tensors by name and nothing else."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` with the names of the plain model, without the prefixes of wrappers such as DDP.

    If two names would become equal, all stay unchanged.
    """
    plain = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in weights}
    if len(plain) < len(weights):
        return dict(weights)
    return {name: weights[key] for name, key in plain.items()}


def with_prefix(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with `prefix`, by their names without it."""
    return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def checked_weights(weights: Mapping[str, Tensor], module: nn.Module, path: Path | str) -> dict[str, Tensor]:
    """`weights` checked for `module`: the same keys and shapes, finite, converted to the module's dtypes.

    A conversion is logged. The module may be on the meta device.
    """
    own = module.state_dict()
    _require_architecture(weights, own, path)
    checked = {key: _checked_weight(key, value, own[key].dtype, path) for key, value in weights.items()}
    kinds = {value.dtype for key, value in weights.items() if value.dtype != own[key].dtype}
    converted = {str(kind).removeprefix("torch.") for kind in kinds}
    if converted:
        log.warning("checkpoint %s: weights of %s are converted", path, " and ".join(sorted(converted)))
    return checked


def _require_architecture(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], path: Path | str) -> None:
    """InputError for the first weight that the file or the model lacks, or that has another shape."""
    mismatch = next((key for key in own if key not in weights or own[key].shape != weights[key].shape), None)
    mismatch = mismatch or next((key for key in weights if key not in own), None)
    if mismatch is not None:
        in_file = list(weights[mismatch].shape) if mismatch in weights else "missing"
        in_model = list(own[mismatch].shape) if mismatch in own else "unknown"
        raise InputError(
            f"checkpoint {path} has another architecture: {mismatch} is {in_file} in the file and {in_model} in the "
            "model; use the config it was trained with"
        )


def _checked_weight(key: str, value: Tensor, dtype: torch.dtype, path: Path | str) -> Tensor:
    """`value` in `dtype`; InputError if it does not hold plain finite numbers, or negative ones where none can be."""
    is_count = not dtype.is_floating_point
    if not is_plain(value, (dtype,) if is_count else _FLOATS):
        raise InputError(
            f"checkpoint {path} holds {key} as {kind_of(value)}, not as plain numbers of "
            f"{'whole' if is_count else 'floating-point'} type: save it as the training did, or as float32"
        )
    weight = value.detach().to(dtype)
    # Batch normalisation counts batches and takes the square root of a variance. Neither may be negative.
    is_infinite = not torch.isfinite(weight).all()
    if is_infinite or ((is_count or key.endswith("running_var")) and (weight < 0).any()):
        problem = "weights that are not finite (NaN or infinite)" if is_infinite else "a negative count or variance"
        raise InputError(
            f"checkpoint {path} holds {problem}, first in {key}: give a checkpoint from before its training went wrong"
        )
    return weight


def checked_optimizer(
    state: Any, optimizer: Optimizer, module: nn.Module, steps: int, field: str, source: Source
) -> dict[str, Any]:
    """A state that `optimizer` of the parameters of `module` can load: the moments of `state`, the rest its own.

    So it keeps its learning rate, weight decay and betas. If `steps` is above 0, every parameter must have moments of
    its shape.
    """
    own = optimizer.state_dict()
    if not isinstance(state, Mapping) or not isinstance(state.get("state"), Mapping):
        raise source.error(field, "holds no state of an optimizer")
    groups, named = state.get("param_groups"), list(module.named_parameters())
    if not isinstance(groups, list) or not all(isinstance(group, Mapping) for group in groups):
        raise source.error(field, "holds no param_groups")
    numbered = [group.get("params") for group in groups]
    if not is_plain_tree(numbered) or numbered != [group["params"] for group in own["param_groups"]]:
        raise source.error(field, f"is not of the {len(named)} parameters of the model")
    moments = state["state"]
    if steps == 0 and not moments:
        return own
    if missing := [name for index, (name, _) in enumerate(named) if index not in moments]:
        raise source.error(field, f"holds no moments of {missing[0]}")
    if len(moments) > len(named):
        raise source.error(field, f"holds moments of more than the {len(named)} parameters of the model")
    checked = {
        index: _checked_moments(moments[index], parameter, f"{field} of {name}", source)
        for index, (name, parameter) in enumerate(named)
    }
    return {"state": checked, "param_groups": own["param_groups"]}


def _checked_moments(moments: Any, parameter: Tensor, field: str, source: Source) -> dict[str, Tensor]:
    names = {"step", *MOMENTS}
    if not isinstance(moments, Mapping) or moments.keys() != names:
        raise source.error(field, f"does not hold exactly {', '.join(sorted(names))}")
    step = moments["step"]
    if isinstance(step, Tensor) and step.numel() == 1 and is_plain(step):
        step = step.item()
    step = number(step, f"step in {field}", source, least=1, most=_MOST)
    checked = {"step": torch.tensor(step, dtype=torch.float32)}
    for name in MOMENTS:
        value = moments[name]
        if not isinstance(value, Tensor) or not is_plain(value) or value.shape != parameter.shape:
            raise source.error(f"{name} in {field}", f"is {kind_of(value)}, not numbers {list(parameter.shape)}")
        # In the memory layout of the parameter, because a fused step walks through both in the same order.
        checked[name] = torch.empty_like(parameter, requires_grad=False).copy_(value.detach())
        if not torch.isfinite(checked[name]).all() or (name == "exp_avg_sq" and (checked[name] < 0).any()):
            raise source.error(f"{name} in {field}", "holds impossible numbers (NaN, infinite, negative)")
    return checked


def mapping(value: Any, keys: Iterable[str], field: str, source: Source) -> Mapping[str, Any]:
    """`value` if it is a mapping that holds the `keys`."""
    if not isinstance(value, Mapping):
        raise source.error(field, f"is {kind_of(value)}, not a mapping")
    if (missing := next((key for key in keys if key not in value), None)) is not None:
        raise source.error(field, f"holds no {missing}")
    return value


def count(value: Any, field: str, source: Source, least: int = 0, most: int = _MOST) -> int:
    """`value` if it is a whole number in the range."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not least <= int(value) <= most:
        raise source.error(field, f"is {kind_of(value)}, not a whole number from {least} to {most}")
    return int(value)


def number(value: Any, field: str, source: Source, least: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a plain number, finite and in the range. NumPy scalars are numbers, booleans are not."""
    value = value.item() if isinstance(value, np.generic) else value
    # Compared before the conversion to float, which fails for a whole number of a thousand digits.
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not -1e300 < value < 1e300 or not least <= value <= most:
        raise source.error(field, f"is {kind_of(value)}, not a finite number{_range(least, most)}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def rows(value: Any, epochs: int | None, field: str, source: Source) -> list[dict[str, Any]]:
    """`value` as the history of a training: one row of numbers per epoch, from 1 to `epochs` (None: any number)."""
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise source.error(field, f"is {kind_of(value)}, not a list of rows")
    if epochs is not None and len(value) != epochs:
        raise source.error(field, f"has {len(value)} rows, not one for each of {epochs} epochs")
    checked = []
    for epoch, row in enumerate(value, 1):
        place = f"{field}, row {epoch}"
        if not is_plain_tree(dict(row)) or row.get("epoch") != epoch or not all(isinstance(name, str) for name in row):
            raise source.error(place, f"is not the row of epoch {epoch}")
        figures = {name: number(figure, f"{place}, {name}", source) for name, figure in row.items()}
        checked.append(figures | {"epoch": count(row["epoch"], place, source)})
    return checked


def digest(value: Any, field: str, source: Source) -> str | None:
    """`value` if it is a sha256 in hexadecimal digits, or None."""
    if value is None or (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        return value
    raise source.error(field, f"is {kind_of(value)}, not a sha256")


def weights_digest(module: nn.Module) -> str:
    """The sha256 of a model's weights, the same on every device."""
    hashed = hashlib.sha256()
    for key, value in module.state_dict().items():
        hashed.update(f"{key} {list(value.shape)} {value.dtype}\n".encode())
        hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def is_plain(value: Tensor, dtypes: Sequence[torch.dtype] = _FLOATS) -> bool:
    """Whether a tensor is dense, on the CPU and of one of the `dtypes`."""
    is_dense = value.layout == torch.strided and not value.is_quantized
    return is_dense and value.device.type == "cpu" and value.dtype in dtypes


def is_plain_tree(value: Any) -> bool:
    """Whether a value consists of lists, dictionaries, text and numbers only, and of at most `_MOST_VALUES`."""
    queue, seen = [value], 0
    while queue:
        inner = queue.pop()
        seen += 1
        if isinstance(inner, dict):
            queue += [*inner, *inner.values()]
        elif isinstance(inner, list | tuple):
            queue += inner
        elif not isinstance(inner, str | numbers.Number | None):
            return False
        if seen + len(queue) > _MOST_VALUES:
            return False
    return True


def kind_of(value: Any) -> str:
    """A short description of a value for an error line."""
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f"{value.layout} ".removeprefix("torch.")
        layout = f"meta {layout}" if value.device.type == "meta" else layout
        return f"a {layout}tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number with many digits"
    return f"{value[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _range(least: float, most: float) -> str:
    if math.isinf(least) and math.isinf(most):
        return ""
    return f" from {least} up" if math.isinf(most) else f" from {least} to {most}"
