"""Latents and pictures as training reads them: packed or a file each, held or read again, always the same."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from core.data import latents as latents_module
from core.data.latents import Latents, PackedLatents, read_latent, read_pool, write_packed
from core.data.layouts import LayoutPictures, as_classes, as_rgb, pictures_from_rgb
from core.data.manifest import read_manifest, split_by_layout
from core.data.palette import DEFAULT_PALETTE
from core.data.variants import COUNT, variant
from core.generation import encode_layouts as encode_layouts_module
from core.generation.encode_layouts import encode_layouts
from core.inputs.numpy_files import ConversionLog
from core.networks.autoencoder import Autoencoder
from core.records.stage_run import run_stage
from core.records.workspace import Workspace
from core.runtime.errors import InputError
from core.runtime.prefetching import prefetch_map

SHAPE = (4, 8, 8)


def manifest_rows(paths, latent_rows=None):
    rows = pd.DataFrame({"latent_path": [str(path) for path in paths]}).reset_index(names="manifest_row")
    return rows if latent_rows is None else rows.assign(latent_row=latent_rows)


@pytest.fixture
def values():
    return torch.randn(24, *SHAPE, generator=torch.Generator().manual_seed(0))


def single_files(folder, values):
    paths = [folder / f"{number}.pt" for number in range(len(values))]
    for path, latent in zip(paths, values, strict=True):
        torch.save(latent.clone(), path)
    return paths


def check_every_order(latents, values):
    assert len(latents) == len(values)
    for seed in range(5):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:13]
        batch = latents.batch(order)
        assert batch.dtype == torch.float32 and torch.equal(batch, values[order].float())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_packed_rows_are_read_by_index(tmp_path, values, dtype):
    stored = values.numpy().astype(dtype)
    np.save(tmp_path / "packed.npy", stored)
    shuffled = np.random.default_rng(0).permutation(24)
    rows = manifest_rows([tmp_path / "packed.npy"] * 24, shuffled)
    check_every_order(Latents(rows, "latent_path", SHAPE, tmp_path), torch.from_numpy(stored[shuffled].astype("f4")))


@pytest.mark.parametrize("spare", [0, -1])
def test_latents_are_held_by_the_device_if_there_is_room(tmp_path, values, spare):
    np.save(tmp_path / "packed.npy", values.numpy())
    latents = Latents(manifest_rows([tmp_path / "packed.npy"] * 24, range(24)), "latent_path", SHAPE, tmp_path)
    latents.hold(torch.device("cpu"), room=values.nbytes + spare)
    check_every_order(latents, values)
    os.truncate(tmp_path / "packed.npy", 0)
    if spare:
        with pytest.raises(InputError, match="truncated while"):
            latents.batch(torch.arange(24))
    else:
        check_every_order(latents, values)


def test_a_latent_that_is_not_finite_is_not_held(tmp_path, values):
    values = values.clone()
    values[7, 0, 0, 0] = torch.inf
    np.save(tmp_path / "packed.npy", values.numpy())
    latents = Latents(manifest_rows([tmp_path / "packed.npy"] * 24, range(24)), "latent_path", SHAPE, tmp_path)
    with pytest.raises(InputError, match=r"manifest row 8: .* not finite"):
        latents.hold(torch.device("cpu"), room=values.nbytes)


@pytest.mark.parametrize("held_bytes", [2**28, 0])
def test_single_files_are_held_or_packed_and_leave_nothing(tmp_path, values, monkeypatch, held_bytes):
    monkeypatch.setattr(latents_module, "HELD_BYTES", held_bytes)
    scratch = tmp_path / "scratch"
    latents = Latents(manifest_rows(single_files(tmp_path, values)), "latent_path", SHAPE, scratch)
    for path in tmp_path.glob("*.pt"):
        path.unlink()
    check_every_order(latents, values)
    assert scratch.exists() == (held_bytes == 0) and not list(scratch.rglob("*"))


def test_one_manifest_may_have_packed_files_and_single_ones(tmp_path, values):
    np.save(tmp_path / "a.npy", values[:8].numpy())
    np.save(tmp_path / "b.npy", values[8:16].numpy())
    paths = [tmp_path / "a.npy"] * 8 + [tmp_path / "b.npy"] * 8 + single_files(tmp_path, values)[16:]
    rows = manifest_rows(paths, [*range(8), *range(8), *[None] * 8])
    check_every_order(Latents(rows, "latent_path", SHAPE, tmp_path), values)


@pytest.mark.parametrize("held_bytes", [2**28, 0])
@pytest.mark.parametrize("rows_a_file", [1, 3])
def test_many_packed_files_take_few_open_ones(tmp_path, values, monkeypatch, held_bytes, rows_a_file):
    monkeypatch.setattr(latents_module, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(latents_module, "_OPEN_FILES", 5)
    paths = [tmp_path / f"{number // rows_a_file}.npy" for number in range(24)]
    for start in range(0, 24, rows_a_file):
        np.save(paths[start], values[start : start + rows_a_file].numpy())
    before = len(os.listdir("/proc/self/fd"))
    latents = Latents(manifest_rows(paths, np.arange(24) % rows_a_file), "latent_path", SHAPE, tmp_path / "scratch")
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    check_every_order(latents, values)
    with pytest.raises(InputError, match=r"manifest row 24: latent_row is 7 and latents .* have rows 0 to"):
        rows = manifest_rows(paths, [*(np.arange(23) % rows_a_file), 7])
        Latents(rows, "latent_path", SHAPE, tmp_path / "scratch")


def test_a_numpy_file_of_one_latent_needs_no_row(tmp_path, values):
    for number, latent in enumerate(values):
        np.save(tmp_path / f"{number}.npy", latent.numpy())
    paths = [tmp_path / f"{number}.npy" for number in range(24)]
    check_every_order(Latents(manifest_rows(paths), "latent_path", SHAPE, tmp_path), values)


def test_integers_are_latents_and_that_is_said_once(tmp_path, caplog):
    conversions = ConversionLog()
    whole = torch.arange(4 * 64).reshape(SHAPE).to(torch.int16)
    for name in ("a", "b"):
        torch.save(whole, tmp_path / f"{name}.pt")
        assert torch.equal(read_latent(tmp_path / f"{name}.pt", SHAPE, conversions), whole.float())
    np.save(tmp_path / "pool.npy", whole[None].numpy())
    assert torch.equal(read_pool(tmp_path / "pool.npy", conversions), whole[None].float())
    assert caplog.text.count("int16 numbers, which are read as float32") == 1


def test_single_latents_may_have_a_batch_axis_and_share_storage(tmp_path, values):
    torch.save(values[3], tmp_path / "sliced.pt")
    torch.save(values[3:4], tmp_path / "batched.pt")
    for name in ("sliced.pt", "batched.pt"):
        latent = read_latent(tmp_path / name, SHAPE)
        assert torch.equal(latent, values[3]) and latent.untyped_storage().nbytes() == 4 * 8 * 8 * 4


def test_a_packed_file_is_what_numpy_writes(tmp_path, values):
    with (tmp_path / "ours.npy").open("wb") as file:
        write_packed([values[:10].numpy(), *values[10:].numpy()], 24, SHAPE, file)
    np.save(tmp_path / "numpys.npy", values.numpy())
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpys.npy").read_bytes()


@given(content=st.binary(max_size=300), keep=st.integers(0, 128))
@settings(max_examples=200)
def test_arbitrary_bytes_are_not_taken_for_latents(tmp_path_factory, content, keep):
    path = tmp_path_factory.mktemp("bytes") / "packed.npy"
    np.save(path, np.zeros((2, *SHAPE), np.float32))
    whole = path.read_bytes()
    path.write_bytes(whole[:keep] + content)
    with pytest.raises(InputError) as refused:
        PackedLatents(path, SHAPE)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_pickle_in_a_packed_file_is_refused_unopened(tmp_path):
    np.save(tmp_path / "packed.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"packed\.npy hold Python objects, not real numbers"):
        PackedLatents(tmp_path / "packed.npy", SHAPE)


def test_a_file_cut_short_meanwhile_ends_in_one_line(tmp_path, values):
    path = tmp_path / "packed.npy"
    np.save(path, values.numpy())
    latents = Latents(manifest_rows([path] * 24, range(24)), "latent_path", SHAPE, tmp_path)
    os.truncate(path, path.stat().st_size - 8)
    latents.batch(torch.arange(23))
    with pytest.raises(InputError, match="truncated while"):
        latents.batch(torch.arange(24))


def test_packed_latents_take_no_memory(tmp_path):
    """256 MB of latents, every one drawn, in a process that may have 80 MB more than it has before."""
    path = tmp_path / "packed.npy"
    with path.open("wb") as file:
        write_packed([], 4096, (16, 32, 32), file)
        file.truncate(file.tell() + 4096 * 16 * 32 * 32 * 4)
    program = """
