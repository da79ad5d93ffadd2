"""Single fields of Label Studio's JSON: the value of the wanted kind, or InvalidPayload.

`path` names the field in the message: "annotation.id".
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from backend.errors import InvalidPayload

MOST = 2**63 - 1


def mapping(value: Any, path: str) -> Mapping[str, Any]:
    """Return an object."""
    if not isinstance(value, Mapping):
        raise wrong(path, value, "an object")
    return value


def integer(value: Any, path: str) -> int:
    """Return a whole number that both databases can keep."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) > MOST:
        raise wrong(path, value, f"a whole number up to {MOST}")
    return value


def identity(value: Any, path: str) -> int:
    """Return an id; the API writes some relations as objects."""
    if isinstance(value, Mapping):
        return integer(value.get("id"), f"{path}.id")
    return integer(value, path)


def text(value: Any, path: str) -> str:
    """Return a text."""
    if not isinstance(value, str):
        raise wrong(path, value, "a text")
    return value


def seconds(value: Any, path: str) -> float | None:
    """Return seconds, None for null."""
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise wrong(path, value, "seconds or null")
    return float(value)


def moment(value: Any, path: str) -> datetime:
    """Return a time in ISO 8601; one without a zone is UTC."""
    written = text(value, path)
    try:
        found = datetime.fromisoformat(written.replace("Z", "+00:00"))
        aware = found if found.tzinfo else found.replace(tzinfo=timezone.utc)
        return aware.astimezone(timezone.utc)  # the first and last hours of the calendar have none
    except (ValueError, OverflowError) as error:
        raise wrong(path, value, "a time in ISO 8601") from error


def optional_moment(value: Any, path: str) -> datetime | None:
    """Return a time, None for null or ""."""
    return moment(value, path) if value else None


def wrong(path: str, value: Any, expected: str) -> InvalidPayload:
    """Return the error that names the field, its value and what was expected."""
    return InvalidPayload(f"{path} is {repr(value)[:80]}; expected {expected}")
