"""What annotations teach: what real browsers submitted, and any edit of any proposal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from backend.errors import InvalidPayload
from backend.labelstudio import config as label_config
from backend.labelstudio import results, rle
from backend.labelstudio.config import LabelConfig
from backend.records import Annotation, Interaction, ProposedRegion
from backend.steps.listening import learn
from models.base import Mask
from tests.labelstudio import payloads
from tests.steps.conftest import NOW

Item = dict[str, Any]

RECORDED: dict[str, dict[str, Any]] = payloads.load("browser_submissions")
PAINTED = label_config.parse(
    """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/><Label value="spalling"/>
<Label value="rust"/></BrushLabels><RectangleLabels name="rect" toName="image">
<Label value="rust"/></RectangleLabels></View>"""
)
BOXED = label_config.parse(
    """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/><Label value="spalling"/>
</BrushLabels><RectangleLabels name="rect" toName="image"><Label value="rust"/>
</RectangleLabels></View>"""
)


def annotation(result: Sequence[Item], **changes: Any) -> Annotation:
    values: dict[str, Any] = {"id": 31, "project": 7, "task": 5, "updated_at": NOW}
    return Annotation(result=tuple(result), **{**values, **changes})


def recorded(
    name: str, config: LabelConfig = BOXED, submitted: Sequence[Item] | None = None
) -> learn.Learned:
    """Learn what a browser submitted for the proposals that it had loaded."""
    about = RECORDED[name]
    shown = [
        ProposedRegion(
            region.id, 7, 5, 3, region.class_name, region.height_px, region.width_px,
            rle.to_bytes(region.value.get("rle") or rle.encode(region.mask)), 0.9,
        )
        for region in results.regions(about["proposed"], config)
    ]  # fmt: skip
    result = about["submitted"] if submitted is None else submitted
    of = annotation(result, was_cancelled=about["was_cancelled"], lead_time_s=about["lead_time"])
    return learn.compare(of, config, shown, 3)


def by_class(learned: learn.Learned) -> dict[str, Interaction]:
    return {one.class_name: one for one in learned.interactions}


def outcomes(learned: learn.Learned) -> dict[str, str]:
    return {name: one.outcome for name, one in by_class(learned).items()}


def item(name: str, which: str, id: str) -> Item:
    return next(item for item in RECORDED[name][which] if item["id"] == id)


def mask_of(item: Item, at_least: int = 128) -> Mask:
    return rle.decode_mask(item["value"]["rle"], 320, 480, at_least=at_least)


def sources(learned: learn.Learned, class_name: str) -> Counter[str]:
    return Counter(one.source for one in learned.weak_labels if one.class_name == class_name)


def test_submitted_unchanged_is_accepted() -> None:
    learned = recorded("submitted unchanged")
    assert outcomes(learned) == dict.fromkeys(("crack", "spalling", "rust"), "accepted")
    assert sum(one.edit_seconds or 0 for one in learned.interactions) == pytest.approx(5.907)


def test_a_deleted_region_is_absent_and_rejected() -> None:
    learned = recorded("one region deleted")
    assert outcomes(learned) == {"crack": "accepted", "spalling": "rejected", "rust": "accepted"}
    assert sources(learned, "spalling")["rejected"] > 0
    (verified,) = [mask for mask in learned.masks if mask.class_name == "spalling"]
    assert not rle.decode_mask(verified.rle, 320, 480).any()


def test_a_painted_stroke_counts_where_it_covers_half_of_a_pixel() -> None:
    name = "painted onto a region"
    before = mask_of(item(name, "proposed", "prop2a"))
    alpha = rle.decode(item(name, "submitted", "prop2a")["value"]["rle"], 320, 480)
    crack = by_class(recorded(name))["crack"]
    assert (crack.outcome, crack.pixels_removed) == ("modified", 0)
    assert crack.pixels_added == np.count_nonzero((alpha >= 128) & ~before)
    any_paint, full_paint = (np.count_nonzero((alpha >= n) & ~before) for n in (1, 255))
    assert full_paint < crack.pixels_added < any_paint


def test_an_eraser_stroke_that_touched_nothing_leaves_a_region_accepted() -> None:
    name = "erased where nothing was, rectangle moved"
    assert item(name, "submitted", "prop7a")["origin"] == "prediction-changed"
    learned = recorded(name)
    assert outcomes(learned) == {"crack": "accepted", "spalling": "accepted", "rust": "modified"}
    rust = by_class(learned)["rust"]
    assert rust.pixels_added == pytest.approx(rust.pixels_removed, rel=0.05)
    assert rust.pixels_added > 1000


def test_an_untouched_region_that_was_encoded_anew_is_accepted() -> None:
    name = "a region drawn, another one encoded anew"
    before, after = item(name, "proposed", "prop4a"), item(name, "submitted", "prop4a")
    assert (len(before["value"]["rle"]), len(after["value"]["rle"])) == (2315, 2314)
    untouched = [one for one in RECORDED[name]["submitted"] if one["id"] != "S9rLL1g7CA"]
    learned = recorded(name, submitted=untouched)
    assert outcomes(learned)["crack"] == "accepted"
    crack = by_class(learned)["crack"]
    assert (crack.pixels_added, crack.pixels_removed) == (0, 0)


def test_a_new_region_adds_its_own_pixels() -> None:
    name = "a region drawn, another one encoded anew"
    stroke = mask_of(item(name, "submitted", "S9rLL1g7CA"))
    crack = by_class(recorded(name))["crack"]
    before = mask_of(item(name, "proposed", "prop4a"))
    assert (crack.outcome, crack.pixels_removed) == ("modified", 0)
    assert crack.pixels_added == np.count_nonzero(stroke & ~before)
    assert RECORDED[name]["draft_lead_time"] < RECORDED[name]["lead_time"] == 16.681
    seconds = sum(one.edit_seconds or 0 for one in recorded(name).interactions)
    assert seconds == pytest.approx(16.681)  # the draft's are in it


def test_a_relabelled_region_leaves_one_class_for_another() -> None:
    name = "relabelled from spalling to rust"
    blob = mask_of(item(name, "submitted", "prop5b"))
    (box,) = results.regions([item(name, "proposed", "prop5c")], PAINTED)
    rust = blob & ~box.mask
    learned = recorded(name, PAINTED)
    assert outcomes(learned) == {"crack": "accepted", "spalling": "rejected", "rust": "modified"}
    found = by_class(learned)
    assert found["spalling"].pixels_removed == np.count_nonzero(blob)
    assert found["rust"].pixels_added == np.count_nonzero(rust)
    assert found["rust"].pixels_removed == 0


def test_a_skipped_annotation_holds_all_regions_and_teaches_nothing() -> None:
    assert len(RECORDED["skipped"]["submitted"]) == 3
    of = annotation(RECORDED["skipped"]["submitted"], was_cancelled=True)
    assert learn.compare(of, BOXED, [], 3) == learn.Learned()
    assert recorded("skipped") == learn.Learned()


def test_a_mask_of_another_size_teaches_nothing_rather_than_a_rejection() -> None:
    shown = [proposed("a", "crack", np.ones((10, 12), dtype=bool))]
    odd = painted("a", "crack", rle.encode(np.ones((5, 6), dtype=bool)))
    size = {"original_height": 5, "original_width": 6}
    with pytest.raises(InvalidPayload, match="'a' .*natural size"):
        learn.compare(annotation([{**odd, **size}]), SMALL, shown, 3)


CHOOSING = label_config.parse(
    """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">
