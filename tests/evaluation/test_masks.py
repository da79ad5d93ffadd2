"""Masks in every form that people store them in."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from backend.errors import ImageError
from backend.evaluation import masks

TRUTH = np.zeros((6, 8), bool)
TRUTH[1:4, 2:7] = True
BYTE = TRUTH.astype(np.uint8)


def encoded(picture: Pillow.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def palette(colour: tuple[int, int, int]) -> Pillow.Image:
    made = Pillow.fromarray(BYTE, "L").convert("P")
    made.putdata(BYTE.ravel().tolist())
    made.putpalette([0, 0, 0, *colour])
    return made


def transparent() -> Pillow.Image:
    black = np.zeros((6, 8, 4), np.uint8)
    black[:, :, 3] = BYTE * 255
    return Pillow.fromarray(black)


def coloured(colour: tuple[int, int, int]) -> Pillow.Image:
    return Pillow.fromarray(BYTE[:, :, None] * np.array(colour, np.uint8))


FORMS = {
    "black and white": Pillow.fromarray(BYTE * 255),
    "0 and 1": Pillow.fromarray(BYTE),
    "one bit": Pillow.fromarray(TRUTH),
    "label number": Pillow.fromarray(BYTE * 3),
    "palette": palette((128, 0, 0)),
    "red": coloured((255, 0, 0)),
    "dark blue": coloured((0, 0, 64)),
    "16 bit": Pillow.fromarray(BYTE.astype(np.uint16) * 65535),
    "16 bit, 0 and 1": Pillow.fromarray(BYTE.astype(np.uint16)),
    "float": Pillow.fromarray(BYTE.astype(np.float32)),
    "in the transparency": transparent(),
}


@pytest.mark.parametrize("form", sorted(FORMS))
def test_every_form_gives_the_same_mask(form: str) -> None:
    kind = "TIFF" if form == "float" else "PNG"
    decoded = masks.decode_mask(encoded(FORMS[form], kind), max_pixels=48)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, TRUTH)


def test_what_is_transparent_is_background() -> None:
    white = np.full((6, 8, 4), 255, np.uint8)
    white[:, :, :3][~TRUTH] = 200  # would count as defect if it were seen
    white[:, :, 3] = BYTE * 255
    decoded = masks.decode_mask(encoded(Pillow.fromarray(white)), max_pixels=48)
    np.testing.assert_array_equal(decoded, TRUTH)


def test_traces_of_compression_are_no_defect() -> None:
    large = np.kron(BYTE * 255, np.ones((8, 8), np.uint8))
    data = encoded(Pillow.fromarray(large), "JPEG", quality=30)
    decoded = masks.decode_mask(data, max_pixels=10_000)
    np.testing.assert_array_equal(decoded, large > 0)
    dark = encoded(Pillow.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)), "JPEG")
    assert not masks.decode_mask(dark, max_pixels=64).any()


def test_soft_edges_are_cut_in_the_middle() -> None:
    grey = Pillow.fromarray(np.array([[0, 127, 128, 255]], np.uint8))
    decoded = masks.decode_mask(encoded(grey), max_pixels=48)
    assert decoded.tolist() == [[False, False, True, True]]


def test_16_bits_are_cut_in_the_middle_too() -> None:
    grey = Pillow.fromarray(np.array([[0, 300, 32767, 32768, 65535]], np.uint16))
    decoded = masks.decode_mask(encoded(grey), max_pixels=48)
    assert decoded.tolist() == [[False, False, False, True, True]]


def test_black_is_an_image_without_defect() -> None:
    assert not masks.decode_mask(encoded(Pillow.fromarray(BYTE * 0)), max_pixels=48).any()


@pytest.mark.parametrize("data", [b"", b"no image", encoded(FORMS["red"])[:60]])
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(ImageError):
        masks.decode_mask(data, max_pixels=48)


def test_too_many_pixels_are_refused_before_decoding() -> None:
    with pytest.raises(ImageError, match="8 x 6 px; up to 47 px"):
        masks.decode_mask(encoded(FORMS["red"]), max_pixels=47)


def test_a_mask_of_another_size_is_stretched_to_its_image() -> None:
    assert masks.fitted(TRUTH, (6, 8)) is TRUTH
    doubled = masks.fitted(TRUTH, (12, 16))
    np.testing.assert_array_equal(doubled, np.kron(TRUTH, np.ones((2, 2), bool)))
    assert masks.fitted(doubled, (6, 8)).sum() == TRUTH.sum()
