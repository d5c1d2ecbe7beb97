"""A torch file may hold dense real tensors no larger than the file, and plain values. No code in it is executed."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.inputs.tensor_files import load_tensors, plain_tensors
from core.runtime.errors import InputError

_DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]
_ODD = {
    "sparse": lambda x: x.to_sparse(),
    "complex": lambda x: torch.complex(x, x),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "meta": lambda x: x.to("meta"),
    "more than its": lambda x: x.reshape(-1)[:1].expand(2**20, 2**20),
}

plain = st.builds(
    lambda shape, dtype, grad: torch.zeros(shape, dtype=dtype).requires_grad_(grad and dtype.is_floating_point),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(_DTYPES),
    st.booleans(),
)
values = st.recursive(
    st.one_of(plain, st.integers(-5, 5), st.text(max_size=3), st.none()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


def tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return [found for item in inner for found in tensors(item)]


@settings(max_examples=40, deadline=None)
@given(value=values, odd=st.sampled_from([None, *_ODD]), deep=st.integers(0, 3))
def test_every_tensor_of_a_file_is_plain_or_the_file_is_refused(tmp_path_factory, value, odd, deep):
    path = tmp_path_factory.mktemp("file") / "given.pt"
    if odd is not None:
        value = [value, _ODD[odd](torch.ones(2, 2))]
    for _ in range(deep):
        value = {"inner": (value,)}
    torch.save(value, path)
    if odd is not None:
        with pytest.raises(InputError, match=rf"given\.pt is refused: it holds a .*{odd.split()[0]}"):
            load_tensors(path, "latent")
        return
    found = tensors(load_tensors(path, "latent"))
    assert [tensor.dtype for tensor in found] == [tensor.dtype for tensor in tensors(value)]
    assert not any(tensor.requires_grad for tensor in found) and {type(tensor) for tensor in found} <= {torch.Tensor}
    places = [tensor.untyped_storage().data_ptr() for tensor in found if tensor.numel()]
    assert len(set(places)) == len(places)


def test_tensors_that_share_storage_are_separated(tmp_path):
    shared = torch.zeros(4)
    torch.save({"mean": shared, "square": shared, "part": shared[1:]}, tmp_path / "given.pt")
    found = load_tensors(tmp_path / "given.pt", "state")
    found["mean"] += 1
    assert found["square"].sum() == 0 and found["part"].sum() == 0


def test_a_tensor_that_repeats_a_value_is_copied(tmp_path):
    torch.save(torch.ones(1).expand(3, 4), tmp_path / "given.pt")
    found = load_tensors(tmp_path / "given.pt", "latent")
    found[0, 0] = 5
    assert found.sum() == 16


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(-2), np.int64(3), np.uint8(255), np.bool_(True)])
def test_numpy_scalars_become_plain_numbers(tmp_path, number):
    torch.save({"value": [number]}, tmp_path / "given.pt")
    (found,) = load_tensors(tmp_path / "given.pt", "checkpoint")["value"]
    assert found == number.item() and type(found) is type(number.item())


@pytest.mark.parametrize("value", [np.complex128(1), np.str_("a"), np.datetime64("2020"), np.zeros(2), np.dtype("f8")])
def test_other_numpy_values_are_refused(tmp_path, value):
    torch.save({"value": value}, tmp_path / "given.pt")
    try:
        found = load_tensors(tmp_path / "given.pt", "checkpoint")["value"]
    except InputError as refused:
        assert "given.pt is refused" in str(refused) and "numpy" in str(refused)
    else:
        assert not isinstance(found, np.dtype)


class _Opens:
    """Loading a pickle of it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
    for name, value in {
        "alone": _Opens(tmp_path / "made"),
        "beside": [np.float64(1), _Opens(tmp_path / "made")],
    }.items():
        torch.save(value, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match="is not a file of plain tensors"):
            load_tensors(tmp_path / f"{name}.pt", "checkpoint")
    assert not (tmp_path / "made").exists()


def test_all_tensors_together_are_limited_by_the_size_of_the_file():
    shared = torch.zeros(2**18)
    plain_tensors([shared] * 4, shared.nbytes, "file")
    with pytest.raises(InputError, match="more than its 1048576 bytes can"):
        plain_tensors([shared] * 5, shared.nbytes, "file")