<Label value="crack"/><Label value="rust"/></BrushLabels><Choices name="what" toName="image">
<Choice value="crack"/><Choice value="sound" model_negative="true"/></Choices></View>"""
)


@pytest.mark.parametrize(
    ("origin", "verified"), [("manual", {"rust"}), ("prediction", {"rust", "crack"})]
)
def test_a_class_that_a_person_chose_but_did_not_draw_is_not_verified_as_absent(
    origin: str, verified: set[str]
) -> None:
    choice = {"id": "q", "type": "choices", "from_name": "what", "to_name": "image",
              "value": {"choices": ["crack"]}, "origin": origin}  # fmt: skip
    shown = [proposed("a", "crack", np.ones((10, 12), dtype=bool))]
    learned = learn.compare(annotation([choice]), CHOOSING, shown, 3)
    assert outcomes(learned) == {"crack": "rejected"}
    assert {mask.class_name for mask in learned.masks} == verified


def test_a_choice_alone_says_no_damage_of_the_whole_image() -> None:
    choice = {"id": "q", "type": "choices", "from_name": "what", "to_name": "image",
              "value": {"choices": ["sound"]}, "origin": "manual"}  # fmt: skip
    learned = learn.compare(annotation([choice]), CHOOSING, [], None, natural=(200, 300))
    assert {(m.class_name, m.height_px, m.width_px) for m in learned.masks} == {
        ("crack", 200, 300),
        ("rust", 200, 300),
    }
    assert {label.positive for label in learned.weak_labels} == {False}
    unsized = learn.compare(annotation([choice]), CHOOSING, [], None)
    assert not unsized.weak_labels and not unsized.masks


# Any edit of any proposal

SHAPE = (9, 11)
SMALL = label_config.parse(
    """<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">
