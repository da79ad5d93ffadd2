"""Brush proposals as people see them: right place on the screen, right record after Submit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from label_studio_sdk.converter import brush
from playwright.sync_api import Page

from backend.labelstudio import config, image_choices, results, rle
from backend.records import ProposedRegion
from backend.steps.proposing import publish
from tests.e2e import browser, label_studio_server
from tests.e2e.browser import Mask
from tests.e2e.label_studio_server import LabelStudioServer

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

COLOURS = {"crack": "#e6194b", "spalling": "#4363d8"}
SCORES = {"crack": 0.91, "spalling": 0.62}
LABEL_CONFIG = f"""
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">
    <Label value="crack" background="{COLOURS["crack"]}"/>
    <Label value="spalling" background="{COLOURS["spalling"]}"/>
  </BrushLabels>
</View>
"""
SIZES = [pytest.param(320, 480, id="480x320"), pytest.param(217, 333, id="333x217")]
Encoder = Callable[[Mask], list[int]]


def sdk_encode(mask: Mask) -> list[int]:
    encoded: list[int] = brush.mask2rle((mask * 255).astype(np.uint8))
    return encoded


def concrete(height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
    grain = np.random.default_rng(7).normal(150.0, 18.0, (height_px, width_px))
    return np.repeat(grain.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


def true_masks(height_px: int, width_px: int) -> dict[str, Mask]:
    """An L without any symmetry, and a bar far away from it and from every flip of it."""
    crack = np.zeros((height_px, width_px), dtype=np.bool_)
    crack[height_px // 8 : height_px * 7 // 8, width_px // 10 : width_px // 6] = True
    crack[height_px * 3 // 4 : height_px * 7 // 8, width_px // 10 : width_px // 2] = True
    spalling = np.zeros_like(crack)
    spalling[height_px // 6 : height_px // 3, width_px * 6 // 10 : width_px * 8 // 10] = True
    return {"crack": crack, "spalling": spalling}


def mirrored(mask: Mask) -> dict[str, Mask]:
    """All that a wrong axis order would draw; read with wrong rows, columns or both."""
    return {
        "left to right": mask[:, ::-1],
        "upside down": mask[::-1],
        "half turn": mask[::-1, ::-1],
        "transposed": mask.T.reshape(mask.shape),
        "read by columns": mask.reshape(-1, order="F").reshape(mask.shape),
    }


def region(task: int, name: str, mask: Mask, encode: Encoder) -> dict[str, Any]:
    height_px, width_px = mask.shape
    return {
        "id": f"v1-{task}-{name}",
        "type": "brushlabels",
        "from_name": "brush",
        "to_name": "image",
        "original_width": width_px,
        "original_height": height_px,
        "image_rotation": 0,
        "score": SCORES[name],
        "value": {"format": "rle", "rle": encode(mask), "brushlabels": [name]},
    }


def proposed_task(
    client: httpx.Client, project: int, masks: dict[str, Mask], encode: Encoder
) -> int:
    height_px, width_px = masks["crack"].shape
    image = concrete(height_px, width_px)
    task = label_studio_server.upload_image(client, project, "concrete.png", image)
    result = [region(task, name, mask, encode) for name, mask in masks.items()]
    prediction = {"task": task, "result": result, "score": 0.5}
    label_studio_server.publish_predictions(client, project, [prediction], "v1")
    return task


def pixels(annotated_region: dict[str, Any]) -> Mask:
    height_px, width_px = annotated_region["original_height"], annotated_region["original_width"]
    rgba = brush.decode_rle(annotated_region["value"]["rle"]).reshape(height_px, width_px, 4)
    mask: Mask = rgba[:, :, 3] >= 128
    return mask


@pytest.fixture
def project(label_studio: LabelStudioServer) -> int:
    with label_studio.client() as client:
        return label_studio_server.create_project(client, "rendering", LABEL_CONFIG)


@pytest.mark.parametrize(("height_px", "width_px"), SIZES)
def test_a_deleted_region_is_absent_and_the_others_stay_proposals(
    label_studio: LabelStudioServer,
    annotator_page: Page,
    project: int,
    screenshots: Path,
    height_px: int,
    width_px: int,
) -> None:
    page, masks = annotator_page, true_masks(height_px, width_px)
    with label_studio.client() as client:
        task = proposed_task(client, project, masks, rle.encode)
        browser.open_task(page, label_studio, project, task, regions=2)
        listed = {row.name: row.score for row in browser.listed_regions(page)}
        assert listed == SCORES

        seen = browser.wait_for_masks(page, COLOURS, masks)
        browser.screenshot(page, screenshots, "1-opened")
        for mistake, wrong in mirrored(masks["crack"]).items():
            assert browser.iou(seen["crack"], wrong) < 0.6, mistake

        deleted = browser.delete_region(page, "spalling")
        nothing = np.zeros((height_px, width_px), dtype=np.bool_)
        browser.wait_for_masks(page, COLOURS, {"crack": masks["crack"], "spalling": nothing})
        browser.screenshot(page, screenshots, "2-deleted")
        answered = browser.submit(page)
        browser.wait_until_saved(page)
        browser.wait_for_masks(page, COLOURS, {"crack": masks["crack"], "spalling": nothing})
        browser.screenshot(page, screenshots, "3-submitted")

        assert deleted == f"v1-{task}-spalling"
        (stored,) = label_studio_server.annotations_of(client, task)
    assert stored["id"] == answered["id"]
    (kept,) = stored["result"]
    assert (kept["id"], kept["origin"]) == (f"v1-{task}-crack", "prediction")
    assert kept["value"]["brushlabels"] == ["crack"]
    assert np.array_equal(pixels(kept), masks["crack"])
    assert not stored["was_cancelled"]


@pytest.mark.parametrize(("height_px", "width_px"), SIZES)
def test_our_codec_is_drawn_exactly_as_the_sdks(
    label_studio: LabelStudioServer,
    annotator_page: Page,
    project: int,
    height_px: int,
    width_px: int,
) -> None:
    masks = true_masks(height_px, width_px)
    seen = []
    for encode in (rle.encode, sdk_encode):
        with label_studio.client() as client:
            task = proposed_task(client, project, masks, encode)
        browser.open_task(annotator_page, label_studio, project, task, regions=2)
        seen.append(browser.wait_for_masks(annotator_page, COLOURS, masks))
    ours, sdks = seen
    assert all(np.array_equal(ours[name], sdks[name]) for name in COLOURS)


def test_a_mirrored_mask_is_not_taken_for_the_true_one(
    label_studio: LabelStudioServer, annotator_page: Page, project: int
) -> None:
    truths = true_masks(217, 333)
    drawn = {**truths, "crack": truths["crack"][:, ::-1]}
    with label_studio.client() as client:
        task = proposed_task(client, project, drawn, sdk_encode)
    browser.open_task(annotator_page, label_studio, project, task, regions=2)
    browser.wait_for_masks(annotator_page, COLOURS, drawn)
    with pytest.raises(AssertionError, match="IoU of drawn and true masks"):
        browser.wait_for_masks(annotator_page, COLOURS, truths, timeout_s=1.0)


def test_the_label_stream_serves_the_lowest_score_first(
    label_studio: LabelStudioServer, annotator_page: Page, project: int, screenshots: Path
) -> None:
    masks = true_masks(217, 333)
    with label_studio.client() as client:
        later, sooner = (proposed_task(client, project, masks, sdk_encode) for _ in range(2))
        predictions = [
            {
                "task": task,
                "result": [region(task, "crack", masks["crack"], sdk_encode)],
                "score": s,
            }
            for task, s in ((later, 0.8), (sooner, 0.1))
        ]
        label_studio_server.publish_predictions(client, project, predictions, "v2")
        order = {"sampling": "Uncertainty sampling"}
        label_studio_server.checked(client.patch(f"/api/projects/{project}/", json=order))
    served = browser.open_label_stream(annotator_page, label_studio, project)
    browser.wait_for_masks(annotator_page, COLOURS, {"crack": masks["crack"]})
    browser.screenshot(annotator_page, screenshots, "stream")
    assert served == sooner


EVERYTHING = f"""
<View>
  <Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image">
    <Label value="crack" background="{COLOURS["crack"]}"/>
  </BrushLabels>
  <PolygonLabels name="poly" toName="image" opacity="0.8" strokeWidth="1">
    <Label value="spalling" background="{COLOURS["spalling"]}"/>
  </PolygonLabels>
  <Choices name="state" toName="image" choice="multiple">
    <Choice value="crack"/><Choice value="spalling"/>
    <Choice value="fine" model_negative="true"/>
  </Choices>
