"""Records to store, each with what a test wants to be different."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from backend.records import (
    Annotation,
    Interaction,
    Job,
    Project,
    ProposedRegion,
    Task,
    TaskEvidence,
    VerifiedMask,
    Version,
    WeakLabel,
)

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
PROJECT = Project(id=7, title="bridge", label_config="<View/>", created_at=NOON)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def task(**changes: Any) -> Task:
    return replace(Task(project=7, id=10, image="/data/a.jpg", created_at=NOON), **changes)


def annotation(**changes: Any) -> Annotation:
    region = {"id": "v1-10-1", "value": {"rle": [0, 1, 2]}, "origin": "prediction"}
    known = Annotation(5, 7, 10, at(60), (region,), lead_time_s=12.5, annotator=3)
    return replace(known, **changes)


def weak_label(**changes: Any) -> WeakLabel:
    label = WeakLabel(7, 10, 5, "crack", 12.25, 7.5, True, "accepted", weight=0.5, trust=0.75)
    return replace(label, **changes)


def mask(**changes: Any) -> VerifiedMask:
    return replace(VerifiedMask(7, 10, 5, "crack", 4, 6, b"\x00\xff\x01"), **changes)


def interaction(**changes: Any) -> Interaction:
    known = Interaction(
        project=7,
        task=10,
        annotation=5,
        class_name="crack",
        outcome="modified",
        iou=0.5,
        pixels_added=3,
        pixels_removed=2,
        edit_seconds=4.5,
        annotator=3,
        version=1,
        trust=1.0,
        created_at=at(60),
    )
    return replace(known, **changes)


def region(**changes: Any) -> ProposedRegion:
    return replace(ProposedRegion("v1-10-1", 7, 10, 1, "crack", 4, 6, b"\x07\x00", 0.9), **changes)


def evidence(**changes: Any) -> TaskEvidence:
    stats = {"crack": {"area_px": 12.0}}
    known = TaskEvidence(7, 10, 1, ("crack",), ((0.25,), (0.75,)), (1.0, -2.0), stats)
    return replace(known, **changes)


def version(**changes: Any) -> Version:
    known = Version(
        project=7,
        number=1,
        state="challenger",
        pipeline="advcam",
        snapshot="9f2c",
        created_at=NOON,
        classes=("crack", "rust"),
        metrics={"crack": {"f": 0.5}},
        gate={"reason": "first"},
    )
    return replace(known, **changes)


def job(**changes: Any) -> Job:
    known = Job("train-7-9f2c", 7, "train", "running", {"stage": "fit"}, created_at=NOON)
    return replace(known, **changes)
