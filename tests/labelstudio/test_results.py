import copy

import numpy as np
import pytest

from backend.errors import InvalidPayload, LabelConfigError
from backend.labelstudio import config, results, rle
from backend.labelstudio.results import Click
from backend.records import ProposedRegion
from tests.labelstudio import payloads

CONFIG = config.parse(payloads.CONFIG)
HEIGHT, WIDTH = 40, 60
SIZE = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}


def box(rows, columns):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[rows, columns] = True
    return mask


LINE = box(slice(5, 8), slice(10, 50))
SPOT = box(slice(20, 30), slice(5, 15))


def brush(mask, label="crack", region_id="r1", **fields):
    value = {"format": "rle", "rle": rle.encode(mask), "brushlabels": [label]}
    item = {"id": region_id, "type": "brushlabels", "from_name": "brush", "to_name": "image"}
    return {**item, **SIZE, "value": value, **fields}


def rectangle(region_id="q1", **fields):
    value = {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 0}
    item = {"id": region_id, "type": "rectanglelabels", "from_name": "rect", "to_name": "image"}
    return {**item, **SIZE, "value": {**value, "rectanglelabels": ["rust"]}, **fields}


def polygon(points, region_id="p1"):
    item = {"id": region_id, "type": "polygonlabels", "from_name": "poly", "to_name": "image"}
    return {**item, **SIZE, "value": {"points": points, "polygonlabels": ["crack"]}}


def click(label, x, y, **fields):
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    item = {"id": "k", "type": "keypointlabels", "from_name": "click", "to_name": "image"}
    return {**item, **SIZE, "value": value, **fields}


def proposed(mask=LINE, class_name="crack", n=0, score=0.9):
    code = rle.to_bytes(rle.encode(mask))
    return ProposedRegion(f"v1-7-{n}", 3, 7, 1, class_name, HEIGHT, WIDTH, code, score)


def from_payload(name):
    body = payloads.load(name)
    return config.parse(body["project"]["label_config"]), body["annotation"]["result"]


def test_an_unchanged_submission_of_a_browser():
    found = results.regions(from_payload("annotation_created_unchanged")[1], CONFIG)
    assert [(r.id, r.class_name, r.kind, r.origin, r.score) for r in found] == [
        ("prop0a", "crack", "brush", "prediction", 0.91),
        ("prop0b", "spalling", "brush", "prediction", 0.55),
        ("prop0c", "rust", "rectangle", "prediction", 0.33),
    ]
    rust = np.zeros((320, 480), bool)
    rust[192:272, 288:384] = True
    assert (found[2].mask == rust).all()


def test_a_deleted_region_is_absent_and_a_per_region_number_is_no_region():
    label_config, result = from_payload("annotation_created_region_deleted")
    assert sorted({item["id"] for item in result}) == ["prop1a", "prop1c", "prop1q"]
    assert [r.id for r in results.regions(result, label_config)] == ["prop1a", "prop1c"]


def test_a_painted_region_keeps_its_id_and_score():
    label_config, result = from_payload("annotation_created_painted")
    found = {r.id: r for r in results.regions(result, label_config)}
    assert (found["prop2a"].origin, found["prop2a"].score) == ("prediction-changed", 0.91)
    assert found["prop2b"].origin == "prediction"


def test_masks_are_decoded_when_first_asked_for_and_once():
    broken = brush(LINE)
    broken["value"]["rle"] = [1, 2, 3]
    (region,) = results.regions([broken], CONFIG)
    with pytest.raises(InvalidPayload, match=r"region 'r1' \(brush\): the RLE has 3 bytes"):
        _ = region.mask
    (region,) = results.regions([brush(LINE)], CONFIG)
    assert region.mask is region.mask
    assert (region.mask == LINE).all()


def test_a_relabelled_region_has_its_new_class():
    assert [r.class_name for r in results.regions([brush(LINE, "rust")], CONFIG)] == ["rust"]


