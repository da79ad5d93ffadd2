import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow

from backend.errors import ImageError
from backend.labelstudio.images import decoding
from backend.labelstudio.images.decoding import decode
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
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "MPO"])
def test_all_exif_orientations_come_out_upright(orientation, kind):
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED[orientation](SQUARES))
    options = {"quality": 100} if kind in ("JPEG", "MPO") else {}
    image = decode(encoded(stored, kind, exif=exif, **options), max_pixels=1000)
    assert image.shape == (16, 24, 3)
    assert np.abs(image[..., 0].astype(int) - SQUARES).max() <= 3


TURNED = Pillow.Exif()
TURNED[0x0112] = 6
XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description tiff:Orientation="6"
xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></rdf:RDF></x:xmpmeta>"""
BROWSERS = {  # what Chromium 156 shows of 60 x 40 px that are to be turned; it shows no TIFF
    "jpeg": (encoded(Pillow.new("RGB", (60, 40)), "JPEG", exif=TURNED), (60, 40)),
    "png": (encoded(Pillow.new("RGB", (60, 40)), "PNG", exif=TURNED), (60, 40)),
    "webp": (encoded(Pillow.new("RGB", (60, 40)), "WEBP", exif=TURNED), (40, 60)),
    "jpeg+xmp": (encoded(Pillow.new("RGB", (60, 40)), "JPEG", xmp=XMP), (40, 60)),
    "webp+xmp": (encoded(Pillow.new("RGB", (60, 40)), "WEBP", xmp=XMP), (40, 60)),
}


@pytest.mark.parametrize("kind", BROWSERS)
def test_images_are_turned_as_the_editor_turns_them(kind):
    """A mask of another natural size is drawn as scrambled stripes."""
    data, shape = BROWSERS[kind]
    assert decode(data, max_pixels=10_000).shape[:2] == shape


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00MM\x00*\xff\xff\xff\xff",
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x02\x00\x02\x00\x00\x006\x00\x00\x00",
    ],
)
def test_damaged_exif_costs_no_image(exif):
    assert decode(encoded(RED, "JPEG", exif=exif), max_pixels=100).shape == (4, 6, 3)


def tiff(pixels, **options):
    """Write as microscopes and scanners do."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


GREY = np.random.default_rng(0).integers(0, 65536, (8, 10), dtype=np.uint16)
COLOUR = np.random.default_rng(1).integers(0, 65536, (8, 10, 3), dtype=np.uint16)
PLANES = np.moveaxis(COLOUR, 2, 0)
OPAQUE = np.dstack([COLOUR, np.full((8, 10), 65535, np.uint16)])


def png(pixels):
    """OpenCV writes 16 bits of every channel; it counts from blue."""
    order = {1: slice(None), 3: [2, 1, 0], 4: [2, 1, 0, 3]}[pixels[0, 0].size]
    return cv2.imencode(".png", pixels[..., order] if pixels.ndim == 3 else pixels)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "true"),
    [
        (png(GREY), GREY),
        (png(COLOUR), COLOUR),
        (png(OPAQUE), COLOUR),
        (tiff(GREY), GREY),
        (tiff(GREY, byteorder=">"), GREY),
        (tiff(GREY, photometric="miniswhite"), 65535 - GREY),
        (tiff(GREY, photometric="miniswhite", compression="zlib"), 65535 - GREY),
        (tiff(GREY, tile=(16, 16), compression="zlib"), GREY),
        (tiff(COLOUR, photometric="rgb"), COLOUR),
        (tiff(COLOUR, photometric="rgb", byteorder=">"), COLOUR),
        (tiff(COLOUR, photometric="rgb", compression="zlib"), COLOUR),
        (tiff(OPAQUE, photometric="rgb", compression="zlib"), COLOUR),
        (
            tiff(
                np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate", compression=8
            ),
            COLOUR,
        ),
    ],
)
def test_sixteen_bits_of_every_kind_keep_their_upper_half(data, true):
    image = decode(data, max_pixels=256)
    expected = (true if true.ndim == 3 else true[:, :, None]) / 257
    assert np.abs(image - expected).max() <= 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            tiff(PLANES, photometric="rgb", planarconfig="separate"),
            "save it with interleaved channels",
        ),
        (tiff(GREY.astype(np.float32)), "floating-point.*(convert|save)"),
        (tiff(GREY.astype(np.float64)), "floating-point.*(convert|save)"),
        (tiff(COLOUR.astype(np.float32), photometric="rgb"), "floating-point.*(convert|save)"),
        (tiff(GREY.astype(np.uint32)), "32 bits; convert"),
        (tiff(GREY.astype(np.int32)), "32 bits; convert"),
    ],
)
def test_what_would_give_wrong_pixels_is_refused_with_the_fix(data, says):
    with pytest.raises(ImageError, match=says):
        decode(data, max_pixels=100)


