"""The form of what is read back into a training: weights, optimizer, progress.

Each function looks at one part of a loaded file and gives it back ready to be used. A caller looks at every part before
it takes over any. What is of another form raises InputError, which names the file and the field.
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

# What Adam and AdamW keep of every parameter.
MOMENTS = ("exp_avg", "exp_avg_sq")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# More epochs or steps than anybody trains; larger numbers are no counts.
_MOST = 10**9
_MOST_VALUES = 100_000
# DistributedDataParallel and torch.compile put these into the names of weights.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module"}


class Source(NamedTuple):
    """The file that a state is from: what it is, where it lies, and what to do if it is wrong."""

    what: str
    path: Path | str
    remedy: str

    def error(self, field: str, problem: str) -> InputError:
        """The error for a field of the file."""
        return InputError(f"{self.what} {self.path} is of another form: {field} {problem}: {self.remedy}")


def are_weights(value: Any) -> bool:
    """Whether `value` holds tensors by name and nothing else."""
    return isinstance(value, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())


def without_wrappers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights` by the names that they have in the plain model, whatever wrapped it when they were saved.

    Names that would become equal stay as they are.
    """
    plain = {".".join(part for part in key.split(".") if part not in _WRAPPERS): key for key in weights}
    if len(plain) < len(weights):
        return dict(weights)
    return {name: weights[key] for name, key in plain.items()}


def checked_weights(weights: Mapping[str, Tensor], module: nn.Module, path: Path | str) -> dict[str, Tensor]:
    """`weights` as `module` has them: every key and shape equal, finite, in its dtype.

    Numbers of another precision are converted, with a line in the log. The module may be on the meta device.
    """
    own = module.state_dict()
    mismatch = next((key for key in own if key not in weights or own[key].shape != weights[key].shape), None)
    mismatch = mismatch or next((key for key in weights if key not in own), None)
    if mismatch is not None:
        there = list(weights[mismatch].shape) if mismatch in weights else "missing"
        here = list(own[mismatch].shape) if mismatch in own else "unknown"
        raise InputError(
            f"checkpoint {path} is of another architecture: {mismatch} is {there} there and {here} in the model; "
            "use the config it was trained with"
        )
    checked, converted = {}, set()
    for key, value in weights.items():
        counts = not own[key].is_floating_point()
        if not is_plain(value, (own[key].dtype,) if counts else _FLOATS):
            raise InputError(
                f"checkpoint {path} holds {key} as {kind_of(value)}, not as plain numbers of "
                f"{'whole' if counts else 'floating-point'} type: save it as the training did, or as float32"
            )
        if value.dtype != own[key].dtype:
            converted.add(str(value.dtype).removeprefix("torch."))
        checked[key] = value.detach().to(own[key].dtype)
        # Batch normalisation counts batches, and takes the root of a variance.
        wrong = not torch.isfinite(checked[key]).all()
        if wrong or ((counts or key.endswith("running_var")) and (checked[key] < 0).any()):
            problem = "weights that are not finite (NaN or infinite)" if wrong else "a negative count or variance"
            raise InputError(
                f"checkpoint {path} holds {problem}, first in {key}: give a checkpoint from before its training went "
                "wrong"
            )
    if converted:
        log.warning("checkpoint %s: weights of %s are converted", path, " and ".join(sorted(converted)))
    return checked


def checked_optimizer(
    state: Any, optimizer: Optimizer, module: nn.Module, steps: int, field: str, source: Source
) -> dict[str, Any]:
    """What `optimizer` of the parameters of `module` can load: the moments of `state`, and everything else its own.

    So learning rate, weight decay and betas are those that the optimizer was made with. After `steps` above 0 every
    parameter must have its moments, of its shape.
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
    wanted = {"step", *MOMENTS}
    if not isinstance(moments, Mapping) or moments.keys() != wanted:
        raise source.error(field, f"does not hold {', '.join(sorted(wanted))} and nothing else")
    step = moments["step"]
    if isinstance(step, Tensor) and step.numel() == 1 and is_plain(step):
        step = step.item()
    step = number(step, f"step in {field}", source, least=1, most=_MOST)
    checked = {"step": torch.tensor(step, dtype=torch.float32)}
    for name in MOMENTS:
        value = moments[name]
        if not isinstance(value, Tensor) or not is_plain(value) or value.shape != parameter.shape:
            raise source.error(f"{name} in {field}", f"is {kind_of(value)}, not numbers {list(parameter.shape)}")
        # Laid out in memory as the parameter is: a fused step goes through both in one order.
        checked[name] = torch.empty_like(parameter, requires_grad=False).copy_(value.detach())
        if not torch.isfinite(checked[name]).all() or (name == "exp_avg_sq" and (checked[name] < 0).any()):
            raise source.error(f"{name} in {field}", "holds numbers that no training gives (NaN, infinite, negative)")
    return checked


def mapping(value: Any, keys: Iterable[str], field: str, source: Source) -> Mapping[str, Any]:
    """`value` if it is a mapping that holds the `keys`."""
    if not isinstance(value, Mapping):
        raise source.error(field, f"is {kind_of(value)}, not a mapping")
    if (missing := next((key for key in keys if key not in value), None)) is not None:
        raise source.error(field, f"holds no {missing}")
    return value


def count(value: Any, field: str, source: Source, least: int = 0, most: int = _MOST) -> int:
    """`value` if it is a whole number of the range."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not least <= value <= most:
        raise source.error(field, f"is {kind_of(value)}, not a whole number from {least} to {most}")
    return int(value)


