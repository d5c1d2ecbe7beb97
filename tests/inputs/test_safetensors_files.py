"""Safetensors files: what is written is read back, and equal values are equal bytes."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.inputs.listed_digests import digest_list, require_listed_digest
from core.inputs.safetensors_files import load_safetensors, save_safetensors
from core.runtime.errors import InputError
from core.runtime.files import sha256

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int64, torch.bool]
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
tensors = st.builds(
    lambda shape, dtype: torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=4),
    st.sampled_from(DTYPES),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(weights=st.dictionaries(names.filter(lambda name: name != "__metadata__"), tensors, max_size=4), text=names)
def test_tensors_and_text_are_read_back(tmp_path, weights, text):
    path = tmp_path / "given.safetensors"
    save_safetensors(weights, "config", text, path)
    found = load_safetensors(path, "checkpoint")
    assert found.text == {"config": text} and found.tensors.keys() == weights.keys()
    for name, value in weights.items():
        assert found.tensors[name].dtype == value.dtype and torch.equal(found.tensors[name], value)


def test_equal_values_are_equal_bytes_whatever_their_order_in_memory(tmp_path):
    value = torch.arange(64.0).reshape(2, 2, 4, 4)
    save_safetensors({"a": value, "b": value + 1}, "config", "{}", tmp_path / "first")
    other = {"b": value + 1, "a": value.contiguous(memory_format=torch.channels_last)}
    save_safetensors(other, "config", "{}", tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_tensors_of_a_file_can_be_changed_one_by_one(tmp_path):
    save_safetensors({"a": torch.ones(3), "b": torch.ones(3)}, "config", "", tmp_path / "given.safetensors")
    found = load_safetensors(tmp_path / "given.safetensors", "checkpoint").tensors
    found["a"] += 1
    assert found["b"].sum() == 3 and found["a"].sum() == 6


def test_a_list_of_digests_holds_until_the_file_changes(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    (tmp_path / "SHA256SUMS").write_bytes(digest_list({"model.pt": sha256(path), "other.pt": "0" * 64}))
    require_listed_digest(path, "checkpoint")
    path.write_bytes(b"weightz")
    with pytest.raises(InputError, match=rf"checkpoint {path} is not the file that .*SHA256SUMS lists.*git checkout"):
        require_listed_digest(path, "checkpoint")
    path.unlink()
    with pytest.raises(InputError, match=r"model\.pt does not exist"):
        require_listed_digest(path, "checkpoint")
