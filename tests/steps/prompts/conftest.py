"""Services whose version sees two blobs on every image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from backend.steps import projects
from backend.wiring import Services
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.prompts.clicking import CONFIG, GreyImages, SeeingResidents
from tests.steps.proposing.test_publish import run


@pytest.fixture
def seeing_services(services: Services) -> Services:
    played: dict[str, Any] = {"residents": SeeingResidents(), "images": GreyImages()}
    own = replace(services, **played)
    own.queues.services = own  # type: ignore[attr-defined]  # played
    projects.adopt(own, 1, CONFIG)
    return own


@pytest.fixture
def shown(
    seeing_services: Services, server: FakeLabelStudio, champion: Callable[[int], None]
) -> Services:
    champion(1)
    run(seeing_services)
    return seeing_services
