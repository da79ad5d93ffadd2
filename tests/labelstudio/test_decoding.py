import numpy as np
import pytest
from PIL import Image as Pillow

from backend.errors import ImageError
from backend.labelstudio import images
from backend.labelstudio.images import decode
from tests.labelstudio.pictures import PHOTO, PNG, encoded


def test_pixels_are_counted_before_decoding(tmp_path, monkeypatch):
    def decoded(self):
        raise AssertionError("decoded")

    data = encoded(Pillow.new("L", (3000, 3000)))
    monkeypatch.setattr(Pillow.Image, "load", decoded)
    with pytest.raises(ImageError, match="3000 x 3000 px.*MAX_IMAGE_PIXELS"):
        decode(data, max_pixels=8_999_999)


def test_a_bomb_by_pillows_own_measure_is_an_image_error(monkeypatch):
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="DecompressionBomb"):
        decode(PNG, max_pixels=10**9)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 20)
    assert (decode(PNG, max_pixels=10**9) == PHOTO).all()


RED = Pillow.new("RGB", (6, 4), (200, 30, 40))
GREY16 = Pillow.fromarray((np.arange(24, dtype=np.uint16) * 2570).reshape(4, 6))
CLEAR = Pillow.new("RGBA", (6, 4), (10, 20, 30, 0))
HALF = Pillow.new("LA", (6, 4), (0, 128))


@pytest.mark.parametrize(
    ("data", "first_pixel"),
    [
        (encoded(RED), (200, 30, 40)),
        (encoded(RED, "BMP"), (200, 30, 40)),
        (encoded(RED, "TIFF"), (200, 30, 40)),
        (encoded(RED, "WEBP", lossless=True), (200, 30, 40)),
        (encoded(RED, "PPM"), (200, 30, 40)),
        (encoded(RED.convert("P", palette=Pillow.Palette.ADAPTIVE)), (200, 30, 40)),
        (encoded(RED.convert("P", palette=Pillow.Palette.ADAPTIVE), "GIF"), (200, 30, 40)),
        (encoded(Pillow.new("L", (6, 4), 77)), (77, 77, 77)),
        (encoded(Pillow.new("1", (6, 4), 1)), (255, 255, 255)),
        (encoded(CLEAR), (255, 255, 255)),
        (encoded(HALF), (127, 127, 127)),
        (encoded(CLEAR.convert("P"), transparency=0), None),
        (encoded(GREY16), (0, 0, 0)),
        (encoded(GREY16, "TIFF"), (0, 0, 0)),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data, first_pixel):
    image = decode(data, max_pixels=100)
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert first_pixel is None or tuple(image[0, 0]) == first_pixel


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_cut(kind):
    image = decode(encoded(GREY16, kind), max_pixels=100)
    assert (image[..., 0].ravel() == np.arange(24) * 10).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs(mode):
    image = decode(encoded(RED.convert(mode), "JPEG", quality=95), max_pixels=100)
    expected = np.array(RED.convert(mode).convert("RGB"))
    assert np.abs(image.astype(int) - expected).max() <= 4


def test_floating_point_is_refused_with_the_fix():
    with pytest.raises(ImageError, match="convert it to 8 or 16 bits"):
        decode(encoded(Pillow.new("F", (6, 4)), "TIFF"), max_pixels=100)


SQUARES = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((8, 8), np.uint8))
STORED = {  # orientation -> how a camera stores an upright image
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.T,
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].T,
    8: lambda up: np.rot90(up, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_all_exif_orientations_come_out_upright(orientation, kind):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](SQUARES))
    options = {"quality": 100} if kind == "JPEG" else {}
    image = decode(encoded(stored, kind, exif=exif, **options), max_pixels=1000)
    assert image.shape == (16, 24, 3)
    assert np.abs(image[..., 0].astype(int) - SQUARES).max() <= 3


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_broken_exif_is_ignored_or_an_image_error():
    data = encoded(RED, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff")
    assert decode(data, max_pixels=100).shape == (4, 6, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_files_never_raise_anything_else(kind):
    rng = np.random.default_rng(0)
    good = encoded(Pillow.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)), kind)
    for _ in range(150):
        bad = bytearray(good[: rng.integers(1, len(good) + 1)])
        for place in rng.integers(0, len(bad), 4):
            bad[place] = rng.integers(0, 256)
        try:
            image = decode(bytes(bad), max_pixels=10_000)
        except ImageError:
            continue
        assert image.ndim == 3 and image.dtype == np.uint8


def test_formats_that_start_programs_are_not_decoded():
    assert "EPS" not in images.FORMATS
