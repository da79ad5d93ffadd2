"""Trainings that share GPUs: who waits, who comes first, and that a worker is never held up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import torch

import models.base
from backend.cli import jobs as cli_jobs
from backend.errors import LockHeld, QueueError
from backend.queueing.leases import Lease
from backend.records import Job
from backend.steps import decide, tick
from backend.steps.training import fitting, training_job
from backend.steps.training.progress import Watch
from backend.steps.training.training_job import AGAIN_AFTER, ELSEWHERE_AFTER
from backend.store import jobs, projects
from backend.wiring import Services
from models.base import Profile, Progress, Report
from tests.steps.conftest import NOW, PlayedQueues
from tests.steps.training.test_train import taught
from tests.steps.training.training_jobs import Clock, Fit, begun, clock, look, pipeline, work
from tests.steps.training.training_jobs import services as services_of_jobs

__all__ = ["clock", "pipeline", "services_of_jobs", "taught"]  # fixtures

GPU = "gpu-cuda"


class Leases(PlayedQueues):
    """Queues that lend GPUs: some are held by others, and `taken` notes what was lent."""

    def __init__(self, held: set[str]) -> None:
        super().__init__()
        self.held, self.taken = held, list[str]()
        self.tell_taken: dict[str, Callable[[], None]] = {}
        self.is_settled = True

    @contextmanager
    def lock(
        self, name: str, *, wait_s: float, taken: Callable[[], None], **given: Any
    ) -> Iterator[Lease]:
        self.tell_taken[name] = taken
        if name.startswith("train-"):  # the right to be alone at a job
            yield Lease(name, 20.0, lambda: True)
            return
        assert wait_s == 0, "a worker is never held up"
        if name in self.held:
            raise LockHeld(f"{name!r} is held by another process; it is tried again later")
        self.held.add(name)
        self.taken.append(name)
        try:
            yield Lease(name, 20.0, lambda: True)
        finally:
            self.held.discard(name)

    def settled(self) -> bool:
        return self.is_settled

    def is_held(self, name: str) -> bool:
        return name in self.held

    def is_alive(self, job_id: str) -> bool:
        return False

    def queued(self) -> list[str]:
        """Return the projects whose trainings were queued, and forget them."""
        found = [f"{kwargs['project']}" for name, kwargs in self.enqueued if name == "train"]
        self.enqueued.clear()
        return found


@pytest.fixture
def leases() -> Leases:
    """Another training holds the GPU."""
    return Leases({GPU})


@pytest.fixture
def services(
    services_of_jobs: Services, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> Services:
    monkeypatch.setattr(models.base, "resolve_device", lambda device: "cuda")
    monkeypatch.setattr(
        fitting, "gpu_of", lambda device: None if device == "cpu" else f"gpu-{device}"
    )
    return replace(services_of_jobs, queues=leases)  # type: ignore[arg-type]


def wait(services: Services, project: int, after_s: float, *gpus: str) -> None:
    """Have a training of another project wait for GPUs; a worker tried it at that moment."""
    at = NOW + timedelta(seconds=after_s)
    with services.store.transaction() as tx:
        job = Job(f"train-{project}-x", project, "train", "waiting", created_at=at)
        jobs.put(tx, replace(job, started_at=NOW, detail={"gpus": [[*gpus]]}))


def test_a_training_whose_gpu_is_held_gives_its_worker_back_and_is_neither_lost_nor_failed(
    services: Services, pipeline: Fit, leases: Leases, clock: Clock
) -> None:
    job = work(services, begun(services))
    leases.queued()
    assert (job.state, job.detail["stage"], job.error) == ("waiting", "waiting for GPU", None)
    assert str(cli_jobs.row(job)[1]) == "waiting for GPU"
    (advice,) = cli_jobs.sentences(job)
    assert f"another training uses {GPU}; this one begins by itself" in str(advice)
    assert pipeline.given == [], "it has not begun"
    clock.now += tick.GRACE + timedelta(seconds=1)
    tick.note_dead_jobs(services, 1)
    decision = decide.next_steps(services, 1)
    assert decision.reason.startswith("a training waits for a GPU that another one uses")
    assert look(services, job).state == "waiting"
    training_job.queue_waiting(services)
    assert leases.queued() == []


def test_it_is_queued_again_when_the_gpu_is_free_and_knows_what_it_knew(
    services: Services, pipeline: Fit, leases: Leases
) -> None:
    job = begun(services)
    with services.store.transaction() as tx:
        jobs.change(tx, job.id, halvings=1, detail={"notes": ["said before"]})
    work(services, job)
    leases.queued()
    leases.held.clear()
    training_job.queue_waiting(services)
    (again,) = leases.enqueued
    assert again == ("train", {"project": 1, "snapshot": job.id.rpartition("-")[2]})
    ended = work(services, job)
    assert (ended.state, pipeline.given) == ("publishing", [("cuda", 8)])
    assert ended.detail["notes"] == ["said before"]
    assert (leases.taken, leases.held) == ([GPU], set()), "lent, and given back"


def test_a_training_that_goes_on_on_the_cpu_gives_its_gpu_back(
    services: Services, pipeline: Fit, leases: Leases
) -> None:
    leases.held.clear()
    held_on: dict[str, set[str]] = {}

    def act(profile: Profile, report: Report) -> None:
        device, _ = pipeline.given[-1]
        held_on[device] = set(leases.held)
        if device != "cpu":
            raise MemoryError("CUDA out of memory")

    pipeline.act = act
    assert work(services, begun(services)).state == "publishing"
    assert held_on == {"cuda": {GPU}, "cpu": set()}


def test_now_and_then_it_is_offered_to_workers_with_another_gpu(
    services: Services, pipeline: Fit, leases: Leases, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = work(services, begun(services))
    leases.queued()
    clock.now += ELSEWHERE_AFTER
    training_job.queue_waiting(services)
    assert leases.queued() == ["1"]
    monkeypatch.setattr(models.base, "resolve_device", lambda device: "cuda:1")
    assert work(services, job).state == "publishing"
    assert leases.taken == ["gpu-cuda:1"]


def test_a_waiting_training_can_be_cancelled(
    services: Services, pipeline: Fit, leases: Leases
) -> None:
    job = work(services, begun(services))
    assert training_job.cancel(services, job.id).state == "cancelled"
    leases.held.clear()
    leases.queued()
    training_job.queue_waiting(services)
    assert leases.queued() == []
    assert work(services, job).state == "cancelled"


def test_of_those_that_wait_for_a_gpu_the_oldest_is_queued(
    services: Services, leases: Leases
) -> None:
    wait(services, 5, 2, "a")
    wait(services, 6, 1, "a", "b")
    wait(services, 7, 3, "b")
    wait(services, 8, 4, "c")
    leases.held = {"c"}
    training_job.queue_waiting(services)
    assert leases.queued() == ["6"]
    leases.held = {"b"}
    training_job.queue_waiting(services)
    assert leases.queued() == ["8"], "5 would be in the way of 6"


def test_a_worker_with_another_busy_gpu_costs_a_training_no_place_in_its_line(
    services: Services, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begun(services)
    work(services, job)
    wait(services, 5, 60, GPU)
    leases.held.add("gpu-cuda:1")
    monkeypatch.setattr(models.base, "resolve_device", lambda device: "cuda:1")
    assert work(services, job).detail["gpus"] == [[GPU], ["gpu-cuda:1"]]
    leases.queued()
    leases.held.discard(GPU)
    training_job.queue_waiting(services)
    assert leases.queued() == ["1"], "not the younger one"


def test_when_all_are_offered_the_oldest_is_put_to_the_front_last(
    services: Services, leases: Leases, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for project, after_s in ((5, 2), (6, 1), (7, 3)):
        wait(services, project, after_s, GPU)
    clock.now += ELSEWHERE_AFTER
    fronts: list[bool] = []
    enqueue = leases.enqueue

    def noted(*args: Any, at_front: bool = False, **given: Any) -> bool:
        fronts.append(at_front)
        return enqueue(*args, **given)

    monkeypatch.setattr(leases, "enqueue", noted)
    training_job.queue_waiting(services)
    assert leases.queued() == ["7", "5", "6"] and all(fronts)


@pytest.mark.parametrize(
    ("after_s", "gpus", "state"),
    [(-1, (GPU,), "waiting"), (1, (GPU,), "publishing"), (-1, ("gpu-b",), "publishing")],
    ids=["older", "younger", "another GPU"],
)
def test_a_training_does_not_overtake_one_that_has_waited_longer(
    services: Services,
    pipeline: Fit,
    leases: Leases,
    after_s: float,
    gpus: tuple[str, ...],
    state: str,
) -> None:
    leases.held.clear()
    wait(services, 5, after_s, *gpus)
    assert work(services, begun(services)).state == state


@pytest.fixture
def two_gpus(services: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """Two processes, on a machine whose first GPU has the later name."""
    monkeypatch.setattr(fitting, "gpu_of", {"cuda:0": "gpu-b", "cuda:1": "gpu-a"}.get)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    return replace(services, settings=replace_processes(services, 2))


def replace_processes(services: Services, processes: int) -> Any:
    return services.settings.model_copy(update={"train_processes": processes})


def test_all_gpus_of_a_training_are_lent_in_the_order_of_their_names(
    two_gpus: Services, leases: Leases
) -> None:
    leases.held.clear()
    watch = Watch(two_gpus, begun(two_gpus).id)
    with fitting.alone(two_gpus, watch) as place:
        assert (place.device, leases.held) == ("cuda", {"gpu-a", "gpu-b"})
    assert (leases.taken, leases.held) == (["gpu-a", "gpu-b"], set())


def test_all_gpus_or_none(two_gpus: Services, leases: Leases) -> None:
    leases.held = {"gpu-b"}
    job = begun(two_gpus)
    watch = Watch(two_gpus, job.id)
    with pytest.raises(LockHeld, match="'gpu-b' is held"), fitting.alone(two_gpus, watch):
        raise AssertionError("it is not alone")
    assert (leases.taken, leases.held) == (["gpu-a"], {"gpu-b"}), "the first was given back"
    assert look(two_gpus, job).detail["gpus"] == [["gpu-a", "gpu-b"]]


def test_the_cpu_is_shared(services: Services, pipeline: Fit, leases: Leases) -> None:
    job = begun(services)
    with services.store.transaction() as tx:
        jobs.change(tx, job.id, on_cpu=True)
    assert work(services, job).state == "publishing"
    assert pipeline.given == [("cpu", 16)] and leases.taken == []


def test_a_wiped_redis_does_not_know_at_once_which_gpus_are_free(
    services: Services, leases: Leases
) -> None:
    leases.held.clear()
    wait(services, 5, 0, GPU)
    leases.is_settled = False
    training_job.queue_waiting(services)
    assert leases.queued() == []
    leases.is_settled = True
    training_job.queue_waiting(services)
    assert leases.queued() == ["5"]


def test_a_training_whose_gpu_another_took_goes_on_and_says_so(
    services: Services, pipeline: Fit, leases: Leases
) -> None:
    leases.held.clear()

    def act(profile: Profile, report: Report) -> None:
        leases.tell_taken[GPU]()
        report(Progress("training", "crack", 1, 2, 0.5))

    pipeline.act = act
    job = work(services, begun(services))
    assert job.state == "publishing" and pipeline.given == [("cuda", 16)]
    (note,) = job.detail["notes"]
    assert f"another training took {GPU} as well: both go on" in note


def test_redis_that_is_down_is_no_gpu_that_is_held(
    services: Services, pipeline: Fit, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = leases.lock

    def down(name: str, **given: Any) -> Any:
        if name == GPU:
            raise QueueError("Redis cannot be used; start it")
        return lock(name, **given)

    monkeypatch.setattr(leases, "lock", down)
    job = work(services, begun(services))
    assert (job.state, job.again_at) == ("failed", NOW + AGAIN_AFTER)


def test_a_tick_queues_what_waits(
    services: Services, leases: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "ping", lambda: None, raising=False)
    with services.store.transaction() as tx:
        projects.update(tx, 1, train_after=1000)
    wait(services, 5, 0, "free")
    tick.tick(services)
    assert leases.queued() == ["5"]
