"""What settings are made of: the types that check their values, and how one is described."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, BeforeValidator, Field
from pydantic.fields import FieldInfo

import models.base
import strategies.base
from backend.labelstudio.images.hosts import AllowedHost

LONGEST_WAIT_S = 31_536_000.0  # a year


def setting(
    names: str,
    default: Any,
    wanted: str,
    meaning: str,
    *,
    shown: str | None = None,
    secret: bool = False,
    **limits: Any,
) -> Any:
    """Describe a setting; a callable default gets the settings above it, `shown` documents it."""
    made = {"default_factory": default} if callable(default) else {"default": default}
    said: Any = {"wanted": wanted, "shown": shown, "secret": secret}
    aliases = AliasChoices(*names.split())
    return Field(
        validation_alias=aliases,
        description=meaning,
        json_schema_extra=said,
        repr=not secret,
        **made,
        **limits,
    )


def _http_url(value: Any) -> Any:
    parts = urlsplit(str(value))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) address")
    return str(value).rstrip("/")


def _one_of(names: Callable[[], tuple[str, ...]]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in names():
            raise ValueError(f"known: {', '.join(names())}")
        return value

    return check


def _hosts(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    entries = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    for entry in entries:
        AllowedHost.parse(entry)
    return entries


def _weights(value: Any) -> Any:
    if value is None or value == "hub" or Path(str(value)).is_file():
        return value
    raise ValueError("no such file")


def _folder_or_url(value: Any) -> Any:
    return value if "://" in str(value) else Path(value)


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


HttpUrl = Annotated[str, BeforeValidator(_http_url)]
Weights = Annotated[str | None, BeforeValidator(_weights)]
FolderOrUrl = Annotated[Path | str, BeforeValidator(_folder_or_url)]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_hosts)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(_upper)]
StrategyName = Annotated[str, BeforeValidator(_one_of(strategies.base.names))]
PipelineName = Annotated[str, BeforeValidator(_one_of(models.base.names))]


def default_backend_url(above: dict[str, Any]) -> str:
    """Return where this machine reaches the backend, of the settings above it."""
    host = "127.0.0.1" if above["host"] in ("0.0.0.0", "::") else above["host"]  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{above['port']}"


def env_names(field: FieldInfo) -> tuple[str, ...]:
    """Return a setting's names in the environment, the preferred one first."""
    alias = field.validation_alias
    return tuple(map(str, alias.choices)) if isinstance(alias, AliasChoices) else ()


def extra(field: FieldInfo, key: str) -> Any:
    """Return what else a setting says of itself: wanted, shown or secret."""
    said = field.json_schema_extra
    return said.get(key) if isinstance(said, dict) else None


def default_text(field: FieldInfo) -> str:
    """Return a setting's default as the documentation shows it."""
    if shown := extra(field, "shown"):
        return str(shown)
    if field.default in (None, ()):
        return "unset"
    return str(field.default)
