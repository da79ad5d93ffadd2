"""What an annotator does and sees in Label Studio, in a real Chromium.

Nothing here sleeps: every step waits for an element, a response or the picture itself.
"""

from __future__ import annotations

import io
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from playwright.sync_api import (
    Locator,
    Page,
    Response,
    TimeoutError,
    ViewportSize,
    expect,
    sync_playwright,
)

from tests.e2e.label_studio_server import LabelStudioServer

Image = npt.NDArray[np.uint8]  # (H, W, 3) RGB
Mask = npt.NDArray[np.bool_]  # (H, W)

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
TIMEOUT_MS = 60_000.0
RELOADS = 3
HIDE_TOOLS = ".lsf-toolbar { visibility: hidden !important }"
# The first canvas holds the image itself; all others hold regions.
HIDE_REGIONS = HIDE_TOOLS + ".konvajs-content canvas:not(:first-child) { display: none !important }"
IMAGE_LOADED = """() => {
  const image = document.querySelector(".lsf-image img");
  return image !== null && image.complete && image.naturalWidth > 0;
}"""
# Label Studio opens wide images magnified by about 5 %, so that their borders are cut off.
IMAGE_FITS = """() => {
  const image = document.querySelector(".lsf-image img")?.getBoundingClientRect();
  const stage = document.querySelector(".konvajs-content")?.getBoundingClientRect();
  return Boolean(image && stage)
    && image.left >= stage.left - 1 && image.right <= stage.right + 1
    && image.top >= stage.top - 1 && image.bottom <= stage.bottom + 1;
}"""
ZOOM_TO_FIT = "Shift+1"
NEXT_FRAME = "() => new Promise(done => requestAnimationFrame(() => done(true)))"
MIN_TINT = 0.3  # Label Studio draws brush regions with opacity 0.6: half of it
MAX_RESIDUAL = 40.0  # colour distance from the line between image and label colour


@dataclass(frozen=True)
class ListedRegion:
    """A row of the list of regions; score is None where none is shown."""

    name: str
    score: float | None


@dataclass(frozen=True)
class Box:
    """A rectangle in the window; sides may lie between pixels."""

    left_px: float
    top_px: float
    width_px: float
    height_px: float


def missing() -> str | None:
    """Return why Chromium cannot be started here, or None when it can."""
    if shutil.which(CHROMIUM):
        return None
    return f"no {CHROMIUM}; install it with `apt-get install chromium fonts-dejavu-core`"


@contextmanager
def chromium_page(*, width_px: int = 1400, height_px: int = 1000) -> Iterator[Page]:
    """Start a headless Chromium and give a page in a fresh profile; close it afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            size = ViewportSize(width=width_px, height=height_px)
            # Label Studio's service worker is of use to cloud storage alone.
            page = browser.new_page(viewport=size, service_workers="block")
            page.set_default_timeout(TIMEOUT_MS)
            yield page
        finally:
            browser.close()


def log_in(page: Page, server: LabelStudioServer) -> None:
    """Log in by the form as the server's user."""
    page.goto(f"{server.url}/user/login/")
    page.fill("input[name=email]", server.email)
    page.fill("input[name=password]", server.password)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(lambda url: "/user/login" not in url)


def open_task(
    page: Page, server: LabelStudioServer, project: int, task: int, *, regions: int = 1
) -> None:
    """Press a task's row in the data manager; wait for its image and so many listed regions.

    An address that names the task (`data?task=3`) will not do: where the list arrives while the
    editor starts, Label Studio 1.23 shows the task without its predictions.
    """
    chosen = page.get_by_label(f"Select Task {task}", exact=True)
    row = page.get_by_test_id("table-row").filter(has=chosen)
    _open_data_manager(page, server, project, row)
    row.click()
    wait_for_task(page, regions=regions)


def open_label_stream(
    page: Page, server: LabelStudioServer, project: int, *, regions: int = 1
) -> int:
    """Press "Label All Tasks", which obeys the project's sampling; return the id of the task."""
    button = page.get_by_role("button", name="Label All Tasks")
    _open_data_manager(page, server, project, button)
    with page.expect_response(_serves_next_task) as served:
        button.click()
    wait_for_task(page, regions=regions)
    return int(served.value.json()["id"])


def wait_for_task(page: Page, *, regions: int) -> None:
    """Wait until the image of the opened task is loaded and so many regions are listed."""
    page.locator(".konvajs-content").wait_for()
    page.wait_for_function(IMAGE_LOADED)
    if regions:
        _rows(page).nth(regions - 1).wait_for()


def zoom_to_fit(page: Page) -> None:
    """Make Label Studio show the whole image, if it does not already."""
    if not page.evaluate(IMAGE_FITS):
        page.keyboard.press(ZOOM_TO_FIT)
        page.wait_for_function(IMAGE_FITS)


def listed_regions(page: Page) -> list[ListedRegion]:
    """Return the rows of the list of regions, from top to bottom."""
    return [_listed(row) for row in _rows(page).all()]


def drawn_masks(
    page: Page, colours: Mapping[str, str], height_px: int, width_px: int
) -> dict[str, Mask]:
    """Return where the screen shows each label's colour: name -> (H, W) bool at natural size.

    colours: label name -> "#rrggbb" of the label config. Read from two screenshots, one without
    the regions, so the image may hold any colours but those of the labels themselves. A pixel
    with two labels on it counts for none.
    """
    zoom_to_fit(page)
    box = image_box(page)
    plain = natural_size(_screenshot(page, HIDE_REGIONS), box, height_px, width_px)
    shown = natural_size(_screenshot(page, HIDE_TOOLS), box, height_px, width_px)
    return {name: tinted(plain, shown, colour) for name, colour in colours.items()}


