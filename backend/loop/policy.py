"""Whether to train now, and from what, and why (not), in words."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from backend.loop.schedule import Schedule
from backend.records import VerifiedMask, WeakLabel

FRESH_EVERY = 5  # versions: one that was trained on and on remembers labels that were corrected
CLOCKS_DIFFER = timedelta(minutes=1)  # between machines, at most


@dataclass(frozen=True)
class Attempt:
    """How a training on the present snapshot ended without a version.

    again_at: when it is tried again by itself; None: only on request.
    """

    cancelled: bool
    reason: str
    at: datetime
    again_at: datetime | None = None


@dataclass(frozen=True)
class PolicyState:
    """What the decision depends on; all times with a time zone.

    new_labels: weak labels that no training has seen; oldest_untrained_at: when the first of them
    came. running: a training is queued, at work, or waiting for a GPU. trainable: some class has
    positive and negative labels. snapshot, last_snapshot: digests of the present and the last
    training set. schedule_since: what of the schedule came before needs nothing: the newest
    training, or setting the schedule. attempt: the last one on this very snapshot, if it made no
    version. lost: the version in use was damaged, and none could take its place.
    """

    new_labels: int
    train_after: int
    quiet_s: float
    max_wait_s: float
    newest_annotation_at: datetime | None
    oldest_untrained_at: datetime | None
    train_requested_at: datetime | None
    running: bool
    snapshot: str
    last_snapshot: str | None
    waiting: bool = False
    trainable: bool = True
    schedule: Schedule | None = None
    schedule_since: datetime | None = None
    attempt: Attempt | None = None
    lost: bool = False


@dataclass(frozen=True)
class Decision:
    """Whether to train now; reason: a plain sentence with numbers."""

    train: bool
    reason: str


def decide(state: PolicyState, now: datetime) -> Decision:
    """Decide: on request or by the clock at once; else with enough labels, after a pause.

    Never while a training runs, never without something trainable, never twice on one snapshot;
    one that failed or was cancelled may come again on request. A version that was lost is made anew
    at once: its labels are all there, and until then new tasks get no proposals.
    """
    obstacle = _obstacle(state, now)
    if obstacle:
        return Decision(False, obstacle)
    if state.train_requested_at is not None:
        return Decision(True, f"training was requested at {_clock(state.train_requested_at, now)}")
    if state.lost:
        return Decision(True, "the version in use is damaged and no other can serve: trains anew")
    count = f"{state.new_labels} of {state.train_after} new labels"
    scheduled = scheduled_at(state, now)
    if scheduled is not None:
        return Decision(True, f"{count}; scheduled for {_clock(scheduled, now)}")
    if state.new_labels < state.train_after:
        return Decision(False, count + _pause(state, now) + _outlook(state, now))
    return _after_pause(state, now, count)


def wants_snapshot(state: PolicyState, now: datetime) -> bool:
    """Say whether the decision depends on which labels there are, not on their number alone."""
    is_due = state.lost or state.new_labels >= state.train_after
    if state.train_requested_at is not None or is_due:
        return True
    return scheduled_at(state, now) is not None


def scheduled_at(state: PolicyState, now: datetime) -> datetime | None:
    """Return the scheduled moment that is due: it found new labels, and no training came since."""
    if state.schedule is None or state.oldest_untrained_at is None or not state.new_labels:
        return None
    moment = state.schedule.latest(now)
    if state.schedule_since is not None and moment <= state.schedule_since:
        return None
    return moment if state.oldest_untrained_at <= moment else None


@dataclass(frozen=True)
class StartState:
    """What a training that is due could start from.

    number: of the version to be made; classes, encoder: what it is to know and to be built on. The
    others are the champion's, None without one.
    """

    number: int
    classes: frozenset[str]
    encoder: str
    champion_classes: frozenset[str] | None = None
    champion_encoder: str | None = None


@dataclass(frozen=True)
class Start:
    """Whether to train on from the champion; reason: a plain sentence with numbers."""

    warm: bool
    reason: str


def choose_start(state: StartState) -> Start:
    """Choose between a warm start from the champion and a fresh one.

    Fresh when classes or encoder have changed, and for each FRESH_EVERY-th version. However many
    labels have come since: benchmarks/warm_start.py, which adds 20 corrected images to 17 clicked
    ones, found a third of the steps from the champion no worse than a fresh start.
    """
    if state.champion_classes is None:
        return Start(False, "there is no version to start from")
    if state.champion_classes != state.classes:
        old, new = (_listed(names) for names in (state.champion_classes, state.classes))
        return Start(False, f"the classes have changed from {old} to {new}")
    if state.champion_encoder != state.encoder:
        before = state.champion_encoder or "an unknown one"
        return Start(False, f"the encoder has changed from {before} to {state.encoder}")
    if state.number % FRESH_EVERY == 0:
        return Start(False, f"version {state.number}: every {FRESH_EVERY}th starts afresh")
    return Start(True, "the champion knows the same classes on the same encoder")


def trainable_classes(labels: Iterable[WeakLabel]) -> tuple[str, ...]:
    """Return the classes, sorted, that have both positive and negative weak labels."""
    signs: dict[str, set[bool]] = {}
    for label in labels:
        signs.setdefault(label.class_name, set()).add(label.positive)
    return tuple(sorted(name for name, found in signs.items() if len(found) == 2))


def snapshot_digest(labels: Iterable[WeakLabel], masks: Iterable[VerifiedMask] = ()) -> str:
    """Return 16 hex digits that name a training set, whatever the order of its records."""
    rows = [repr(vars(label)) for label in labels]
    rows += [repr({**vars(mask), "rle": hashlib.sha256(mask.rle).hexdigest()}) for mask in masks]
    return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()[:16]


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def _obstacle(state: PolicyState, now: datetime) -> str | None:
    if state.waiting:
        return "a training waits for a GPU that another one uses; it begins by itself"
    if state.running:
        return "a training is queued or running"
    if not state.trainable:
        return "nothing to train: no class has both positive and negative labels yet"
    if state.snapshot == state.last_snapshot:
        return "nothing has changed since the last training"
    return _ended_without(state, state.attempt, now) if state.attempt else None


def _ended_without(state: PolicyState, attempt: Attempt, now: datetime) -> str | None:
    """Say why these labels are not tried again after an attempt, None when they are."""
    if state.train_requested_at is not None and state.train_requested_at > attempt.at:
        return None
    if attempt.cancelled:
        return "the training on these labels was cancelled; Start Training begins it again"
    failed = f"the last training failed: {attempt.reason}"
    if attempt.again_at is None:
        return f"{failed}; Start Training tries these labels again"
    if now < attempt.again_at:
        return f"{failed}; it is tried again at {_clock(attempt.again_at, now)}"
    return None


def _after_pause(state: PolicyState, now: datetime, count: str) -> Decision:
    patience_at = _plus(state.oldest_untrained_at, state.max_wait_s)
    pause = _pause(state, now)
    if not pause:
        return Decision(True, f"{count}; nobody has annotated for {state.quiet_s:g} s")
    if patience_at is not None and now >= patience_at:
        return Decision(True, f"{count}; the oldest waited longer than {state.max_wait_s:g} s")
    return Decision(False, count + pause)


def _pause(state: PolicyState, now: datetime) -> str:
    """Say when the annotators will have paused long enough, "" when they have.

    A moment that lies ahead was noted before the clock was set back: nothing waits for it.
    """
    newest = state.newest_annotation_at
    if newest is None or newest > now + CLOCKS_DIFFER:
        return ""
    quiet_at = newest + timedelta(seconds=state.quiet_s)
    return "" if now >= quiet_at else f"; quiet period ends {_clock(quiet_at, now)}"


def _outlook(state: PolicyState, now: datetime) -> str:
    if state.schedule is None or not state.new_labels:
        return ""
    return f"; scheduled for {_clock(state.schedule.upcoming(now), now)}"


def _plus(moment: datetime | None, seconds: float) -> datetime | None:
    return None if moment is None else moment + timedelta(seconds=seconds)


def _clock(moment: datetime, now: datetime) -> str:
    """Name a moment by the clock of `now`; with its day, unless that is within a day."""
    local = moment.astimezone(now.tzinfo)
    near = abs(moment - now) < timedelta(days=1)
    return local.strftime("%H:%M:%S %Z" if near else "%a %H:%M:%S %Z")
