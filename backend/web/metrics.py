"""Figures for Prometheus, read from the store at the moment of asking."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from backend.errors import QueueError
from backend.steps import damage
from backend.steps.training import watch
from backend.store import inbox, projects, reigns
from backend.web.access import services_of
from backend.wiring import Services

router = APIRouter()


@router.get("/metrics")
def metrics(request: Request) -> Response:
    """Inbox counts, queue depths and champions in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StoreCollector(services_of(request)))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class StoreCollector(Collector):
    """Turns the store's counts and the queues' depths into gauges."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield one family per figure; without Redis the depths are left out and `up` is 0."""
        with self._services.store.reading() as tx:
            events = inbox.counts(tx)
            known = projects.all(tx)
            champions = {p.id: p.champion for p in known}
            damaged = {p.id: bool(damage.standing(tx, p).sentence) for p in known}
            fallen = {
                p.id: watch.proposed(tx, p, reigns.newest(tx, p.id)) is not None for p in known
            }
        family = GaugeMetricFamily(
            "labelclimb_inbox_events", "Events by state and source", labels=["state", "source"]
        )
        for (state, source), count in events.items():
            family.add_metric([state, source], count)
        yield family
        family = GaugeMetricFamily(
            "labelclimb_champion", "Number of the version in use", labels=["project"]
        )
        for project, number in champions.items():
            family.add_metric([str(project)], number or 0)
        yield family
        family = GaugeMetricFamily(
            "labelclimb_rollback_proposed",
            "1 when the new version is taken less than the former",
            labels=["project"],
        )
        for project, is_proposed in fallen.items():
            family.add_metric([str(project)], is_proposed)
        yield family
        family = GaugeMetricFamily(
            "labelclimb_champion_damaged",
            "1 while a former version, or none, stands in for one whose files are damaged",
            labels=["project"],
        )
        for project, is_damaged in damaged.items():
            family.add_metric([str(project)], is_damaged)
        yield family
        yield from self._queues()

    def _queues(self) -> Iterable[GaugeMetricFamily]:
        try:
            depths = self._services.queues.depths()
        except QueueError:
            yield GaugeMetricFamily("labelclimb_redis_up", "1 when Redis answers", value=0)
            return
        yield GaugeMetricFamily("labelclimb_redis_up", "1 when Redis answers", value=1)
        family = GaugeMetricFamily("labelclimb_queue_jobs", "Jobs waiting", labels=["queue"])
        for queue, depth in depths.items():
            family.add_metric([queue], depth)
        yield family
