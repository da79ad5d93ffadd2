from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.labelstudio.results import Click
from backend.loop import interactions, weak_labels
from backend.loop.regions import Drawn
from backend.loop.weak_labels import Learned, clearance_px, learn, spread
from backend.records import Annotation
from models.base import Mask
from tests.loop.making import annotation, box, drawn, several

SIZE = (400, 400)
SHOWN = box(100, 100, 200, 200)
HERE = Click("crack", 30.25, 40.5, positive=True)
NOTHING_HERE = Click(None, 300.0, 310.0, positive=False)


def teach(
    before: Mapping[str, Mask | Drawn] | None = None,
    after: Mapping[str, Mask | Drawn] | None = None,
    *,
    clicks: Sequence[Click] = (),
    of: Annotation | None = None,
    size: tuple[int, int] | None = SIZE,
    click_only: bool = False,
) -> Learned:
    """Teach by masks; those of the same class are of one region, unless told otherwise."""
    classes = ["crack", "rust"]
    proposals, final = _drawn(before or {}), _drawn(after or {})
    return learn(
        of or annotation(),
        classes=classes,
        judged=interactions.judge(classes, proposals, final),
        final=final,
        clicks=clicks,
        size=size,
        click_only=click_only,
    )


def _drawn(masks: Mapping[str, Mask | Drawn]) -> dict[str, Drawn]:
    return {name: mask if isinstance(mask, Drawn) else drawn(mask) for name, mask in masks.items()}


def sources(learned: Learned, class_name: str = "crack") -> Counter[str]:
    return Counter(one.source for one in learned.weak_labels if one.class_name == class_name)


def crack(size: tuple[int, int] = SIZE) -> Mask:
    canvas = np.zeros(size, dtype=np.uint8)
    cv2.polylines(canvas, [np.array([[10, 20], [120, 90], [200, 300], [380, 390]])], False, 1)
    return canvas.astype(bool)


def distance_to(mask: Mask) -> weak_labels.Depth:
    return np.asarray(cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 5))


def test_clicks_alone_teach_their_places_and_nothing_else() -> None:
    learned = teach(clicks=[HERE, NOTHING_HERE], click_only=True)
    found = {(one.class_name, one.x_px, one.y_px, one.positive) for one in learned.weak_labels}
    assert found == {
        ("crack", 30.25, 40.5, True),
        ("crack", 300.0, 310.0, False),
        ("rust", 300.0, 310.0, False),
    }
    assert {one.source for one in learned.weak_labels} == {"click"}
    assert learned.verified == {}


def test_accepted_gives_positives_inside_and_balanced_background_far_away() -> None:
    learned = teach(before={"crack": SHOWN}, after={"crack": SHOWN})
    count = sources(learned)
    assert set(count) == {"accepted", "background"}
    assert count["accepted"] == count["background"] >= 4
    far = distance_to(SHOWN)
    for one in learned.weak_labels:
        if one.class_name == "crack":
            assert SHOWN[int(one.y_px), int(one.x_px)] == one.positive
            assert one.positive or far[int(one.y_px), int(one.x_px)] >= clearance_px(*SIZE)
    np.testing.assert_array_equal(learned.verified["crack"], SHOWN)
    assert not learned.verified["rust"].any()
    assert sources(learned, "rust") == {"background": weak_labels.LEAST_BACKGROUND}


def test_modified_gives_kept_added_and_removed() -> None:
    before = SHOWN | box(300, 300, 360, 360)
    after = SHOWN | box(20, 20, 60, 60)
    learned = teach(before={"crack": before}, after={"crack": after})
    places = {
        "accepted": SHOWN,
        "added": after & ~before,
        "removed": before & ~after,
    }
    assert set(sources(learned)) == {*places, "background"}
    for one in learned.weak_labels:
        if one.source in places:
            assert places[one.source][int(one.y_px), int(one.x_px)]
    weights = {one.source: one.weight for one in learned.weak_labels}
    assert weights["removed"] == weak_labels.HARD_WEIGHT > weights["background"] == 1.0


def test_rejected_gives_hard_negatives_and_its_class_none() -> None:
    learned = teach(before={"crack": SHOWN})
    hard = [one for one in learned.weak_labels if one.source == "rejected"]
    assert hard and not any(one.positive for one in hard)
    assert all(SHOWN[int(one.y_px), int(one.x_px)] for one in hard)
    assert not learned.verified["crack"].any()


def test_missed_gives_positives() -> None:
    learned = teach(after={"crack": crack()})
    assert sources(learned)["missed"] >= 8
    elsewhere = teach(
        before={"crack": SHOWN},
        after={"crack": box(300, 300, 340, 340)},
    )
    assert {"missed", "rejected"} <= set(sources(elsewhere))


def test_no_hard_negative_beside_a_real_defect() -> None:
    thinner = box(100, 100, 200, 190)
    learned = teach(before={"crack": SHOWN}, after={"crack": thinner})
    assert sources(learned)["removed"] == 0


def test_an_empty_annotation_verifies_the_absence_of_all_classes() -> None:
    learned = teach()
    assert {name: bool(mask.any()) for name, mask in learned.verified.items()} == {
        "crack": False,
        "rust": False,
    }
    assert sources(learned) == sources(learned, "rust") == {"background": 4}
    assert teach(size=None) == Learned()


def test_a_clicked_but_not_drawn_class_is_not_verified() -> None:
    learned = teach(after={"rust": SHOWN}, clicks=[HERE])
    assert set(learned.verified) == {"rust"}
    assert sources(learned) == {"click": 1}
    drawn = teach(after={"crack": box(38, 28, 60, 60)}, clicks=[HERE])
    assert "crack" in drawn.verified


