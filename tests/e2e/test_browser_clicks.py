"""What people do with proposals and smart clicks in a real Label Studio, up to its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page

from backend.labelstudio import config, results
from backend.records import Interaction
from backend.store import learning
from tests.e2e import browser, smart_tools
from tests.e2e.browser import Mask
from tests.e2e.label_studio_server import LabelStudioServer
from tests.e2e.two_parts import (
    BAR,
    BLOCK,
    COLOURS,
    CRACK,
    LABEL_CONFIG,
    TwoPartsResidents,
    filled,
    pictures,
)
from tests.labelstudio.site import Site, site_at, train

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

ON_BAR, FAR_ON_BAR, ON_CRACK = (100, 75), (330, 75), (120, 204)
NOTHING = filled()


@pytest.fixture(scope="module")
def site(
    label_studio: LabelStudioServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clicks")
    images = pictures(folder, 3)
    played = TwoPartsResidents()
    with site_at(
        label_studio, folder, label_config=LABEL_CONFIG, residents=played, images=images
    ) as site:
        site.connect()
        train(site, 1)
        yield site


def interactions(site: Site, task: int) -> dict[str, Interaction]:
    site.handle_all()
    with site.services.store.reading() as tx:
        found = [i for i in learning.interactions(tx, site.project) if i.task == task]
    return {interaction.class_name: interaction for interaction in found}


def masks(annotation: dict[str, Any]) -> dict[str, Mask]:
    return results.class_masks(annotation["result"], config.parse(LABEL_CONFIG))


def test_an_alt_click_cuts_away_what_is_under_it_and_the_tick_keeps_the_rest(
    site: Site, label_studio: LabelStudioServer, annotator_page: Page, screenshots: Path
) -> None:
    page, task = annotator_page, site.tasks[0]
    browser.open_task(page, label_studio, site.project, task, regions=3)
    smart_tools.take_magic_points(page)
    first = smart_tools.ask(page, "rust", *ON_BAR)
    browser.wait_for_masks(page, COLOURS, {"rust": filled(BAR), "crack": NOTHING}, min_iou=0.9)
    second = smart_tools.ask(page, "rust", *FAR_ON_BAR, alt=True)
    browser.screenshot(page, screenshots, "1-alt-clicked")

    (asked,), (again, denied) = first["context"]["result"], second["context"]["result"]
    assert again == asked, "all pending prompts come, oldest first"
    assert [row["is_positive"] for row in (asked, denied)] == [True, False]
    for row, (x, y) in ((asked, ON_BAR), (denied, FAR_ON_BAR)):
        assert (row["type"], row["from_name"], row["origin"]) == (
            "keypointlabels", "point", "manual",
        )  # fmt: skip
        assert row["value"]["keypointlabels"] == row["value"]["labels"] == ["rust"]
        assert row["value"]["x"] == pytest.approx(100 * x / 480, abs=0.3)
        assert row["value"]["y"] == pytest.approx(100 * y / 320, abs=0.3)

    smart_tools.accept(page)
    deleted = browser.delete_region(page, "rust", 0)
    browser.screenshot(page, screenshots, "2-accepted")
    stored = browser.submit(page)

    assert deleted in (f"v1-{task}-2", f"v1-{task}-3")
    kept = {row["id"]: row for row in stored["result"]}
    (suggestion,) = [row for row in kept.values() if row["origin"] == "manual"]
    assert suggestion["id"].startswith(f"v1-{task}-"), "the id that we minted"
    assert (suggestion["type"], suggestion["value"]["brushlabels"]) == ("brushlabels", ["rust"])
    assert {row["type"] for row in kept.values()} == {"brushlabels"}, "the prompts are gone"
    left = masks({"result": [suggestion]})["rust"]
    assert not left[FAR_ON_BAR[1], FAR_ON_BAR[0]], "cut away under the Alt-click"
    assert left[ON_BAR[1], ON_BAR[0]]
    assert not (left & ~filled(BAR)).any()
    assert 0.9 < left.sum() / filled(BAR).sum() < 1

    outcomes = interactions(site, task)
    assert {name: i.outcome for name, i in outcomes.items()} == {
        "crack": "accepted", "rust": "modified",
    }  # fmt: skip
    assert outcomes["rust"].pixels_removed == np.count_nonzero(filled(BAR) & ~left)
    assert outcomes["rust"].pixels_added == 0
    assert {i.version for i in outcomes.values()} == {1}


def test_an_accepted_suggestion_of_the_same_pixels_is_an_accepted_proposal(
    site: Site, label_studio: LabelStudioServer, annotator_page: Page, screenshots: Path
) -> None:
    """The proposed region is deleted, and the suggestion that replaces it is the same mask."""
    page, task = annotator_page, site.tasks[1]
    browser.open_task(page, label_studio, site.project, task, regions=3)
    deleted = browser.delete_region(page, "crack")
    smart_tools.take_magic_points(page)
    smart_tools.ask(page, "crack", *ON_CRACK)
    smart_tools.accept(page)
    browser.screenshot(page, screenshots, "accepted")
    stored = browser.submit(page)
    (crack,) = [row for row in stored["result"] if row["value"]["brushlabels"] == ["crack"]]
    assert crack["origin"] == "manual"
    assert crack["id"] != deleted, "a suggestion has an id of its own"
    assert np.array_equal(masks(stored)["crack"], filled(CRACK))
    outcomes = interactions(site, task)
    assert {name: (i.outcome, i.iou) for name, i in outcomes.items()} == {
        "crack": ("accepted", 1.0), "rust": ("accepted", 1.0),
    }  # fmt: skip


def test_all_regions_of_a_class_deleted_are_a_rejection(
    site: Site, label_studio: LabelStudioServer, annotator_page: Page, screenshots: Path
) -> None:
    page, task = annotator_page, site.tasks[2]
    browser.open_task(page, label_studio, site.project, task, regions=3)
    truths = {"rust": filled(BAR, BLOCK), "crack": filled(CRACK)}
    browser.wait_for_masks(page, COLOURS, truths, min_iou=0.9)
    browser.screenshot(page, screenshots, "1-opened")
    browser.delete_region(page, "crack")
    browser.wait_for_masks(page, COLOURS, {**truths, "crack": NOTHING}, min_iou=0.9)
    browser.screenshot(page, screenshots, "2-deleted")
    stored = browser.submit(page)
    assert {tuple(row["value"]["brushlabels"]) for row in stored["result"]} == {("rust",)}
    assert {row["origin"] for row in stored["result"]} == {"prediction"}
    outcomes = interactions(site, task)
    assert {name: i.outcome for name, i in outcomes.items()} == {
        "crack": "rejected", "rust": "accepted",
    }  # fmt: skip
    assert outcomes["crack"].pixels_removed == filled(CRACK).sum()
    with site.services.store.reading() as tx:
        labels = [x for x in learning.weak_labels(tx, site.project) if x.task == task]
    denied = [x for x in labels if x.source == "rejected"]
    assert denied
    assert all(x.class_name == "crack" and not x.positive for x in denied)
    assert all(filled(CRACK)[int(x.y_px), int(x.x_px)] for x in denied)
