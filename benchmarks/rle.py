"""Brush RLE: our codec against label-studio-sdk's, both sides in turn in one process."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import report
from label_studio_sdk.converter import brush

from backend.labelstudio import rle
from models.base import Mask

SIZES = ((480, 320), (2048, 2048), (5000, 5000))
FASTER = 10.0  # encoding the largest, against label-studio-sdk


def cracks(width_px: int, height_px: int, seed: int) -> Mask:
    """Return a mask of random thin lines, (H, W) bool: about one run in 300 pixels."""
    rng = np.random.default_rng(seed)
    canvas = np.zeros((height_px, width_px), np.uint8)
    for _ in range(max(4, width_px // 120)):
        steps = rng.normal(0, 12, (60, 2)) + rng.normal(0, 20, 2)
        points = np.cumsum(steps, axis=0) + rng.random(2) * (width_px, height_px)
        line = points.round().astype(np.int32)
        cv2.polylines(canvas, [line], False, 255, int(rng.integers(1, 6)))
    return canvas > 0


def seconds(act: Callable[[], Any]) -> float:
    """Return the wall seconds of one call."""
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def compare(
    name: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    repeats: int,
    at_least: float | None = None,
) -> list[dict[str, Any]]:
    """Time both in turn; return rows of milliseconds and of the ratio with its spread."""
    ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    ratios = sorted(their / our for our, their in pairs)
    our_ms, their_ms = (1000 * statistics.median(side) for side in zip(*pairs, strict=True))
    rows = [
        report.row(f"{name} ours", our_ms, "ms"),
        report.row(f"{name} sdk", their_ms, "ms"),
        report.judged(
            report.row(f"{name} sdk/ours", statistics.median(ratios), "x"), at_least=at_least
        ),
        report.row(f"{name} sdk/ours lowest", ratios[0], "x"),
        report.row(f"{name} sdk/ours highest", ratios[-1], "x"),
    ]
    print(
        f"{name:<22} {our_ms:9.2f} ms {their_ms:9.2f} ms   x{statistics.median(ratios):6.1f} "
        f"({ratios[0]:.1f} to {ratios[-1]:.1f})"
    )
    return rows


def measure(width_px: int, height_px: int, repeats: int) -> list[dict[str, Any]]:
    """Compare both directions on one mask; asserts that both sides agree."""
    mask = cracks(width_px, height_px, seed=0)
    grey = mask.astype(np.uint8) * 255
    code = rle.encode(mask)
    assert code == brush.mask2rle(grey)
    theirs = brush.decode_rle(code).reshape(height_px, width_px, 4)[:, :, 3]
    assert (rle.decode(code, height_px, width_px) == theirs).all()
    size = f"{width_px}x{height_px}"
    return [
        report.row(f"{size} bytes", len(code), "B"),
        *compare(
            f"{size} encode",
            lambda: rle.encode(mask),
            lambda: brush.mask2rle(grey),
            repeats,
            at_least=FASTER if (width_px, height_px) == SIZES[-1] else None,
        ),
        *compare(
            f"{size} decode",
            lambda: rle.decode(code, height_px, width_px),
            lambda: brush.decode_rle(code),
            repeats,
        ),
    ]


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(f"{'mask':<22} {'ours':>12} {'sdk':>12}    ratio (spread)")
    rows = [r for size in SIZES for r in measure(*size, args.repeats)]
    if args.json:
        report.write(args.json, "rle", rows)


if __name__ == "__main__":
    main()