import sys, torch, pandas as pd
from pathlib import Path
from core.data.latents import Latents
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
rows = pd.DataFrame({"latent_path": sys.argv[1], "latent_row": range(4096), "manifest_row": range(4096)})
before = peak()
latents = Latents(rows, "latent_path", (16, 32, 32), Path("."))
for indices in torch.randperm(4096).split(64):
    assert latents.batch(indices).shape == (64, 16, 32, 32)
assert peak() - before < 80_000, peak() - before
"""
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


# Pictures


@st.composite
def pictures(draw):
    """Class maps' pictures, some with colours off by a little, some far from the palette."""
    classes = draw(arrays(np.uint8, (8, 8), elements=st.integers(0, len(DEFAULT_PALETTE) - 1)))
    rgb = DEFAULT_PALETTE.rgb[classes]
    kind = draw(st.sampled_from(["exact", "rounded", "foreign"]))
    if kind == "rounded":
        shift = draw(arrays(np.int16, (8, 8, 3), elements=st.integers(-2, 2)))
        rgb = np.clip(rgb + shift, 0, 255).astype(np.uint8)
    if kind == "foreign":
        rgb[draw(st.integers(0, 7)), draw(st.integers(0, 7))] = draw(st.tuples(*[st.integers(0, 255)] * 3))
    return rgb


