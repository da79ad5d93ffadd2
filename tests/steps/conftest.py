"""Services with a real store and files; Label Studio and the networks are played."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.errors import ImageError
from backend.labelstudio.client import LabelStudio
from backend.queueing.leases import Lease
from backend.records import Task, Version
from backend.settings import Settings
from backend.steps import projects
from backend.steps.proposing import backlog
from backend.store import tasks, versions
from backend.wiring import Services, build
from models.base import ClassProposal, ClassSpec, Evidence, Image, Mask, Region, TaskProposal
from tests.migrated import new_store
from tests.steps.fake_label_studio import FakeLabelStudio

CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="crack"/></BrushLabels>
<KeyPointLabels name="point" toName="image"><Label value="crack"/>
<Label value="nothing here" model_negative="true"/></KeyPointLabels></View>"""
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
TASKS = [11, 12, 13, 14]
BROKEN = "/data/upload/1/broken.jpg"


@dataclass
class PlayedFitted:
    """Proposes a square; `doubt` of a task is in the first pixel of its image."""

    number: int
    proposed: list[int]
    classes: tuple[str, ...] = ("crack",)

    def propose(
        self, image: Image, *, specs: Sequence[ClassSpec], heat: bool = False
    ) -> TaskProposal:
        self.proposed.append(int(image[0, 0, 0]))
        mask: Mask = np.zeros(image.shape[:2], dtype=bool)
        mask[2:6, 2 : 6 + self.number] = True
        sure = float(image[0, 0, 0]) / 40
        evidence = Evidence(
            ("crack",),
            np.array([[0.5 + sure]], dtype=np.float32),
            np.zeros(2, dtype=np.float32),
            {"crack": {"area_px": 16.0, "outline_px": 16.0, "components": 1.0,
                       "heat_sharpness": 1.0}},
        )  # fmt: skip
        parts = (Region(2, 2, 8, 4, 30, 0.75), Region(0, 9, 2, 5, 10, 0.35))
        return TaskProposal((ClassProposal("crack", mask, 0.9, regions=parts),), evidence)


@dataclass
class PlayedResidents:
    proposed: list[int] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> PlayedFitted:
        return PlayedFitted(number, self.proposed)


class PlayedImages:
    def load(self, uri: str, task_id: int) -> Image:
        if uri == BROKEN:
            raise ImageError("cannot decode image: broken")
        return np.full((16, 24, 3), task_id, dtype=np.uint8)


@dataclass
class PlayedQueues:
    """Predicts blocks of a backlog at once; other steps the test calls: `enqueued` names them."""

    enqueued: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    services: Services | None = None
    beginnings: Counter[str] = field(default_factory=Counter)

    def begun(self, name: str) -> int:
        self.beginnings[name] += 1
        return self.beginnings[name]

    def ended(self, name: str) -> None:
        del self.beginnings[name]

    def wait(self, job_id: str, timeout_s: float) -> str:
        return "timeout"

    def enqueue(self, queue: str, function: str, *, kwargs: dict[str, Any], **_: Any) -> bool:
        name = function.rpartition(".")[2]
        self.enqueued.append((name, kwargs))
        if name == "predict_block" and self.services is not None:
            backlog.predict_block(
                self.services, kwargs["project"], kwargs["number"], kwargs["tasks"]
            )
        return True

    def workers(self, host: str | None = None) -> dict[str, int]:
        return {"publish": 1}

    def cancel(self, job_id: str) -> bool:
        self.enqueued.append(("cancel", {"job": job_id}))
        return True

    def settled(self) -> bool:
        return True

    def is_held(self, name: str) -> bool:
        return False

    @contextmanager
    def lock(self, name: str, *, wait_s: float, **_: Any) -> Iterator[Lease]:
        yield Lease(name, 20.0, lambda: True)


@pytest.fixture
def server() -> FakeLabelStudio:
    return FakeLabelStudio(TASKS)


@pytest.fixture
def services(tmp_path: Path, server: FakeLabelStudio) -> Iterator[Services]:
    new_store(tmp_path)
    real = build(Settings.from_env({"DATA_DIR": str(tmp_path)}))
    client = LabelStudio("http://ls.test", "0" * 40, transport=server.transport())
    played: dict[str, Any] = {
        "labelstudio": client,
        "residents": PlayedResidents(),
        "images": PlayedImages(),
        "queues": PlayedQueues(),
        "clock": lambda: NOW,
    }
    services = replace(real, **played)
    played["queues"].services = services
    projects.adopt(services, 1, CONFIG, title="bridge")
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, task, f"/data/upload/1/{task}.jpg", NOW) for task in TASKS])
    yield services
    client.close()
    real.close()


@pytest.fixture
def champion(services: Services) -> Callable[[int], None]:
    """Make a version of this number the champion."""

    def make(number: int) -> None:
        with services.store.transaction() as tx:
            assert versions.next_number(tx, 1) == number
            versions.add(tx, Version(1, number, "challenger", "advcam", f"s{number}", NOW))
            projects.promote(tx, 1, number)
            projects.want_order(tx, 1)

    return make
