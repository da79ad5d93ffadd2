"""A backlog in blocks: each task in one of them, none twice, and less when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy.exc import OperationalError

from backend.errors import LabelStudioDown
from backend.processes.residents import Residents
from backend.records import Task
from backend.steps import projects
from backend.steps.proposing import backlog
from backend.store import proposals, tasks
from backend.wiring import Services
from models.base import ClassSpec, Image, TaskProposal
from models.masks.settings import default_settings
from models.memory import LEAST_TILE_PX, with_smaller_tiles
from models.pipelines.advcam import AdvCamFitted, ClassModel, Geometry
from models.pipelines.auto import AutoFitted, Part
from tests.models.small_network import small_network
from tests.steps.conftest import NOW, TASKS, PlayedFitted, PlayedResidents
from tests.steps.fake_label_studio import FakeLabelStudio
from tests.steps.proposing.test_publish import run

Champion = Callable[[int], None]


def waiting(services: Services) -> list[dict[str, Any]]:
    """Return what was enqueued as blocks, without having it predicted."""
    played: Any = services.queues
    played.services, played.enqueued = None, []
    assert backlog.enqueue(services, 1)
    return [given for name, given in played.enqueued if name == "predict_block"]


def done(services: Services, number: int) -> set[int]:
    with services.store.reading() as tx:
        return proposals.tasks_done(tx, 1, number)


def problem_of(services: Services, task: int) -> str | None:
    with services.store.reading() as tx:
        known = tasks.get(tx, 1, task)
    assert known is not None
    return known.problem


def test_every_task_is_in_one_block_and_few_blocks_wait(
    services: Services, champion: Champion
) -> None:
    ids = list(range(100, 300))
    with services.store.transaction() as tx:
        tasks.upsert(tx, [Task(1, id, f"/data/upload/1/{id}.jpg", NOW) for id in ids])
    champion(1)
    blocks = [given["tasks"] for given in waiting(services)]
    assert len(blocks) == backlog.AHEAD, "one worker"
    assert [id for block in blocks for id in block] == sorted([*TASKS, *ids])[
        : sum(map(len, blocks))
    ]
    assert all(len({id // backlog.BLOCK for id in block}) == 1 for block in blocks)


def test_a_block_predicts_what_still_lacks_proposals(
    services: Services, champion: Champion
) -> None:
    champion(1)
    (given,) = waiting(services)
    backlog.predict_block(services, 1, 1, [12])
    backlog.predict_block(services, 1, given["number"], given["tasks"])
    played: Any = services.residents
    assert played.proposed == [12, 11, 13, 14]
    assert done(services, 1) == set(TASKS)


def test_a_block_of_a_version_that_is_no_longer_used_is_left(
    services: Services, champion: Champion
) -> None:
    champion(1)
    (given,) = waiting(services)
    champion(2)
    backlog.predict_block(services, 1, given["number"], given["tasks"])
    assert done(services, 1) == set()
    assert ("publish", {"project": 1}) in services.queues.enqueued  # type: ignore[attr-defined]


class Raising(PlayedFitted):
    """Raises this at one task."""

    def __init__(self, played: PlayedResidents, task: int, error: BaseException) -> None:
        super().__init__(1, played.proposed)
        self.task, self.error = task, error

    def propose(self, image: Image, **given: Any) -> TaskProposal:
        if int(image[0, 0, 0]) == self.task:
            raise self.error
        return super().propose(image, **given)


def raising(services: Services, task: int, error: BaseException) -> Services:
    """Return services whose version raises this at one task, as the worker has them."""
    played: Any = PlayedResidents()
    played.get = lambda *_: Raising(played, task, error)
    own = replace(services, residents=played)
    queues: Any = services.queues
    queues.services = own
    return own


class JobTimeoutException(Exception):
    """As rq has it: an exception like any other, out of whatever is running."""


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (IndexError("list index out of range"), "IndexError: list index out of range"),
        (
            JobTimeoutException("Task exceeded maximum timeout value (1800 seconds)"),
            "JobTimeoutException: Task exceeded maximum timeout value (1800 seconds)",
        ),
    ],
)
def test_one_task_that_cannot_be_predicted_does_not_stop_the_publication(
    services: Services,
    server: FakeLabelStudio,
    champion: Champion,
    error: Exception,
    problem: str,
) -> None:
    champion(1)
    run(raising(services, 12, error))
    assert {task: len(held) for task, held in server.shown().items()} == dict.fromkeys(TASKS, 1)
    assert server.shown()[12][0]["result"] == []
    assert problem_of(services, 12) == f"v1: it cannot be predicted: {problem}"


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("", {}, Exception("gone")),
        LabelStudioDown("no answer"),
        KeyboardInterrupt(),
        SystemExit(),
    ],
)
def test_what_says_nothing_of_a_task_leaves_it_to_the_next_try(
    services: Services,
    champion: Champion,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    champion(1)
    monkeypatch.setattr(backlog, "CHUNK_S", 600.0)  # however busy the machine is
    with pytest.raises(type(error)):
        backlog.predict_block(raising(services, 12, error), 1, 1, TASKS)
    assert problem_of(services, 12) is None
    backlog.predict_block(services, 1, 1, TASKS)
    assert done(services, 1) == set(TASKS)


def test_a_task_that_kills_its_worker_is_left_alone_after_the_second_time(
    services: Services, champion: Champion, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion(1)
    monkeypatch.setattr(backlog, "CHUNK_S", 600.0)
    deadly = raising(services, 12, SystemExit())
    for _ in range(2):
        with monkeypatch.context() as killed, pytest.raises(SystemExit):
            killed.setattr(deadly.queues, "ended", lambda name: None)  # nobody comes that far
            backlog.predict_block(deadly, 1, 1, [12])
    assert problem_of(services, 12) is None
    backlog.predict_block(deadly, 1, 1, TASKS)
    assert done(services, 1) == {11, 13, 14}
    assert problem_of(services, 12) == (
        "v1: predicting it killed its process 2 times; was it out of memory?"
    )
    projects.forget_problems(services, 1)
    backlog.predict_block(services, 1, 1, [12])
    assert done(services, 1) == set(TASKS), "who asks for it has it tried again"


@dataclass
class Tight:
    """Residents whose version has no memory until it was made smaller often enough."""

    needed: int
    asked: int = 0
    proposed: list[int] = field(default_factory=list)

    def get(self, project: int, number: int, pipeline: str) -> Any:
        return Hungry(self, self.asked)

    def smaller(self, project: int, number: int, than: Any) -> tuple[Any, str] | None:
        if self.asked == 2:
            return None
        self.asked += 1
        return Hungry(self, self.asked), "smaller tiles"


class Hungry(PlayedFitted):
    def __init__(self, tight: Tight, size: int) -> None:
        super().__init__(1, tight.proposed)
        self.fits = size >= tight.needed

    def propose(self, image: Image, **given: Any) -> TaskProposal:
        if not self.fits:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate")
        return super().propose(image, **given)


@pytest.mark.parametrize(("needed", "predicted"), [(0, 4), (2, 4), (3, 0)])
def test_out_of_memory_tiles_are_halved_once_for_all_tasks(
    services: Services,
    champion: Champion,
    monkeypatch: pytest.MonkeyPatch,
    needed: int,
    predicted: int,
) -> None:
    champion(1)
    monkeypatch.setattr(backlog, "CHUNK_S", 600.0)  # however busy the machine is
    tight: Any = Tight(needed)
    own = replace(services, residents=tight)
    backlog.predict_block(own, 1, 1, TASKS)
    assert len(done(services, 1)) == predicted
    assert tight.proposed == TASKS[:predicted]
    if predicted:
        assert tight.asked == needed, "the tasks after it are spared"


def version(tile_px: int) -> AutoFitted:
    spec = ClassSpec("crack")
    model = ClassModel("crack", small_network(), default_settings(spec))
    fitted = AdvCamFitted(Geometry("resnet18", (8, 8), 24, tile_px, False), [model], {}, "cpu")
    return AutoFitted([Part("advcam", fitted, ("crack",))], {"classes": {}})


@pytest.mark.training
def test_smaller_tiles_propose_the_same_and_end_somewhere(services: Services) -> None:
    spec = [ClassSpec("crack")]
    image = np.random.default_rng(0).integers(0, 255, (400, 300, 3)).astype(np.uint8)
    whole = version(4 * LEAST_TILE_PX)
    half = with_smaller_tiles(whole)
    assert half is not None
    one, other = (fitted.propose(image, specs=spec).proposals[0] for fitted in (whole, half))
    assert np.array_equal(one.mask, other.mask) and one.score == pytest.approx(other.score)
    sizes = []
    fitted: Any = whole
    while fitted is not None:
        sizes.append(fitted.parts[0].fitted.geometry.tile_px)
        fitted = with_smaller_tiles(fitted)
    assert sizes == [4 * LEAST_TILE_PX, 2 * LEAST_TILE_PX, LEAST_TILE_PX]


def test_a_version_that_was_made_smaller_stays_so(services: Services) -> None:
    services.registry.save(1, 1, version(2 * LEAST_TILE_PX).save)
    residents = Residents(services.registry, device="cpu")
    loaded = residents.get(1, 1, "auto")
    found = residents.smaller(1, 1, loaded)
    assert found is not None and found[1] == "smaller tiles"
    assert residents.get(1, 1, "auto") is found[0]
    assert residents.smaller(1, 1, found[0]) is None, "there is no GPU to leave"
