"""Label Studio's brush run-length code: masks to lists of bytes and back, exactly as its SDK.

The stream holds 32 bits of value count (4 * H * W, RGBA), 5 bits of word size - 1 (7), four
times 4 bits of length sizes - 1 (2, 3, 7, 15), then tokens: 1 bit "run", 2 bits that choose a
length size, length - 1, and one value (run) or `length` values (literal group). We write as
`label_studio_sdk.converter.brush.mask2rle` does, and read what it and browsers write.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from backend.errors import InvalidPayload
from models.base import Mask

Alpha = npt.NDArray[np.uint8]  # (H, W), 0 = outside, 255 = inside
_Ints = npt.NDArray[np.int64]
_Bytes = npt.NDArray[np.uint8]

_CHANNELS = 4
_WORD_BITS = 8
_LENGTH_BITS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * len(_LENGTH_BITS)
_LONGEST = 1 << 16
_TOKENS_AT_ONCE = 1 << 18
_BYTES_AT_ONCE = 1 << 16
_WINDOW_BYTES = 5  # 40 bits hold the longest token head (27 bits) at every offset in a byte
_MOST_BITS_PER_VALUE = 1 + 2 + 16 + _WORD_BITS


def encode(mask: Mask) -> list[int]:
    """Return the RLE of a (H, W) bool mask; byte-equal to the SDK's `mask2rle(mask * 255)`.

    Raises ValueError when the mask is not 2-D, is empty, or has 2**30 pixels or more.
    """
    if mask.ndim != 2 or not 0 < mask.size < 1 << 30:
        raise ValueError(f"mask has shape {mask.shape}; expected (H, W) with 1 to 2**30 - 1 pixels")
    flat = np.ascontiguousarray(mask, dtype=np.bool_).ravel()
    lengths, values = _runs(flat)
    codes, sizes = _tokens(lengths, values)
    return list(_pack(_header(mask.size * _CHANNELS), codes, sizes))


def decode(rle: Sequence[int], height_px: int, width_px: int) -> Alpha:
    """Return the alpha channel, (H, W) uint8; strokes of people have 1 to 254 at their border.

    Raises InvalidPayload when the RLE is malformed or was not made for this size.
    """
    stream = _stream(rle, height_px, width_px)
    length_bits = _read_header(stream, height_px * width_px * _CHANNELS)
    alpha = np.empty(height_px * width_px, dtype=np.uint8)
    done = 0
    for values, lengths in _groups(stream, length_bits, alpha.size * _CHANNELS):
        ends = done + np.cumsum(lengths)
        # alpha is each fourth value: before value number e there are e // 4 of them
        counts = np.diff(ends // _CHANNELS, prepend=done // _CHANNELS)
        alpha[done // _CHANNELS : int(ends[-1]) // _CHANNELS] = np.repeat(values, counts)
        done = int(ends[-1])
    return alpha.reshape(height_px, width_px)


def decode_mask(rle: Sequence[int], height_px: int, width_px: int, *, at_least: int = 128) -> Mask:
    """Return the (H, W) bool mask of alpha >= `at_least`; raises as `decode`."""
    return decode(rle, height_px, width_px) >= at_least


def to_bytes(rle: Sequence[int]) -> bytes:
    """Return the compact form for storage, one byte per element; raises InvalidPayload."""
    if not isinstance(rle, (list, tuple, bytes)):
        raise InvalidPayload(f"an RLE is a list of bytes, got {type(rle).__name__}")
    try:
        return bytes(rle)
    except (TypeError, ValueError) as error:
        raise InvalidPayload(f"an RLE holds integers from 0 to 255: {error}") from error


def from_bytes(stored: bytes) -> list[int]:
    """Return the RLE that `to_bytes` stored, as Label Studio wants it in JSON."""
    return list(stored)


def _runs(flat: Mask) -> tuple[_Ints, _Ints]:
    """Return lengths and values of the runs, in RGBA values, cut at 65536."""
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * _CHANNELS
    values = np.where(flat[ends - 1], 255, 0)
    if lengths.max() <= _LONGEST:
        return lengths, values
    pieces = -(-lengths // _LONGEST)
    cut = np.full(int(pieces.sum()), _LONGEST)
    cut[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * _LONGEST
    # the SDK keeps the longest form for the rest of a cut run, however short; _tokens sees it
    # by the sign
    was_cut = np.repeat(pieces > 1, pieces)
    return np.where(was_cut, -cut, cut), np.repeat(values, pieces)


def _tokens(lengths: _Ints, values: _Ints) -> tuple[npt.NDArray[np.uint32], _Ints]:
    """Return run tokens as left-aligned 32-bit codes, and their sizes in bits."""
    length_bits = np.asarray(_LENGTH_BITS)
    choice = np.where(lengths < 0, 3, np.searchsorted(1 << length_bits, np.abs(lengths)))
    sizes = 3 + length_bits[choice] + _WORD_BITS
    codes = (0b100 | choice) << length_bits[choice]
    codes = (codes | (np.abs(lengths) - 1)) << _WORD_BITS | values
    return (codes << (32 - sizes)).astype(np.uint32), sizes


def _header(value_count: int) -> _Bytes:
    fields = [(value_count, 32), (_WORD_BITS - 1, 5), *((size - 1, 4) for size in _LENGTH_BITS)]
    bits = "".join(f"{value:0{size}b}" for value, size in fields)
    return np.array(list(bits), dtype=np.uint8)


def _pack(header: _Bytes, codes: npt.NDArray[np.uint32], sizes: _Ints) -> bytes:
    """Join header bits and codes; blocks bound the memory of masks with many runs."""
    packed, rest = [], header
    positions = np.arange(32)
    for start in range(0, len(codes), _TOKENS_AT_ONCE):
        block = slice(start, start + _TOKENS_AT_ONCE)
        bits = np.unpackbits(codes[block].astype(">u4").view(np.uint8)).reshape(-1, 32)
        joined = np.concatenate([rest, bits[positions < sizes[block, None]]])
        whole = len(joined) // 8 * 8
        packed.append(np.packbits(joined[:whole]).tobytes())
        rest = joined[whole:]
    # the SDK ends aligned streams with a zero byte; so does this
    return b"".join([*packed, np.packbits(rest).tobytes() if len(rest) else b"\0"])


def _stream(rle: Sequence[int], height_px: int, width_px: int) -> bytes:
    if height_px < 1 or width_px < 1:
        raise InvalidPayload(f"a mask of {width_px} x {height_px} px cannot be; both must be > 0")
    most = _HEADER_BITS + height_px * width_px * _CHANNELS * _MOST_BITS_PER_VALUE
    if isinstance(rle, (list, tuple, bytes)) and len(rle) > most // 8 + 2:
        raise InvalidPayload(
            f"the RLE has {len(rle)} bytes, more than any {width_px} x {height_px} px mask needs"
        )
    stream = to_bytes(rle)
    if len(stream) * 8 < _HEADER_BITS:
        raise InvalidPayload(f"the RLE has {len(stream)} bytes; its header alone needs 7")
    return stream


def _read_header(stream: bytes, expected: int) -> tuple[int, ...]:
    """Check the header and return the four length sizes in bits."""
    head = int.from_bytes(stream[:7], "big") >> (56 - _HEADER_BITS)
    declared, word_bits = head >> 21, (head >> 16 & 31) + 1
    if declared != expected:
        raise InvalidPayload(
            f"the RLE holds {declared} values, but the image needs {expected} (4 per pixel); "
            "was the mask made at the image's natural size?"
        )
    if word_bits != _WORD_BITS:
        raise InvalidPayload(f"the RLE has {word_bits}-bit values; brush masks have 8-bit ones")
    return tuple((head >> shift & 15) + 1 for shift in (12, 8, 4, 0))


def _groups(
    stream: bytes, length_bits: Sequence[int], value_count: int
) -> Iterator[tuple[_Bytes, _Ints]]:
    """Yield (values, how often each), block by block, `value_count` values in all."""
    padded = np.frombuffer(stream + bytes(_WINDOW_BYTES), dtype=np.uint8)
    position, left = _HEADER_BITS, value_count
    while left > 0:
        if position >= len(stream) * 8:
            raise InvalidPayload(f"the RLE ends early: {left} of {value_count} values are missing")
        position, tokens = _scan(padded, len(stream), position, left, length_bits)
        if position > len(stream) * 8:
            raise InvalidPayload("the RLE ends in the middle of its last token")
        values, lengths = _expand(padded, tokens)
        left -= int(lengths.sum())
        if left < 0:
            raise InvalidPayload(f"the RLE runs {-left} values past the end of the image")
        yield values, lengths


def _windows(padded: _Bytes, start: int, stop: int) -> list[int]:
    """Return the 40 bits that begin at each byte from `start` to `stop`."""
    wide: _Ints = np.zeros(stop - start, dtype=np.int64)
    for offset in range(_WINDOW_BYTES):
        wide = wide << 8 | padded[start + offset : stop + offset]
    windows: list[int] = wide.tolist()
    return windows


def _scan(
    padded: _Bytes, stream_bytes: int, position: int, left: int, length_bits: Sequence[int]
) -> tuple[int, _Ints]:
    """Read the token heads of one block; returns the next bit and (T, 3) run, length, bit."""
    first = position >> 3
    windows = _windows(padded, first, min(first + _BYTES_AT_ONCE, stream_bytes))
    stop = (first + len(windows)) << 3
    base = first << 3
    tokens: list[int] = []
    while left > 0 and position < stop:
        offset = position - base
        window = windows[offset >> 3] << (offset & 7) & 0xFF_FFFF_FFFF
        size = length_bits[window >> 37 & 3]
        length = (window >> (37 - size) & ((1 << size) - 1)) + 1
        run = window >> 39
        position += 3 + size
        tokens += (run, length, position)
        position += _WORD_BITS if run else _WORD_BITS * length
        left -= length
    return position, np.array(tokens, dtype=np.int64).reshape(-1, 3)


def _expand(padded: _Bytes, tokens: _Ints) -> tuple[_Bytes, _Ints]:
    """Return the values of the tokens and how often each stands; a literal value stands once."""
    run, length, bit = tokens.T
    count = np.where(run == 1, 1, length)
    place = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    position = np.repeat(bit, count) + place * _WORD_BITS
    byte, shift = position >> 3, 8 - (position & 7)
    pair = padded[byte].astype(np.int64) << 8 | padded[byte + 1]
    lengths = np.repeat(np.where(run == 1, length, 1), count)
    return (pair >> shift & 255).astype(np.uint8), lengths
