"""A simulated annotator: what a person would do with proposals when the true masks are known.

Nobody annotates here. Judgements follow fixed rules, and every second is simulated by the cost
model below; where its numbers appear they have to be called simulated. What the model leaves out:
hesitation, mistakes, fatigue, zooming. Its numbers matter as ratios, editing against drawing from
scratch by the same rules, and not as a forecast for a person.

Pure: arrays in, Label Studio's `result` out. Masks are (H, W) bool at the image's natural size;
points are continuous pixel coordinates, so the middle of the first pixel is (0.5, 0.5).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from skimage.morphology import skeletonize

from models.base import Mask, WeakPoint
from models.metrics import f_measure, grown, iou, precision

# --- the rules of judgement ---
TOLERANCE_PX = 2  # how exactly a person places an edge; as in the 2-px F1 of crack benchmarks
ACCEPT_F1 = 0.85  # 2-px F1 from which on a person submits unchanged
ACCEPT_IOU = 0.80  # the same for compact defects, where a long edge costs F1 but not use
JUNK_PRECISION = 0.20  # 2-px precision below which deleting is quicker than repairing

# --- the cost model, in simulated seconds ---
LOOK_S = 4.0  # find one's way in the image; image-level labels took 1 s a class and more (1)
ACCEPT_S = 1.6  # look at a region and agree: verifying a box took 1.6 s (2)
CLICK_S = 2.4  # aim at a first thing and click, also: select a region and press Delete (1)
STROKE_S = 0.9  # move to the next place and press: each further click took 0.9 s (1)
TRACE_S_PER_PX = 0.04  # follow a line or an edge within 2 px: 25 px/s. A contour of 2,000 px in
#   80 s is what polygon annotators need for an object (79 s, COCO), without zooming
FILL_S_PER_PX = 0.01  # sweep a brush where exactness does not matter: 100 px/s
THIN_PX = 12.0  # up to this width one stroke along the middle covers the defect
FILL_BRUSH_PX = 24.0  # width of the brush that fills
GAP_PX = 6  # pieces closer than this are painted without lifting the brush
# (1) Bearman et al. 2016, "What's the point"; (2) Papadopoulos et al. 2016, "We don't need no
# bounding-boxes". TRACE and FILL are assumptions of ours.

Act = Literal["accept", "edit", "reject", "draw", "none"]
Encode = Callable[[Mask], Sequence[int]]
Region = Mapping[str, Any]
ID_SIGNS = string.ascii_letters + string.digits + "_-"
KEYPOINT_WIDTH_PERCENT = 0.2  # what Label Studio's own clicks carry


@dataclass(frozen=True)
class Decision:
    """What becomes of one class of a task.

    accept: the region stays as it is. edit: it stays with the true mask. reject: it goes, and the
    true mask, if there is one, is drawn anew. draw: nothing usable was shown. none: nothing to do.
    region_id: of the region that was judged; None when none was shown. others: of further regions
    that share its fate: what is true of them is in `mask`. deleted: of junk among usable ones.
    mask: (H, W) bool, the final mask of the class; may be empty.
    seconds: simulated; scratch_seconds: simulated, had nothing been proposed.
    """

    class_name: str
    act: Act
    region_id: str | None
    mask: Mask
    seconds: float
    scratch_seconds: float
    others: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()


Regions = Sequence[tuple[str, Mask]]  # (region id, mask) of one class


def decide(proposals: Mapping[str, Regions], truth: Mapping[str, Mask]) -> list[Decision]:
    """Judge the proposals, the regions of each class, one decision per class of either side.

    A class without a true mask has none in this image. Raises ValueError for masks of two sizes.
    """
    shown = [mask for regions in proposals.values() for _, mask in regions]
    nothing = np.zeros_like([*truth.values(), *shown][0])
    decisions = []
    for name in [*truth, *(name for name in proposals if name not in truth)]:
        decisions.append(_judge(name, proposals.get(name, ()), truth.get(name, nothing)))
    return decisions


def task_seconds(decisions: Sequence[Decision]) -> tuple[float, float]:
    """Return (simulated seconds, simulated seconds from scratch) of a task, looking included."""
    edit = LOOK_S + sum(decision.seconds for decision in decisions)
    scratch = LOOK_S + sum(decision.scratch_seconds for decision in decisions)
    return edit, scratch


def click_seconds(clicks: Sequence[WeakPoint]) -> float:
    """Return the simulated seconds of looking at an image and clicking these points."""
    return LOOK_S + (CLICK_S + STROKE_S * (len(clicks) - 1) if clicks else 0.0)


def paint_seconds(mask: Mask) -> float:
    """Return the simulated seconds of painting this mask, or of erasing it.

    Thin pieces: along their middle line. Wide ones: along the edge, then the inside is filled.
    """
    if not mask.any():
        return 0.0
    strokes, area, middle, edge = _pieces(mask)
    thin = area <= THIN_PX * middle
    sweep_px = np.maximum(0, area - edge * TOLERANCE_PX) / FILL_BRUSH_PX
    seconds = np.where(
        thin, TRACE_S_PER_PX * middle, TRACE_S_PER_PX * edge + FILL_S_PER_PX * sweep_px
    )
    return float(STROKE_S * strokes + seconds.sum())


def edit_seconds(proposal: Mask, truth: Mask) -> float:
    """Return the simulated seconds of turning a proposal into the truth.

    Differences within TOLERANCE_PX of the other mask's edge are below what a person repairs and
    cost nothing. Wiping everything and drawing anew bounds the sum.
    """
    missing = paint_seconds(truth & ~grown(proposal, TOLERANCE_PX))
    surplus = paint_seconds(proposal & ~grown(truth, TOLERANCE_PX))
    return CLICK_S + min(missing + surplus, CLICK_S + paint_seconds(truth))


def brush_result(
    decisions: Sequence[Decision],
    shown: Sequence[Region],
    *,
    encode: Encode,
    rng: np.random.Generator,
    from_name: str = "brush",
    to_name: str = "image",
) -> list[dict[str, Any]]:
    """Return the annotation's `result` as Label Studio would store it after these decisions.

    shown: the result of the prediction on screen, whose regions keep their ids; encode: a mask to
    Label Studio's brush RLE; rng: makes the ids of new regions.
    """
    by_region = {
        region_id: d for d in decisions for region_id in (d.region_id, *d.others, *d.deleted)
    }
    kept = [_kept(item, by_region.get(str(item.get("id"))), encode) for item in shown]
    drawn = [d for d in decisions if d.act in ("reject", "draw") and d.mask.any()]
    new = [_drawn(d, encode(d.mask), _new_id(rng), from_name, to_name) for d in drawn]
    return [item for item in kept if item is not None] + new


def first_clicks(
    masks: Mapping[str, Mask],
    rng: np.random.Generator,
    n_positive: int,
    n_negative: int,
    margin_px: float,
) -> list[WeakPoint]:
    """Click up to `n_positive` points per class, well inside its mask and far from each other.

    Then up to `n_negative` "nothing here" points at least `margin_px` from every mask; those
    belong to no class: `class_name` is "" and `positive` False. Fewer where there is no room.
    """
    clicks = [
        WeakPoint(name, x_px, y_px, positive=True)
        for name, mask in masks.items()
        for x_px, y_px in _spread(_inside(mask), n_positive, rng)
    ]
    empty = ~np.logical_or.reduce(list(masks.values()))
    room = _distance(empty) >= margin_px if not empty.all() else empty
    negatives = _spread(room, n_negative, rng)
    return clicks + [WeakPoint("", x_px, y_px, positive=False) for x_px, y_px in negatives]


def keypoint_result(
    clicks: Sequence[WeakPoint],
    *,
    width_px: int,
    height_px: int,
    negative_label: str,
    rng: np.random.Generator,
    from_name: str = "point",
    to_name: str = "image",
) -> list[dict[str, Any]]:
    """Return the `result` of an annotation with these clicks; negative ones get their own label."""
    return [
        {
            "id": _new_id(rng),
            "type": "keypointlabels",
            "from_name": from_name,
            "to_name": to_name,
            "original_width": width_px,
            "original_height": height_px,
            "image_rotation": 0,
            "value": {
                "x": 100 * click.x_px / width_px,
                "y": 100 * click.y_px / height_px,
                "width": KEYPOINT_WIDTH_PERCENT,
                "keypointlabels": [click.class_name if click.positive else negative_label],
            },
            "origin": "manual",
        }
        for click in clicks
    ]


def _judge(name: str, regions: Regions, truth: Mask) -> Decision:
    """Judge the regions of a class: junk among usable ones is deleted, the rest is one proposal."""
    usable = [(n, mask) for n, mask in regions if not _is_junk(mask, truth)] or regions
    deleted = [n for n, _ in regions if n not in dict(usable)]
    proposal = np.logical_or.reduce([np.zeros_like(truth), *(mask for _, mask in usable)])
    ids = [n for n, _ in usable]
    act = _act(ids[0] if ids else None, proposal, truth)
    scratch = paint_seconds(truth)
    seconds = {
        "accept": ACCEPT_S * len(ids),
        "edit": edit_seconds(proposal, truth) if act == "edit" else 0.0,
        "reject": CLICK_S * len(ids) + scratch,
        "draw": scratch,
        "none": 0.0,
    }[act] + CLICK_S * len(deleted)
    mask = proposal if act == "accept" else truth
    first = ids[0] if ids else None
    return Decision(name, act, first, mask, seconds, scratch, tuple(ids[1:]), tuple(deleted))


def _is_junk(proposal: Mask, truth: Mask) -> bool:
    return not proposal.any() or precision(proposal, truth, TOLERANCE_PX) < JUNK_PRECISION


def _act(region_id: str | None, proposal: Mask, truth: Mask) -> Act:
    if region_id is None:
        return "draw" if truth.any() else "none"
    close = f_measure(proposal, truth, TOLERANCE_PX) >= ACCEPT_F1
    if close or iou(proposal, truth) >= ACCEPT_IOU:
        return "accept"
    return "reject" if _is_junk(proposal, truth) else "edit"


def _kept(item: Region, decision: Decision | None, encode: Encode) -> dict[str, Any] | None:
    """Return what stays of a shown item: a region, or a per-region control with the same id."""
    if decision is None:
        return {**item, "origin": "prediction"}
    if item.get("id") in decision.deleted:
        return None
    if decision.act == "accept":
        return {**item, "origin": "prediction"}
    if decision.act != "edit" or item.get("id") != decision.region_id:
        return None
    value = dict(item["value"])
    if "rle" in value:
        value["rle"] = list(encode(decision.mask))
    return {**item, "value": value, "origin": "prediction-changed"}


def _drawn(
    decision: Decision, rle: Sequence[int], region_id: str, from_name: str, to_name: str
) -> dict[str, Any]:
    height_px, width_px = decision.mask.shape
    return {
        "id": region_id,
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width_px,
        "original_height": height_px,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": list(rle), "brushlabels": [decision.class_name]},
        "origin": "manual",
    }


def _new_id(rng: np.random.Generator) -> str:
    return "".join(ID_SIGNS[n] for n in rng.integers(len(ID_SIGNS), size=10))


Floats = npt.NDArray[np.float64]


def _pieces(mask: Mask) -> tuple[int, Floats, Floats, Floats]:
    """Return the number of strokes; per piece: area, length of its middle line and of its edge."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner = cv2.erode(mask.astype(np.uint8), cross, borderValue=0)
    parts = (mask, skeletonize(mask), mask & (inner == 0))
    area, middle, edge = (_count(labels, part, count) for part in parts)
    bridge = np.ones((GAP_PX + 1, GAP_PX + 1), np.uint8)
    strokes = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), bridge))[0] - 1
    return strokes, area, middle, edge


