"""Points that an annotation teaches: where a defect is, and where none is near.

Sources: explicit clicks; kept parts of masks, parts added to them and regions that were missed
(positive); parts removed and regions rejected as a whole (hard negatives); verified background
(negatives). A click speaks for its place alone: an annotation of clicks alone gives neither
background nor verified masks.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from backend.labelstudio.results import Click
from backend.loop import interactions
from backend.loop.interactions import Judged
from backend.loop.regions import Drawn, cropped
from backend.records import Annotation, WeakLabel, WeakLabelSource
from models.base import Mask

Points = npt.NDArray[np.int64]  # (P, 2) x, y
Depth = npt.NDArray[np.float32]  # (H, W), px

MOST_POSITIVES = 24  # points per class, annotation and source
MOST_HARD = 16
MOST_BACKGROUND = 24
MOST_CLICKS = 256  # of one annotation; later ones are left out
LEAST_BACKGROUND = 4  # even on an image without a defect
MOST_PER_COMPONENT = 8
MOST_COMPONENTS = 24  # the largest ones
SPACING_PX = 16  # between points of one component
HARD_WEIGHT = 2.0  # a mistake that the model has made teaches more than any background
CLEARANCE_PX = 48  # half the side of a small training crop
DEEP_PX = 8  # so far from the border a point is inside a blob beyond doubt
LATTICE_PX = 4
CANDIDATES = 4096


@dataclass(frozen=True)
class Learned:
    """What one annotation teaches; verified: the final (H, W) mask of each class it settles."""

    weak_labels: tuple[WeakLabel, ...] = ()
    verified: Mapping[str, Mask] = field(default_factory=dict)


def learn(
    annotation: Annotation,
    *,
    classes: Sequence[str],
    judged: Mapping[str, Judged],
    final: Mapping[str, Drawn],
    clicks: Sequence[Click],
    size: tuple[int, int] | None,
    chosen: Collection[str] = (),
    click_only: bool = False,
) -> Learned:
    """Return weak labels and verified masks; the same for the same annotation, whenever asked.

    judged, final: as in `interactions.judge`; click_only: as in `derive`. size: (height, width) of
    the image in px; where nobody knows it, there is no mask and nothing is verified. chosen:
    classes that a person says are somewhere in the image. A class that was chosen but not drawn, or
    clicked where its final mask is not, is only partly drawn: it gives its points, but no
    background and no verified mask.
    """
    if not interactions.speaks(annotation):
        return Learned()
    maker = _Maker(annotation, interactions.trust(annotation))
    labels = maker.clicks(clicks[:MOST_CLICKS], classes)
    if click_only or size is None:
        return Learned(tuple(labels))
    nothing: Mask = np.zeros(size, dtype=np.bool_)
    verified = {}
    for name in classes:
        after = final[name].mask if name in final else nothing
        far = far_from(after)
        if name in judged:
            labels += maker.parts(name, judged[name], after, far)
        is_undrawn = name in chosen and not after.any()
        if not is_undrawn and not partly_drawn(name, after, clicks):
            verified[name] = after
            labels += maker.background(name, far, labels)
    return Learned(tuple(labels), verified)


def partly_drawn(class_name: str, final: Mask, clicks: Sequence[Click]) -> bool:
    """Say whether a positive click shows a defect of the class that its final mask lacks."""
    return any(
        click.class_name == class_name
        and click.positive
        and not _near(final, click.x_px, click.y_px)
        for click in clicks
    )


def clearance_px(height_px: int, width_px: int) -> float:
    """Return how far a negative point stays from every final mask of its class.

    CLEARANCE_PX, or an eighth of the shorter side on small images.
    """
    return min(float(CLEARANCE_PX), min(height_px, width_px) / 8)


def far_from(final: Mask) -> Mask:
    """Return the pixels at least `clearance_px` (up to 3 %: a chamfer distance) from the mask."""
    far = np.ones_like(final)
    top, left, box = cropped(final)
    if not box.size:
        return far
    clearance = clearance_px(*final.shape)
    reach = math.ceil(clearance * 1.1)  # what is farther from the box is far from the mask
    rows = slice(max(0, top - reach), top + box.shape[0] + reach)
    columns = slice(max(0, left - reach), left + box.shape[1] + reach)
    outside = np.logical_not(final[rows, columns]).view(np.uint8)
    distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_5)
    far[rows, columns] = distance >= clearance
    return far


def spread(mask: Mask, most: int, rng: np.random.Generator) -> Points:
    """Return at most `most` points (x, y) inside the mask, spread over its components.

    Candidates are the ridges of the distance to the border (the line itself of thin cracks) and a
    lattice of pixels well inside blobs. Each of the largest components gets its innermost point,
    then the farthest from those chosen while it is SPACING_PX away; the components take turns.
    """
    if most < 1 or not mask.any():
        return np.empty((0, 2), dtype=np.int64)
    top, left, part = cropped(mask)
    depth = _depth(part)
    chosen = [_farthest(points, depth, rng) for points in _inner_points(part, depth)]
    rounds = [row[n] for n in range(MOST_PER_COMPONENT) for row in chosen if n < len(row)]
    points: Points = np.stack(rounds[:most]) + np.array([left, top])
    return points


def far_points(far: Mask, most: int, rng: np.random.Generator) -> Points:
    """Return at most `most` points (x, y), spread over the pixels of `far`."""
    height_px, width_px = far.shape
    xs = rng.integers(0, width_px, CANDIDATES)
    ys = rng.integers(0, height_px, CANDIDATES)
    points = np.stack([xs, ys], axis=1)[far[ys, xs]]
    return _spread_out(points, most, 0.0)


@dataclass(frozen=True)
class _Maker:
    """Makes the labels of one annotation; each class and source has its own random numbers."""

    annotation: Annotation
    trust: float

    def clicks(self, clicks: Sequence[Click], classes: Sequence[str]) -> list[WeakLabel]:
        """Give each click as it is; one without a class denies all of them."""
        return [
            self._label(name, click.x_px, click.y_px, click.positive, "click")
            for click in clicks
            for name in (classes if click.class_name is None else (click.class_name,))
            if name in classes
        ]

    def parts(self, name: str, judged: Judged, final: Mask, far: Mask) -> list[WeakLabel]:
        """Give the kept, added and removed parts of one class; regions as a whole by themselves."""
        if judged.outcome == "accepted":
            return self._positives(name, final, "accepted")
        found = judged.changes
        is_modified = judged.outcome == "modified"
        missed = judged.missed if is_modified else found.added
        deleted = judged.deleted if is_modified else found.removed
        labels = self._positives(name, found.kept, "accepted")
        labels += self._positives(name, found.added & ~missed, "added")
        labels += self._positives(name, missed, "missed")
        # a crop around a point near a real defect would show it: hence the distance
        labels += self._hard_negatives(name, found.removed & ~deleted & far, "removed")
        return labels + self._hard_negatives(name, deleted & far, "rejected")

    def background(self, name: str, far: Mask, labels: Sequence[WeakLabel]) -> list[WeakLabel]:
        """Give as many negatives as balance the class, far from its mask."""
        signs = [label.positive for label in labels if label.class_name == name]
        wanted = 2 * sum(signs) - len(signs)
        most = min(MOST_BACKGROUND, max(LEAST_BACKGROUND, wanted))
        points = far_points(far, most, self._rng(name, "background"))
        return [self._at(name, point, False, "background") for point in points]

    def _positives(self, name: str, mask: Mask, source: WeakLabelSource) -> list[WeakLabel]:
        points = spread(mask, MOST_POSITIVES, self._rng(name, source))
        return [self._at(name, point, True, source) for point in points]

    def _hard_negatives(self, name: str, mask: Mask, source: WeakLabelSource) -> list[WeakLabel]:
        points = spread(mask, MOST_HARD, self._rng(name, source))
        return [self._at(name, point, False, source) for point in points]

    def _at(self, name: str, point: Points, positive: bool, source: WeakLabelSource) -> WeakLabel:
        """Place a label in the middle of a pixel."""
        return self._label(name, point[0] + 0.5, point[1] + 0.5, positive, source)

    def _label(
        self, name: str, x_px: float, y_px: float, positive: bool, source: WeakLabelSource
    ) -> WeakLabel:
        return WeakLabel(
            project=self.annotation.project,
            task=self.annotation.task,
            annotation=self.annotation.id,
            class_name=name,
            x_px=float(x_px),
            y_px=float(y_px),
            positive=positive,
            source=source,
            weight=HARD_WEIGHT if source in ("removed", "rejected") else 1.0,
            trust=self.trust,
        )

    def _rng(self, name: str, source: str) -> np.random.Generator:
        return np.random.default_rng((self.annotation.id, zlib.crc32(f"{name}/{source}".encode())))


def _near(mask: Mask, x_px: float, y_px: float, radius_px: int = 4) -> bool:
    """Say whether the mask has a pixel around a click: people click a little beside thin cracks."""
    x, y = int(x_px), int(y_px)
    around = mask[
        max(0, y - radius_px) : y + radius_px + 1, max(0, x - radius_px) : x + radius_px + 1
    ]
    return bool(around.any())


def _depth(mask: Mask) -> Depth:
    """Return the distance to the nearest pixel outside; beyond the image is outside."""
    padded = np.pad(mask.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(distance[1:-1, 1:-1], dtype=np.float32)


def _inner_points(mask: Mask, depth: Depth) -> list[Points]:
    """Return the inner points (x, y) of the largest components, largest component first."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    inner = mask & (depth >= cv2.dilate(depth, np.ones((3, 3), dtype=np.uint8)))
    inner[::LATTICE_PX, ::LATTICE_PX] |= _is_deep(inner, depth, parts, count)
    ys, xs = np.nonzero(inner)
    order = np.argsort(parts[ys, xs], kind="stable")
    points = np.stack([xs, ys], axis=1).astype(np.int64)[order]
    cuts = np.searchsorted(parts[ys, xs][order], np.arange(1, count + 1))
    largest = np.argsort(-stats[1:, cv2.CC_STAT_AREA], kind="stable")[:MOST_COMPONENTS]
    return [points[cuts[n] : cuts[n + 1]] for n in largest]


