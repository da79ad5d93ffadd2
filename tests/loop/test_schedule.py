"""Schedules: what people write, and the moments that it means."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise

import pytest

from backend.errors import InvalidPayload
from backend.loop.schedule import Schedule, parse

UTC = timezone.utc


def schedule(text: str) -> Schedule:
    found = parse(text)
    assert found is not None
    return found


def utc(day: int, hour: int, minute: int = 0, month: int = 11) -> datetime:
    return datetime(2026, month, day, hour, minute, tzinfo=UTC)  # 21 November is a Saturday


@pytest.mark.parametrize(
    ("text", "latest", "upcoming"),
    [
        ("02:00", utc(21, 2), utc(22, 2)),
        ("daily 02:00", utc(21, 2), utc(22, 2)),
        ("2:00 13:30", utc(21, 2), utc(21, 13, 30)),
        ("12:00", utc(21, 12), utc(22, 12)),
        ("mon-fri 02:00", utc(20, 2), utc(23, 2)),
        ("sat,sun 02:00", utc(21, 2), utc(22, 2)),
        ("SUN 02:00", utc(15, 2), utc(22, 2)),
        ("fri-mon 02:00", utc(21, 2), utc(22, 2)),
        ("02:00 Europe/Prague", utc(21, 1), utc(22, 1)),
        ("sat 13:00 Asia/Tokyo", utc(21, 4), utc(28, 4)),
    ],
)
def test_the_last_and_the_next_moment(text: str, latest: datetime, upcoming: datetime) -> None:
    now = utc(21, 12)
    assert (schedule(text).latest(now), schedule(text).upcoming(now)) == (latest, upcoming)


def test_a_night_with_one_hour_more_or_less_still_has_one_moment_a_day() -> None:
    """Prague leaves summer on 25 October 2026 (2:30 comes twice), enters it on 29 March 2026."""
    nightly = schedule("02:30 Europe/Prague")
    for month, day in ((10, 23), (3, 27)):
        now = datetime(2026, month, day, tzinfo=UTC)
        moments = []
        for _ in range(5):
            now = nightly.upcoming(now)
            assert nightly.latest(now) == now
            moments.append(now)
        assert all(
            timedelta(hours=23) <= later - former <= timedelta(hours=25)
            for former, later in pairwise(moments)
        )


def test_no_text_is_no_schedule() -> None:
    assert parse("") is None
    assert parse("  ") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("24:00", "'24:00' is no time"),
        ("02:60", "'02:60' is no time"),
        ("02:00:00", "'02:00:00' is no time"),
        ("0 2 * * *", "'0' is no day"),
        ("someday 02:00", "'someday' is no day"),
        ("mon-", "names no time"),
        ("mon-fri", "names no time"),
        ("02:00 Prague", "no time zone 'Prague' here"),
        ("02:00 ../etc/passwd", "no time zone"),
        ("02:00 UTC 03:00", "'UTC' is no time"),
    ],
)
def test_what_cannot_be_read_says_what_is_wanted(text: str, why: str) -> None:
    with pytest.raises(InvalidPayload, match="mon-fri") as raised:
        parse(text)
    assert why in str(raised.value)