def _count(labels: npt.NDArray[np.int32], part: Mask, count: int) -> Floats:
    return np.bincount(labels[part], minlength=count)[1:].astype(np.float64)


def _distance(mask: Mask) -> npt.NDArray[np.float32]:
    """Distance of every pixel to the nearest one outside the mask, in px."""
    return np.asarray(cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5), np.float32)


def _inside(mask: Mask) -> Mask:
    """Return the pixels of a mask that are farther from its edge than most."""
    if not mask.any():
        return mask
    padded = np.pad(mask, 1)  # the image's border is an edge too
    depth = _distance(padded)[1:-1, 1:-1]
    return np.asarray(mask & (depth >= np.median(depth[mask])))


def _spread(candidates: Mask, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Choose up to `count` pixel centres (x, y), each the farthest from the others of ten tries."""
    pixels = np.argwhere(candidates)
    chosen: list[tuple[float, float]] = []
    for _ in range(min(count, len(pixels))):
        tries = pixels[rng.integers(len(pixels), size=10)][:, ::-1] + 0.5
        gaps = [min((np.hypot(*(xy - other)) for other in chosen), default=0.0) for xy in tries]
        x_px, y_px = tries[int(np.argmax(gaps))].tolist()
        chosen.append((x_px, y_px))
    return chosen