<Label value="crack"/><Label value="rust"/></BrushLabels></View>"""
)
OTHER = {"crack": "rust", "rust": "crack"}
masks = arrays(np.bool_, SHAPE)
classes = st.sampled_from(["crack", "rust"])
edits = st.one_of(
    st.tuples(st.sampled_from(["keep", "encode anew", "delete", "relabel"]), st.none()),
    st.tuples(st.sampled_from(["erase", "add", "draw again"]), masks),
)


def proposed(id: str, class_name: str, mask: Mask) -> ProposedRegion:
    code = rle.to_bytes(rle.encode(mask))
    return ProposedRegion(id, 7, 5, 3, class_name, mask.shape[0], mask.shape[1], code, 0.9)


def painted(id: str, class_name: str, code: list[int], origin: str = "prediction") -> Item:
    return {"id": id, "type": "brushlabels", "from_name": "brush", "to_name": "image",
            "original_width": SHAPE[1], "original_height": SHAPE[0], "image_rotation": 0,
            "value": {"format": "rle", "rle": code, "brushlabels": [class_name]},
            "origin": origin, "score": 0.9}  # fmt: skip


def encoded_anew(mask: Mask, rng: np.random.Generator) -> list[int]:
    """Write each pixel as four literal values, soft ones as people's strokes have them."""
    alpha = np.where(mask, rng.integers(128, 256, mask.shape), rng.integers(0, 128, mask.shape))
    bits = f"{mask.size * 4:032b}" + f"{7:05b}" + "".join(f"{n - 1:04b}" for n in (3, 4, 8, 16))
    bits += "".join("0" + "00" + f"{3:03b}" + 4 * f"{int(a):08b}" for a in alpha.ravel())
    bits += "0" * (-len(bits) % 8)
    return [int(bits[n : n + 8], 2) for n in range(0, len(bits), 8)]


