"""Layout pictures in files, decoded: what each pixel looks like, or why that is not sure."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.data.layout_colours import SINGLE, count_colours, fault_of
from core.data.palette import BACKGROUND, classes_from_rgb
from core.inputs.file_kinds import not_it
from core.runtime.errors import InputError
from core.runtime.files import open_input

# Formats that Pillow decodes itself or by a library in this process; others would start a program (EPS) or are of no
# use here.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# How Pillow stores a pixel, where that is 8 bits a colour or less.
_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# A picture of so many pixels (4096x4096) is read whatever its file's size. A larger one has a byte for every 8,300
# pixels at least, as deflate packs at most 1,032 bytes into one, of eight pixels each; one that claims more is a bomb.
_SMALL, _PIXELS_A_BYTE = 2**24, 8300

_ORIENTATION = 0x0112

# A picture this large would not fit; a warning would not name the file. Set once: filters are the whole process's, and
# pictures are read by threads.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def read_picture(path: str | Path) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the layout picture at `path` as it is.

    InputError if it is missing, no picture, too large, transparent, not of 8 bits a colour, or not in the colours of
    the palette; faults of colour that show only in many pictures together are `LayoutPictures`'s to find.
    """
    rgb = decode_picture(path)
    fault = fault_of([count_colours(rgb)], SINGLE)
    if fault is not None:
        raise InputError(f"picture {path}: {fault}")
    return rgb


def decode_picture(path: str | Path) -> np.ndarray:
    """The same, whatever its colours are."""
    with open_input(path, "picture") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with Image.open(file, formats=_FORMATS) as image:
                _require_plain(image, size, path)
                # Turned as viewers turn it.
                if _is_turned(image):
                    ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(_opaque(image, path).convert("RGB"))
        except InputError:
            raise
        except UnidentifiedImageError:
            raise not_it(
                file,
                f"picture {path} cannot be read, it is damaged or no PNG, JPEG, WebP, BMP or TIFF picture",
                "replace the file",
            ) from None
        except MemoryError:
            raise InputError(
                f"picture {path}: too little memory to read it: free some, or run fewer processes"
            ) from None
        # Decoders raise errors of every type on damaged files, NotImplementedError, struct.error and zlib.error among
        # them; each means that this file cannot be read, and none that the process is unsound.
        except Exception as error:
            raise InputError(
                f"picture {path} cannot be read ({str(error) or type(error).__name__}): replace the file"
            ) from None


def _is_turned(image: Image.Image) -> bool:
    """Whether its EXIF data says that it is to be turned; data that cannot be read says nothing, as in viewers."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    # Of a damaged block Pillow raises errors of many types; the pixels are not in it.
    except Exception:
        return False


def _require_plain(image: Image.Image, size: int, path: str | Path) -> None:
    """InputError for a picture that is too large, of several frames, or stored in another way than 8 bits a colour."""
    width, height = image.size
    # Squared: `resize_layout` works on a square that holds the picture.
    if max(width, height) ** 2 > Image.MAX_IMAGE_PIXELS:
        raise InputError(f"picture {path} is {width}x{height}, too large: replace the file")
    if width * height > max(_SMALL, _PIXELS_A_BYTE * size):
        raise InputError(f"picture {path} is {width}x{height}, which its {size} bytes cannot hold: replace the file")
    if getattr(image, "is_animated", False):
        raise InputError(f"picture {path} has several frames: save the one that is the layout")
    if image.mode not in (*_MODES, *_WITH_ALPHA):
        kind = {"C": "CMYK colours", "F": "32-bit numbers", "I": "16 or 32 bits a pixel"}.get(
            image.mode[0], f"{image.mode} colours"
        )
        raise InputError(f"picture {path} has {kind}: save it as RGB with 8 bits a colour")


def _opaque(image: Image.Image, path: str | Path) -> Image.Image:
    """`image` without its transparency; InputError if any pixel is transparent that does not hide background."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    pixels = np.asarray(image)
    seen_through = (pixels[..., 3] < 255) & (classes_from_rgb(pixels[..., :3]) != BACKGROUND)
    if seen_through.any():
        raise InputError(
            f"picture {path} is transparent in {100 * seen_through.mean():.3g} % of its pixels: save it without "
            "transparency, on the palette's background (240, 240, 240)"
        )
    return image