</View>
"""


def test_several_regions_of_a_class_polygons_with_holes_and_choices(
    label_studio: LabelStudioServer, annotator_page: Page, screenshots: Path
) -> None:
    masks, (height_px, width_px) = true_masks(217, 333), (217, 333)
    second = np.zeros_like(masks["crack"])
    second[20:40, 250:320] = True
    spalling = np.zeros_like(second)
    spalling[90:150, 180:260] = True
    spalling[105:135, 200:240] = False  # a hole
    spalling[170:200, 280:320] = True  # and another part
    proposed = [("crack", masks["crack"], 0.91), ("crack", second, 0.42)]
    proposed.append(("spalling", spalling, 0.62))
    with label_studio.client() as client:
        project = label_studio_server.create_project(client, "everything", EVERYTHING)
        image = concrete(height_px, width_px)
        task = label_studio_server.upload_image(client, project, "concrete.png", image)
        regions = [
            ProposedRegion(f"v1-{task}-{n}", project, task, 1, name, height_px, width_px,
                           rle.to_bytes(rle.encode(mask)), score)
            for n, (name, mask, score) in enumerate(proposed)
        ]  # fmt: skip
        row = publish.prediction(config.parse(EVERYTHING), regions, "v1", 0.5)
        label_studio_server.publish_predictions(client, project, [{**row, "task": task}], "v1")
        browser.open_task(annotator_page, label_studio, project, task, regions=3)
        listed = sorted((row.name, row.score) for row in browser.listed_regions(annotator_page))
        assert listed == [("crack", 0.42), ("crack", 0.91), ("spalling", 0.62)]
        truths = {"crack": masks["crack"] | second, "spalling": spalling}
        browser.wait_for_masks(annotator_page, COLOURS, truths, min_iou=0.9)
        browser.screenshot(annotator_page, screenshots, "opened")
        assert annotator_page.get_by_role("checkbox", checked=True).count() == 2
        deleted = browser.delete_region(annotator_page, "crack", 1)
        browser.submit(annotator_page)
        browser.wait_until_saved(annotator_page)
        browser.screenshot(annotator_page, screenshots, "submitted")
        (stored,) = label_studio_server.annotations_of(client, task)
    kept = {item["id"]: item for item in stored["result"]}
    assert set(kept) == {item["id"] for item in row["result"]} - {deleted}
    assert deleted in (f"v1-{task}-0", f"v1-{task}-1")
    polygon = kept[f"v1-{task}-2"]
    assert (polygon["origin"], polygon["type"]) == ("prediction", "polygonlabels")
    found = results.class_masks(stored["result"], config.parse(EVERYTHING))
    assert np.array_equal(found["spalling"], spalling)
    said = image_choices.said(stored["result"], config.parse(EVERYTHING))
    assert said.present == {"crack", "spalling"}
