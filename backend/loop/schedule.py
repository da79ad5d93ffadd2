"""When a project trains by the clock: "02:00", or "mon-fri 06:30 13:00 Europe/Prague"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, time, timedelta, timezone
from zoneinfo import ZoneInfo

from backend.errors import InvalidPayload

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
WANTED = "times like 02:00, before them days (mon-fri, sat,sun), after them a zone (Europe/Prague)"
LOOKED_THROUGH = timedelta(days=8)  # some day of every week is in there


@dataclass(frozen=True)
class Schedule:
    """Times of day in a zone, on some days of the week (0 = Monday)."""

    times: tuple[time, ...]
    days: frozenset[int]
    zone: ZoneInfo

    def latest(self, now: datetime) -> datetime:
        """Return the last moment that has come, in UTC."""
        return max(moment for moment in self._around(now) if moment <= now)

    def upcoming(self, now: datetime) -> datetime:
        """Return the next moment that is to come, in UTC."""
        return min(moment for moment in self._around(now) if moment > now)

    def _around(self, now: datetime) -> Iterator[datetime]:
        """Yield the moments of the days around `now`; an hour that a day repeats counts once."""
        day = (now - LOOKED_THROUGH).date()
        while day <= (now + LOOKED_THROUGH).date():
            if day.weekday() in self.days:
                for at in self.times:
                    local = datetime.combine(day, at, tzinfo=self.zone)
                    yield local.astimezone(timezone.utc)
            day += timedelta(days=1)


def parse(text: str) -> Schedule | None:
    """Read a schedule; None for "" (there is none), the zone is UTC unless it is said.

    Raises InvalidPayload with what is wanted.
    """
    words = text.split()
    if not words:
        return None
    days, zone = frozenset(range(7)), ZoneInfo("UTC")
    if not _is_time(words[0]):
        days = _days(words.pop(0), text)
    if words and not _is_time(words[-1]):
        zone = _zone(words.pop(), text)
    if not words:
        raise InvalidPayload(f"schedule {text!r} names no time; wanted: {WANTED}")
    return Schedule(tuple(_time(word, text) for word in words), days, zone)


def _is_time(word: str) -> bool:
    return ":" in word


def _time(word: str, text: str) -> time:
    found = re.fullmatch(r"(\d{1,2}):(\d{2})", word)
    if found is None or int(found[1]) > 23 or int(found[2]) > 59:
        raise InvalidPayload(f"schedule {text!r}: {word!r} is no time; wanted: {WANTED}")
    return time(int(found[1]), int(found[2]))


def _days(word: str, text: str) -> frozenset[int]:
    if word.lower() == "daily":
        return frozenset(range(7))
    chosen: set[int] = set()
    for part in word.lower().split(","):
        first, _, last = part.partition("-")
        if first not in DAYS or (last or first) not in DAYS:
            raise InvalidPayload(f"schedule {text!r}: {part!r} is no day; wanted: {WANTED}")
        start, length = DAYS.index(first), (DAYS.index(last or first) - DAYS.index(first)) % 7
        chosen |= {(start + n) % 7 for n in range(length + 1)}
    return frozenset(chosen)


def _zone(word: str, text: str) -> ZoneInfo:
    try:
        return ZoneInfo(word)
    except (KeyError, OSError, ValueError) as error:
        raise InvalidPayload(
            f"schedule {text!r}: no time zone {word!r} here; wanted: {WANTED}"
        ) from error
