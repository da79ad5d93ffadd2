from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from backend.loop import schedule
from backend.loop.policy import (
    Attempt,
    PolicyState,
    Start,
    StartState,
    choose_start,
    decide,
    snapshot_digest,
    trainable_classes,
    wants_snapshot,
)
from backend.records import VerifiedMask
from tests.loop.making import NOON, weak_label

EMPTY_MASK = VerifiedMask(7, 5, 31, "crack", 10, 10, b"\x00\x01")


def ago(seconds: float) -> datetime:
    return NOON - timedelta(seconds=seconds)


def state(**changes: Any) -> PolicyState:
    values: dict[str, Any] = {
        "new_labels": 25,
        "train_after": 20,
        "quiet_s": 30.0,
        "max_wait_s": 900.0,
        "newest_annotation_at": ago(60),
        "oldest_untrained_at": ago(300),
        "train_requested_at": None,
        "running": False,
        "snapshot": "b" * 16,
        "last_snapshot": "a" * 16,
    }
    return PolicyState(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "train", "reason"),
    [
        ({}, True, "25 of 20 new labels; nobody has annotated for 30 s"),
        ({"new_labels": 7}, False, "7 of 20 new labels"),
        ({"new_labels": 20}, True, "20 of 20 new labels; nobody has annotated for 30 s"),
        (
            {"newest_annotation_at": ago(20)},
            False,
            "25 of 20 new labels; quiet period ends 12:00:10 UTC",
        ),
        (
            {"newest_annotation_at": ago(2), "oldest_untrained_at": ago(900)},
            True,
            "25 of 20 new labels; the oldest waited longer than 900 s",
        ),
        (
            {"new_labels": 3, "oldest_untrained_at": ago(9000)},
            False,
            "3 of 20 new labels",
        ),
        (
            {"new_labels": 1, "newest_annotation_at": NOON, "train_requested_at": ago(5)},
            True,
            "training was requested at 11:59:55 UTC",
        ),
        ({"running": True, "train_requested_at": ago(5)}, False, "a training is queued or running"),
        (
            {"snapshot": "a" * 16, "train_requested_at": ago(5)},
            False,
            "nothing has changed since the last training",
        ),
        (
            {"trainable": False, "train_requested_at": ago(5)},
            False,
            "nothing to train: no class has both positive and negative labels yet",
        ),
        ({"last_snapshot": None}, True, "25 of 20 new labels; nobody has annotated for 30 s"),
        (
            {"new_labels": 7, "newest_annotation_at": ago(5)},
            False,
            "7 of 20 new labels; quiet period ends 12:00:25 UTC",
        ),
        (
            {"newest_annotation_at": ago(-86400), "oldest_untrained_at": ago(-86400)},
            True,
            "25 of 20 new labels; nobody has annotated for 30 s",
        ),
    ],
)
def test_decisions(changes: dict[str, Any], train: bool, reason: str) -> None:
    decision = decide(state(**changes), NOON)
    assert (decision.train, decision.reason) == (train, reason)


AT_ELEVEN = schedule.parse("11:00")


@pytest.mark.parametrize(
    ("changes", "train", "reason"),
    [
        ({}, True, "3 of 20 new labels; scheduled for 11:00:00 UTC"),
        ({"newest_annotation_at": ago(1)}, True, "3 of 20 new labels; scheduled for 11:00:00 UTC"),
        ({"running": True}, False, "a training is queued or running"),
        ({"new_labels": 0}, False, "0 of 20 new labels"),
        (
            {"oldest_untrained_at": ago(3599)},
            False,
            "3 of 20 new labels; scheduled for 11:00:00 UTC",
        ),
        (
            {"schedule_since": ago(3600)},
            False,
            "3 of 20 new labels; scheduled for 11:00:00 UTC",
        ),
        ({"snapshot": "a" * 16}, False, "nothing has changed since the last training"),
    ],
)
def test_a_scheduled_moment_trains_once_on_labels_that_it_found(
    changes: dict[str, Any], train: bool, reason: str
) -> None:
    given = {
        "new_labels": 3,
        "oldest_untrained_at": ago(3601),
        "schedule": AT_ELEVEN,
        "schedule_since": ago(3601),
        **changes,
    }
    decision = decide(state(**given), NOON)
    assert (decision.train, decision.reason) == (train, reason)


CANCELLED = Attempt(True, "", ago(100))
FAILED = Attempt(False, "no GPU", ago(100))
PUT_OFF = Attempt(False, "disk full", ago(100), again_at=ago(-60))