def test_adobes_inverted_cmyk_is_read_as_opencv_reads_it():
    ink = Pillow.new("CMYK", (16, 16), (0, 200, 100, 30))
    data = encoded(ink, "JPEG", quality=95)
    assert b"Adobe" in data
    theirs = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(decode(data, max_pixels=1000).astype(int) - theirs).max() <= 2
    assert np.abs(theirs[0, 0].astype(int) - (225, 49, 137)).max() <= 2  # not its negative


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "TIFF", "MPO"])
def test_of_several_frames_the_first_counts(kind):
    frames = [Pillow.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert np.abs(decode(data, max_pixels=100)[0, 0] - (255.0, 0, 0)).max() <= 2


def tiled(tile_px, packed):
    """A TIFF of 64 x 64 px whose one tile declares far more."""
    tags = [(256, 64), (257, 64), (258, 8), (259, 8), (262, 1), (277, 1)]
    tags += [(322, tile_px), (323, tile_px), (324, 10 + 12 * 10 + 4), (325, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + struct.pack("<I", 0) + packed


def test_a_tile_that_is_larger_than_its_image_is_no_way_around_the_limit():
    packed = zlib.compress(bytes(256 * 256))
    assert decode(tiled(256, packed), max_pixels=256**2).shape == (64, 64, 3)
    with pytest.raises(ImageError, match="tile has 30000 x 30000 px"):
        decode(tiled(30_000, packed), max_pixels=10**8)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("kind", "head"), [(b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")]
)
def test_bombs_in_the_texts_of_a_png_are_refused(kind, head):
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(100)) + packer.flush()
    data = PNG[:33] + chunk(kind, head + packed) + PNG[33:]
    assert len(data) < 200_000
    tracemalloc.start()
    with pytest.raises(ImageError, match="too large"):
        decode(data, max_pixels=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


def test_pixels_beyond_the_declared_size_are_not_unpacked():
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(50)) + packer.flush()
    small = encoded(Pillow.new("L", (4, 4)))
    data = small[:33] + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    assert (decode(data, max_pixels=100) == 0).all()


def webp(width_px, height_px):
    """A lossless WebP whose header declares a size and holds no pixels."""
    bits = (width_px - 1) | (height_px - 1) << 14
    body = b"WEBPVP8L" + struct.pack("<IB", 6, 0x2F) + struct.pack("<I", bits) + b"\0\0"
    return b"RIFF" + struct.pack("<I", len(body)) + body


BITMAP = encoded(RED, "BMP")
DECLARED = {  # 12000 x 12000 px that are not there
    "PNG": PNG[:8]
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 12000, 12000, 8, 2, 0, 0, 0))
    + PNG[33:],
    "BMP": encoded(RED, "BMP")[:18] + struct.pack("<ii", 12000, 12000) + encoded(RED, "BMP")[26:],
    "GIF": b"GIF89a" + struct.pack("<HH", 12000, 12000) + encoded(RED, "GIF")[10:],
    "PPM": b"P6 12000 12000 255\n" + bytes(300),
    "WEBP": webp(12000, 12000),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_declared_sizes_are_believed_and_refused(kind):
    before_pixels = "12000 x 12000 px|could not create decoder object"  # libwebp may refuse first
    with pytest.raises(ImageError, match=before_pixels):
        decode(DECLARED[kind], max_pixels=10**8)
    if kind != "GIF":  # Pillow fills up what a GIF lacks
        with pytest.raises(ImageError):  # within the limit, they are damaged
            decode(DECLARED[kind], max_pixels=10**9)


def test_a_jpeg_of_endless_scans_is_refused():
    data = encoded(RED, "JPEG", progressive=True)
    place = data.rindex(b"\xff\xda")
    scan = data[place:-2]
    with pytest.raises(ImageError, match="scans; at most 500"):
        decode(data[:-2] + scan * 1000 + data[-2:], max_pixels=100)
    assert decode(data, max_pixels=100).shape == (4, 6, 3)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_a_file_that_ends_early_is_refused(kind):
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(ImageError, match="cannot decode"):
            decode(data[: int(share * len(data))], max_pixels=10_000)


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
    assert "EPS" not in decoding.FORMATS
