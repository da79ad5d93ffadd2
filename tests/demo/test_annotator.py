"""The simulated annotator: its judgements, what Label Studio gets, and its simulated seconds."""

from __future__ import annotations

import itertools
import json
from typing import Any

import cv2
import numpy as np
import pytest

from backend.demo import annotator
from backend.demo.annotator import Decision
from backend.labelstudio import rle
from backend.labelstudio.config import parse
from backend.labelstudio.results import clicks, regions
from models.base import Mask, WeakPoint
from models.metrics import iou

HEIGHT, WIDTH = 160, 240
CONFIG = parse(
    """<View><Image name="image" value="$image"/>
    <BrushLabels name="brush" toName="image">
    <Label value="crack"/><Label value="rust"/></BrushLabels>
    <KeyPointLabels name="point" toName="image"><Label value="crack"/><Label value="rust"/>
    <Label value="nothing here" model_negative="true"/></KeyPointLabels></View>"""
)


def empty() -> Mask:
    return np.zeros((HEIGHT, WIDTH), bool)


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(empty().astype(np.uint8), (x, y), radius, 1, -1), bool)


def line(y: int, x_from: int = 10, x_to: int = 229, width: int = 3) -> Mask:
    mask = empty()
    mask[y : y + width, x_from:x_to] = True
    return mask


def judge(proposal: Mask | None, truth: Mask) -> Decision:
    proposals = {} if proposal is None else {"crack": [("v1-7-0", proposal)]}
    (decision,) = annotator.decide(proposals, {"crack": truth})
    return decision


def shown(region_id: str, name: str, mask: Mask, **extra: Any) -> dict[str, Any]:
    value = {"format": "rle", "rle": rle.encode(mask), "brushlabels": [name]}
    return {
        "id": region_id,
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": value,
        "score": 0.9,
        **extra,
    }


# --- judgements ---


def test_the_truth_itself_and_a_shift_within_tolerance_are_accepted_as_they_are() -> None:
    for shift in (0, 1, 2):
        proposal = line(50 + shift)
        decision = judge(proposal, line(50))
        assert (decision.act, decision.region_id) == ("accept", "v1-7-0")
        assert np.array_equal(decision.mask, proposal)
        assert decision.seconds == annotator.ACCEPT_S


def test_a_shift_beyond_tolerance_of_a_thin_crack_is_not_accepted() -> None:
    assert judge(line(56), line(50)).act == "reject"


def test_a_compact_defect_is_accepted_by_overlap_where_its_edge_alone_would_fail() -> None:
    truth, proposal = disc(120, 80, 60), disc(123, 82, 62)
    assert iou(proposal, truth) >= annotator.ACCEPT_IOU
    assert judge(proposal, truth).act == "accept"


def test_half_a_crack_is_edited_into_the_truth_under_its_id() -> None:
    decision = judge(line(50, 10, 120), line(50))
    assert (decision.act, decision.region_id) == ("edit", "v1-7-0")
    assert np.array_equal(decision.mask, line(50))


def test_junk_is_rejected_and_the_truth_drawn() -> None:
    decision = judge(disc(60, 110, 40), line(20))
    assert decision.act == "reject"
    assert np.array_equal(decision.mask, line(20))
    assert decision.seconds == pytest.approx(annotator.CLICK_S + decision.scratch_seconds)


def test_a_proposal_on_a_clean_image_is_rejected_and_nothing_is_drawn() -> None:
    decision = judge(disc(60, 100, 30), empty())
    assert decision.act == "reject"
    assert not decision.mask.any()
    assert (decision.seconds, decision.scratch_seconds) == (annotator.CLICK_S, 0.0)


def test_a_missed_defect_is_drawn_and_a_clean_class_needs_nothing() -> None:
    assert judge(None, line(50)).act == "draw"
    assert judge(None, line(50)).seconds == judge(None, line(50)).scratch_seconds > 0
    assert (judge(None, empty()).act, judge(None, empty()).seconds) == ("none", 0.0)


def test_every_class_of_either_side_is_judged_once() -> None:
    proposals = {"rust": [("r", disc(50, 50, 20))], "moss": [("m", disc(90, 90, 20))]}
    found = annotator.decide(proposals, {"crack": line(50), "rust": disc(50, 50, 20)})
    acts = [(d.class_name, d.act) for d in found]
    assert acts == [("crack", "draw"), ("rust", "accept"), ("moss", "reject")]


def test_junk_among_usable_regions_is_deleted_with_one_key_each() -> None:
    regions = [("a", line(50, 10, 120)), ("b", disc(60, 110, 20)), ("c", line(50, 121))]
    (decision,) = annotator.decide({"crack": regions}, {"crack": line(50)})
    assert (decision.act, decision.region_id) == ("accept", "a")
    assert (decision.others, decision.deleted) == (("c",), ("b",))
    assert decision.seconds == pytest.approx(2 * annotator.ACCEPT_S + annotator.CLICK_S)
    assert np.array_equal(decision.mask, line(50, 10, 120) | line(50, 121))
    on_screen = [shown(region_id, "crack", mask) for region_id, mask in regions]
    result = submit({"crack": regions}, {"crack": line(50)}, on_screen)
    assert [(item["id"], item["origin"]) for item in result] == [
        ("a", "prediction"),
        ("c", "prediction"),
    ]


