from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.loop import interactions
from backend.loop.interactions import Judged, changes, derive, is_click_only
from backend.loop.regions import Drawn
from backend.loop.trust import Rule
from backend.records import Annotation, Interaction
from models.base import Mask
from tests.loop.making import NOON, annotation, box, drawn, several

SHOWN = box(100, 100, 200, 200)
masks = arrays(np.bool_, (9, 11))


def judge(
    before: Mask | None,
    after: Mask | None,
    id: str = "v3-5-1",
    of: Annotation | None = None,
    *,
    is_changed: bool = False,
) -> list[Interaction]:
    """Judge a crack proposed as v3-5-1 and left as `id`."""
    found = interactions.judge(
        ["crack", "rust"],
        {} if before is None else {"crack": drawn(before)},
        {} if after is None else {"crack": drawn(after, id, is_changed=is_changed)},
    )
    return derive(of or annotation(), found, version=3)


def outcomes(
    before: Mask | None, after: Mask | None, id: str = "v3-5-1", *, is_changed: bool = False
) -> list[str]:
    return [one.outcome for one in judge(before, after, id, is_changed=is_changed)]


def of_crack(before: Drawn, after: Drawn) -> Judged:
    return interactions.judge(["crack"], {"crack": before}, {"crack": after})["crack"]


def test_untouched_is_accepted() -> None:
    (one,) = judge(SHOWN, SHOWN.copy())
    assert (one.outcome, one.iou, one.pixels_added, one.pixels_removed) == ("accepted", 1.0, 0, 0)
    assert (one.class_name, one.version, one.annotation, one.created_at) == ("crack", 3, 31, NOON)


def test_encoded_anew_with_another_border_is_accepted() -> None:
    assert outcomes(SHOWN, box(100, 100, 200, 201)) == ["accepted"]


def test_a_border_that_label_studio_calls_changed_or_that_was_drawn_anew_is_modified() -> None:
    after = box(100, 100, 200, 201)
    assert outcomes(SHOWN, after, is_changed=True) == ["modified"]
    assert outcomes(SHOWN, after, "drawn") == ["modified"]
    beside = several(**{"v3-5-1": SHOWN, "drawn": box(100, 200, 200, 201)})
    assert of_crack(drawn(SHOWN), beside).outcome == "modified"


def test_a_stroke_that_touched_no_pixel_changes_nothing_whatever_label_studio_calls_it() -> None:
    assert outcomes(SHOWN, SHOWN.copy(), is_changed=True) == ["accepted"]


def test_a_small_part_erased_from_a_large_mask_is_no_re_encoding() -> None:
    after = SHOWN.copy()
    after[140:150, 140:150] = False
    assert changes(SHOWN, after).iou > interactions.SAME_IOU
    assert outcomes(SHOWN, after) == ["modified"]
    assert outcomes(SHOWN, SHOWN | box(300, 300, 305, 305)) == ["modified"]


def test_changed_pixels_are_counted() -> None:
    (one,) = judge(SHOWN, box(100, 150, 200, 220))
    assert (one.outcome, one.pixels_added, one.pixels_removed) == ("modified", 2000, 5000)
    assert one.iou == pytest.approx(5000 / 12_000)


def test_deleted_or_emptied_is_rejected() -> None:
    assert outcomes(SHOWN, None) == ["rejected"]
    assert outcomes(SHOWN, np.zeros_like(SHOWN)) == ["rejected"]
    assert outcomes(SHOWN, box(300, 300, 340, 340), "abc") == ["rejected"]


def test_deleted_and_drawn_again_is_judged_by_likeness() -> None:
    assert outcomes(SHOWN, SHOWN, "drawn") == ["accepted"]
    assert outcomes(SHOWN, box(100, 110, 200, 210), "drawn") == ["modified"]
    assert outcomes(SHOWN, box(180, 180, 280, 280), "drawn") == ["rejected"]
    assert outcomes(SHOWN, box(180, 180, 280, 280)) == ["modified"]


def test_drawn_where_nothing_was_proposed_is_missed() -> None:
    (one,) = judge(None, SHOWN)
    assert (one.outcome, one.iou, one.pixels_added) == ("missed", 0.0, 10_000)
    assert outcomes(np.zeros_like(SHOWN), SHOWN) == ["missed"]


def test_nothing_proposed_and_nothing_drawn_is_no_interaction() -> None:
    assert judge(None, None) == []
    assert judge(np.zeros_like(SHOWN), np.zeros_like(SHOWN)) == []


def test_relabelling_takes_the_pixels_from_one_class_and_gives_them_to_the_other() -> None:
    rust = box(300, 300, 340, 340)
    found = interactions.judge(
        ["crack", "rust"],
        {"crack": drawn(SHOWN, "a"), "rust": drawn(rust, "b")},
        {"rust": several(a=SHOWN, b=rust)},
    )
    crack, other = found["crack"], found["rust"]
    assert (crack.outcome, other.outcome) == ("rejected", "modified")
    np.testing.assert_array_equal(crack.changes.removed, SHOWN)
    np.testing.assert_array_equal(other.changes.added, SHOWN)
    np.testing.assert_array_equal(other.missed, SHOWN)
    alone = interactions.judge(["crack", "rust"], {"crack": drawn(SHOWN)}, {"rust": drawn(SHOWN)})
    assert {name: one.outcome for name, one in alone.items()} == {
        "crack": "rejected",
        "rust": "missed",
    }


