"""True masks as people store them: black and white, 0 and 1, label numbers, colours, 16 bits."""

from __future__ import annotations

import io
import warnings
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from backend.errors import ImageError
from backend.labelstudio.images.decoding import DAMAGED, FORMATS
from models.base import Mask

LOSSY = ("JPEG", "WEBP")


def decode_mask(data: bytes, *, max_pixels: int) -> Mask:
    """Return the defect pixels of a mask file, (H, W) bool, upright; raises ImageError.

    Of colours the largest channel counts; what is transparent is background. Values up to 1, and
    up to 127 in lossless files (label numbers), are defect when above 0; otherwise the upper half
    of the range, 128 to 255 or 32768 to 65535, is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Pillow.DecompressionBombWarning)
            Pillow.init()
            opened = Pillow.open(io.BytesIO(data), formats=FORMATS)
        with opened:
            if opened.width * opened.height > max_pixels:
                raise ImageError(
                    f"the mask has {opened.width} x {opened.height} px; up to {max_pixels} px are "
                    "decoded (MAX_IMAGE_PIXELS)"
                )
            lossless = opened.format not in LOSSY
            return binary(_values(ImageOps.exif_transpose(opened)), lossless=lossless)
    except UnidentifiedImageError as error:
        raise ImageError(f"the {len(data)} bytes are none of {', '.join(FORMATS)}") from error
    except DAMAGED as error:
        raise ImageError(f"cannot decode mask: {type(error).__name__}: {error}") from error


def binary(values: npt.NDArray[Any], *, lossless: bool) -> Mask:
    """Part grey values into defect and background by the rule of `decode_mask`."""
    top = values.max(initial=0)
    if top <= 1 or (lossless and top <= 127):
        return np.asarray(values > 0, dtype=bool)
    return np.asarray(values > (127 if top <= 255 else 32767), dtype=bool)


def fitted(mask: Mask, shape: tuple[int, int]) -> Mask:
    """Stretch a mask to (H, W) of its image, nearest pixel; the same mask if it fits already."""
    if mask.shape == shape:
        return mask
    resized = cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=bool)


def _values(image: Pillow.Image) -> npt.NDArray[Any]:
    """Return one value per pixel; colours by their largest channel, transparent ones 0."""
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return np.asarray(image)
    channels = np.asarray(image.convert("RGBA"))
    colour, alpha = channels[:, :, :3].max(axis=2), channels[:, :, 3]
    if alpha.min() < 255 and colour.max() == colour.min():
        return alpha  # the mask is in the transparency alone
    return np.where(alpha > 0, colour, 0)
