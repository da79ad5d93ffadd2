"""From evidence as the store keeps it to the arrays that strategies read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from backend.loop.ordering import describing
from backend.records import Interaction, TaskEvidence
from strategies.base import FloatArray, IntArray, Pool

MEMBERS = 3  # versions in a committee, the one in use among them


class Committee(TypedDict):
    """The fields of a Pool that a committee fills."""

    committee_probs: FloatArray | None
    committee_offsets: IntArray | None


def of_evidence(evidence: Sequence[TaskEvidence], edit_seconds: Mapping[int, float]) -> Pool:
    """Return the pool of these tasks, in their order; each must have at least one window.

    Classes that a task was not asked for count as certainly absent. Without any task there is no
    evidence at all: every field but `ids` is None.
    """
    ids: IntArray = np.array([found.task for found in evidence], dtype=np.int64)
    if not evidence:
        return Pool(ids)
    classes = classes_of(evidence)
    probs, offsets = _joined([window_probs(found, classes) for found in evidence])
    doubts = [describing.pixel_doubt(found) for found in evidence]
    return Pool(
        ids,
        tile_probs=probs,
        tile_offsets=offsets,
        edit_seconds=np.array([edit_seconds[found.task] for found in evidence]),
        pixel_doubt=None if None in doubts else np.array(doubts, dtype=np.float64),
        embeddings=embeddings(evidence),
        samples=samples(evidence, classes),
    )


def classes_of(evidence: Sequence[TaskEvidence]) -> list[str]:
    """Return the classes of the pool's columns, sorted."""
    return sorted({name for found in evidence for name in found.classes})


def window_probs(found: TaskEvidence, classes: Sequence[str]) -> FloatArray:
    """Return (T, C), a column for each of `classes`, 0 where the task was not asked for it."""
    own: FloatArray = np.asarray(found.tile_probs, dtype=np.float64)
    probs = np.zeros((len(own), len(classes)))
    for column, name in enumerate(found.classes):
        if name in classes:
            probs[:, classes.index(name)] = own[:, column]
    return probs


def samples(evidence: Sequence[TaskEvidence], classes: Sequence[str]) -> FloatArray | None:
    """Return (S, M, C), what S stochastic passes said of all windows; None unless S is the same.

    A task that was predicted before there were passes, or by a pipeline without, has S = 0.
    """
    passes = {found.passes for found in evidence}
    if len(passes) != 1 or passes == {0}:
        return None
    return np.concatenate([_samples(found, classes) for found in evidence], axis=1)


def _samples(found: TaskEvidence, classes: Sequence[str]) -> FloatArray:
    """Return (S, T, C), a column for each of `classes`, 0 where the task was not asked for it."""
    shape = (found.passes, len(found.tile_probs), len(found.classes))
    own = np.frombuffer(found.samples, np.uint8).reshape(shape) / 255
    said = np.zeros((*shape[:2], len(classes)))
    for column, name in enumerate(found.classes):
        if name in classes:
            said[..., classes.index(name)] = own[..., column]
    return said


def embeddings(
    evidence: Sequence[TaskEvidence], like: FloatArray | None = None
) -> FloatArray | None:
    """Return (N, D), None without tasks or with different lengths; `like`: D must be its own."""
    widths = {len(found.embedding) for found in evidence}
    if like is not None:
        widths |= {like.shape[1]}
    if not evidence or len(widths) != 1 or widths == {0}:
        return None
    return np.array([found.embedding for found in evidence], dtype=np.float64)


def committee(
    evidence: Sequence[TaskEvidence],
    earlier: Sequence[Mapping[int, TaskEvidence]],
    classes: Sequence[str],
) -> Committee:
    """Return what up to MEMBERS versions said of each task; None when only one has seen any.

    Versions may cut an image into different windows: then the members' largest probability per
    class is compared instead. A version that has not seen a task agrees with the one in use.
    """
    members = [m for m in earlier if any(found.task in m for found in evidence)][: MEMBERS - 1]
    if not members:
        return {"committee_probs": None, "committee_offsets": None}
    said = []
    for found in evidence:
        own = window_probs(found, classes)
        others = (member.get(found.task, found) for member in members)
        probs = [own, *(window_probs(one, classes) if one.tile_probs else own for one in others)]
        if len({len(one) for one in probs}) > 1:
            probs = [one.max(axis=0, keepdims=True) for one in probs]
        said.append(np.stack(probs, axis=1))  # (windows, members, classes)
    joined, offsets = _joined(said)
    return {"committee_probs": joined.swapaxes(0, 1), "committee_offsets": offsets}


def class_share(
    past: Sequence[Interaction], finished: int, classes: Sequence[str]
) -> FloatArray | None:
    """Return (C,) the share of finished tasks in which people found the class; None without any."""
    if not finished:
        return None
    found = {(one.task, one.class_name) for one in past if one.outcome != "rejected"}
    counts = [sum(name == own for _, own in found) for name in classes]
    return np.array(counts, dtype=np.float64) / finished


def _joined(arrays: Sequence[FloatArray]) -> tuple[FloatArray, IntArray]:
    offsets: IntArray = np.cumsum([0, *map(len, arrays)]).astype(np.int64)
    return np.concatenate(arrays), offsets