def test_the_first_of_several_edited_regions_carries_the_truth() -> None:
    regions = [("a", line(50, 10, 60)), ("b", line(50, 80, 120))]
    on_screen = [shown(region_id, "crack", mask) for region_id, mask in regions]
    (item,) = submit({"crack": regions}, {"crack": line(50)}, on_screen)
    assert (item["id"], item["origin"]) == ("a", "prediction-changed")
    assert np.array_equal(rle.decode_mask(item["value"]["rle"], HEIGHT, WIDTH), line(50))


def test_masks_of_two_sizes_are_an_error() -> None:
    with pytest.raises(ValueError, match="pixels"):
        judge(np.ones((10, 10), bool), line(50))


# --- simulated seconds ---


def test_correcting_less_costs_less_and_never_more_than_wiping_and_drawing() -> None:
    truth = line(50)
    seconds = [judge(line(50, 10, end), truth).seconds for end in (210, 160, 110, 60)]
    assert all(a < b for a, b in itertools.pairwise(seconds[1:]))
    worst = 2 * annotator.CLICK_S + judge(None, truth).scratch_seconds
    rng = np.random.default_rng(0)
    specks = truth | (rng.random(truth.shape) < 0.02)
    assert judge(specks, truth).act == "edit"
    assert judge(specks, truth).seconds <= worst + 1e-9


def test_a_good_proposal_saves_simulated_time_and_a_junk_one_loses_some() -> None:
    truth = line(50) | disc(60, 110, 30)
    for proposal in (truth, truth & ~line(50, 180, 229)):
        decision = judge(proposal, truth)
        assert decision.seconds < decision.scratch_seconds
    junk = judge(disc(180, 110, 40), truth)
    assert junk.seconds > junk.scratch_seconds


def test_painting_a_thin_line_follows_its_middle() -> None:
    expected = annotator.STROKE_S + annotator.TRACE_S_PER_PX * 219
    assert annotator.paint_seconds(line(50)) == pytest.approx(expected, rel=0.02)


def test_painting_a_disc_follows_its_edge_and_fills_it() -> None:
    radius = 50
    traced = annotator.STROKE_S + annotator.TRACE_S_PER_PX * 2 * np.pi * radius
    seconds = annotator.paint_seconds(disc(120, 80, radius))
    filled = annotator.FILL_S_PER_PX * np.pi * radius**2 / annotator.FILL_BRUSH_PX
    assert 0.85 * traced < seconds < traced + filled


def test_each_piece_costs_a_stroke_unless_the_gap_is_small() -> None:
    parted = line(50, 10, 100) | line(50, 130, 220)
    joined = line(50, 10, 100) | line(50, 103, 193)
    gap = annotator.paint_seconds(parted) - annotator.paint_seconds(joined)
    assert gap == pytest.approx(annotator.STROKE_S, abs=0.05)
    assert annotator.paint_seconds(empty()) == 0.0


def test_differences_within_tolerance_cost_no_more_than_a_look() -> None:
    wider = annotator.edit_seconds(line(49, width=5), line(50))
    assert wider == pytest.approx(annotator.CLICK_S)


def test_a_task_costs_one_look_on_both_sides() -> None:
    assert annotator.task_seconds([judge(None, empty())]) == (annotator.LOOK_S, annotator.LOOK_S)
    decision = judge(line(50), line(50))
    edit, scratch = annotator.task_seconds([decision, decision])
    assert edit == annotator.LOOK_S + 2 * decision.seconds
    assert scratch == annotator.LOOK_S + 2 * decision.scratch_seconds


def test_clicks_cost_a_look_an_aim_and_little_more() -> None:
    click = WeakPoint("crack", 1, 1, positive=True)
    assert annotator.click_seconds([]) == annotator.LOOK_S
    assert annotator.click_seconds([click] * 3) == pytest.approx(
        annotator.LOOK_S + annotator.CLICK_S + 2 * annotator.STROKE_S
    )


# --- the result for Label Studio ---


def submit(
    proposals: dict[str, list[tuple[str, Mask]]],
    truth: dict[str, Mask],
    on_screen: list[dict[str, Any]],
    seed: int = 0,
) -> list[dict[str, Any]]:
    result = annotator.brush_result(
        annotator.decide(proposals, truth),
        on_screen,
        encode=rle.encode,
        rng=np.random.default_rng(seed),
    )
    json.dumps(result)
    return result


def test_an_accepted_region_comes_back_untouched_with_its_score() -> None:
    on_screen = [shown("v1-7-0", "crack", line(50))]
    result = submit({"crack": [("v1-7-0", line(50))]}, {"crack": line(50)}, on_screen)
    assert result == [{**on_screen[0], "origin": "prediction"}]


