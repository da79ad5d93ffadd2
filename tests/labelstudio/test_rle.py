import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from backend.errors import InvalidPayload
from backend.labelstudio import rle
from tests.labelstudio import payloads

brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="the oracle is missing")

SIZES = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=40)
MASKS = SIZES.flatmap(lambda shape: hnp.arrays(np.bool_, shape))


def sdk_encode(mask):
    return brush.mask2rle(mask.astype(np.uint8) * 255)


def sdk_decode(code, height_px, width_px):
    return brush.decode_rle(code).reshape(height_px, width_px, 4)[:, :, 3]


def bits_to_code(bits):
    padded = bits + "0" * (8 - len(bits) % 8)
    return [int(padded[i : i + 8], 2) for i in range(0, len(padded), 8)]


def header(values, word_bits=8, sizes=(3, 4, 8, 16)):
    return f"{values:032b}{word_bits - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)


def literal(values):
    """A group as browsers write it: flag 0, the size that fits, then each value."""
    choice = next(i for i, size in enumerate((3, 4, 8, 16)) if len(values) <= 1 << size)
    size = (3, 4, 8, 16)[choice]
    return f"0{choice:02b}{len(values) - 1:0{size}b}" + "".join(f"{v:08b}" for v in values)


def run(length, value):
    return f"111{length - 1:016b}{value:08b}"


@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_same_bytes_and_same_pixels_as_the_sdk(mask):
    code = rle.encode(mask)
    assert code == sdk_encode(mask)
    assert (rle.decode(code, *mask.shape) == sdk_decode(code, *mask.shape)).all()
    assert (rle.decode_mask(code, *mask.shape) == mask).all()


@pytest.mark.parametrize("pixels", [2, 4, 64, 65, 16_384, 16_385, 32_768, 32_769, 49_153])
@pytest.mark.parametrize("value", [False, True])
def test_long_runs_are_cut_as_the_sdk_cuts_them(pixels, value):
    mask = np.full((1, pixels + 1), value)
    mask[0, -1] = not value
    assert rle.encode(mask) == sdk_encode(mask)
    assert (rle.decode_mask(rle.encode(mask), 1, pixels + 1) == mask).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (320, 480)])
@pytest.mark.parametrize("value", [False, True])
def test_even_masks(shape, value):
    mask = np.full(shape, value)
    code = rle.encode(mask)
    assert code == sdk_encode(mask)
    assert (rle.decode(code, *shape) == 255 * value).all()


def test_blocks_of_tokens_join_without_a_seam(monkeypatch):
    mask = np.random.default_rng(0).random((60, 70)) < 0.5
    whole = rle.encode(mask)
    monkeypatch.setattr(rle, "_TOKENS_AT_ONCE", 7)
    monkeypatch.setattr(rle, "_BYTES_AT_ONCE", 5)
    assert rle.encode(mask) == whole
    assert (rle.decode_mask(whole, 60, 70) == mask).all()