@pytest.mark.parametrize(
    "item",
    [
        brush(LINE, "moss"),
        brush(LINE, from_name="gone"),
        {**brush(LINE), "value": {"format": "rle", "rle": []}},
        {"id": "q", "type": "choices", "from_name": "quality", "value": {"choices": ["ok"]}},
        brush(LINE, type="number"),
        {"id": "rel", "type": "relation", "from_id": "a", "to_id": "b"},
        click("Crack", 5, 5),
    ],
)
def test_what_is_no_region_of_a_class_is_left_out(item):
    assert results.regions([item], CONFIG) == []


def test_several_labels_make_several_regions_with_one_id():
    item = brush(LINE)
    item["value"]["brushlabels"] = ["crack", "rust"]
    assert [(r.id, r.class_name) for r in results.regions([item], CONFIG)] == [
        ("r1", "crack"),
        ("r1", "rust"),
    ]


def test_class_masks_are_unions_over_all_kinds():
    triangle = polygon([[0, 0], [0, 50], [50, 0]])
    result = [brush(LINE), brush(SPOT, region_id="r2"), triangle, rectangle()]
    masks = results.class_masks(result, CONFIG)
    assert set(masks) == {"crack", "rust"}
    corner = results.regions([triangle], CONFIG)[0].mask
    assert corner[0, 0] and not corner[19, 29]
    assert abs(corner.sum() - 30 * 20 / 2) <= 15
    assert (masks["crack"] == (LINE | SPOT | corner)).all()
    assert (masks["rust"] == box(slice(20, 30), slice(30, 45))).all()


def test_the_images_own_size_wins_and_a_mask_of_another_size_is_refused():
    lying = brush(LINE, original_width=30, original_height=20)
    (region,) = results.regions([lying], CONFIG, height_px=HEIGHT, width_px=WIDTH)
    assert (region.mask == LINE).all()
    half = brush(LINE[::2, ::2])
    with pytest.raises(InvalidPayload, match="natural size"):
        results.class_masks([half], CONFIG, height_px=HEIGHT, width_px=WIDTH)


def test_regions_of_different_sizes_cannot_be_joined():
    other = brush(LINE[:20], region_id="r2", original_height=20)
    with pytest.raises(InvalidPayload, match="natural size"):
        results.class_masks([brush(LINE), other], CONFIG)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"original_width": None}, r"result\[0\].original_width is None"),
        ({"original_height": 0}, r"result\[0\].original_height is 0"),
        ({"original_height": "40"}, "original_height is '40'"),
        ({"original_height": 10**9}, "at most"),
        ({"image_rotation": 90}, "turn the image back"),
        ({"id": None}, r"result\[0\].id"),
        ({"value": [1]}, "no region"),
    ],
)
def test_malformed_regions_are_named(change, says):
    with pytest.raises(InvalidPayload, match=says):
        results.regions([{**brush(LINE), **change}], CONFIG)


@pytest.mark.parametrize(
    "item",
    [
        polygon([[0, 0], [1, 1]]),
        polygon("abc"),
        polygon([[0, 0], [1, 1], [float("nan"), 3]]),
        {**rectangle(), "value": {"x": 1, "y": 1, "width": "9", "rectanglelabels": ["rust"]}},
        {**brush(LINE), "value": {"brushlabels": ["crack"]}},
    ],
)
def test_malformed_shapes_are_named_when_decoded(item):
    (region,) = results.regions([item], CONFIG)
    with pytest.raises(InvalidPayload, match=f"region '{region.id}'"):
        _ = region.mask


def test_clicks_in_pixels():
    result = [
        click("Crack", 50, 25),
        click("flake", 0, 100),
        click("nothing here", 10, 10),
        click("landmark", 10, 10),
        brush(LINE),
    ]
    found = results.clicks(result, CONFIG)
    assert found[0] == Click("crack", 30.0, 10.0, positive=True)
    assert (found[1].class_name, found[1].x_px, int(found[1].y_px)) == ("spalling", 0, HEIGHT - 1)
    assert found[2] == Click(None, 6.0, 4.0, positive=False)
    assert len(found) == 3


