"""Image files of any common kind to upright 8-bit RGB; what is too large or damaged is refused."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import cast

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from backend.errors import ImageError
from models.base import Image

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")  # no others: some start programs
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    ZeroDivisionError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
    zlib.error,
    Pillow.DecompressionBombError,
)

MAX_SCANS = 500  # of a progressive JPEG; each goes over all pixels, and people's have about 10
START_OF_SCAN = b"\xff\xda"

ORIENTATION = 0x0112
UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Pillow.Transpose.FLIP_LEFT_RIGHT,
    3: Pillow.Transpose.ROTATE_180,
    4: Pillow.Transpose.FLIP_TOP_BOTTOM,
    5: Pillow.Transpose.TRANSPOSE,
    6: Pillow.Transpose.ROTATE_270,
    7: Pillow.Transpose.TRANSVERSE,
    8: Pillow.Transpose.ROTATE_90,
}
TURNED_BY_EXIF = ("JPEG", "MPO", "PNG")  # what Chromium turns, and so the editor; WebP it does not

BITS, COMPRESSION, MEANING, PLANES = 258, 259, 262, 284  # tags of TIFF
TILE_WIDTH, TILE_HEIGHT = 322, 323
UNCOMPRESSED, WHITE_IS_ZERO, ONE_PLANE_PER_CHANNEL = 1, 0, 2


def decode(data: bytes, *, max_pixels: int) -> Image:
    """Return an image file's pixels, upright, (H, W, 3) uint8 RGB; raises ImageError.

    Its content says what it is, not its name. 16 bits become 8, transparency is laid on white, of
    several frames the first counts. The pixel limit is checked before decoding.
    """
    try:
        with warnings.catch_warnings():
            # our own limit is checked below; Pillow's warning would come first
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            Pillow.init()
            opened = Pillow.open(io.BytesIO(data), formats=FORMATS)
        with opened:
            _refuse_size(*opened.size, max_pixels)
            _refuse_bombs(opened, data, max_pixels)
            return _to_rgb(_upright(opened))
    except UnidentifiedImageError as error:
        raise ImageError(
            f"cannot decode image: the {len(data)} bytes are none of {', '.join(FORMATS)}, or of a "
            "rare kind (as floating-point TIFF); save it as PNG or JPEG"
        ) from error
    except DAMAGED as error:
        raise ImageError(f"cannot decode image: {type(error).__name__}: {error}") from error


def _refuse_size(width_px: int, height_px: int, max_pixels: int, what: str = "image") -> None:
    if width_px < 1 or height_px < 1 or width_px * height_px > max_pixels:
        raise ImageError(
            f"the {what} has {width_px} x {height_px} px; from 1 to {max_pixels} px are decoded "
            "(MAX_IMAGE_PIXELS)"
        )


def _refuse_bombs(image: Pillow.Image, data: bytes, max_pixels: int) -> None:
    """Refuse what costs far more than its pixels: TIFF tiles beyond the image, endless scans."""
    if isinstance(image, TiffImageFile) and TILE_WIDTH in image.tag_v2:
        tile = (_tag(image, TILE_WIDTH), _tag(image, TILE_HEIGHT))
        _refuse_size(*tile, max_pixels, what="TIFF's tile")
    scans = data.count(START_OF_SCAN) if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS:
        raise ImageError(f"the JPEG has {scans} scans; at most {MAX_SCANS} are decoded")


def _upright(image: Pillow.Image) -> Pillow.Image:
    """Turn an image as the editor does; masks must fit what people see.

    Measured in Chromium 156: it obeys EXIF in JPEG and PNG, not in WebP, and never XMP. Pillow
    turns a TIFF while it loads. Other EXIF tags may be damaged and are not read.
    """
    image.load()
    if image.format not in TURNED_BY_EXIF or "exif" not in image.info:
        return image
    exif = Pillow.Exif()
    try:
        exif.load(image.info["exif"])
        turn = UPRIGHT.get(exif.get(ORIENTATION, 1))
    except DAMAGED:
        return image  # as browsers do
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Pillow.Image) -> Image:
    if image.mode == "F":
        raise ImageError("the image has floating-point pixels; convert it to 8 or 16 bits")
    if isinstance(image, TiffImageFile):
        _refuse_misread(image)
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Pillow.new("RGBA", image.size, "white")
        image = Pillow.alpha_composite(white, image)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def _refuse_misread(image: TiffImageFile) -> None:
    """Refuse the kinds of TIFF that Pillow gives wrong pixels of without a word."""
    if _tag(image, BITS) > 16:
        raise ImageError(f"the TIFF has {_tag(image, BITS)} bits; convert it to 8 or 16 bits")
    in_planes = _tag(image, PLANES) == ONE_PLANE_PER_CHANNEL
    if in_planes and _tag(image, BITS) > 8 and _tag(image, COMPRESSION) == UNCOMPRESSED:
        raise ImageError(
            "the TIFF has 16 bits in one plane per channel without compression; save it with "
            "interleaved channels, or as PNG"
        )


def _from_16_bits(image: Pillow.Image) -> Image:
    """Scale 0 to 65535 down to 0 to 255; TIFF may count from white, which Pillow does not turn."""
    grey = np.clip(np.asarray(image, dtype=np.int64), 0, 65535)
    if isinstance(image, TiffImageFile) and _tag(image, MEANING) == WHITE_IS_ZERO:
        grey = 65535 - grey
    return np.repeat(np.round(grey / 257).astype(np.uint8)[:, :, None], 3, axis=2)


def _tag(image: TiffImageFile, tag: int) -> int:
    """Return a TIFF's tag as the format defines it when it is left out: one bit, or 1."""
    value = image.tag_v2.get(tag, 1)
    return int(cast(int, value[0] if isinstance(value, tuple) else value))