def _is_deep(ridge: Mask, depth: Depth, parts: npt.NDArray[np.int32], count: int) -> Mask:
    """Say of the lattice's pixels whether they lie well inside.

    That is half as deep as their component's innermost pixel, which is on a ridge, or DEEP_PX.
    """
    deepest = np.full(count, np.inf, dtype=np.float32)
    deepest[1:] = 0
    np.maximum.at(deepest, parts[ridge], depth[ridge])
    own = deepest[parts[::LATTICE_PX, ::LATTICE_PX]]
    deep: Mask = depth[::LATTICE_PX, ::LATTICE_PX] >= np.minimum(own / 2, DEEP_PX)
    return deep & (own < np.inf)


def _farthest(points: Points, depth: Depth, rng: np.random.Generator) -> list[Points]:
    """Return the innermost point of a component and those farthest from all chosen before."""
    inner = points[np.argmax(depth[points[:, 1], points[:, 0]])]
    if len(points) > CANDIDATES:
        points = points[np.sort(rng.choice(len(points), CANDIDATES, replace=False))]
    return list(_spread_out(np.vstack([inner, points]), MOST_PER_COMPONENT, SPACING_PX))


def _spread_out(points: Points, most: int, spacing_px: float) -> Points:
    """Return the first point, then always the farthest from those chosen, while far enough."""
    if not len(points):
        return points
    chosen = [0]
    distance = np.linalg.norm(points - points[0], axis=1)
    while len(chosen) < most and distance.max() > spacing_px:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
    return points[chosen]