@pytest.mark.parametrize("silent", [{"was_cancelled": True}, {"deleted": True}])
def test_skipped_and_deleted_annotations_teach_nothing(silent: dict[str, bool]) -> None:
    of = annotation(**silent)
    learned = teach(of=of, after={"crack": SHOWN}, clicks=[HERE, NOTHING_HERE])
    assert learned == Learned()


def test_bulk_labels_are_hardly_trusted() -> None:
    learned = teach(of=annotation(bulk=True), after={"crack": SHOWN})
    assert {one.trust for one in learned.weak_labels} == {0.25}


def test_the_same_annotation_teaches_the_same() -> None:
    noise = cv2.GaussianBlur(np.random.default_rng(0).random(SIZE), (0, 0), 6) > 0.51
    assert teach(after={"crack": noise}).weak_labels == teach(after={"crack": noise}).weak_labels
    other = teach(of=annotation(id=32), after={"crack": noise})
    assert [one.x_px for one in other.weak_labels] != [
        one.x_px for one in teach(after={"crack": noise}).weak_labels
    ]


def test_points_of_a_blob_start_in_its_middle_and_of_a_crack_lie_along_it() -> None:
    middle = spread(box(10, 10, 71, 71), 1, np.random.default_rng(0))
    assert middle.tolist() == [[40, 40]]
    inside = spread(box(0, 0, 100, 100), 24, np.random.default_rng(0))
    assert len(inside) == 8 and inside.min() >= 7 and inside.max() < 93
    line = crack()
    points = spread(line, 8, np.random.default_rng(0))
    assert all(line[y, x] for x, y in points)
    assert np.ptp(points[:, 0]) > 340 and np.ptp(points[:, 1]) > 340


def test_every_component_has_its_turn() -> None:
    parts = box(0, 0, 300, 300) | box(350, 350, 352, 352) | box(380, 10, 384, 14)
    points = spread(parts, 3, np.random.default_rng(0)).tolist()
    assert {(x >= 350, y >= 350) for x, y in points} == {
        (False, False),
        (True, True),
        (False, True),
    }


def test_points_are_bounded_on_a_ragged_mask() -> None:
    ragged = np.random.default_rng(0).random((500, 500)) > 0.5
    learned = teach(
        before={"crack": ragged},
        after={"crack": drawn(~ragged, "drawn")},
        clicks=[NOTHING_HERE] * 1000,
        size=ragged.shape,
    )
    assert sources(learned)["click"] == weak_labels.MOST_CLICKS
    assert sum(sources(learned).values()) <= weak_labels.MOST_CLICKS + 24 + 24 + 16 + 24


def test_a_mask_without_room_has_no_background() -> None:
    assert sources(teach(after={"crack": np.ones(SIZE, dtype=bool)}))["background"] == 0


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 7)])
def test_smallest_images(size: tuple[int, int]) -> None:
    full = np.ones(size, dtype=bool)
    learned = teach(after={"crack": full}, size=size)
    assert sources(learned)["missed"] >= 1


def test_a_deleted_region_is_rejected_and_an_erased_part_removed() -> None:
    kept, gone = box(20, 20, 150, 150), box(250, 250, 350, 350)
    erased = kept.copy()
    erased[20:80] = False
    left = several(a=erased, c=box(20, 300, 60, 340))
    learned = teach({"crack": several(a=kept, b=gone)}, {"crack": left})
    assert set(sources(learned)) == {"accepted", "removed", "rejected", "missed", "background"}
    places = {"removed": kept & ~erased, "rejected": gone, "missed": box(20, 300, 60, 340)}
    for one in learned.weak_labels:
        if one.source in places:
            assert places[one.source][int(one.y_px), int(one.x_px)]
            assert one.positive == (one.source == "missed")
            assert one.weight == (1.0 if one.positive else weak_labels.HARD_WEIGHT)


def test_a_relabelled_region_teaches_both_classes() -> None:
    learned = teach({"crack": SHOWN}, {"rust": SHOWN})
    assert sources(learned)["rejected"] == sources(learned, "rust")["missed"] > 0
    assert not learned.verified["crack"].any()
    np.testing.assert_array_equal(learned.verified["rust"], SHOWN)


@pytest.mark.parametrize("place", [(0, 0, 3, 4), (150, 180, 152, 300), (390, 390, 400, 400)])
def test_far_is_far_from_every_pixel_of_the_mask(place: tuple[int, int, int, int]) -> None:
    mask = box(*place)
    distance = distance_to(mask)
    np.testing.assert_array_equal(weak_labels.far_from(mask), distance >= clearance_px(*SIZE))


@given(seed=st.integers(0, 10_000), kept=st.booleans())
@settings(max_examples=40, deadline=None)
def test_signs_agree_with_the_final_mask(seed: int, kept: bool) -> None:
    rng = np.random.default_rng(seed)
    before, after = (cv2.GaussianBlur(rng.random((90, 120)), (0, 0), 5) > 0.53 for _ in range(2))
    learned = teach(
        before={"crack": before},
        after={"crack": drawn(after, "v3-5-1" if kept else "drawn")},
        size=before.shape,
    )
    for one in learned.weak_labels:
        if one.class_name == "crack":
            assert 0 <= one.x_px < 120 and 0 <= one.y_px < 90
            y, x = int(one.y_px), int(one.x_px)
            assert after[y, x] == one.positive
            assert before[y, x] == (one.source in ("accepted", "removed", "rejected")) or (
                one.source == "background"
            )