def test_an_edited_region_keeps_id_and_score_and_carries_the_true_mask() -> None:
    half = line(50, 10, 120)
    on_screen = [shown("v1-7-0", "crack", half)]
    (item,) = submit({"crack": [("v1-7-0", half)]}, {"crack": line(50)}, on_screen)
    assert (item["id"], item["origin"], item["score"]) == ("v1-7-0", "prediction-changed", 0.9)
    assert np.array_equal(rle.decode_mask(item["value"]["rle"], HEIGHT, WIDTH), line(50))
    assert on_screen[0]["value"]["rle"] == rle.encode(half), "the prediction itself was changed"


def test_a_rejected_region_is_absent_with_its_controls_and_the_truth_is_a_new_one() -> None:
    on_screen = [
        shown("v1-7-0", "crack", disc(60, 110, 40)),
        {"id": "v1-7-0", "type": "number", "from_name": "width_mm", "value": {"number": 1}},
        {"id": "q", "type": "choices", "from_name": "quality", "value": {"choices": ["defect"]}},
    ]
    result = submit({"crack": [("v1-7-0", disc(60, 110, 40))]}, {"crack": line(20)}, on_screen)
    assert [item["type"] for item in result] == ["choices", "brushlabels"]
    new = result[1]
    assert (new["origin"], "score" in new, len(new["id"])) == ("manual", False, 10)


def test_what_the_backend_reads_is_what_the_annotator_decided() -> None:
    proposals = {"crack": [("v1-7-0", line(50, 10, 120))], "rust": [("v1-7-1", disc(60, 110, 30))]}
    truth = {"crack": line(50), "rust": disc(180, 110, 20)}
    on_screen = [shown(key, name, mask) for name, [(key, mask)] in proposals.items()]
    read = regions(submit(proposals, truth, on_screen), CONFIG)
    assert [(r.class_name, r.origin) for r in read] == [
        ("crack", "prediction-changed"),
        ("rust", "manual"),
    ]
    assert all(np.array_equal(r.mask, truth[r.class_name]) for r in read)


def test_ids_of_new_regions_follow_the_seed_and_differ() -> None:
    truth = {"crack": line(50), "rust": disc(180, 110, 20)}
    ids = [[item["id"] for item in submit({}, truth, [], seed)] for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]
    assert len(set(ids[0])) == 2


# --- first clicks ---


def test_clicks_hit_their_class_and_negatives_keep_their_distance() -> None:
    masks = {"crack": line(50), "rust": disc(180, 110, 20)}
    found = annotator.first_clicks(masks, np.random.default_rng(3), 4, 6, margin_px=20)
    assert [c.class_name for c in found] == ["crack"] * 4 + ["rust"] * 4 + [""] * 6
    for click in found[:8]:
        assert click.positive
        assert masks[click.class_name][int(click.y_px), int(click.x_px)]
    defects = np.argwhere(masks["crack"] | masks["rust"])[:, ::-1] + 0.5
    for click in found[8:]:
        assert not click.positive
        assert np.hypot(*(defects - (click.x_px, click.y_px)).T).min() >= 19


def test_clicks_on_a_wide_defect_avoid_its_edge_and_spread() -> None:
    blob = disc(120, 80, 40)
    found = annotator.first_clicks({"rust": blob}, np.random.default_rng(1), 5, 0, 10)
    xy = np.array([(c.x_px, c.y_px) for c in found])
    assert np.hypot(*(xy - (120.5, 80.5)).T).max() < 35
    pairs = itertools.combinations(xy, 2)
    assert min(np.hypot(*(a - b)) for a, b in pairs) > 5


def test_clicks_where_nothing_or_everything_is_defective() -> None:
    rng = np.random.default_rng(0)
    clean = annotator.first_clicks({"crack": empty()}, rng, 3, 4, margin_px=20)
    assert [c.positive for c in clean] == [False] * 4
    full = annotator.first_clicks({"crack": ~empty()}, rng, 3, 4, margin_px=20)
    assert [c.positive for c in full] == [True] * 3


def test_clicks_follow_the_seed() -> None:
    masks = {"crack": line(50)}
    rngs = (np.random.default_rng(seed) for seed in (5, 5, 6))
    a, b, c = (annotator.first_clicks(masks, rng, 3, 3, 20) for rng in rngs)
    assert a == b != c


def test_keypoints_are_read_back_by_the_backend_as_the_same_points() -> None:
    masks = {"crack": line(50), "rust": disc(180, 110, 20)}
    rng = np.random.default_rng(3)
    points = annotator.first_clicks(masks, rng, 2, 2, 20)
    result = annotator.keypoint_result(
        points, width_px=WIDTH, height_px=HEIGHT, negative_label="nothing here", rng=rng
    )
    assert all(0 <= item["value"][axis] <= 100 for item in result for axis in "xy")
    read = clicks(json.loads(json.dumps(result)), CONFIG)
    assert [(c.class_name or "", c.positive) for c in read] == [
        (p.class_name, p.positive) for p in points
    ]
    assert np.allclose([(c.x_px, c.y_px) for c in read], [(p.x_px, p.y_px) for p in points])
    assert len({item["id"] for item in result}) == len(points)
