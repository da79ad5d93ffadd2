"""Fixtures that start real things: Label Studio for the session, Chromium for one test."""

from __future__ import annotations

import functools
import gc
import os
import ssl
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, event

from tests import postgresql_server
from tests.e2e import label_studio_server
from tests.e2e.label_studio_server import LabelStudioServer
from tests.postgresql_server import PostgresqlServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

CERTIFICATES = functools.cache(ssl.create_default_context)  # reading them takes 20 ms a client
SERVER_KEY = pytest.StashKey[LabelStudioServer]()
PAGE_KEY = pytest.StashKey["Page"]()


def pytest_collection_finish() -> None:
    """Have no collection of garbage look again at what all tests imported: each took 0.2 s."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the interpreter clean up what was frozen."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _certificates_are_read_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", CERTIFICATES)
        yield


@pytest.fixture(scope="session", autouse=True)
def _the_stores_of_this_process_do_not_wait_for_the_disk() -> Iterator[None]:
    """They need not outlive a power failure; flushes took a third of the time of all unit tests."""
    event.listen(Engine, "before_cursor_execute", _unflushed, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", _unflushed)


def _unflushed(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, is_many: bool
) -> tuple[str, Any]:
    is_flushed = statement.startswith("PRAGMA synchronous")
    return ("PRAGMA synchronous = OFF" if is_flushed else statement), parameters


@pytest.fixture(scope="session")
def label_studio(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LabelStudioServer]:
    """Give a real Label Studio, empty but for its user; all tests of the session share it."""
    _skip_or_fail(label_studio_server.missing())
    with label_studio_server.running(tmp_path_factory.mktemp("label-studio")) as server:
        request.config.stash[SERVER_KEY] = server
        yield server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """Give a real PostgreSQL server; a test makes a schema of its own in it."""
    _skip_or_fail(postgresql_server.missing())
    with postgresql_server.running() as server:
        yield server


@pytest.fixture
def annotator_page(
    label_studio: LabelStudioServer, request: pytest.FixtureRequest
) -> Iterator[Page]:
    """Give a Chromium page that is logged in to Label Studio, for this test alone."""
    browser = pytest.importorskip("tests.e2e.browser", reason="playwright is not installed")
    _skip_or_fail(browser.missing())
    with browser.chromium_page() as page:
        request.node.stash[PAGE_KEY] = page
        browser.log_in(page, label_studio)
        yield page
        del request.node.stash[PAGE_KEY]


@pytest.fixture
def screenshots(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give the folder for screenshots: LABELCLIMB_SCREENSHOTS/<test>, or a temporary one."""
    chosen = os.environ.get("LABELCLIMB_SCREENSHOTS")
    return Path(chosen) / request.node.name if chosen else tmp_path / "screenshots"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the page said and the end of Label Studio's log below a failure of their test."""
    report = yield
    page = item.stash.get(PAGE_KEY, None)
    if report.failed and page:
        report.sections.append((f"Page ({page.url})", page.inner_text("body")))
    server = item.config.stash.get(SERVER_KEY, None)
    if report.failed and server and "label_studio" in getattr(item, "fixturenames", ()):
        report.sections.append((f"Label Studio log ({server.log_file})", server.log_tail()))
    return report


def _skip_or_fail(problem: str | None) -> None:
    if problem and os.environ.get("CI"):
        pytest.fail(f"{problem} (in CI nothing is skipped)", pytrace=False)
    if problem:
        pytest.skip(problem)