def wait_for_masks(
    page: Page,
    colours: Mapping[str, str],
    truths: Mapping[str, Mask],
    *,
    min_iou: float = 0.95,
    timeout_s: float = 20.0,
) -> dict[str, Mask]:
    """Wait until each label's colour covers its true mask (H, W) and nothing else; return both.

    An all-False truth demands that the colour is nowhere. AssertionError names the IoU reached.
    """
    height_px, width_px = next(iter(truths.values())).shape
    deadline = time.monotonic() + timeout_s
    while True:
        seen = drawn_masks(page, {name: colours[name] for name in truths}, height_px, width_px)
        reached = {name: iou(seen[name], truth) for name, truth in truths.items()}
        if min(reached.values()) >= min_iou:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"IoU of drawn and true masks {reached}, wanted {min_iou}")
        page.evaluate(NEXT_FRAME)


def delete_region(page: Page, name: str, nth: int = 0) -> str:
    """Select the nth listed region of a label, press Backspace; return the region's id as shown."""
    rows = _rows(page)
    count = rows.count()
    rows.filter(has=page.locator(".lsf-labels-list", has_text=_exactly(name))).nth(nth).click()
    region_id = _selected_id(page)
    page.keyboard.press("Backspace")
    expect(rows).to_have_count(count - 1)
    return region_id


def submit(page: Page) -> dict[str, Any]:
    """Press Submit and return the annotation as Label Studio stored and answered it."""
    with page.expect_response(_creates_annotation) as created:
        page.get_by_role("button", name="Submit current annotation").click()
    answer = created.value
    if not answer.ok:
        raise AssertionError(f"submit was answered with {answer.status}: {answer.text()[:500]}")
    annotation: dict[str, Any] = answer.json()
    return annotation


def wait_until_saved(page: Page) -> None:
    """Wait until the quick view shows the submitted annotation, which can then be updated."""
    page.locator("button", has_text=_exactly("Update")).wait_for()
    wait_for_task(page, regions=0)


def screenshot(page: Page, folder: Path, name: str) -> Path:
    """Write what the whole window shows as `name`.png and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    page.screenshot(path=file)
    return file


def image_box(page: Page) -> Box:
    """Return where the window shows the whole natural image, in window pixels."""
    found = page.locator(".lsf-image img").bounding_box()
    if found is None:
        raise AssertionError(f"no image is shown at {page.url}")
    return Box(found["x"], found["y"], found["width"], found["height"])


def natural_size(window: Image, box: Box, height_px: int, width_px: int) -> Image:
    """Sample a window at the centres of an image's (height_px, width_px) natural pixels."""
    rows = box.top_px + (np.arange(height_px) + 0.5) * box.height_px / height_px
    columns = box.left_px + (np.arange(width_px) + 0.5) * box.width_px / width_px
    return window[rows.astype(np.intp)[:, None], columns.astype(np.intp)[None, :]]


def tinted(plain: Image, shown: Image, colour: str) -> Mask:
    """Return where `shown` is `plain` mixed with a colour: (H, W, 3), (H, W, 3) -> (H, W)."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)
    towards = wanted - plain  # (H, W, 3)
    change = shown.astype(np.float64) - plain
    tint = (change * towards).sum(axis=2) / np.maximum((towards**2).sum(axis=2), 1.0)
    residual = np.linalg.norm(change - tint[:, :, None] * towards, axis=2)
    mask: Mask = (tint >= MIN_TINT) & (residual <= MAX_RESIDUAL)
    return mask


def iou(first: Mask, second: Mask) -> float:
    """Return intersection over union in [0, 1]; two empty masks agree."""
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else 1.0


def _open_data_manager(
    page: Page, server: LabelStudioServer, project: int, awaited: Locator
) -> None:
    """Load a project's page until it shows what is awaited: seldom it stays empty."""
    for _ in range(RELOADS):
        page.goto(f"{server.url}/projects/{project}/data")
        with suppress(TimeoutError):
            awaited.wait_for(timeout=TIMEOUT_MS / 3)
            return
    raise AssertionError(f"{page.url} was loaded {RELOADS} times and shows no {awaited}")


def _rows(page: Page) -> Locator:
    return page.locator(".lsf-outliner-item")


def _listed(row: Locator) -> ListedRegion:
    score = row.locator(".lsf-outliner-item__control_type_score").inner_text().strip()
    name = row.locator(".lsf-outliner-item__title").inner_text().strip()
    return ListedRegion(name, float(score) if score else None)


def _exactly(name: str) -> re.Pattern[str]:
    return re.compile(rf"^{re.escape(name)}$")


def _selected_id(page: Page) -> str:
    return page.locator(".lsf-detailed-region__head > span").inner_text().strip()


def _screenshot(page: Page, style: str) -> Image:
    with PillowImage.open(io.BytesIO(page.screenshot(style=style))) as opened:
        return np.asarray(opened.convert("RGB"))


def _creates_annotation(response: Response) -> bool:
    path = response.url.partition("?")[0].rstrip("/")
    return response.request.method == "POST" and path.endswith("/annotations")


def _serves_next_task(response: Response) -> bool:
    return "/api/dm/actions" in response.url and "id=next_task" in response.url