def test_a_prompt_that_nobody_accepted_is_no_click():
    result = payloads.load("submitted_with_prompt")["result"]
    label_config = config.parse(payloads.load("annotation_updated")["project"]["label_config"])
    assert "keypointlabels" in {item["type"] for item in result}
    assert results.clicks(result, label_config) == []
    drawn = copy.deepcopy(result[-1])
    del drawn["is_positive"]
    (found,) = results.clicks([drawn], label_config)
    assert (found.class_name, found.positive) == ("crack", True)
    assert found.x_px == pytest.approx(480 * 0.4609297725)


def test_a_rectangle_drawn_as_a_prompt_is_no_region():
    smart = config.parse(payloads.CONFIG.replace('name="rect"', 'name="rect" smart="true"'))
    drawn = rectangle(origin="manual")
    assert results.regions([drawn], smart) == []
    assert len(results.regions([drawn], CONFIG)) == 1
    assert len(results.regions([rectangle(origin="prediction", score=0.3)], smart)) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"value": {"x": None, "y": 1, "keypointlabels": ["Crack"]}}, "x=None"),
        ({"image_rotation": 180}, "turn the image back"),
        ({"original_width": None}, "original_width"),
    ],
)
def test_malformed_clicks_are_named(change, says):
    with pytest.raises(InvalidPayload, match=says):
        results.clicks([{**click("Crack", 1, 1), **change}], CONFIG)


def test_a_prediction_has_the_form_that_the_editor_shows():
    result = results.prediction_result([proposed(), proposed(SPOT, "rust", 1, 0.4)], CONFIG)
    assert result[0] == {
        "id": "v1-7-0",
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": rle.encode(LINE), "brushlabels": ["crack"]},
        "score": 0.9,
    }
    recorded = payloads.load("annotation_created_unchanged")["annotation"]["result"][0]
    assert set(recorded) - {"origin"} == set(result[0])
    back = results.class_masks(result, CONFIG)
    assert (back["crack"] == LINE).all() and (back["rust"] == SPOT).all()


def test_polygons_and_boxes_where_there_is_no_brush():
    no_brush = config.parse(
        '<View><Image name="image" value="$image"/>'
        '<PolygonLabels name="p" toName="image"><Label value="crack"/></PolygonLabels>'
        '<RectangleLabels name="q" toName="image"><Label value="rust"/></RectangleLabels></View>'
    )
    pair = [proposed(SPOT), proposed(LINE, "rust", 1), proposed(SPOT & False, "rust", 2)]
    result = results.prediction_result(pair, no_brush)
    assert [item["type"] for item in result] == ["polygonlabels", "rectanglelabels"]
    back = results.class_masks(result, no_brush)
    assert (back["rust"] == LINE).all()
    assert (back["crack"] & SPOT).sum() / (back["crack"] | SPOT).sum() > 0.9


def test_a_class_that_left_the_config_is_not_shown():
    assert results.prediction_result([proposed(class_name="moss")], CONFIG) == []
    assert results.prediction_result([], CONFIG) == []


def _broken_rle(item):
    item["value"]["rle"] = item["value"]["rle"][:-3]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda item: item.update(id="r2"), "unique"),
        (lambda item: item.update(id=""), "unique"),
        (lambda item: item.update(from_name="gone"), "from_name 'gone'"),
        (lambda item: item.update(from_name="click", type="keypointlabels"), "from_name"),
        (lambda item: item.update(to_name="other"), "to_name 'other'"),
        (lambda item: item["value"].update(brushlabels=["moss"]), "moss"),
        (lambda item: item["value"].update(brushlabels=[]), "expected one of"),
        (lambda item: item["value"].update(format="png"), "format"),
        (lambda item: item.update(original_width=WIDTH // 2), "natural size"),
        (_broken_rle, "RLE ends"),
    ],
)
def test_nothing_malformed_leaves(spoil, says):
    good = [brush(LINE), brush(SPOT, "rust", "r2")]
    results.validate(good, CONFIG)
    spoil(good[0])
    with pytest.raises(InvalidPayload, match=says):
        results.validate(good, CONFIG)


