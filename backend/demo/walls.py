"""Concrete walls, and what looks like a defect on them without being one."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from backend.demo.scene import Plane, Rng, Scene, cloud, noise, soft_step


def concrete(height_px: int, width_px: int, rng: Rng) -> Scene:
    """Make a bare wall with pores and lime bloom."""
    shape = (height_px, width_px)
    tone = rng.uniform(0.46, 0.68)
    warmth = rng.uniform(-0.012, 0.035)
    patches = cloud(rng, shape, (160, 70, 30, 12), 0.6)
    grain = cloud(rng, shape, (5, 2.2, 1.2), 0.9)
    grey = tone * (1 + rng.uniform(0.035, 0.075) * patches + rng.uniform(0.02, 0.045) * grain)
    colour = np.array([1 + warmth, 1, 1 - 1.6 * warmth], np.float32)
    relief = rng.uniform(0.10, 0.28) * cloud(rng, shape, (14, 5, 2, 1.2), 0.8)
    scene = Scene((grey[..., None] * colour).astype(np.float32), relief, rng)
    _bleach(scene)
    _pores(scene)
    return scene


def _bleach(scene: Scene) -> None:
    """Lime bloom: pale clouds."""
    bloom = cloud(scene.rng, scene.shape, (110, 45, 18, 7), 0.65)
    alpha = soft_step(bloom - scene.rng.uniform(0.6, 1.6), 1.2) * scene.rng.uniform(0, 0.35)
    scene.tint((0.80, 0.79, 0.76), np.asarray(alpha, np.float32))


def _pores(scene: Scene) -> None:
    rows, columns = scene.shape
    rng = scene.rng
    depth = np.zeros(scene.shape, np.float32)
    for _ in range(int(rows * columns / 1e4 * rng.uniform(2, 16))):
        centre = (int(rng.integers(columns) * 16), int(rng.integers(rows) * 16))
        size = rng.gamma(1.6, 0.55) + 0.5
        axes = (int(size * 16), int(size * rng.uniform(0.6, 1) * 16))
        cv2.ellipse(depth, centre, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_8, 4)
    depth = cv2.GaussianBlur(depth, (0, 0), 0.6)
    scene.height_px -= 1.6 * depth
    scene.darken(np.asarray(0.38 * depth, np.float32))


def distract(scene: Scene) -> None:
    """Add joints, board marks, anchor holes, damp patches and smudges, each by chance."""
    painters: tuple[tuple[Callable[[Scene], None], float], ...] = (
        (_boards, 0.30),
        (_joint, 0.35),
        (_water, 0.45),
        (_smudge, 0.14),
        (_tie_holes, 0.20),
    )
    for paint, probability in painters:
        if scene.rng.random() < probability:
            paint(scene)


def _across(scene: Scene, angle: float) -> Plane:
    """Signed distance in px from a line through the middle third of the image."""
    rows, columns = scene.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    x0, y0 = scene.rng.uniform(0.25, 0.75, 2) * (columns, rows)
    return np.asarray((x - x0) * np.sin(angle) - (y - y0) * np.cos(angle), np.float32)


def _upright_or_level(rng: Rng) -> float:
    return float(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.012))


def _joint(scene: Scene) -> None:
    """A straight groove, sometimes with dark filler."""
    offset = np.abs(_across(scene, _upright_or_level(scene.rng)))
    groove = 1 - soft_step(offset - scene.rng.uniform(1.5, 3.5), 1.5)
    scene.height_px -= scene.rng.uniform(1.5, 3.0) * groove
    dirt = 0.8 + 0.2 * noise(scene.rng, scene.shape, 25)
    scene.darken(np.clip(scene.rng.uniform(0.2, 0.55) * groove * dirt, 0, 0.8))


def _boards(scene: Scene) -> None:
    """Imprints of form boards: thin ridges and a slightly different tone per board."""
    pitch = scene.rng.uniform(45, 120)
    place = _across(scene, _upright_or_level(scene.rng)) / pitch
    board = np.floor(place).astype(int)
    tones = scene.rng.normal(0, 0.025, board.max() - board.min() + 1)
    scene.albedo *= (1 + tones[board - board.min()])[..., None].astype(np.float32)
    from_edge = np.abs(place - np.round(place)) * pitch
    ridge = np.exp(-((from_edge / scene.rng.uniform(0.8, 1.6)) ** 2))
    broken = np.clip(0.7 + 0.5 * noise(scene.rng, scene.shape, 30), 0, 1)
    scene.height_px += (scene.rng.uniform(0.5, 1.2) * ridge * broken).astype(np.float32)


def _tie_holes(scene: Scene) -> None:
    """The round holes of formwork anchors, plugged a little below the surface."""
    rows, columns = scene.shape
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    y0 = scene.rng.uniform(0.2, 0.8) * rows
    for x0 in scene.rng.uniform(0.1, 0.3) * columns + np.arange(2) * 0.55 * columns:
        inside = soft_step(scene.rng.uniform(6, 9) - np.hypot(x - x0, y - y0), 1.6)
        scene.height_px -= 3.0 * inside
        scene.darken(np.asarray(0.22 * inside, np.float32))


def _water(scene: Scene) -> None:
    """Dark damp patches that run down."""
    rows, columns = scene.shape
    x = np.arange(columns, dtype=np.float32)
    runs = np.zeros(columns, np.float32)
    for _ in range(int(scene.rng.integers(2, 8))):
        runs += scene.rng.uniform(0.4, 1) * np.exp(
            -(((x - scene.rng.uniform(0, columns)) / scene.rng.uniform(5, 28)) ** 2)
        )
    wander = noise(scene.rng, scene.shape, 60) * 0.35 + noise(scene.rng, scene.shape, 9) * 0.10
    reach = np.linspace(1.0, scene.rng.uniform(0.1, 0.9), rows, dtype=np.float32)[:, None]
    wet = soft_step(np.asarray(runs[None] * reach + wander - 0.55, np.float32), 0.8)
    scene.darken(np.asarray(scene.rng.uniform(0.12, 0.32) * wet, np.float32))


def _smudge(scene: Scene) -> None:
    """A worn spray mark."""
    rows, columns = scene.shape
    canvas = np.zeros(scene.shape, np.float32)
    start = scene.rng.uniform(0.2, 0.8, 2) * (columns, rows)
    bend = np.cumsum(scene.rng.normal(0, 0.22, 90)) + scene.rng.uniform(0, 6.28)
    steps = np.stack([np.cos(bend), np.sin(bend)], 1) * scene.rng.uniform(1.5, 3)
    points = (start + np.cumsum(steps, 0)).astype(np.int32)
    cv2.polylines(canvas, [points], False, 1.0, int(scene.rng.integers(5, 11)), cv2.LINE_AA)
    canvas = cv2.GaussianBlur(canvas, (0, 0), 2.2)
    worn = np.clip(0.6 + 0.4 * cloud(scene.rng, scene.shape, (20, 6, 2), 0.8), 0, 1)
    colour = scene.rng.choice([[0.20, 0.25, 0.45], [0.45, 0.16, 0.20], [0.15, 0.16, 0.17]])
    scene.tint(colour, np.asarray(0.6 * canvas * worn, np.float32))