def edited(
    region: ProposedRegion, mask: Mask, edit: tuple[str, Mask | None], rng: np.random.Generator
) -> list[tuple[str, Mask, Item]]:
    """Return what an edit leaves of a region: class, pixels, and what Label Studio would store."""
    kind, pixels = edit
    id, name = region.region_id, region.class_name
    if kind == "delete":
        return []
    if kind == "keep":
        return [(name, mask, painted(id, name, rle.from_bytes(region.rle)))]
    if kind == "encode anew":
        return [(name, mask, painted(id, name, encoded_anew(mask, rng)))]
    if kind == "relabel":
        code = rle.from_bytes(region.rle)
        return [(OTHER[name], mask, painted(id, OTHER[name], code, "prediction-changed"))]
    assert pixels is not None
    left = {"erase": mask & ~pixels, "add": mask | pixels, "draw again": pixels}[kind]
    if kind == "draw again":
        return [(name, left, painted(f"drawn-{id}", name, encoded_anew(left, rng), "manual"))]
    return [(name, left, painted(id, name, encoded_anew(left, rng), "prediction-changed"))]


def pixels_of(regions: Sequence[tuple[str, Mask]], class_name: str) -> set[tuple[int, int]]:
    own = [mask for name, mask in regions if name == class_name]
    union = np.logical_or.reduce([np.zeros(SHAPE, dtype=bool), *own])
    return {(int(y), int(x)) for y, x in np.argwhere(union)}


@given(
    st.lists(st.tuples(classes, masks, edits), max_size=4),
    st.lists(st.tuples(classes, masks), max_size=2),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_positives_and_negatives_are_the_set_differences_of_the_masks(
    regions: list[tuple[str, Mask, tuple[str, Mask | None]]],
    drawn: list[tuple[str, Mask]],
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    shown = [proposed(f"v3-5-{n}", name, mask) for n, (name, mask, _) in enumerate(regions)]
    left = [
        one
        for region, (_, mask, edit) in zip(shown, regions, strict=True)
        for one in edited(region, mask, edit, rng)
    ]
    left += [
        (name, mask, painted(f"new{n}", name, encoded_anew(mask, rng), "manual"))
        for n, (name, mask) in enumerate(drawn)
    ]
    of = annotation([item for _, _, item in left], lead_time_s=10.0)
    learned = learn.compare(of, SMALL, shown, 3)
    found = by_class(learned)
    proposals = [(name, mask) for name, mask, _ in regions]
    final = [(name, mask) for name, mask, _ in left]
    touched = touched_classes(regions, drawn)
    for name in ("crack", "rust"):
        before, after = pixels_of(proposals, name), pixels_of(final, name)
        assert (name in found) == bool(before | after)
        if name in found:
            assert_consistent(found[name], before, after, name in touched)
        assert_sources(learned, name, before, after)


def touched_classes(
    regions: Sequence[tuple[str, Mask, tuple[str, Mask | None]]],
    drawn: Sequence[tuple[str, Mask]],
) -> set[str]:
    """Name the classes of which anything was done by hand."""
    by_hand = [
        (name, kind) for name, _, (kind, _) in regions if kind not in ("keep", "encode anew")
    ]
    relabelled = {OTHER[name] for name, kind in by_hand if kind == "relabel"}
    return {name for name, _ in by_hand} | relabelled | {name for name, _ in drawn}


def assert_consistent(
    one: Interaction, before: set[tuple[int, int]], after: set[tuple[int, int]], is_touched: bool
) -> None:
    assert one.pixels_added == len(after - before)
    assert one.pixels_removed == len(before - after)
    assert one.iou == pytest.approx(len(before & after) / len(before | after))
    if not before:
        assert one.outcome == "missed"
    elif before == after:
        assert one.outcome == "accepted"
    elif not before & after:
        assert one.outcome == "rejected"
    else:
        assert one.outcome in ("modified", "rejected")
        assert is_touched
    assert is_touched or one.outcome == "accepted"


def assert_sources(
    learned: learn.Learned, name: str, before: set[tuple[int, int]], after: set[tuple[int, int]]
) -> None:
    """Each weak label lies among the pixels that its source names."""
    for one in learned.weak_labels:
        if one.class_name == name:
            place = (int(one.y_px), int(one.x_px))
            assert (place in after) == one.positive
            is_shown = one.source in ("accepted", "removed", "rejected")
            assert (place in before) == is_shown or one.source == "background"
