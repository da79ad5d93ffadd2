"""Cracks, spalling and rust, painted onto a scene; each painter returns its true mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from backend.demo.scene import Plane, Rng, Scene, cloud, noise, soft_step
from models.base import Mask

FINE = 3  # cracks are painted three times larger: widths below a pixel exist
CRACK_STEP_PX = 3.0

Points = npt.NDArray[np.float64]  # (P, 2) x, y in px


@dataclass(frozen=True)
class _Crack:
    """A wandering line; points: (P, 2) x, y in px; widths_px, headings: (P,)."""

    points: Points
    widths_px: npt.NDArray[np.float64]
    headings: npt.NDArray[np.float64]

    @property
    def length_px(self) -> float:
        return len(self.points) * CRACK_STEP_PX


def crack(scene: Scene) -> Mask:
    """Draw one or two thin branching cracks, 1 to 4 px wide; returns (H, W) bool."""
    rows, columns = scene.shape
    canvas = np.zeros((rows * FINE, columns * FINE), np.float32)
    for _ in range(int(scene.rng.choice([1, 2], p=[0.75, 0.25]))):
        for line in _with_branches(_main_crack(scene), scene.rng):
            _draw(canvas, line)
    cover = cv2.resize(canvas, (columns, rows), interpolation=cv2.INTER_AREA)
    patchy = scene.rng.uniform(0.48, 0.82) + 0.10 * noise(scene.rng, scene.shape, 35)
    crumbs = np.clip(noise(scene.rng, scene.shape, 6) - 0.4, 0, 2)
    crumbs *= cv2.GaussianBlur(cover, (0, 0), 1.8)
    scene.height_px -= 1.8 * cover + 1.2 * crumbs
    scene.darken(np.clip(patchy * cover, 0, 0.92))
    return np.asarray(cover > 0.4)


def _main_crack(scene: Scene) -> _Crack:
    """Start at the left or upper border, or inside the wall, and cross it."""
    rows, columns = scene.shape
    rng = scene.rng
    level = rng.random() < columns / (columns + rows)
    inset, along = rng.choice([0, rng.uniform(0.05, 0.3)]), rng.uniform(0.15, 0.85)
    start = (inset * columns, along * rows) if level else (along * columns, inset * rows)
    heading = (0.0 if level else np.pi / 2) + rng.normal(0, 0.35)
    length_px = rng.uniform(0.5, 1.1) * (columns if level else rows)
    return _wander(rng, start, heading, rng.uniform(1.3, 3.4), length_px)


def _wander(
    rng: Rng, start: tuple[float, float], heading: float, width_px: float, length_px: float
) -> _Crack:
    count = max(6, int(length_px / CRACK_STEP_PX))
    bends = np.cumsum(rng.normal(0, 0.09, count))
    bends -= np.linspace(0, bends[-1], count) * 0.7  # keeps the general direction
    kinks = np.repeat(rng.normal(0, 0.45, count // 3 + 1), 3)[:count]
    headings = heading + bends + kinks + rng.normal(0, 0.22, count)
    moves = CRACK_STEP_PX * np.stack([np.cos(headings), np.sin(headings)], 1)
    swell = np.repeat(rng.uniform(0.6, 1.25, count // 5 + 1), 5)[:count]
    taper = np.clip(np.linspace(4, 0.3, count), 0.3, 1)
    points = np.asarray(start) + np.cumsum(moves, 0)
    return _Crack(points, np.clip(width_px * swell * taper, 0.8, 4), headings)


def _with_branches(line: _Crack, rng: Rng, depth: int = 0) -> Iterator[_Crack]:
    """Yield the crack, then what branches off, thinner and shorter each time."""
    yield line
    if depth == 2:
        return
    for at in np.flatnonzero(rng.random(len(line.points)) < 0.014):
        heading = line.headings[at] + rng.choice([-1, 1]) * rng.uniform(0.4, 1.1)
        x, y = line.points[at].tolist()
        length_px = line.length_px * rng.uniform(0.1, 0.4)
        branch = _wander(rng, (x, y), heading, line.widths_px[at] * 0.7, length_px)
        yield from _with_branches(branch, rng, depth + 1)


def _draw(canvas: Plane, line: _Crack) -> None:
    corners = np.round(line.points * FINE * 16).astype(int)  # 4 binary digits of sub-pixels
    for a, b, width_px in zip(corners[:-1], corners[1:], line.widths_px[1:], strict=True):
        thickness = max(1, round(float(width_px) * FINE))
        cv2.line(canvas, a.tolist(), b.tolist(), 1.0, thickness, cv2.LINE_8, 4)


def spalling(scene: Scene) -> Mask:
    """Break one or two ragged patches out, down to the aggregate; returns (H, W) bool."""
    hole = _patches(scene)
    inside = hole.astype(np.uint8)
    from_rim = np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 5), np.float32)
    depth_px = scene.rng.uniform(3, 6) * soft_step(from_rim - 2.5, 5.0)
    rough = cloud(scene.rng, scene.shape, (16, 7, 3.5, 1.8), 0.8)
    alpha = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 0.7)
    fresh = scene.rng.uniform(0.92, 1.22) * _wall_colour(scene) * [1.03, 1.0, 0.95]
    scene.tint(fresh * (1 + 0.09 * rough[..., None]), np.asarray(0.85 * alpha, np.float32))
    scene.height_px += alpha * (0.75 * rough - depth_px)
    _aggregate(scene, hole & (from_rim > 3))
    rim = np.exp(-from_rim / 2.6) * hole
    scene.darken(np.asarray(scene.rng.uniform(0.25, 0.5) * rim, np.float32))
    return hole


def _patches(scene: Scene) -> Mask:
    """Ragged blobs: an ellipse whose border noise pushes in and out."""
    rows, columns = scene.shape
    rng = scene.rng
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    ragged = 0.22 * cloud(rng, scene.shape, (45, 20, 9, 4, 2), 0.62)
    hole = np.zeros(scene.shape, bool)
    for _ in range(int(rng.choice([1, 2], p=[0.7, 0.3]))):
        x0, y0 = rng.uniform(0.15, 0.85, 2) * (columns, rows)
        radius_px, squeeze, angle = rng.uniform(26, 70), rng.uniform(0.5, 1), rng.uniform(0, 3.14)
        u = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
        v = ((y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)) / squeeze
        hole |= np.hypot(u, v) / radius_px + ragged < 1
    return _without_specks(hole, least_px=60)


def _without_specks(mask: Mask, least_px: int) -> Mask:
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    large = stats[:, cv2.CC_STAT_AREA] >= least_px
    large[0] = False
    return np.asarray(large[labels])


def _aggregate(scene: Scene, where: Mask) -> None:
    """Lay stones into the broken surface: small angular polygons of their own colours."""
    rng = scene.rng
    spots = np.argwhere(where)
    cover, colours = np.zeros(scene.shape, np.float32), scene.albedo.copy()
    bulge = np.zeros(scene.shape, np.float32)
    for _ in range(int(len(spots) / rng.uniform(55, 130))):
        y, x = spots[rng.integers(len(spots))]
        stone = _stone(rng, float(x), float(y))
        grey = rng.uniform(0.30, 0.80)
        tone = grey * (1 + rng.uniform(-0.02, 0.10) * np.array([1.0, 0.1, -0.9]))
        cv2.fillPoly(colours, [stone], tone.tolist(), cv2.LINE_8, 4)
        cv2.fillPoly(cover, [stone], rng.uniform(0.45, 0.9), cv2.LINE_8, 4)
        cv2.fillPoly(bulge, [stone], rng.uniform(0.5, 1.7), cv2.LINE_8, 4)
    cover *= where
    scene.tint(colours, cv2.GaussianBlur(cover, (0, 0), 0.6))
    scene.height_px += cv2.GaussianBlur(bulge * where, (0, 0), 1.0)


def _stone(rng: Rng, x: float, y: float) -> npt.NDArray[np.int32]:
    count = int(rng.integers(5, 9))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = min(2 + rng.gamma(1.6, 1.3), 9) * rng.uniform(0.7, 1.1, count)
    corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles) * 0.8], 1)
    return np.round(corners * 16).astype(np.int32)


def _wall_colour(scene: Scene) -> npt.NDArray[np.float64]:
    return np.asarray(np.median(scene.albedo.reshape(-1, 3), axis=0), np.float64)


def rust(scene: Scene) -> Mask:
    """Stain the wall orange-brown from a few sources, with streaks that run down."""
    stains = [_stain(scene) for _ in range(int(scene.rng.integers(1, 4)))]
    amount = np.max(stains, axis=0)
    mottled = cloud(scene.rng, scene.shape, (24, 9, 4, 1.8), 0.75)
    amount = np.asarray(np.clip(amount * (1 + 0.30 * mottled), 0, 1), np.float32)
    dark, bright = np.array([0.27, 0.13, 0.07]), np.array([0.66, 0.37, 0.16])
    share = np.clip(amount + 0.12 * mottled, 0, 1)[..., None]
    light = scene.albedo.mean(-1, keepdims=True) / 0.57  # grain and bloom shine through
    colour = (bright + share * (dark - bright)) * (0.35 + 0.65 * light)
    scene.tint(bright, 0.30 * cv2.GaussianBlur(amount, (0, 0), 6))
    scene.tint(colour, np.asarray(0.92 * soft_step(amount - 0.30, 0.55), np.float32))
    scene.height_px += np.asarray(0.3 * amount * mottled, np.float32)
    return _without_specks(amount > 0.32, least_px=12)


def _stain(scene: Scene) -> Plane:
    """One source with its streaks; (H, W) in [0, 1], 1 = solid rust."""
    rows, columns = scene.shape
    rng = scene.rng
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    x0, y0 = rng.uniform(0.1, 0.9) * columns, rng.uniform(0.08, 0.65) * rows
    wide, tall, tilt = rng.uniform(8, 32), rng.uniform(6, 20), rng.normal(0, 0.35)
    edge = 0.42 * cloud(rng, scene.shape, (26, 11, 5, 2.2), 0.8)
    level = y - y0 - tilt * (x - x0)
    amount = 1.05 - np.hypot((x - x0) / wide, level / tall) * 0.75 + edge
    wobble = 1.5 * noise(rng, scene.shape, 45) + 0.7 * noise(rng, scene.shape, 8)
    for _ in range(int(rng.integers(2, 9))):
        at = x0 + rng.normal(0, 0.45) * wide
        width_px, reach_px = rng.uniform(1.5, 7), rng.uniform(25, 0.6 * rows)
        fallen = np.clip(level / reach_px, 0, 1)
        across = np.abs(x - at + wobble) / (width_px * (1.15 - 0.6 * fallen))
        streak = rng.uniform(0.45, 0.95) * (1 - fallen**1.5) * np.exp(-(across**2))
        streak *= soft_step(level - 4 + 8 * edge, 16) * (1 + 0.5 * edge)
        amount = np.maximum(amount, streak)
    return np.asarray(np.clip(amount, 0, 1), np.float32)


PAINTERS: dict[str, Callable[[Scene], Mask]] = {  # in the order in which they happen to a wall
    "crack": crack,
    "spalling": spalling,
    "rust": rust,
}
