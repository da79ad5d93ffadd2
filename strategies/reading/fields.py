"""A pool's fields, checked: what is missing or unusable raises ValueError with the fix."""

from __future__ import annotations

import numpy as np

from strategies.base import FloatArray, IntArray, Pool, require_finite

DIVERGED = "is the version diverged? activate an older one"


def window_probs(pool: Pool) -> tuple[FloatArray, IntArray]:
    """Return the (M, C) probabilities and (N + 1,) offsets of the windows."""
    if pool.tile_probs is None or pool.tile_offsets is None:
        raise ValueError("the pool has no tile_probs and tile_offsets; predict its tasks first")
    probs, offsets = pool.tile_probs, pool.tile_offsets
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise ValueError(f"tile_probs have shape {probs.shape}; expected (M, C) with C >= 1")
    _require_cut("tile_offsets", offsets, len(pool), len(probs))
    _require_probabilities(probs, "window probabilities")
    return probs, offsets


def samples(pool: Pool) -> tuple[FloatArray, IntArray]:
    """Return the (T, M, C) probabilities of the stochastic passes and the windows' offsets."""
    if pool.samples is None or pool.tile_offsets is None:
        raise ValueError("the pool has no samples and tile_offsets; predict with several passes")
    found = _several(pool.samples, "samples", 1)
    _require_cut("tile_offsets", pool.tile_offsets, len(pool), found.shape[1])
    return found, pool.tile_offsets


def committee(pool: Pool) -> tuple[FloatArray, IntArray]:
    """Return the (K, W, C) probabilities of the members and the (N + 1,) windows' offsets."""
    if pool.committee_probs is None or pool.committee_offsets is None:
        raise ValueError("the pool has no committee_probs and committee_offsets; train twice first")
    found = _several(pool.committee_probs, "committee_probs", 2)
    _require_cut("committee_offsets", pool.committee_offsets, len(pool), found.shape[1])
    return found, pool.committee_offsets


def seconds(pool: Pool) -> FloatArray:
    """Return the (N,) predicted edit seconds, all above 0."""
    if pool.edit_seconds is None:
        raise ValueError("the pool has no edit_seconds; predict them first (loop.difficulty)")
    found = _per_task(pool.edit_seconds, "edit_seconds", len(pool))
    require_finite(found, "predicted edit seconds", "retrain the difficulty model")
    if (found <= 0).any():
        raise ValueError(f"{(found <= 0).sum()} of {len(found)} edit seconds are not above 0")
    return found


def pixel_doubt(pool: Pool) -> FloatArray:
    """Return the (N,) doubt of the proposals' pixels."""
    if pool.pixel_doubt is None:
        raise ValueError("the pool has no pixel_doubt; predict its tasks first")
    found = _per_task(pool.pixel_doubt, "pixel_doubt", len(pool))
    _require_probabilities(found, "pixel doubts")
    return found


def embeddings(pool: Pool) -> FloatArray:
    """Return the (N, D) embeddings, D >= 1."""
    if pool.embeddings is None:
        raise ValueError("the pool has no embeddings; predict its tasks first")
    found = pool.embeddings
    if found.ndim != 2 or found.shape[0] != len(pool) or found.shape[1] < 1:
        raise ValueError(f"embeddings have shape {found.shape}; expected ({len(pool)}, D)")
    require_finite(found, "values of the embeddings", DIVERGED)
    return found.astype(np.float64, copy=False)


def labelled(pool: Pool, width: int) -> FloatArray:
    """Return the (L, D) embeddings of finished tasks, L = 0 when there are none."""
    if pool.labelled_embeddings is None:
        return np.empty((0, width))
    found = pool.labelled_embeddings
    if found.ndim != 2 or found.shape[1] != width:
        raise ValueError(
            f"labelled_embeddings have shape {found.shape} and embeddings {width} columns; "
            "take both from the same version"
        )
    require_finite(found, "values of the labelled embeddings", DIVERGED)
    return found.astype(np.float64, copy=False)


def class_share(pool: Pool, classes: int) -> FloatArray:
    """Return the (C,) share of finished tasks with each class."""
    if pool.class_share is None:
        raise ValueError("the pool has no class_share; count the classes of finished tasks")
    if pool.class_share.shape != (classes,):
        raise ValueError(f"class_share has shape {pool.class_share.shape}; expected ({classes},)")
    _require_probabilities(pool.class_share, "class shares")
    return pool.class_share


def annotated(pool: Pool, classes: int) -> tuple[FloatArray, FloatArray]:
    """Return what people found, (N, C), and the IoU of proposal and final mask, (N, C)."""
    if pool.annotated is None or pool.overlap is None:
        raise ValueError("the pool has no annotated and overlap; they exist of finished tasks only")
    for name in ("annotated", "overlap"):
        if getattr(pool, name).shape != (len(pool), classes):
            shape = getattr(pool, name).shape
            raise ValueError(f"{name} has shape {shape}; expected ({len(pool)}, {classes})")
    _require_probabilities(pool.annotated, "annotated classes")
    _require_probabilities(pool.overlap, "overlaps")
    return pool.annotated, pool.overlap


def _several(found: FloatArray, name: str, least: int) -> FloatArray:
    if found.ndim != 3 or found.shape[0] < least or found.shape[2] < 1:
        raise ValueError(
            f"{name} have shape {found.shape}; expected (passes, windows, classes), "
            f"{least} passes or more"
        )
    for one in found:
        _require_probabilities(one, f"probabilities of {name}", of=found.size)
    return found


def _per_task(found: FloatArray, name: str, tasks: int) -> FloatArray:
    if found.shape != (tasks,):
        raise ValueError(f"{name} has shape {found.shape}; expected ({tasks},)")
    return found.astype(np.float64, copy=False)


def _require_cut(name: str, offsets: IntArray, tasks: int, windows: int) -> None:
    if offsets.shape != (tasks + 1,) or offsets[0] != 0 or offsets[-1] != windows:
        raise ValueError(f"{name} do not cut {windows} windows into {tasks} tasks")
    empty = int((np.diff(offsets) < 1).sum())
    if empty:
        raise ValueError(f"{empty} of {tasks} tasks have no window; leave them out")


def _require_probabilities(values: FloatArray, what: str, of: int | None = None) -> None:
    require_finite(values, what, DIVERGED)
    outside = int(((values < 0) | (values > 1)).sum())
    if outside:
        raise ValueError(f"{outside} of {of or values.size} {what} are outside [0, 1]")
