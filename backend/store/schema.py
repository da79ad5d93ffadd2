"""The tables; the columns of a record's table are the fields of its record."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment, aware and in UTC on both sides; SQLite keeps it as naive UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert to UTC; raises ValueError for a naive datetime."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; give an aware datetime")
        moment = value.astimezone(timezone.utc)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Return the moment in UTC."""
        if value is None:
            return None
        moment: datetime = value
        if dialect.name == "sqlite":
            return moment.replace(tzinfo=timezone.utc)
        return moment.astimezone(timezone.utc)


Whole = BigInteger().with_variant(Integer, "sqlite")  # SQLite numbers INTEGER keys by itself

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> Column[int]:
    """Return the key of rows that are outside records: our own numbers or Label Studio's."""
    return Column("id", Whole, primary_key=True, autoincrement=False)


def _number(name: str, *, key: bool = False) -> Column[int]:
    return Column(name, Whole, primary_key=key, nullable=False, autoincrement=False)


def _project(*, key: bool = False) -> Column[int]:
    owner = ForeignKey("projects.id", ondelete="CASCADE")
    return Column("project", Whole, owner, primary_key=key, nullable=False, autoincrement=False)


def _annotation(*, key: bool = False) -> Column[int]:
    owner = ForeignKey("annotations.id", ondelete="CASCADE")
    return Column("annotation", Whole, owner, primary_key=key, nullable=False, index=not key)


def _text(name: str, *, key: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=False)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False)


def _float(name: str) -> Column[float]:
    return Column(name, Float(53), nullable=False)


projects = Table(
    "projects",
    metadata,
    _id(),
    _text("title"),
    _text("label_config"),
    Column("champion", Whole),
    Column("published", Text),
    Column("pushing", Text),
    _text("strategy"),
    Column("strategy_options", JSON, nullable=False),
    _number("train_after"),
    _float("quiet_s"),
    _float("max_wait_s"),
    _text("schedule"),
    Column("schedule_set_at", UtcDateTime),
    Column("rollback", String(16), nullable=False),
    Column("weighting", String(16), nullable=False),
    Column("train_requested_at", UtcDateTime),
    _number("order_wanted"),
    _number("order_shown"),
    Column("last_snapshot", Text),
    Column("last_snapshot_at", UtcDateTime),
    Column("created_at", UtcDateTime),
)

tasks = Table(
    "tasks",
    metadata,
    _project(key=True),
    _number("id", key=True),
    _text("image"),
    Column("created_at", UtcDateTime),
    Column("width_px", Whole),
    Column("height_px", Whole),
    Column("problem", Text),
)

inbox = Table(
    "inbox",
    metadata,
    Column("id", Whole, primary_key=True),
    _text("action"),
    Column("payload", JSON, nullable=False),
    Column("project", Whole),
    Column("source", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    _number("attempts"),
    Column("error", Text),
    Column("received_at", UtcDateTime, nullable=False),
    Column("done_at", UtcDateTime),
    Index(None, "state", "id"),
    sqlite_autoincrement=True,
)

annotation_states = Table(
    "annotations",
    metadata,
    _id(),
    _number("project"),
    _number("task"),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime),
    Column("result", JSON, nullable=False),
    _flag("was_cancelled"),
    Column("lead_time_s", Float(53)),
    Column("annotator", Whole),
    _flag("bulk"),
    _flag("deleted"),
    Column("review", Text),
    Column("learned_at", UtcDateTime),
    Index(None, "project", "task"),
)

reviews = Table(
    "reviews",
    metadata,
    _number("annotation", key=True),
    Column("review", Whole),
    Column("verdict", Text),
    Column("at", UtcDateTime, nullable=False),
    Index(None, "review"),
)