def test_encode_takes_views_that_are_not_contiguous():
    mask = np.random.default_rng(1).random((30, 40)) < 0.2
    assert rle.encode(mask.T[::2]) == sdk_encode(np.ascontiguousarray(mask.T[::2]))


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 300), st.integers(0, 255)), min_size=1))
@settings(max_examples=200, deadline=None)
def test_literal_groups_decode_as_in_the_sdk(groups):
    bits, count = "", 0
    for is_run, length, value in groups:
        values = [(value + 37 * n) % 256 for n in range(length)]
        bits += run(length, value) if is_run else literal(values)
        count += length
    missing = -count % 4
    bits += run(missing, 9) if missing else ""
    count += missing
    code = bits_to_code(header(count) + bits)
    assert (rle.decode(code, 1, count // 4) == sdk_decode(code, 1, count // 4)).all()


def test_blocks_may_end_within_a_pixel(monkeypatch):
    monkeypatch.setattr(rle, "_BYTES_AT_ONCE", 1)
    values = [5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
    for sizes in ([1] * 12, [3, 3, 6], [5, 7], [2, 1, 9]):
        starts = np.cumsum([0, *sizes[:-1]])
        groups = [literal(values[a : a + n]) for a, n in zip(starts, sizes, strict=True)]
        assert rle.decode(bits_to_code(header(12) + "".join(groups)), 1, 3).tolist() == [
            [8, 12, 16]
        ]


def test_a_stroke_painted_in_a_browser_has_soft_edges():
    region = payloads.load("annotation_created_painted")["annotation"]["result"][0]
    code, size = region["value"]["rle"], (region["original_height"], region["original_width"])
    alpha = rle.decode(code, *size)
    assert (alpha == sdk_decode(code, *size)).all()
    assert ((alpha > 0) & (alpha < 255)).sum() == 145
    strict, loose = (rle.decode_mask(code, *size, at_least=a).sum() for a in (255, 1))
    assert strict < rle.decode_mask(code, *size).sum() < loose == strict + 145


def test_storage_form_is_one_byte_per_element():
    code = rle.encode(np.eye(5, dtype=bool))
    assert len(rle.to_bytes(code)) == len(code)
    assert rle.from_bytes(rle.to_bytes(code)) == code
    assert (rle.decode_mask(rle.to_bytes(code), 5, 5) == np.eye(5, dtype=bool)).all()


GOOD = header(16) + run(8, 0) + run(8, 255)


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ([], "header"),
        ([0, 0, 0, 16, 57, 27], "header"),
        ("0123456789", "list of bytes, got str"),
        ({"a": 1}, "list of bytes, got dict"),
        ([256] * 9, "0 to 255"),
        ([-1] * 9, "0 to 255"),
        (["a"] * 9, "0 to 255"),
        ([1.5] * 9, "0 to 255"),
        ([None] * 9, "0 to 255"),
        (bits_to_code(header(20) + run(20, 0)), "holds 20 values, but the image needs 16"),
        (bits_to_code(header(16, word_bits=16) + run(16, 0)), "16-bit values"),
        (bits_to_code(header(16) + run(8, 0))[:-1], "ends"),
        (bits_to_code(GOOD)[:-2], "middle"),
        (bits_to_code(header(16) + literal([1] * 16))[:-4], "middle"),
        (bits_to_code(header(16) + run(8, 0) + run(9, 255)), "1 values past the end"),
        (bits_to_code(header(16) + literal([1] * 17)), "1 values past the end"),
        ([0] * 5000, "more than any"),
    ],
)
def test_malformed_codes_are_named(code, says):
    with pytest.raises(InvalidPayload, match=says):
        rle.decode(code, 2, 2)


def test_the_good_one_of_the_malformed_decodes():
    assert rle.decode(bits_to_code(GOOD), 2, 2).tolist() == [[0, 0], [255, 255]]


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, -16)])
def test_impossible_sizes(size):
    with pytest.raises(InvalidPayload, match="cannot be"):
        rle.decode(bits_to_code(GOOD), *size)


@pytest.mark.parametrize("mask", [np.zeros((0, 3), bool), np.zeros(3, bool), np.zeros((1, 1, 1))])
def test_encode_refuses_what_is_no_mask(mask):
    with pytest.raises(ValueError, match="shape"):
        rle.encode(mask)


@given(st.lists(st.integers(0, 255), max_size=80), st.integers(1, 12), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_rubbish_ends_in_an_error_or_a_mask_of_the_right_size(rubbish, height_px, width_px):
    code = bits_to_code(header(4 * height_px * width_px))[:6] + rubbish
    try:
        alpha = rle.decode(code, height_px, width_px)
    except InvalidPayload:
        return
    assert alpha.shape == (height_px, width_px)


def test_hostile_codes_cost_little_memory_and_time():
    side = 1000
    tiny_tokens = bits_to_code(header(4 * side * side) + literal([1]) * 200_000)
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(InvalidPayload):
        rle.decode(bytes(tiny_tokens), side, side)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30_000_000  # of the 4 MB image, and one block of tokens
    assert seconds < 10


def test_five_thousand_squared_is_fast():
    rows, columns = np.ogrid[:5000, :5000]
    mask = (rows // 3 + columns // 40) % 29 == 0
    started = time.process_time()
    code = rle.encode(mask)
    decoded = rle.decode_mask(code, 5000, 5000)
    assert time.process_time() - started < 2
    assert (decoded == mask).all()
    assert len(code) > 100_000