@given(rgb=pictures())
def test_a_picture_is_kept_without_loss(rgb):
    kept = as_classes(rgb, DEFAULT_PALETTE)
    assert np.array_equal(as_rgb(kept, DEFAULT_PALETTE), rgb)
    assert (kept.ndim == 2) == all(
        any((color == pixel).all() for color in DEFAULT_PALETTE.rgb) for pixel in rgb.reshape(-1, 3)
    )


@given(
    rgbs=st.lists(pictures(), min_size=1, max_size=4),
    variants=st.none() | st.integers(0, COUNT - 1),
    room=st.sampled_from([0, 64, 300, 10**6]),
)
def test_batches_of_cached_pictures_equal_those_of_the_pictures(tmp_path_factory, rgbs, variants, room):
    folder = tmp_path_factory.mktemp("pictures")
    for number, rgb in enumerate(rgbs):
        Image.fromarray(rgb).save(folder / f"{number}.png")
    rows = manifest_rows([folder / f"{number}.png" for number in range(len(rgbs))])
    kept = LayoutPictures(rows, "latent_path", 8, DEFAULT_PALETTE, cache_bytes=room)
    seen = [rgb if variants is None else variant(rgb, variants) for rgb in rgbs]
    expected = pictures_from_rgb(np.stack(seen), DEFAULT_PALETTE)
    for _ in range(2):  # from the files, then from memory
        batch = kept.batch(list(range(len(rgbs))), None if variants is None else [variants] * len(rgbs))
        for actual, wanted in zip(batch, expected, strict=True):
            assert torch.equal(actual, wanted) and actual.dtype == wanted.dtype and actual.is_contiguous()
        assert all(np.array_equal(kept.rgb(number), rgb) for number, rgb in enumerate(rgbs))


def test_no_more_pictures_are_kept_than_there_is_room_for(tmp_path):
    for number in range(10):
        Image.new("RGB", (8, 8), (240, 240, 240)).save(tmp_path / f"{number}.png")
    rows = manifest_rows([tmp_path / f"{number}.png" for number in range(10)])
    kept = LayoutPictures(rows, "latent_path", 8, DEFAULT_PALETTE, cache_bytes=3 * 64 + 63)
    kept.batch(list(range(10)))
    for number in range(10):
        (tmp_path / f"{number}.png").unlink()
    kept.batch([0, 1, 2])
    with pytest.raises(InputError, match="manifest row 4"):
        kept.batch([3])


