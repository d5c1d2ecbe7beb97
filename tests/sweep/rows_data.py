"""Pictures, manifests and latents that are read, but do not mean what they seem to."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, PngImagePlugin

from core.config.dataset_sections import DatasetSection
from core.data.latents import Latents, read_latent, read_pool
from core.data.layout_scale import typical_scale
from core.data.layouts import LayoutPictures, read_layout
from core.data.manifest import originals, read_manifest, split_by_layout
from core.data.palette import DEFAULT_PALETTE
from core.data.picture_files import read_picture
from core.inputs.tensor_files import load_tensors
from core.labels.label_files import labels_of, read_labels, require_both_labels
from tests.sweep.ground import Ground, Row

BACKGROUND = DEFAULT_PALETTE.background

TITLE = "Pictures, manifests and latents that mean something else"

SHAPE = (4, 8, 8)


def _layouts(ground: Ground) -> list[np.ndarray]:
    rows = pd.read_csv(ground.manifest)
    return [np.asarray(Image.open(ground.manifest.parent / path).convert("RGB")) for path in rows["layout_path"]]


def _pictures(change: Callable[[np.ndarray], Any], format: str = "PNG", **options: Any) -> Callable[[Ground], Any]:
    """Gives every layout, changed, to what all trainings read pictures with."""

    def give(ground: Ground) -> bool:
        paths = []
        for number, rgb in enumerate(_layouts(ground)):
            paths.append(ground.folder / f"{number:02d}.png")
            made = change(rgb)
            image = made if isinstance(made, Image.Image) else Image.fromarray(made)
            image.save(paths[-1], format=format, **options)
        rows = pd.DataFrame({"path": [str(path) for path in paths], "manifest_row": range(len(paths))})
        read = LayoutPictures(rows, "path", 32, DEFAULT_PALETTE)
        agree = [
            np.mean(
                DEFAULT_PALETTE.classes_from_rgb(read.rgb(n))
                == DEFAULT_PALETTE.classes_from_rgb(read_layout_of(ground, n))
            )
            for n in (0, 5)
        ]
        return min(agree) > 0.8

    return give


def read_layout_of(ground: Ground, number: int) -> np.ndarray:
    rows = pd.read_csv(ground.manifest)
    return read_layout(ground.manifest.parent / rows["layout_path"][number], 32, DEFAULT_PALETTE)


def _transparent(rgb: np.ndarray, hidden: int) -> np.ndarray:
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    alpha[DEFAULT_PALETTE.classes_from_rgb(rgb) == BACKGROUND] = (hidden, hidden, hidden, 0)
    return alpha


def _palette_image(rgb: np.ndarray) -> Image.Image:
    image = Image.fromarray(DEFAULT_PALETTE.classes_from_rgb(rgb), "P")
    image.putpalette(DEFAULT_PALETTE.rgb.tobytes())
    return image


def _picture(name: str, data: Callable[[Ground], bytes]) -> Callable[[Ground], Any]:
    return lambda ground: read_picture(ground.file(name, data(ground)), DEFAULT_PALETTE)


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    made = io.BytesIO()
    image.save(made, format=format, **options)
    return made.getvalue()


def _png_of(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and holds next to nothing."""
    made = io.BytesIO(b"")
    made.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(made, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    PngImagePlugin.putchunk(made, b"IDAT", b"\x78\x9c\x63\x60\x00\x00\x00\x02\x00\x01")
    PngImagePlugin.putchunk(made, b"IEND", b"")
    return made.getvalue()


def _blank(mode: str = "RGB", size: int = 32) -> Image.Image:
    return Image.fromarray(np.full((size, size, 3), 240, np.uint8)).convert(mode)


WRONG_COLOURS = [
    Row(
        "pictures",
        "class indices",
        _pictures(DEFAULT_PALETTE.classes_from_rgb),
        ("manifest row", ".png", "100 %", "class indices"),
    ),
    Row(
        "pictures",
        "red and blue exchanged",
        _pictures(lambda rgb: np.ascontiguousarray(rgb[..., ::-1])),
        ("manifest row", ".png", "red and blue seem to be exchanged"),
    ),
    Row(
        "pictures",
        "another palette",
        _pictures(lambda rgb: (DEFAULT_PALETTE.rgb[::-1] // 3 * 2)[DEFAULT_PALETTE.classes_from_rgb(rgb)]),
        ("manifest row", "colours of another palette"),
    ),
    Row(
        "pictures",
        "shades of grey",
        _pictures(lambda rgb: np.asarray(Image.fromarray(rgb).convert("L"))),
        ("manifest row", "shades of grey"),
    ),
    Row(
        "pictures",
        "a white background",
        _pictures(lambda rgb: np.where((rgb == 240).all(-1, keepdims=True), 255, rgb).astype(np.uint8)),
        ("manifest row", "(255, 255, 255)"),
    ),
    Row(
        "pictures",
        "black walls",
        _pictures(lambda rgb: np.where((rgb == 200).all(-1, keepdims=True), 0, rgb).astype(np.uint8)),
        ("manifest row", "(0, 0, 0)"),
    ),
    Row(
        "pictures",
        "16 bits a pixel",
        _pictures(lambda rgb: rgb[..., 0].astype(np.uint16) * 257),
        ("manifest row 1", "00.png", "16 or 32 bits"),
    ),
    Row(
        "pictures",
        "a transparent background",
        _pictures(lambda rgb: _transparent(rgb, 0)),
        ("manifest row 1", "00.png", "is transparent in"),
    ),
    Row(
        "pictures",
        "transparent where the background is",
        _pictures(lambda rgb: _transparent(rgb, 240)),
        meaning="as the background they hide",
    ),
    Row("pictures", "indexed colours", _pictures(_palette_image), meaning="the colours of their table"),
    Row("pictures", "JPEG of quality 90", _pictures(lambda rgb: rgb, "JPEG", quality=90, subsampling=0), meaning="so"),
    Row("pictures", "lossless WebP", _pictures(lambda rgb: rgb, "WEBP", lossless=True), meaning="so"),
    Row("pictures", "BMP", _pictures(lambda rgb: rgb, "BMP"), meaning="so"),
    Row("pictures", "TIFF", _pictures(lambda rgb: rgb, "TIFF"), meaning="so"),
    Row(
        "pictures",
        "noise of one or two",
        _pictures(lambda rgb: (rgb.astype(int) - np.arange(rgb.size).reshape(rgb.shape) % 3).clip(0).astype(np.uint8)),
        meaning="the nearest colours",
    ),
]

ODD_PICTURES = [
    Row(
        "picture",
        "an EPS, which Ghostscript would draw",
        _picture(
            "a.png", lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\n{} loop\n%%EOF\n"
        ),
        ("a.png", "not a PNG, JPEG, WebP, BMP or TIFF"),
    ),
    *(
        Row(
            "picture",
            f"a {format}",
            _picture("a.png", lambda _, format=format: _saved(_blank(), format)),
            ("a.png", "not a PNG, JPEG, WebP, BMP or TIFF"),
        )
        for format in ("GIF", "ICO", "PPM", "DDS", "TGA", "PCX", "PDF")
    ),
    Row("picture", "a web page", _picture("a.png", lambda _: b"<!DOCTYPE html><html></html>"), ("a.png", "not a PNG")),
    Row("picture", "a PNG cut short", _picture("a.png", lambda g: _png(g)[:200]), ("a.png", "cannot be read")),
    Row("picture", "40,000 pixels wide", _picture("a.png", lambda _: _png_of(40000, 8)), ("a.png", "40000x8")),
    Row(
        "picture",
        "81 million pixels in 70 bytes",
        _picture("a.png", lambda _: _png_of(9000, 9000)),
        ("a.png", "9000x9000", "bytes cannot hold"),
    ),
    Row(
        "picture",
        "two frames",
        _picture("a.png", lambda _: _saved(_blank(), "TIFF", save_all=True, append_images=[_blank()])),
        ("a.png", "several frames"),
    ),
    Row("picture", "CMYK", _picture("a.png", lambda _: _saved(_blank("CMYK"), "TIFF")), ("a.png", "CMYK")),
    Row("picture", "32-bit numbers", _picture("a.png", lambda _: _saved(_blank("F"), "TIFF")), ("a.png", "32-bit")),
    Row("picture", "black and white", _picture("a.png", lambda _: _saved(_blank("1"), "PNG")), ("a.png", "palette")),
    Row(
        "picture",
        "a folder",
        lambda ground: read_picture(ground.folder, DEFAULT_PALETTE),
        ("a folder", "give the path of a file"),
    ),
    Row(
        "picture",
        "the device /dev/zero",
        lambda _: read_picture("/dev/zero", DEFAULT_PALETTE),
        ("/dev/zero", "a device"),
    ),
]


def _png(ground: Ground) -> bytes:
    return _saved(Image.fromarray(_layouts(ground)[0]), "PNG")


def _rows(ground: Ground) -> pd.DataFrame:
    rows = pd.read_csv(ground.manifest)
    return rows.assign(layout_path=[str(ground.manifest.parent / path) for path in rows["layout_path"]])


def _read(path: Path, **dataset: Any) -> pd.DataFrame:
    return read_manifest(path, ["layout_path"], DatasetSection(**dataset))


def _flags(yes: str, no: str) -> Callable[[Ground], Any]:
    """Twelve originals and as many variants, told by these words."""

    def give(ground: Ground) -> bool:
        rows = _rows(ground)
        both = pd.concat([rows.assign(is_augmented=no), rows.assign(is_augmented=yes)])
        return len(originals(_read(ground.file("m.csv", both.to_csv(index=False))))) == 12

    return give


def _empty_in_words(ground: Ground) -> bool:
    rows = _rows(ground).assign(is_empty=["oui"] * 4 + ["non"] * 8)
    return len(_read(ground.file("m.csv", rows.to_csv(index=False)), filters={"is_empty": [False]})) == 8


def _text(text: str | bytes, **dataset: Any) -> Callable[[Ground], Any]:
    return lambda ground: _read(ground.file("m.csv", text), **dataset)


def _encoded(encoding: str, separator: str = ",", end: str = "\n") -> Callable[[Ground], Any]:
    def give(ground: Ground) -> bool:
        text = _rows(ground).to_csv(index=False, sep=separator, lineterminator=end)
        rows = _read(ground.file("m.csv", text.encode(encoding)))
        return len(rows) == 12 and all(Path(path).exists() for path in rows["layout_path"])

    return give


def _backslashes(ground: Ground) -> bool:
    data = _png(ground)
    for number in range(3):
        ground.file(f"images/{number}.png", data)
    lines = ["layout_path", *(f"images\\{number}.png" for number in range(3))]
    rows = _read(ground.file("m.csv", "\r\n".join(lines)))
    return all(Path(path).is_file() for path in rows["layout_path"])


def _drive(prefix: str) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> bool:
        ground.file("images/a.png")
        path = ground.file("m.csv", "layout_path\nD:\\data\\images\\a.png\n")
        return Path(_read(path, path_remap={prefix: str(ground.folder)})["layout_path"][0]).is_file()

    return give


def _other_folder(ground: Ground) -> bool:
    ground.file("new/a.png")
    path = ground.file("m.csv", "layout_path\n/database/a.png\n")
    return _read(path, path_remap={"/data": str(ground.folder / "new")})["layout_path"][0] == "/database/a.png"


def _beside_a_link(ground: Ground) -> bool:
    ground.file("here/a.png")
    ground.file("elsewhere/m.csv", "layout_path\na.png\n")
    ground.file("elsewhere/b/c")
    (ground.folder / "here/m.csv").symlink_to(ground.folder / "elsewhere/m.csv")
    return Path(_read(ground.folder / "here/m.csv")["layout_path"][0]) == ground.folder / "here/a.png"


def _one_side(originals_: list[str], variants: list[tuple[str, str]]) -> Callable[[Ground], Any]:
    """Originals, and variants with their `original_path`: which of them are a house's must be on its side."""

    def give(ground: Ground) -> bool:
        rows = [{"layout_path": path, "is_augmented": False} for path in originals_]
        rows += [{"layout_path": p, "is_augmented": True, "original_path": o or None} for p, o in variants]
        read = _read(ground.file("m.csv", pd.DataFrame(rows).to_csv(index=False)))
        sides = [set(side["group"]) for side in split_by_layout(read, 0.5, 1)]
        return read["group"].nunique() == len(originals_) and not sides[0] & sides[1]

    return give


def _cell(cell: str) -> Callable[[Ground], Any]:
    """A manifest of one picture, called `images/a b.png` in truth."""

    def give(ground: Ground) -> bool:
        there = ground.file("images/a b.png")
        table = pd.DataFrame({"layout_path": [cell.format(folder=ground.folder)]}).to_csv(index=False)
        remap = {"D:\\set": str(ground.folder), "\\\\server\\share": str(ground.folder)}
        return _read(ground.file("m.csv", table), path_remap=remap)["layout_path"][0] == str(there)

    return give


def _scale(cell: str) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> bool:
        rows = _read(ground.file("m.csv", _rows(ground).assign(pixels_per_metre=cell).to_csv(index=False)))
        return typical_scale(rows, "layout_path", 32, DEFAULT_PALETTE) == 12.5

    return give


def _scenes(name: str) -> list[str]:
    return [f"scene_{number:03d}/{name}" for number in range(8)]


MANIFESTS = [
    *(
        Row("manifest", f"flags {yes} and {no}", _flags(yes, no), meaning="as flags")
        for yes, no in [
            ("yes", "no"),
            ("Y", "N"),
            ("t", "f"),
            ("ON", "off"),
            ("1.0", "0.0"),
            ("WAHR", "FALSCH"),
            ("VRAI", "FAUX"),
            ("VERDADERO", "FALSO"),
            ("SAND", "FALSK"),
            ("WAAR", "ONWAAR"),
            ("PRAWDA", "FAŁSZ"),
            ("ИСТИНА", "ЛОЖЬ"),
        ]
    ),
    *(
        Row("manifest", f"flags {yes or 'empty'} and {no or 'empty'}", _flags(yes, no), ("m.csv", "is_augmented", said))
        for yes, no, said in [("maybe", "no", "'maybe'"), ("x", "", "is empty"), ("2", "1", "'2'"), ("x", "-", "'-'")]
    ),
    Row("manifest", "is_empty oui and non", _empty_in_words, meaning="as flags"),
    Row("manifest", "semicolons", _encoded("utf-8", ";"), meaning="the same table"),
    Row("manifest", "tabs, UTF-16", _encoded("utf-16", "\t", "\r\n"), meaning="the same table"),
    Row("manifest", "a byte order mark, CRLF", _encoded("utf-8-sig", end="\r\n"), meaning="the same table"),
    Row("manifest", "a column twice", _text("layout_path,a,a\nx,1,2\n"), ("m.csv", "two columns called a")),
    Row("manifest", "a cell too many", _text("layout_path,a\nx,1\ny,1,2\n"), ("m.csv", "3 cells in line 3")),
    Row("manifest", "a NUL", _text("layout_path\nx\n\0\n"), ("m.csv", "NUL character in line 3")),
    Row("manifest", "Latin-1", _text("layout_path\nk\xfcche.png\n".encode("latin-1")), ("not UTF-8 text in line 2",)),
    Row("manifest", "a torn quote", _text('layout_path\n"x\ny\n'), ("m.csv", "not a readable CSV")),
    Row(
        "manifest",
        "a scene called NA",
        lambda g: _text("layout_path,scene_id\nNA,NA\nnull,None\n")(g)["scene_id"].tolist() == ["NA", "None"],
        meaning="as names",
    ),
    Row("manifest", "backslashes", _backslashes, meaning="as folders"),
    Row("manifest", "a drive remapped with backslashes", _drive("D:\\data"), meaning="the file here"),
    Row("manifest", "a drive remapped with slashes", _drive("d:/data/"), meaning="the file here"),
    Row("manifest", "a remapped prefix of another folder's name", _other_folder, meaning="left alone"),
    Row("manifest", "a link", _beside_a_link, meaning="files beside the link"),
    Row(
        "manifest",
        "originals named with backslashes",
        _one_side(
            [f"images/h{n}.png" for n in range(8)], [(f"images/h{n}-v.png", f"D:\\x\\H{n}.PNG") for n in range(8)]
        ),
        meaning="a house on one side",
    ),
    Row("manifest", "scenes in folders", _one_side(_scenes("layout.png"), []), meaning="different layouts"),
    Row(
        "manifest",
        "scenes in folders with variants elsewhere",
        _one_side(
            _scenes("layout.png"),
            [(f"augmented/{path}", "") for path in _scenes("layout_rot90.png")]
            + [(f"more/{n}.png", f"E:\\x\\scene_{n:03d}\\layout.png") for n in range(8)],
        ),
        meaning="a house on one side",
    ),
    Row(
        "manifest",
        "a variant of any of several scenes",
        _one_side(_scenes("layout.png"), [("more/layout_rot90.png", "")]),
        ("manifest row 9", "layout_rot90.png", "original_path"),
    ),
]


WRITTEN_ELSEWHERE = [
    *(
        Row("manifest", f"the path {cell}", _cell(cell), meaning="the file")
        for cell in (
            " images/a b.png ",
            '"images\\a b.png"',
            "file://{folder}/images/a%20b.png",
            "file:///d:/set/images/a%20b.png",
            "//SERVER/share/images/a b.png",
        )
    ),
    Row("manifest", "an address of S3", _cell("s3://bucket/a.png"), ("s3://bucket/a.png", "an address", "path_remap")),
    Row("manifest", "an address with a password", _cell("https://u:secret@h/a.png"), ("https://***@h/a.png",)),
    Row(
        "manifest",
        "rows of separators and a sum",
        lambda g: len(_text("layout_path,is_empty,n\na.png,no,1\n,,\n,,1\n", filters={"is_empty": [False]})(g)) == 1,
        meaning="no layouts",
    ),
    Row(
        "manifest",
        "columns in capitals",
        lambda g: len(_text("LAYOUT_PATH,Is_Empty\na.png,no\nb.png,yes\n", filters={"is_empty": [False]})(g)) == 1,
        meaning="the same columns",
    ),
    Row(
        "manifest",
        "a word among numbers that are compared",
        _text("layout_path,area\na.png,7\nb.png,wide\n", filters={"area__le": 9}),
        ("row 2", "area is 'wide', not a number", "area__le"),
    ),
    Row(
        "manifest",
        "a column manifest_row",
        lambda g: _text("layout_path,manifest_row\na.png,7\n")(g)["manifest_row"][0] == 0,
        meaning="another's",
    ),
    Row("manifest", "12,5 pixels a metre", _scale("12,5"), meaning="12.5"),
    *(
        Row("manifest", f"{cell} pixels a metre", _scale(cell), ("manifest row 1", f"pixels_per_metre is {cell}"))
        for cell in ("0", "-3", "inf", "3000", "few")
    ),
]


def _odd_tensor(kind: str) -> torch.Tensor:
    x = torch.ones(SHAPE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "sparse": x.to_sparse, "complex": lambda: torch.complex(x, x), "float8": lambda: x.to(torch.float8_e5m2),
            "quantized": lambda: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
            "meta": lambda: x.to("meta"), "nested": lambda: torch.nested.nested_tensor([x[0], x[1, :2]]),
            "beyond float32": lambda: x.double() * 1e300, "not finite": lambda: x * torch.nan,
            "truth values": lambda: x > 0, "more than its": lambda: x[0, 0, 0].expand(2**14, 2**14, 2**14),
        }[kind]()  # fmt: skip


def _latent(value: Any, reader: Callable[[Path], Any]) -> Callable[[Ground], Any]:
    def give(ground: Ground) -> Any:
        torch.save(_odd_tensor(value) if isinstance(value, str) else value, ground.folder / "odd.pt")
        return reader(ground.folder / "odd.pt")

    return give


def _is_ones(path: Path) -> bool:
    latent = read_latent(path, SHAPE)
    return latent.dtype == torch.float32 and torch.equal(latent, torch.ones(SHAPE)) and not latent.requires_grad


def _npy(value: np.ndarray, rows: int = 1, cut: int = 0) -> Callable[[Ground], Any]:
    """Gives files of `value`, one a row of a manifest, without `latent_row`."""

    def give(ground: Ground) -> bool:
        made = io.BytesIO()
        np.save(made, value, allow_pickle=value.dtype == object)
        data = made.getvalue()
        paths = [str(ground.file(f"{number}.npy", data[: len(data) - cut])) for number in range(rows)]
        table = pd.DataFrame({"latent_path": paths, "manifest_row": range(rows)})
        latents = Latents(table, "latent_path", SHAPE, ground.folder).batch(torch.arange(rows))
        return torch.equal(latents, torch.ones(rows, *SHAPE))

    return give


def _pool_of(ground: Ground, value: Any) -> Any:
    np.save(ground.folder / "odd.npy", value)
    return read_pool(ground.folder / "odd.npy")


def _deflated(ground: Ground) -> Any:
    made = io.BytesIO()
    torch.save(torch.zeros(2**20), made)
    with zipfile.ZipFile(made) as there, zipfile.ZipFile(ground.folder / "odd.pt", "w", zipfile.ZIP_DEFLATED) as small:
        for name in there.namelist():
            small.writestr(name, there.read(name))
    return load_tensors(ground.folder / "odd.pt", "latent")


_ONES = np.ones(SHAPE, np.float32)
_KINDS = ["sparse", "complex", "float8", "quantized", "meta", "nested"]
LATENTS = [
    *(
        Row("latent", f"a {kind} tensor", _latent(kind, lambda path: read_latent(path, SHAPE)), ("odd.pt", kind))
        for kind in [*_KINDS, "beyond float32", "not finite", "truth values", "more than its"]
    ),
    *(
        Row("pool of latents", f"a {kind} tensor", _latent(kind, read_pool), ("odd.pt", kind))
        for kind in [*_KINDS, "beyond float32", "more than its"]
    ),
    Row("latent", "a Parameter", _latent(torch.nn.Parameter(torch.ones(SHAPE)), _is_ones), meaning="its values"),
    Row("latent", "integers", _latent(torch.ones(SHAPE, dtype=torch.int64), _is_ones), meaning="as float32"),
    Row("latent", "bfloat16", _latent(torch.ones(SHAPE, dtype=torch.bfloat16), _is_ones), meaning="as float32"),
    Row(
        "latent",
        "a list that holds itself",
        _latent((loop := [1], loop.append(loop))[0], lambda path: read_latent(path, SHAPE)),
        ("odd.pt", "holds a list"),
    ),
    Row("latent", "a numpy array", _latent(_ONES, lambda path: read_latent(path, SHAPE)), ("odd.pt", "numpy")),
    Row("latent", "a compressed archive", _deflated, ("odd.pt", "compressed archive")),
    Row(
        "checkpoint",
        "numpy's numbers",
        _latent(
            {"loss": np.float64(0.5), "epoch": np.int64(3), "best": np.bool_(True)},
            lambda path: load_tensors(path, "checkpoint") == {"loss": 0.5, "epoch": 3, "best": True},
        ),
        meaning="plain numbers",
    ),
    Row("packed latents", "a .npy file a latent", _npy(_ONES, rows=3), meaning="its row is 0"),
    Row("packed latents", "a hundred files", _npy(_ONES[None], rows=100), meaning="each of its file"),
    Row("packed latents", "big-endian", _npy(_ONES.astype(">f8")), meaning="its numbers"),
    Row("packed latents", "integers", _npy(_ONES.astype(np.int16)), meaning="as float32"),
    Row("packed latents", "complex numbers", _npy(_ONES.astype(np.complex64)), ("0.npy", "complex numbers")),
    Row("packed latents", "Python objects", _npy(_ONES.astype(object)), ("0.npy", "Python objects")),
    Row("packed latents", "text", _npy(_ONES.astype("U3")), ("0.npy", "not real numbers")),
    Row("packed latents", "1e300", _npy(_ONES.astype(float) * 1e300), ("0.npy", "beyond float32")),
    Row("packed latents", "columns first", _npy(np.asfortranarray(_ONES)), ("0.npy", "column by column")),
    *(
        Row(kind, given, lambda g, data=data, read=read: read(g.file("odd", data)), ("odd", word))
        for kind, read in (
            ("latent", lambda path: read_latent(path, SHAPE)),
            ("picture", lambda path: read_picture(path, DEFAULT_PALETTE)),
        )
        for given, data, word in (
            ("a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            ("nothing in it", "", "it is empty"),
            ("zeros", b"\0" * 300, "nothing but zeros"),
        )
    ),
    Row("pool of latents", "a number", lambda g: _pool_of(g, np.float32(1)), ("odd.npy", "shape []")),
    Row("packed latents", "cut short", _npy(_ONES, cut=4), ("0.npy", "truncated")),
]


def _labels(text: str | bytes) -> Callable[[Ground], Any]:
    """Reads a label file as a stage does whose latents are a.pt and b.pt, and whose digest is 0a0a."""

    def give(ground: Ground) -> bool:
        labels = read_labels(ground.file("labels.csv", text))
        found = labels_of(labels, ["a.pt", "b.pt"], "round-01", "0a0a")
        require_both_labels(labels)
        return found == {"a.pt": True, "b.pt": False}

    return give


LABELS = [
    Row("labels", given, _labels(text), ("labels.csv", says))
    for given, text, says in (
        ("no column of flags", "latent_path,label\na.pt,1\n", "no column is_viable"),
        ("no column of paths", "file,is_viable\na.pt,1\n", "no column latent_path or layout_path"),
        ("a row without a flag", "latent_path,is_viable\na.pt,1\nb.pt,\n", "row 2: is_viable is empty"),
        ("a row without a path", "latent_path,is_viable\na.pt,1\n,0\n", "row 2: latent_path is empty"),
        ("a flag that may mean both", "latent_path,is_viable\na.pt,perhaps\n", "row 1: is_viable is 'perhaps'"),
        ("a latent twice", "latent_path,is_viable\na.pt,1\na.pt,1\n", "row 2: a.pt is there twice"),
        ("latents that do not exist", "latent_path,is_viable\na.pt,1\nc.pt,0\n", "name c.pt, which round-01 does not"),
        (
            "of another round",
            "latent_path,is_viable,latents_sha256\na.pt,1,0b0b\n",
            "other latents (latents_sha256 0b0b)",
        ),
        ("of two rounds", "latent_path,is_viable,latents_sha256\na.pt,1,0a0a\nb.pt,0,0b0b\n", "of several rounds"),
        ("all of one kind", "latent_path,is_viable\na.pt,1\nb.pt,1\n", "0 of 2 layouts are not viable"),
        ("a picture", b"\x89PNG\r\n\x1a\n\xff", "is not UTF-8 text"),
    )
] + [
    Row(
        "labels",
        "a spreadsheet's form",
        _labels("sep=;\nIs Viable;Latent-Path\nFALSCH;b.pt\nWAHR;a.pt\n;\n"),
        meaning="its two labels",
    )
]

ROWS = [*WRONG_COLOURS, *ODD_PICTURES, *MANIFESTS, *WRITTEN_ELSEWHERE, *LATENTS, *LABELS]
