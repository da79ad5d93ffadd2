"""The records that pass between the parts: plain, frozen, free of SQL and HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

OutcomeKind = Literal["accepted", "modified", "rejected", "missed"]
WeakLabelSource = Literal[
    "click", "accepted", "added", "removed", "rejected", "missed", "background"
]
ReviewVerdict = Literal["accepted", "rejected"]
ReignStart = Literal["promoted", "activated", "rolled back", "fell back"]
RollbackChoice = Literal["propose", "auto", "off"]
Weighting = Literal["off", "hard_first", "curriculum"]
VersionState = Literal["challenger", "champion", "rejected", "retired", "damaged", "pruned"]
JobState = Literal[
    "queued", "waiting", "running", "gating", "publishing", "done", "failed", "cancelled"
]


@dataclass(frozen=True)
class Project:
    """A Label Studio project that labelclimb serves.

    champion: number of the version in use, None before the first training.
    published: Label Studio's name of the predictions now shown ("v7", "v7.2"), None before.
    pushing: a name being pushed, left over after a crash.
    strategy, train_after, quiet_s, max_wait_s: see README and `loop.policy`.
    strategy_options: those that were chosen, of `strategy`; the others are its defaults.
    train_requested_at: somebody pressed "Start Training" and no training has answered it yet.
    schedule, schedule_set_at: when to train by the clock, see `loop.schedule`; since when.
    rollback: what a fall of a new champion's acceptance leads to (`loop.watch`).
    weighting: which finished tasks a training looks at more often (`loop.difficulty`).
    last_snapshot, last_snapshot_at: digest and moment of the newest training set.
    order_wanted, order_shown: count the requests for a new order and the last one published.
    """

    id: int
    title: str
    label_config: str
    champion: int | None = None
    published: str | None = None
    pushing: str | None = None
    strategy: str = "entropy"
    strategy_options: Mapping[str, float | str] = field(default_factory=dict)
    train_after: int = 100
    quiet_s: float = 30.0
    max_wait_s: float = 900.0
    schedule: str = ""
    schedule_set_at: datetime | None = None
    rollback: RollbackChoice = "propose"
    weighting: Weighting = "off"
    train_requested_at: datetime | None = None
    order_wanted: int = 0
    order_shown: int = 0
    last_snapshot: str | None = None
    last_snapshot_at: datetime | None = None
    created_at: datetime | None = None


@dataclass(frozen=True)
class Task:
    """One image; `image` is the raw URI of the task's data, (project, id, image) its identity."""

    project: int
    id: int
    image: str
    created_at: datetime | None = None
    width_px: int | None = None
    height_px: int | None = None
    problem: str | None = None  # why no proposal can be made: "cannot decode image: ..."


@dataclass(frozen=True)
class Annotation:
    """The newest known state of one annotation, as Label Studio wrote it.

    review: Enterprise's verdict on this very state, None while nobody has reviewed it.
    """

    id: int
    project: int
    task: int
    updated_at: datetime
    result: tuple[Mapping[str, Any], ...]
    created_at: datetime | None = None
    was_cancelled: bool = False
    lead_time_s: float | None = None
    annotator: int | None = None
    bulk: bool = False
    deleted: bool = False
    review: ReviewVerdict | None = None


@dataclass(frozen=True)
class ProposedRegion:
    """One region that was sent to Label Studio, kept for ever under its id.

    rle: Label Studio's brush RLE of the mask at natural size.
    number: the version's number; the id is "v<number>-<task>-<n>".
    """

    region_id: str
    project: int
    task: int
    number: int
    class_name: str
    height_px: int
    width_px: int
    rle: bytes
    score: float


@dataclass(frozen=True)
class TaskEvidence:
    """What a version computed of a task beside its masks; arrays as in `models.base.Evidence`.

    samples: the (S, T, C) probabilities of S = `passes` stochastic passes, a byte each (255 = 1);
    empty where the version made none.
    """

    project: int
    task: int
    number: int
    classes: tuple[str, ...]
    tile_probs: tuple[tuple[float, ...], ...]
    embedding: tuple[float, ...]
    stats: Mapping[str, Mapping[str, float]]
    passes: int = 0
    samples: bytes = b""


