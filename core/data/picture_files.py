"""Layout picture files, decoded to the RGB that a viewer shows; InputError where that is uncertain."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from core.data.layout_colours import SINGLE, count_colours, fault_of
from core.data.palette import Palette
from core.inputs.file_kinds import not_it
from core.runtime.errors import InputError
from core.runtime.files import open_input

# Formats that Pillow decodes in this process. EPS would start another program; the rest are not needed.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
# Pillow's modes with 8 bits a colour or less.
_MODES = ("1", "L", "P", "RGB", "RGBX", "YCbCr")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# A picture of up to 4096x4096 pixels is read whatever the size of its file. A larger one needs a byte for every 8,300
# pixels: deflate packs at most 1,032 bytes, of eight pixels each, into one. One that claims more is a bomb.
_SMALL, _PIXELS_A_BYTE = 2**24, 8300

_ORIENTATION = 0x0112  # an EXIF tag

# An error instead of a warning, which would not name the file. Set once at import: warning filters belong to the whole
# process, and several threads read pictures.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def read_picture(path: str | Path, palette: Palette) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the layout picture at `path`, at its own size.

    Raises InputError if it is missing, not a picture, too large, transparent, not of 8 bits a colour, or not in the
    colours of the palette. `LayoutPictures` finds the faults of colour that only many pictures together show.
    """
    rgb = decode_picture(path, palette)
    fault = fault_of([count_colours(rgb, palette)], SINGLE, palette)
    if fault is not None:
        raise InputError(f"picture {path}: {fault}")
    return rgb


def decode_picture(path: str | Path, palette: Palette) -> np.ndarray:
    """uint8 RGB [H, W, 3] of the picture at `path`, in any colours; InputError as `read_picture` otherwise.

    Transparent pixels must be in the colour of the palette's background.
    """
    with open_input(path, "picture") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with Image.open(file, formats=_FORMATS) as image:
                _require_plain(image, size, path)
                if _is_turned(image):  # viewers turn it too
                    ImageOps.exif_transpose(image, in_place=True)
                return np.asarray(_opaque(image, path, palette).convert("RGB"))
        except InputError:
            raise
        except UnidentifiedImageError:
            raise not_it(
                file,
                f"picture {path} cannot be read: it is damaged or not a PNG, JPEG, WebP, BMP or TIFF picture",
                "replace the file",
            ) from None
        except MemoryError:
            raise InputError(
                f"picture {path}: not enough memory to read it: free some, or run fewer processes"
            ) from None
        # Decoders raise errors of many types on damaged files, such as NotImplementedError and zlib.error. Each of them
        # means only that this file cannot be read.
        except Exception as error:
            raise InputError(
                f"picture {path} cannot be read ({str(error) or type(error).__name__}): replace the file"
            ) from None


def _is_turned(image: Image.Image) -> bool:
    """Whether its EXIF data asks for it to be turned. Unreadable EXIF data is ignored, as viewers do."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    # Pillow raises errors of many types on a damaged block, which does not hold the pixels.
    except Exception:
        return False


def _require_plain(image: Image.Image, size: int, path: str | Path) -> None:
    """InputError for a picture that is too large, has several frames, or does not have 8 bits a colour."""
    width, height = image.size
    most = Image.MAX_IMAGE_PIXELS
    # Squared: `resize_layout` works on a square that contains the picture.
    if most is not None and max(width, height) ** 2 > most:
        raise InputError(f"picture {path} is {width}x{height}, too large: replace the file")
    if width * height > max(_SMALL, _PIXELS_A_BYTE * size):
        raise InputError(f"picture {path} is {width}x{height}, which its {size} bytes cannot hold: replace the file")
    if getattr(image, "is_animated", False):
        raise InputError(f"picture {path} has several frames: save only the frame of the layout")
    if image.mode not in (*_MODES, *_WITH_ALPHA):
        kind = {"C": "CMYK colours", "F": "32-bit numbers", "I": "16 or 32 bits a pixel"}.get(
            image.mode[0], f"{image.mode} colours"
        )
        raise InputError(f"picture {path} has {kind}: save it as RGB with 8 bits a colour")


def _opaque(image: Image.Image, path: str | Path, palette: Palette) -> Image.Image:
    """`image` without transparency; InputError if a transparent pixel has another colour than the background."""
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image
    image = image.convert("RGBA")
    pixels = np.asarray(image)
    seen_through = (pixels[..., 3] < 255) & (palette.classes_from_rgb(pixels[..., :3]) != palette.background)
    if seen_through.any():
        raise InputError(
            f"picture {path} is transparent in {100 * seen_through.mean():.3g} % of its pixels: save it without "
            f"transparency, on the palette's background {palette.colours[palette.background]}"
        )
    return image