def test_a_proposal_of_the_wrong_size_does_not_leave():
    wrong = ProposedRegion("v1-7-0", 3, 7, 1, "crack", 20, 60, proposed().rle, 0.9)
    with pytest.raises(InvalidPayload, match="natural size"):
        results.prediction_result([wrong], CONFIG)


def test_a_region_that_is_not_of_the_upright_images_size_does_not_leave():
    results.prediction_result([proposed()], CONFIG, size=(HEIGHT, WIDTH))
    with pytest.raises(InvalidPayload, match="60 x 40 px, the upright image is 40 x 60 px"):
        results.prediction_result([proposed()], CONFIG, size=(WIDTH, HEIGHT))


RECORDED = payloads.load("prediction_validation")
MALFORMED = {
    "bad from_name": "from_name 'nope'",
    "bad label": r"rectanglelabels is \['unknown'\]; expected one of \['crack'\]",
    "x=-5": "reaches out of the image",
    "missing type": "type None",
    "brush type brush": "type 'brush'",
    "brush garbage rle": "the RLE has 3 bytes",
    "brush rle string": "an RLE is a list of bytes, got str",
    "result as dict": "result is dict; expected a list",
}


def test_every_recorded_case_of_rubbish_has_its_reason():
    assert set(RECORDED["results"]) == {"good", *MALFORMED}
    assert RECORDED["import/predictions"]["x=-5"] == 1, "Label Studio's own check lets it through"
    results.validate(RECORDED["results"]["good"], config.parse(RECORDED["label_config"]))


@pytest.mark.parametrize("case", MALFORMED)
def test_what_label_studio_stores_without_complaint_never_leaves(case):
    with pytest.raises(InvalidPayload, match=MALFORMED[case]):
        results.validate(RECORDED["results"][case], config.parse(RECORDED["label_config"]))


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        ({"x": 0, "y": 0, "width": 100, "height": 100}, True),
        ({"x": 60, "y": 0, "width": 60, "height": 10}, False),
        ({"x": 10, "y": 10, "width": 0, "height": 10}, False),
        ({"points": [[0, 0], [100, 0], [100, 100]]}, True),
        ({"points": [[0, 0], [100.1, 0], [100, 100]]}, False),
        ({"points": [[0, 0], [10, -1], [10, 10]]}, False),
    ],
)
def test_shapes_lie_inside_the_image(value, fine):
    item = polygon([]) if "points" in value else rectangle()
    label = {key: item["value"][key] for key in item["value"] if key.endswith("labels")}
    item["value"] = {"rotation": 0, **value, **label}
    if fine:
        results.validate([item], CONFIG)
    else:
        with pytest.raises(InvalidPayload, match="reaches out of the image"):
            results.validate([item], CONFIG)


@pytest.mark.parametrize("score", [float("nan"), 1.5, "0.5"])
def test_a_score_is_a_number_from_0_to_1(score):
    with pytest.raises(InvalidPayload, match="score is"):
        results.validate([brush(LINE, score=score)], CONFIG)


def test_what_is_no_region_at_all_is_refused():
    with pytest.raises(InvalidPayload, match=r"result\[0\] is no region"):
        results.validate(["crack"], CONFIG)


def test_a_polygon_keeps_its_hole_and_obeys_the_tolerance():
    xml = payloads.CONFIG.replace('name="poly"', 'name="poly" model_output="polygon" {}')
    ring = box(slice(5, 35), slice(5, 45)) & ~box(slice(15, 25), slice(15, 35))
    exact, rough = (
        results.prediction_result([proposed(ring)], config.parse(xml.format(attribute)))
        for attribute in ('model_tolerance_px="0"', 'model_tolerance_px="8"')
    )
    assert exact[0]["type"] == "polygonlabels"
    assert (results.class_masks(exact, CONFIG)["crack"] == ring).all()
    assert len(rough[0]["value"]["points"]) <= len(exact[0]["value"]["points"])
    assert exact[0]["value"]["closed"]


def test_the_output_control_must_exist():
    with pytest.raises(LabelConfigError):
        CONFIG.output("moss")