# Encoding


@pytest.fixture
def encoding(config, manifest):
    """The tiny experiment before its latents: twelve layouts, which with their variants are two parts."""
    return config.with_values({"dataset.manifest": str(manifest)})


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(encode_layouts_module, "_BATCH", 4)
    monkeypatch.setattr(encode_layouts_module, "_PART", 4 * COUNT)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def encode(config, folder, **settings):
    with Workspace(folder) as workspace:
        return encode_layouts(config.with_values(settings), workspace)


def test_encoding_gives_the_same_bytes_whatever_the_workers(encoding, tmp_path):
    made = []
    for number in (0, 1, 3):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert encode(encoding, folder, **{"training.num_workers": number}) == {"latents": 96, "layouts": 12}
        made.append(contents(folder))
    assert made[0] == made[1] == made[2]
    assert {"latents.npy", "manifest.csv"} == {name for name in made[0] if not name.startswith("images/")}
    assert len(made[0]) == 96 + 2


def test_the_manifest_names_the_row_of_each_picture(encoding, config, tmp_path):
    encode(encoding, tmp_path)
    rows = pd.read_csv(tmp_path / "manifest.csv")
    assert rows["latent_path"].eq("latents.npy").all() and rows["latent_row"].tolist() == list(range(96))
    assert rows["is_augmented"].sum() == 84 and rows["original_path"].nunique() == 12
    packed = np.load(tmp_path / "latents.npy", mmap_mode="r")
    assert packed.shape == (96, *config.latent_shape) and packed.dtype == np.float32
    from core.checkpoints.loading import load_autoencoder

    autoencoder = load_autoencoder(config.autoencoder.checkpoint, config)
    for row in (0, 7, 50, 95):
        rgb = np.asarray(Image.open(tmp_path / rows["layout_path"][row]))
        latent = autoencoder.encode(pictures_from_rgb(rgb[None].copy(), DEFAULT_PALETTE).rgb)[0]
        assert torch.allclose(latent, torch.from_numpy(packed[row].copy()), atol=1e-4)


def test_scenes_of_equal_names_keep_their_split_when_they_are_encoded(encoding, manifest, tmp_path):
    rows = pd.read_csv(manifest)
    for number, path in enumerate(rows["layout_path"]):
        folder = tmp_path / f"scene_{number:02d}"
        folder.mkdir()
        shutil.copy(manifest.parent / path, folder / "layout.png")
    rows["layout_path"] = [f"scene_{number:02d}/layout.png" for number in range(12)]
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "out").mkdir()
    made = encode(encoding, tmp_path / "out", **{"dataset.manifest": str(tmp_path / "manifest.csv")})
    assert made == {"latents": 96, "layouts": 12}
    splits = [
        [
            set(side["group"])
            for side in split_by_layout(read_manifest(path, ["layout_path"], encoding.dataset), 0.8, 42)
        ]
        for path in (tmp_path / "manifest.csv", tmp_path / "out/manifest.csv")
    ]
    assert splits[0] == splits[1] and len(splits[0][1]) == 3
    assert (tmp_path / "out/images/scene_03_layout_mirror.png").exists()


def test_a_picture_named_twice_is_not_encoded(encoding, manifest, tmp_path):
    rows = pd.read_csv(manifest)
    rows["layout_path"] = [str(manifest.parent / path) for path in rows["layout_path"]]
    rows.loc[5, "layout_path"] = rows["layout_path"][2]
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    with pytest.raises(InputError, match="manifest rows 3 and 6 name the same picture"):
        encode(encoding, tmp_path / "out", **{"dataset.manifest": str(tmp_path / "manifest.csv")})


class Killed(BaseException):
    """Ends a process at once, in a test."""


