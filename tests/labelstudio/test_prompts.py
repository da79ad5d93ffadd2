"""Contexts of Label Studio's smart tools: recorded ones, foreign ones, hostile ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.labelstudio import config as label_config
from backend.labelstudio import prompts
from backend.labelstudio.prompts import Asked
from tests.labelstudio import payloads

RECORDED = payloads.load("interactive")
CONFIG = label_config.parse(RECORDED["label_config"])
OURS = label_config.parse(payloads.CONFIG)
WITH_NUMBER = label_config.parse(
    RECORDED["label_config"].replace(
        "</View>", '<Number name="model_iterations" toName="image"/></View>'
    )
)


def recorded(name: str) -> Any:
    return RECORDED[name]["params"]["context"]


def keypoint(label: Any = "crack", x: Any = 10, y: Any = 20, **more: Any) -> dict[str, Any]:
    value = {"x": x, "y": y, "width": 0.2, "keypointlabels": [label]}
    return {"type": "keypointlabels", "value": value, "is_positive": True, **more}


def rectangle(**value: Any) -> dict[str, Any]:
    given = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 0, **value}
    return {"type": "rectanglelabels", "value": {**given, "rectanglelabels": ["crack"]}}


def parse(*rows: Any) -> list[Asked]:
    return prompts.parse({"result": list(rows)}, OURS)


def test_all_pending_prompts_of_a_recorded_call_are_read_in_their_order() -> None:
    asked = prompts.parse(recorded("UI_full_2"), CONFIG)
    assert [round(one.x) for one in asked] == [46, 41, 36]
    assert [one.positive for one in asked] == [True, True, False]
    assert prompts.classes_of(asked) == ["crack"]


def test_a_recorded_rectangle_is_read_as_pixels() -> None:
    (asked,) = prompts.parse(recorded("UI_full_3"), CONFIG)
    corners = asked.on(height_px=320, width_px=480).corners
    assert corners[0] == pytest.approx((0.1641938679624583 * 480, 0.6083086053412461 * 320))
    assert corners[2] == pytest.approx((0.3125618204847138 * 480, 0.7566765578634635 * 320))


@pytest.mark.parametrize("name", ["UI_full_4", "UI_full_5", "UI_full_6"])
def test_the_empty_context_after_submit_asks_nothing(name: str) -> None:
    assert prompts.parse(recorded(name), CONFIG) == []


def test_a_turned_rectangle_turns_about_its_corner_in_pixels() -> None:
    (asked,) = parse(rectangle(rotation=90))
    corners = asked.on(height_px=100, width_px=200).corners
    wanted = [(20, 20), (20, 80), (-20, 80), (-20, 20)]
    assert [pytest.approx(corner) for corner in wanted] == list(corners)


def test_labels_mean_the_class_that_clicks_mean() -> None:
    assert [one.class_name for one in parse(keypoint("Crack"), keypoint("flake"))] == [
        "crack",
        "spalling",
    ]
    assert parse(keypoint("landmark"), keypoint("unknown")) == []


def test_a_click_that_says_nothing_here_denies_all_classes() -> None:
    wanted, denied = parse(keypoint("Crack"), keypoint("nothing here"))
    assert wanted.positive
    assert (denied.class_name, denied.positive) == (None, False)


NAN, LARGE = float("nan"), 10**400


@pytest.mark.parametrize(
    "row",
    [
        keypoint(x=NAN),
        keypoint(y=float("inf")),
        keypoint(x=LARGE),
        keypoint(x="10"),
        keypoint(x=None),
        keypoint(x=True),
        keypoint(label=["crack"]),
        keypoint(label={"a": 1}),
        keypoint(label="<img src=x onerror=alert(1)>"),
        rectangle(width=0),
        rectangle(height=NAN),
        rectangle(rotation="much"),
        rectangle(width=None),
        {"type": "keypointlabels"},
        {"type": "keypointlabels", "value": []},
        {"type": "polygonlabels", "value": {"points": [[1, 2], [3, 4], [5, 6]]}},
        {"type": ["keypointlabels"], "value": {}},
        {**keypoint(), "value": {"x": 1, "y": 2, "keypointlabels": []}},
        {**keypoint(), "value": {"x": 1, "y": 2, "keypointlabels": "crack"}},
        {**keypoint(), "value": {"x": 1, "y": 2, "keypointlabels": ["crack", "rust"]}},
        None,
        7,
    ],
)
def test_what_is_no_prompt_is_left_out(row: Any) -> None:
    kept = keypoint(x=50)
    assert [one.x for one in parse(row, kept)] == [50]


@pytest.mark.parametrize("context", [None, [], "x", {}, {"result": None}, {"result": {"a": 1}}])
def test_a_foreign_context_asks_nothing(context: Any) -> None:
    assert prompts.parse(context, OURS) == []


def test_of_too_many_prompts_the_newest_count() -> None:
    asked = parse(*(keypoint(x=n / 1000) for n in range(10_000)))
    assert len(asked) == prompts.MOST_PROMPTS
    assert asked[-1].x == pytest.approx(9.999)


def test_a_negative_size_and_a_place_outside_are_the_same_pixels() -> None:
    (asked,) = parse(rectangle(x=40, width=-30))
    xs = [x for x, _ in asked.on(100, 100).corners]
    assert (min(xs), max(xs)) == pytest.approx((10, 40))
    (outside,) = parse(keypoint(x=150, y=-20))
    assert outside.on(100, 200).pixel(100, 200) == (0, 199)


def number(value: Any, name: str = "model_iterations") -> dict[str, Any]:
    return {"type": "number", "from_name": name, "value": {"number": value}}


@pytest.mark.parametrize(
    ("context", "payload", "wanted"),
    [
        ([number(5)], {}, 5),
        ([number(5), number(7)], {"drafts": [{"result": [number(3)]}]}, 7),
        ([], {"drafts": [{"result": [number(2)]}, {"result": [number(3)]}]}, 3),
        ([], {"drafts": [], "annotations": [{"result": [number(4)]}]}, 4),
        ([], {"drafts": [{"result": None}], "annotations": "no"}, None),
        ([number(9, name="width_mm")], {}, None),
        ([number(NAN)], {"drafts": [{"result": [number(3)]}]}, 3),
        ([number(1e5)], {}, 100),
        ([number(-4)], {}, 1),
    ],
)
def test_iterations_are_read_from_the_number_control_wherever_it_stands(
    context: list[Any], payload: dict[str, Any], wanted: int | None
) -> None:
    assert prompts.iterations({"result": context}, payload, WITH_NUMBER) == wanted
    assert prompts.iterations({"result": context}, payload, CONFIG) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["x", "y", "width", "height", "keypointlabels", "value", "type", "result"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(JSON, JSON)
def test_any_context_is_read_or_left_out(context: Any, payload: Any) -> None:
    json.dumps(context)
    for asked in prompts.parse({"result": [context]}, OURS) + prompts.parse(context, OURS):
        row, column = asked.on(30, 40).pixel(30, 40) if asked.width is None else (0, 0)
        assert 0 <= row < 30
        assert 0 <= column < 40
    prompts.iterations(context, payload if isinstance(payload, dict) else {}, WITH_NUMBER)
