"""Label Studio's smart tools in a real Chromium: the switch, the magic tool, clicks, the tick."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, Response, expect

from tests.e2e import browser

MAGIC = ".lsf-tool_smart"  # one button, and the tools that it stands for, hidden inside
POINTS = f"{MAGIC}[aria-label=key-point-tool].lsf-tool_active"
MOST_TOOLS = 4


def take_magic_points(page: Page) -> None:
    """Switch Auto-Annotation on and press the magic tool until it places points.

    The regions are hidden first: Label Studio selects what lies under a click instead of asking.
    """
    page.get_by_text("Auto-Annotation", exact=True).click()
    page.locator(MAGIC).first.wait_for()
    page.get_by_role("button", name="Hide all regions").click()
    for _ in range(MOST_TOOLS):  # each press takes the next of the smart tools
        page.locator(MAGIC).first.click()
        expect(page.locator(f"{MAGIC}.lsf-tool_active").first).to_be_attached()
        if page.locator(POINTS).count():
            return
    raise AssertionError("no magic tool places points; is the control smart?")


def ask(page: Page, label: str, x_px: float, y_px: float, *, alt: bool = False) -> dict[str, Any]:
    """Choose a label of points and click at an image pixel; return what Label Studio was asked.

    Label Studio lets go of the label after each point.
    """
    button = page.locator(".lsf-label").filter(has_text=label).last  # the control of points is last
    button.click()
    expect(button).to_contain_class("lsf-label_selected")
    with page.expect_response(_asks_the_backend) as answered:
        _click(page, x_px, y_px, alt=alt)
    page.get_by_test_id("bottombar-accept-suggestions-button").wait_for()
    asked: dict[str, Any] = answered.value.request.post_data_json
    return asked


def accept(page: Page) -> None:
    """Press the tick below the image, which takes what is suggested and drops the prompts."""
    tick = page.get_by_test_id("bottombar-accept-suggestions-button")
    tick.click()
    expect(tick).to_be_hidden()


def _click(page: Page, x_px: float, y_px: float, *, alt: bool) -> None:
    box, (width_px, height_px) = browser.image_box(page), _natural_size(page)
    x = box.left_px + (x_px + 0.5) * box.width_px / width_px
    y = box.top_px + (y_px + 0.5) * box.height_px / height_px
    if alt:
        page.keyboard.down("Alt")
    page.mouse.click(x, y)
    if alt:
        page.keyboard.up("Alt")


def _natural_size(page: Page) -> tuple[int, int]:
    image = page.locator(".lsf-image img")
    width_px, height_px = image.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    return int(width_px), int(height_px)


def _asks_the_backend(response: Response) -> bool:
    return response.url.partition("?")[0].endswith("/interactive-annotating")