@pytest.mark.parametrize("number", [0, 2])
def test_a_killed_encoding_continues_without_encoding_anything_again(encoding, tmp_path, monkeypatch, number):
    config = encoding.with_values({"training.num_workers": number})
    inputs, calls, die_at = {"manifest": config.dataset.manifest}, [], 20
    real_encode = Autoencoder.encode

    def encode(self, rgb):
        calls.append(len(rgb))
        if len(calls) == die_at:
            raise Killed
        return real_encode(self, rgb)

    def work(workspace, _):
        return encode_layouts(config, workspace)

    monkeypatch.setattr(Autoencoder, "encode", encode)
    with pytest.raises(Killed):
        run_stage("latents", tmp_path / "killed", inputs, {}, work, config.artifacts)
    assert calls == [4] * 20  # two parts of eight batches, and a bit of the third
    calls.clear()
    run_stage("latents", tmp_path / "killed", inputs, {}, work, config.artifacts)
    assert len(calls) in (8, 16)  # the second part's state may not have been kept
    calls.clear()
    die_at = 0
    run_stage("latents", tmp_path / "whole", inputs, {}, work, config.artifacts)
    killed, whole = contents(tmp_path / "killed"), contents(tmp_path / "whole")
    for made in (killed, whole):
        made.pop("stage.json")
    assert killed == whole


def test_a_bad_picture_ends_an_encoding_with_workers_in_one_line(encoding, manifest, tmp_path):
    rows = pd.read_csv(manifest)
    rows["layout_path"] = [str(manifest.parent / path) for path in rows["layout_path"]]
    rows.loc[9, "layout_path"] = str(tmp_path / "bad.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows.assign(pixels_per_metre=5).to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"^manifest row 10: picture .*bad.png cannot be read"):
        encode(encoding, tmp_path / "out", **{"dataset.manifest": str(tmp_path / "manifest.csv")})


@pytest.mark.parametrize("num_workers", [0, 1, 5])
def test_prefetch_map_keeps_the_order_and_raises_where_it_happens(num_workers):
    assert list(prefetch_map(lambda item: item * item, range(50), num_workers)) == [item * item for item in range(50)]
    results = prefetch_map(lambda item: 1 / (item - 3), range(50), num_workers)
    assert [next(results) for _ in range(3)] == [1 / -3, 1 / -2, -1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_work_is_not_done_much_further_ahead_than_it_is_taken():
    begun = []
    results = prefetch_map(lambda item: begun.append(item) or item, range(1000), 2)
    assert next(results) == 0
    results.close()
    assert len(begun) <= 5


def test_the_row_of_a_latent_may_be_text_and_its_absence_is_reported(tmp_path, values):
    path = tmp_path / "all's.NPY"
    with path.open("wb") as file:
        np.save(file, values.numpy())
    read = Latents(manifest_rows([path] * 4, [" 3", "2.0", "1,0", 5]), "latent_path", SHAPE, tmp_path)
    assert torch.equal(read.batch(torch.arange(4)), values[[3, 2, 1, 5]])
    for cell, said in [("two", "is two"), ("", "is not given"), (np.nan, "is not given"), (True, "is"), (24, "is 24")]:
        with pytest.raises(InputError, match=rf"manifest row 2: latent_row {said}.* have rows 0 to 23"):
            Latents(manifest_rows([path] * 2, [0, cell]), "latent_path", SHAPE, tmp_path)
    with pytest.raises(InputError, match=r"all's\.NPY have shape \[24, 4, 8, 8\].*takes \[N, 4, 8, 9\].*config's"):
        PackedLatents(path, (4, 8, 9))


def test_a_file_that_is_not_a_pool_or_exceeds_memory_is_refused_unread(tmp_path, monkeypatch):
    np.save(tmp_path / "scalar.npy", np.float32(1))
    with pytest.raises(InputError, match=r"scalar\.npy have shape \[\]"):
        read_pool(tmp_path / "scalar.npy")
    np.save(tmp_path / "large.npy", np.zeros((3, 4, 8, 8), np.float32))
    monkeypatch.setattr(latents_module.os, "sysconf", lambda name: 50)
    with pytest.raises(InputError, match=r"large\.npy take .* of memory: give fewer"):
        read_pool(tmp_path / "large.npy")
