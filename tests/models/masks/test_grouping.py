"""Groups of a mask's parts, against a literal single linkage of its connected parts."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.base import ClassProposal, Region
from models.masks import confidence, grouping
from models.masks.confidence import Confidence

MASKS = arrays.arrays(
    bool,
    arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=10),
    elements=st.sampled_from([True, False, False, False]),
    fill=st.nothing(),
)


def bars(*boxes, height_px=60, width_px=80):
    """Return a mask with these (top, left, height, width)."""
    mask = np.zeros((height_px, width_px), bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return mask


def linked(mask, gap_px):
    """The oracle: pixel sets of parts, joined while two of them are near; in no order."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    groups = [set(map(tuple, np.argwhere(labels == n).tolist())) for n in range(1, count)]
    while True:
        near = next(
            (
                (one, other)
                for one, other in itertools.combinations(groups, 2)
                if any(max(abs(a - c), abs(b - d)) - 1 <= gap_px for a, b in one for c, d in other)
            ),
            None,
        )
        if near is None:
            return groups
        groups = [group for group in groups if group not in near] + [near[0] | near[1]]


@given(MASKS, st.integers(0, 4), st.integers(0, 6), st.integers(1, 4), st.booleans())
@settings(max_examples=60, deadline=None)
def test_groups_are_disjoint_few_and_all_that_is_no_speck(mask, gap_px, min_area_px, most, join):
    rest = "join" if join else "drop"
    found = grouping.group(mask, most=most, min_area_px=min_area_px, gap_px=gap_px, rest=rest)
    true = sorted((len(g) for g in linked(mask, gap_px) if len(g) >= min_area_px), reverse=True)
    assert len(found) == min(most, len(true))
    assert [g.area_px for g in found] == [int(g.mask.sum()) for g in found]
    assert sum((g.mask.astype(int) for g in found), np.zeros(mask.shape, int)).max() <= 1
    alone = true if len(true) <= most else true[: most - 1]
    assert [g.area_px for g in found][: len(alone)] == alone
    assert sum(g.area_px for g in found) == sum(true if join else true[:most])
    union = np.logical_or.reduce([np.zeros_like(mask), *(g.mask for g in found)])
    assert not (union & ~mask).any()
    again = grouping.group(mask, most=most, min_area_px=min_area_px, gap_px=gap_px, rest=rest)
    assert all((a.mask == b.mask).all() for a, b in zip(found, again, strict=True))


@given(MASKS, st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_near_parts_belong_together(mask, gap_px):
    found = grouping.group(mask, most=1000, min_area_px=0, gap_px=gap_px)
    ours = {frozenset(map(tuple, np.argwhere(g.mask).tolist())) for g in found}
    assert ours == {frozenset(group) for group in linked(mask, gap_px)}


def test_an_interrupted_crack_is_one_region_and_a_far_one_another():
    mask = bars((10, 5, 3, 30), (10, 40, 3, 30), (50, 5, 3, 40))
    assert grouping.gap_for(mask) == 2, "an image of 80 px shows nothing larger than that as a gap"
    large = np.zeros((600, 800), bool)
    large[:60, :80] = mask
    assert grouping.gap_for(large) == 9, "three widths"
    found = grouping.of_proposal(ClassProposal("crack", large, 0.9))
    assert [g.area_px for g in found] == [180, 120]


def test_a_wide_blob_does_not_reach_farther_than_a_share_of_the_image():
    assert grouping.gap_for(bars((5, 5, 50, 70))) == 2
    assert grouping.gap_for(np.zeros((9, 9), bool)) == 2


def test_a_region_is_as_sure_as_its_parts_by_area():
    mask = bars((5, 5, 4, 5), (5, 12, 2, 5), (40, 60, 10, 10))
    regions = (
        Region(60, 40, 10, 10, 100, 0.75),
        Region(5, 5, 5, 4, 20, 0.5),
        Region(12, 5, 5, 2, 10, 0.2),
    )
    found = grouping.of_proposal(ClassProposal("rust", mask, 0.9, None, regions), gap_px=3)
    assert [g.confidence for g in found] == pytest.approx([0.75, (20 * 0.5 + 10 * 0.2) / 30])


@given(MASKS)
@settings(max_examples=30, deadline=None)
def test_confidences_find_the_parts_that_they_were_made_for(mask):
    heat = np.linspace(0, 1, mask.size, dtype=np.float32).reshape(mask.shape)
    regions = confidence.regions(mask, heat, 1.0, Confidence())
    found = grouping.of_proposal(
        ClassProposal("crack", mask, 0.9, None, regions), most=1000, min_area_px=0, gap_px=0
    )
    assert [g.confidence for g in found] == pytest.approx([heat[g.mask].max() for g in found])


def test_equally_large_parts_keep_their_own_confidence_wherever_the_mask_begins():
    mask = np.zeros((3, 3), bool)
    mask[1, 2] = mask[2, 0] = True  # OpenCV numbers them in another order without the empty row
    regions = confidence.regions(mask, mask * np.float32([0.1, 0.2, 0.3]), 1.0, Confidence())
    assert [(region.y_px, region.confidence) for region in regions] == [
        (1, pytest.approx(0.3)),
        (2, pytest.approx(0.1)),
    ]
    proposal = ClassProposal("crack", mask, 0.9, None, regions)
    found = grouping.of_proposal(proposal, min_area_px=0, gap_px=0)
    sure = {bool(g.mask[1, 2]): g.confidence for g in found}
    assert sure == {True: pytest.approx(0.3), False: pytest.approx(0.1)}


def test_without_parts_a_region_is_as_sure_as_its_class():
    (only,) = grouping.of_proposal(ClassProposal("crack", bars((1, 1, 9, 9)), 0.6))
    assert only.confidence == 0.6


def test_what_nobody_can_see_is_dropped_unless_asked_for():
    mask = np.zeros((1000, 1000), bool)
    mask[10:13, 10:13] = True
    mask[500:520, 500:520] = True
    proposal = ClassProposal("crack", mask, 0.9)
    assert [g.area_px for g in grouping.of_proposal(proposal)] == [400]
    assert [g.area_px for g in grouping.of_proposal(proposal, min_area_px=0)] == [400, 9]


def test_nothing_gives_nothing():
    assert grouping.of_proposal(ClassProposal("crack", np.zeros((5, 5), bool), 0.9)) == []


@pytest.mark.parametrize("most", [0, -1, 1001])
def test_an_impossible_number_of_regions_is_refused(most):
    with pytest.raises(ValueError, match=f"at most {most} regions"):
        grouping.group(bars((1, 1, 2, 2)), most=most, min_area_px=0, gap_px=0)