task_graves = Table(
    "task_graves",
    metadata,
    _number("project", key=True),
    _number("id", key=True),
    Column("buried_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime),
)

inventory = Table(
    "inventory",
    metadata,
    _number("project", key=True),
    _number("task", key=True),
    Column("updated_at", UtcDateTime, nullable=False),
)

reconciliations = Table(
    "reconciliations",
    metadata,
    _number("project", key=True),
    Column("config_at", UtcDateTime),
    Column("wanted_at", UtcDateTime),
    Column("tried_at", UtcDateTime),
    Column("begun_at", UtcDateTime),
    Column("done_at", UtcDateTime),
    Column("full_at", UtcDateTime),
    Column("gone_at", UtcDateTime),
    Column("error", Text),
    _number("recovered"),
)

forgotten_events = Table(
    "forgotten_events",
    metadata,
    _number("project", key=True),
    Column("source", String(16), primary_key=True),
    _number("count"),
)

interactions = Table(
    "interactions",
    metadata,
    Column("id", Whole, primary_key=True),
    _number("project"),
    _number("task"),
    _annotation(),
    _text("class_name"),
    Column("outcome", String(16), nullable=False),
    _float("iou"),
    _number("pixels_added"),
    _number("pixels_removed"),
    Column("edit_seconds", Float(53)),
    Column("annotator", Whole),
    Column("version", Whole),
    _float("trust"),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "project", "created_at"),
)

weak_labels = Table(
    "weak_labels",
    metadata,
    Column("id", Whole, primary_key=True),
    _number("project"),
    _number("task"),
    _annotation(),
    _text("class_name"),
    _float("x_px"),
    _float("y_px"),
    Column("positive", Boolean, nullable=False),
    Column("source", String(16), nullable=False),
    _float("weight"),
    _float("trust"),
    Index(None, "project", "task"),
)

masks = Table(
    "masks",
    metadata,
    _number("project"),
    _number("task"),
    _annotation(key=True),
    _text("class_name", key=True),
    _number("height_px"),
    _number("width_px"),
    Column("rle", LargeBinary, nullable=False),
    Index(None, "project", "task"),
)

proposals = Table(
    "proposals",
    metadata,
    _number("project", key=True),
    _number("number", key=True),
    _number("task", key=True),
    Column("evidence", JSON, nullable=False),
    Index(None, "project", "task"),
)

proposed_regions = Table(
    "proposed_regions",
    metadata,
    _text("region_id", key=True),
    _number("project"),
    _number("task"),
    _number("number"),
    _text("class_name"),
    _number("height_px"),
    _number("width_px"),
    Column("rle", LargeBinary, nullable=False),
    _float("score"),
    Column("linked", Boolean, nullable=False, default=True),
    Index(None, "task", "number"),
)

published = Table(
    "published",
    metadata,
    _number("project", key=True),
    _text("name", key=True),
    _number("task", key=True),
    _float("priority"),
    Index(None, "project", "task"),
)

versions = Table(
    "versions",
    metadata,
    _project(key=True),
    _number("number", key=True),
    Column("state", String(16), nullable=False),
    _text("pipeline"),
    _text("snapshot"),
    Column("created_at", UtcDateTime, nullable=False),
    Column("classes", JSON, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("gate", JSON, nullable=False),
)

reigns = Table(
    "reigns",
    metadata,
    Column("id", Whole, primary_key=True),
    _project(),
    _number("number"),
    Column("former", Whole),
    Column("at", UtcDateTime, nullable=False),
    Column("how", String(16), nullable=False),
    _text("reason"),
    _number("seen"),
    Column("watch", JSON, nullable=False),
    Index(None, "project", "id"),
)

strategy_choices = Table(
    "strategy_choices",
    metadata,
    Column("id", Whole, primary_key=True),
    _project(),
    Column("at", UtcDateTime, nullable=False),
    _text("strategy"),
    _text("acting"),
    _text("reason"),
    Index(None, "project", "id"),
)

version_numbers = Table(
    "version_numbers",
    metadata,
    _project(key=True),
    _number("last"),
)

unrecorded_versions = Table(
    "unrecorded_versions",
    metadata,
    _project(key=True),
    _number("number", key=True),
    _flag("given_up"),
)

jobs = Table(
    "jobs",
    metadata,
    _text("id", key=True),
    _number("project"),
    _text("kind"),
    Column("state", String(16), nullable=False),
    Column("detail", JSON, nullable=False),
    Column("error", Text),
    Column("created_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("again_at", UtcDateTime),
    _number("halvings"),
    _flag("on_cpu"),
    Index(None, "project", "created_at"),
)