def test_a_relabelled_region_is_gone_though_its_id_is_still_there() -> None:
    elsewhere = box(180, 180, 280, 280)
    found = interactions.judge(
        ["crack", "rust"],
        {"crack": drawn(SHOWN, "a")},
        {"rust": drawn(SHOWN, "a"), "crack": drawn(elsewhere, "drawn")},
    )
    assert found["crack"].outcome == "rejected"


THREE = {"a": box(10, 10, 60, 60), "b": box(100, 100, 300, 300), "c": box(350, 350, 352, 352)}


@pytest.mark.parametrize("gone", list(THREE))
def test_one_of_three_regions_deleted_is_modified_by_its_pixels(gone: str) -> None:
    left = {id: mask for id, mask in THREE.items() if id != gone}
    judged = of_crack(several(**THREE), several(**left))
    assert judged.outcome == "modified"
    np.testing.assert_array_equal(judged.deleted, THREE[gone])
    np.testing.assert_array_equal(judged.changes.removed, THREE[gone])
    assert not judged.missed.any()


def test_erased_and_deleted_parts_and_new_regions_are_told_apart() -> None:
    erased = THREE["b"].copy()
    erased[100:150] = False
    longer, new = box(250, 250, 320, 320), box(10, 350, 30, 380)
    judged = of_crack(several(**THREE), several(b=erased, c=THREE["c"], longer=longer, new=new))
    np.testing.assert_array_equal(judged.deleted, THREE["a"])
    np.testing.assert_array_equal(judged.changes.removed & ~judged.deleted, THREE["b"] & ~erased)
    np.testing.assert_array_equal(judged.missed, new)
    np.testing.assert_array_equal(judged.changes.added & ~judged.missed, longer & ~THREE["b"])


def test_regions_that_overlap_lose_only_what_no_other_region_holds() -> None:
    both = {"a": box(100, 100, 200, 200), "b": box(150, 150, 250, 250)}
    judged = of_crack(several(**both), several(a=both["a"]))
    np.testing.assert_array_equal(judged.deleted, both["b"] & ~both["a"])


@pytest.mark.parametrize("silent", [{"was_cancelled": True}, {"deleted": True}])
def test_skipped_and_deleted_annotations_say_nothing(silent: dict[str, bool]) -> None:
    assert judge(SHOWN, SHOWN, of=annotation(**silent)) == []


def test_clicks_alone_reject_nothing() -> None:
    found = interactions.judge(["crack"], {"crack": drawn(SHOWN)}, {})
    assert derive(annotation(), found, version=3, click_only=True) == []


@pytest.mark.parametrize(
    ("clicks", "regions", "proposals", "expected"),
    [(2, 0, 0, True), (2, 0, 1, False), (2, 1, 0, False), (0, 0, 0, False), (0, 0, 1, False)],
)
def test_what_click_only_means(clicks: int, regions: int, proposals: int, expected: bool) -> None:
    assert is_click_only(clicks=clicks, regions=regions, proposals=proposals) is expected


def test_bulk_acceptance_is_hardly_trusted() -> None:
    (person,), (bulk,) = judge(SHOWN, SHOWN), judge(SHOWN, SHOWN, of=annotation(bulk=True))
    assert (person.trust, bulk.trust) == (1.0, Rule.bulk)
    (timed,) = judge(SHOWN, SHOWN, of=annotation(bulk=True, lead_time_s=9.0))
    assert bulk.edit_seconds is timed.edit_seconds is None


def test_the_seconds_of_an_annotation_are_shared_by_its_interactions() -> None:
    found = interactions.judge(
        ["crack", "rust", "spalling"],
        {"crack": drawn(SHOWN)},
        {"crack": drawn(SHOWN), "rust": drawn(SHOWN, "drawn")},
    )
    done = derive(annotation(lead_time_s=30.0), found, version=3)
    assert [(one.class_name, one.edit_seconds) for one in done] == [("crack", 15.0), ("rust", 15.0)]


def test_masks_of_different_sizes_are_refused_with_both_sizes() -> None:
    with pytest.raises(ValueError, match="4 x 3 px and the final mask 5 x 3"):
        changes(np.zeros((3, 4), dtype=bool), np.zeros((3, 5), dtype=bool))


@given(before=masks, after=masks)
@settings(max_examples=150, deadline=None)
def test_pixels_are_the_set_differences(before: Mask, after: Mask) -> None:
    def pixels(mask: Mask) -> set[tuple[int, int]]:
        return {(y, x) for y in range(9) for x in range(11) if mask[y, x]}

    found, p, f = changes(before, after), pixels(before), pixels(after)
    assert pixels(found.kept) == p & f
    assert pixels(found.added) == f - p
    assert pixels(found.removed) == p - f
    assert found.iou == pytest.approx(len(p & f) / len(p | f) if p | f else 1.0)
    assert pixels(changes(None, after).added) == f
    assert pixels(changes(before, None).removed) == p


@given(before=masks, after=masks, kept=st.booleans())
@settings(max_examples=150, deadline=None)
def test_outcomes_partition_all_cases(before: Mask, after: Mask, kept: bool) -> None:
    found = derive(
        annotation(),
        interactions.judge(
            ["crack"], {"crack": drawn(before, "a")}, {"crack": drawn(after, "a" if kept else "b")}
        ),
        version=None,
    )
    if not before.any() and not after.any():
        assert found == []
        return
    (one,) = found
    assert (one.outcome == "missed") == (not before.any())
    if one.outcome == "accepted":
        assert one.iou >= interactions.SAME_IOU
    if before.any() and not (before & after).any():
        assert one.outcome == "rejected"
    if kept and (before & after).any() and one.iou < interactions.SAME_IOU:
        assert one.outcome == "modified"