@dataclass(frozen=True)
class Interaction:
    """What an annotator did with the proposal of a class on a task, with its evidence.

    iou: of proposal and final mask, in [0, 1]; edit_seconds: cleaned, None when unknown;
    trust in [0, 1]; version: number whose proposal was on screen, None when there was none.
    """

    project: int
    task: int
    annotation: int
    class_name: str
    outcome: OutcomeKind
    iou: float
    pixels_added: int
    pixels_removed: int
    edit_seconds: float | None
    annotator: int | None
    version: int | None
    trust: float
    created_at: datetime


@dataclass(frozen=True)
class Work:
    """How an annotation came about: what says how far to believe it (`loop.trust`).

    seconds: Label Studio's `lead_time`, as it is; bulk: made from predictions, many at once.
    is_unchanged: all stayed as proposed, and nothing was drawn or clicked.
    review: of this very state, None without one.
    """

    annotation: int
    annotator: int | None
    begun_at: datetime
    written_at: datetime
    seconds: float | None
    bulk: bool
    is_unchanged: bool
    review: ReviewVerdict | None = None


@dataclass(frozen=True)
class StrategyChoice:
    """Since when the queue has been ordered by `acting`, and why when that is not `strategy`."""

    project: int
    at: datetime
    strategy: str
    acting: str
    reason: str = ""


@dataclass(frozen=True)
class WeakLabel:
    """A point that trains a class, with its provenance; pixels of the upright image."""

    project: int
    task: int
    annotation: int
    class_name: str
    x_px: float
    y_px: float
    positive: bool
    source: WeakLabelSource
    weight: float = 1.0
    trust: float = 1.0


@dataclass(frozen=True)
class VerifiedMask:
    """The final mask of a class on an annotated task; an empty mask says "verified: none"."""

    project: int
    task: int
    annotation: int
    class_name: str
    height_px: int
    width_px: int
    rle: bytes


@dataclass(frozen=True)
class Version:
    """An immutable set of trained weights; `gate` holds the decision with its numbers."""

    project: int
    number: int
    state: VersionState
    pipeline: str
    snapshot: str
    created_at: datetime
    classes: tuple[str, ...] = ()
    metrics: Mapping[str, Any] = field(default_factory=dict)
    gate: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return the version's name in Label Studio and in region ids."""
        return f"v{self.number}"

    @property
    def damage(self) -> str:
        """Return why its files could not be used any more, "" while they can."""
        return str(self.gate.get("damage", ""))


@dataclass(frozen=True)
class Reign:
    """Since when a version has been the champion, after which one, and why.

    former: the champion before, None for the first. seen: interactions with it at the last look of
    the watch (`loop.watch`), whose findings are `watch`; {} before.
    """

    project: int
    number: int
    former: int | None
    at: datetime
    how: ReignStart
    reason: str = ""
    seen: int = 0
    watch: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A unit of background work that people can watch.

    state: `waiting` for a GPU that another training holds; `publishing` what it has made.
    detail: where it stands (`models.base.Progress`), and `notes`, sentences on what went otherwise.
    halvings: how often its batch was halved, as memory ran out; on_cpu: it gave up the GPU.
    again_at: a failed one is tried again by itself from then on; None: only on request.
    """

    id: str
    project: int
    kind: str
    state: JobState
    detail: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    again_at: datetime | None = None
    halvings: int = 0
    on_cpu: bool = False


@dataclass(frozen=True)
class InboxEvent:
    """One acknowledged webhook or reconciled change, waiting for its worker.

    attempts: made or being made; project: None where the event names none.
    """

    id: int
    action: str
    payload: Mapping[str, Any]
    received_at: datetime
    source: Literal["webhook", "reconciler"] = "webhook"
    attempts: int = 0
    error: str | None = None
    project: int | None = None