@pytest.mark.parametrize(
    ("attempt", "requested_at", "train", "says"),
    [
        (CANCELLED, None, False, "was cancelled; Start Training begins it again"),
        (CANCELLED, ago(101), False, "was cancelled"),
        (CANCELLED, ago(99), True, "requested"),
        (FAILED, None, False, "the last training failed: no GPU; Start Training tries these"),
        (FAILED, ago(99), True, "requested"),
        (PUT_OFF, None, False, "failed: disk full; it is tried again at 12:01:00 UTC"),
        (PUT_OFF, ago(101), False, "tried again at 12:01:00 UTC"),
        (PUT_OFF, ago(99), True, "requested"),
        (replace(PUT_OFF, again_at=NOON), None, True, "25 of 20"),
        (replace(PUT_OFF, again_at=NOON), ago(101), True, "requested"),
    ],
)
def test_labels_whose_training_made_nothing_are_tried_again_when_that_makes_sense(
    attempt: Attempt, requested_at: datetime | None, train: bool, says: str
) -> None:
    decision = decide(state(attempt=attempt, train_requested_at=requested_at), NOON)
    assert decision.train == train
    assert says in decision.reason


def test_the_quiet_period_ends_exactly_when_it_says() -> None:
    young = state(newest_annotation_at=ago(0))
    assert not decide(young, NOON + timedelta(seconds=29.999)).train
    assert decide(young, NOON + timedelta(seconds=30)).train


def test_a_class_needs_both_signs() -> None:
    labels = [weak_label(), weak_label(class_name="rust"), weak_label(positive=False)]
    assert trainable_classes(labels) == ("crack",)
    assert trainable_classes(labels[:2]) == ()


def test_the_digest_ignores_the_order_of_records() -> None:
    labels = [weak_label(x_px=float(n)) for n in range(50)]
    shuffled = random.Random(1).sample(labels, 50)
    digest = snapshot_digest(labels, [EMPTY_MASK])
    assert digest == snapshot_digest(shuffled, [EMPTY_MASK])
    assert len(digest) == 16 and int(digest, 16) >= 0


def test_the_digest_sees_every_field_and_every_repetition() -> None:
    plain = snapshot_digest([weak_label()])
    for change in (
        {"positive": False},
        {"x_px": 3.25},
        {"weight": 2.0},
        {"trust": 0.25},
        {"class_name": "rust"},
        {"task": 6},
        {"source": "missed"},
    ):
        assert snapshot_digest([weak_label(**change)]) != plain
    assert snapshot_digest([weak_label(), weak_label()]) != plain
    assert snapshot_digest([weak_label()], [EMPTY_MASK]) != plain
    assert snapshot_digest([], [EMPTY_MASK]) != snapshot_digest(
        [], [replace(EMPTY_MASK, rle=b"\x01")]
    )


def start(**changes: Any) -> Start:
    values: dict[str, Any] = {
        "number": 3,
        "classes": frozenset({"rust", "crack"}),
        "encoder": "resnet18",
        "champion_classes": frozenset({"crack", "rust"}),
        "champion_encoder": "resnet18",
    }
    return choose_start(StartState(**{**values, **changes}))


@pytest.mark.parametrize(
    ("changes", "warm", "reason"),
    [
        ({}, True, "the champion knows the same classes on the same encoder"),
        ({"number": 5}, False, "version 5: every 5th starts afresh"),
        ({"number": 10}, False, "version 10: every 5th starts afresh"),
        ({"number": 6}, True, "the champion knows the same classes on the same encoder"),
        (
            {"classes": frozenset({"crack"})},
            False,
            "the classes have changed from crack, rust to crack",
        ),
        (
            {"encoder": "resnet34"},
            False,
            "the encoder has changed from resnet18 to resnet34",
        ),
        (
            {"champion_encoder": None},
            False,
            "the encoder has changed from an unknown one to resnet18",
        ),
        (
            {"champion_classes": None, "champion_encoder": None},
            False,
            "there is no version to start from",
        ),
    ],
)
def test_where_a_training_starts(changes: dict[str, Any], warm: bool, reason: str) -> None:
    assert start(**changes) == Start(warm, reason)


def test_a_version_that_was_lost_is_made_anew_at_once_but_not_again_and_again() -> None:
    lost = {"lost": True, "new_labels": 0, "newest_annotation_at": NOON, "last_snapshot": None}
    made = decide(state(**lost), NOON)
    assert (made.train, made.reason) == (
        True, "the version in use is damaged and no other can serve: trains anew",
    )  # fmt: skip
    assert wants_snapshot(state(**lost), NOON)
    assert not decide(state(**lost, running=True), NOON).train
    assert not decide(state(**lost, trainable=False), NOON).train
    failed = decide(state(**lost, attempt=Attempt(False, "too few", ago(60))), NOON)
    assert not failed.train and "Start Training tries these labels again" in failed.reason
