"""The one place that wires: settings in, the services that steps, web and commands use out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from backend import credentials, registry
from backend.credentials import Credentials
from backend.heat_maps import HeatMaps
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.images.store import ImageStore
from backend.processes.residents import Residents
from backend.queueing.embedded_redis import running_server
from backend.queueing.queues import Queues
from backend.registry import Registry
from backend.settings import Settings
from backend.store import Store

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Services:
    """Everything that talks to the world, injected; tests pass their own."""

    settings: Settings
    credentials: Credentials
    store: Store
    registry: Registry
    queues: Queues
    labelstudio: LabelStudio
    images: ImageStore
    residents: Residents
    heat_maps: HeatMaps
    clock: Clock

    def close(self) -> None:
        """Close what holds connections; the services are of no use afterwards."""
        self.store.close()
        self.labelstudio.close()


def utc_now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(timezone.utc)


def build(settings: Settings) -> Services:
    """Open the store (migrating it), and prepare the doors to Redis and Label Studio."""
    key = settings.label_studio_api_key
    labelstudio = LabelStudio(
        settings.label_studio_url, key.get_secret_value() if key is not None else None
    )
    versions = registry.at(
        settings.model_dir,
        cache=settings.data_dir / "version-cache",
        cache_bytes=settings.max_version_cache_bytes,
    )
    return Services(
        settings=settings,
        credentials=credentials.load(settings),
        store=Store.open(settings.database_url),
        registry=versions,
        queues=Queues(_redis_url(settings)),
        labelstudio=labelstudio,
        images=ImageStore(
            labelstudio,
            settings.data_dir / "images",
            max_bytes=settings.max_image_bytes,
            max_pixels=settings.max_image_pixels,
            allowed_hosts=settings.allowed_image_hosts,
            max_cache_bytes=settings.max_cache_bytes,
        ),
        residents=Residents(versions, device=settings.device),
        heat_maps=HeatMaps(settings.data_dir / "heat", max_bytes=settings.max_heat_bytes),
        clock=utc_now,
    )


def _redis_url(settings: Settings) -> str:
    """Return the Redis that was named; else the one that `up` runs on the same data, if it does."""
    found = running_server(settings.data_dir) if settings.own_redis else None
    return found or settings.redis_url