def number(value: Any, field: str, source: Source, least: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a plain number, finite and of the range; scalars of NumPy are numbers, a boolean is none."""
    value = value.item() if isinstance(value, np.generic) else value
    # Compared as it is: a whole number of a thousand digits is no float.
    fits = isinstance(value, numbers.Real) and not isinstance(value, bool) and -1e300 < value < 1e300
    if not fits or not least <= value <= most:
        raise source.error(field, f"is {kind_of(value)}, not a finite number{_range(least, most)}")
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def rows(value: Any, epochs: int | None, field: str, source: Source) -> list[dict[str, Any]]:
    """`value` as the history of a training: a row of numbers for every epoch from 1 to `epochs` (None: to any)."""
    if not isinstance(value, list) or not all(isinstance(row, Mapping) for row in value):
        raise source.error(field, f"is {kind_of(value)}, not a list of rows")
    if epochs is not None and len(value) != epochs:
        raise source.error(field, f"has {len(value)} rows, not one for each of {epochs} epochs")
    checked = []
    for epoch, row in enumerate(value, 1):
        place = f"{field}, row {epoch}"
        if not is_plain_tree(dict(row)) or row.get("epoch") != epoch or not all(isinstance(name, str) for name in row):
            raise source.error(place, f"is not that of epoch {epoch}")
        figures = {name: number(figure, f"{place}, {name}", source) for name, figure in row.items()}
        checked.append(figures | {"epoch": count(row["epoch"], place, source)})
    return checked


def digest(value: Any, field: str, source: Source) -> str | None:
    """`value` if it is a sha256 in hexadecimal digits, or None."""
    if value is not None and not (isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)):
        raise source.error(field, f"is {kind_of(value)}, not a sha256")
    return value


def weights_digest(module: nn.Module) -> str:
    """The sha256 of a model's weights, the same wherever they lie."""
    hashed = hashlib.sha256()
    for key, value in module.state_dict().items():
        hashed.update(f"{key} {list(value.shape)} {value.dtype}\n".encode())
        hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def is_plain(value: Tensor, dtypes: Sequence[torch.dtype] = _FLOATS) -> bool:
    """Whether a tensor holds numbers of one of the `dtypes`, all of them, in memory of this machine."""
    there = value.layout == torch.strided and value.device.type == "cpu" and not value.is_quantized
    return there and value.dtype in dtypes


def is_plain_tree(value: Any) -> bool:
    """Whether a value is made of lists, mappings, text and numbers alone, no more of them than a person reads."""
    left, seen = [value], 0
    while left:
        inner = left.pop()
        seen += 1
        if isinstance(inner, dict):
            left += [*inner, *inner.values()]
        elif isinstance(inner, list | tuple):
            left += inner
        elif not isinstance(inner, str | numbers.Number | None):
            return False
        if seen + len(left) > _MOST_VALUES:
            return False
    return True


def kind_of(value: Any) -> str:
    """What a value is, in words short enough for an error line."""
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f"{value.layout} ".removeprefix("torch.")
        layout = f"meta {layout}" if value.device.type == "meta" else layout
        return f"a {layout}tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, bool | float):
        return str(value)
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of many digits"
    return f"{value[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"


def _range(least: float, most: float) -> str:
    if math.isinf(least) and math.isinf(most):
        return ""
    return f" from {least} up" if math.isinf(most) else f" from {least} to {most}"
