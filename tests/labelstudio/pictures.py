"""Small image files, made on the spot."""

import io

import numpy as np
from PIL import Image as Pillow

PHOTO = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    made = image if isinstance(image, Pillow.Image) else Pillow.fromarray(image)
    made.save(buffer, kind, **options)
    return buffer.getvalue()


PNG = encoded(PHOTO)
