from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.loop import interactions
from backend.loop.interactions import Proposal, changes, derive, is_click_only
from backend.records import Annotation, Interaction
from models.base import Mask
from tests.loop.making import NOON, annotation, box, proposal

SHOWN = box(100, 100, 200, 200)
masks = arrays(np.bool_, (9, 11))


def judge(
    before: Mask | None,
    after: Mask | None,
    present: tuple[str, ...] = ("v3-5-1",),
    of: Annotation | None = None,
) -> list[Interaction]:
    return derive(
        of or annotation(),
        classes=["crack", "rust"],
        proposals={} if before is None else {"crack": proposal(before)},
        final={} if after is None else {"crack": after},
        present=present,
        version=3,
    )


def outcomes(
    before: Mask | None, after: Mask | None, present: tuple[str, ...] = ("v3-5-1",)
) -> list[str]:
    return [one.outcome for one in judge(before, after, present)]


def test_untouched_is_accepted() -> None:
    (one,) = judge(SHOWN, SHOWN.copy())
    assert (one.outcome, one.iou, one.pixels_added, one.pixels_removed) == ("accepted", 1.0, 0, 0)
    assert (one.class_name, one.version, one.annotation, one.created_at) == ("crack", 3, 31, NOON)


def test_encoded_anew_with_another_border_is_accepted() -> None:
    assert outcomes(SHOWN, box(100, 100, 200, 201)) == ["accepted"]


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
    assert outcomes(SHOWN, None, present=()) == ["rejected"]
    assert outcomes(SHOWN, np.zeros_like(SHOWN)) == ["rejected"]
    assert outcomes(SHOWN, box(300, 300, 340, 340), present=("abc",)) == ["rejected"]


def test_deleted_and_drawn_again_is_judged_by_likeness() -> None:
    assert outcomes(SHOWN, SHOWN, present=("drawn",)) == ["accepted"]
    assert outcomes(SHOWN, box(100, 110, 200, 210), present=("drawn",)) == ["modified"]
    assert outcomes(SHOWN, box(180, 180, 280, 280), present=("drawn",)) == ["rejected"]
    assert outcomes(SHOWN, box(180, 180, 280, 280)) == ["modified"]


def test_drawn_where_nothing_was_proposed_is_missed() -> None:
    (one,) = judge(None, SHOWN)
    assert (one.outcome, one.iou, one.pixels_added) == ("missed", 0.0, 10_000)
    assert outcomes(np.zeros_like(SHOWN), SHOWN) == ["missed"]


def test_nothing_proposed_and_nothing_drawn_is_no_interaction() -> None:
    assert judge(None, None) == []
    assert judge(np.zeros_like(SHOWN), np.zeros_like(SHOWN)) == []


def test_relabelling_rejects_one_class_and_misses_the_other() -> None:
    found = derive(
        annotation(),
        classes=["crack", "rust"],
        proposals={"crack": proposal(SHOWN)},
        final={"rust": SHOWN},
        present=["v3-5-1"],
        version=3,
    )
    assert [(one.class_name, one.outcome) for one in found] == [
        ("crack", "rejected"),
        ("rust", "missed"),
    ]


@pytest.mark.parametrize("silent", [{"was_cancelled": True}, {"deleted": True}])
def test_skipped_and_deleted_annotations_say_nothing(silent: dict[str, bool]) -> None:
    assert judge(SHOWN, SHOWN, of=annotation(**silent)) == []


def test_clicks_alone_reject_nothing() -> None:
    found = derive(
        annotation(),
        classes=["crack"],
        proposals={"crack": proposal(SHOWN)},
        final={},
        present=[],
        version=3,
        click_only=True,
    )
    assert found == []


@pytest.mark.parametrize(
    ("clicks", "regions", "proposals", "expected"),
    [(2, 0, 0, True), (2, 0, 1, False), (2, 1, 0, False), (0, 0, 0, False), (0, 0, 1, False)],
)
def test_what_click_only_means(clicks: int, regions: int, proposals: int, expected: bool) -> None:
    assert is_click_only(clicks=clicks, regions=regions, proposals=proposals) is expected


def test_bulk_acceptance_is_hardly_trusted() -> None:
    (person,), (bulk,) = judge(SHOWN, SHOWN), judge(SHOWN, SHOWN, of=annotation(bulk=True))
    assert (person.trust, bulk.trust) == (1.0, interactions.TRUST_BULK)
    assert bulk.edit_seconds is None


@pytest.mark.parametrize(
    ("lead_time_s", "seconds"),
    [
        (None, None),
        (0.0, None),
        (-3.0, None),
        (math.nan, None),
        (math.inf, None),
        (19.3, 19.3),
        (86_400, interactions.LONGEST_S),
    ],
)
def test_lead_times_are_cleaned(lead_time_s: float | None, seconds: float | None) -> None:
    assert interactions.clean_seconds(lead_time_s) == seconds


def test_the_seconds_of_an_annotation_are_shared_by_its_interactions() -> None:
    found = derive(
        annotation(lead_time_s=30.0),
        classes=["crack", "rust", "spalling"],
        proposals={"crack": proposal(SHOWN)},
        final={"crack": SHOWN, "rust": SHOWN},
        present=["v3-5-1"],
        version=3,
    )
    assert [one.edit_seconds for one in found] == [15.0, 15.0]


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
        classes=["crack"],
        proposals={"crack": Proposal(before, frozenset({"a"}))},
        final={"crack": after},
        present=["a"] if kept else [],
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
