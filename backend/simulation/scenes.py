"""The labelled images of a simulation: shrunk as wanted, decoded once while there is room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import cv2
import numpy as np

from backend.evaluation.folders import Labelled, Pair
from models.base import Image, Mask

SHARE_SHOWN = 0.35  # of a shrunk pixel that must be defect: thin lines stay in one piece
ROOM_BYTES = 1 << 29  # for decoded images

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """Values that are made once while there is room; what comes later is made each time.

    Nothing is ever thrown out: images come in turn, round after round, and a store that forgets
    the oldest would have forgotten each by the time it comes again. A copy is the store itself.
    """

    def __init__(self, room_bytes: int, size_of: Callable[[Value], int]) -> None:
        self._room, self._size_of = room_bytes, size_of
        self._values: dict[Any, Value] = {}

    def get(self, key: Any, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made now if it is not kept."""
        if key in self._values:
            return self._values[key]
        value = make()
        size = self._size_of(value)
        if size <= self._room:
            self._room -= size
            self._values[key] = value
        return value

    def __len__(self) -> int:
        return len(self._values)

    def __deepcopy__(self, memo: dict[int, Any]) -> Kept[Value]:
        return self


class Scenes:
    """Images with their truth by task number."""

    def __init__(self, pairs: Mapping[int, Pair], longest_side_px: int | None) -> None:
        self._pairs, self._longest = pairs, longest_side_px
        self._kept: Kept[Labelled] = Kept(ROOM_BYTES, lambda one: one.image.nbytes + one.truth.size)

    def get(self, task: int) -> Labelled:
        """Return an image with its truth; raises ImageError naming the file."""
        return self._kept.get(task, lambda: shrunk(self._pairs[task].read(), self._longest))

    def image(self, task: int) -> Image:
        """Return an image."""
        return self.get(task).image

    def truth(self, task: int) -> Mask:
        """Return the true mask, (H, W) bool."""
        return self.get(task).truth


@dataclass(frozen=True)
class Tasks:
    """Task numbers of the three parts; left_out: unreadable images, with the reason."""

    pool: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    left_out: tuple[str, ...]


def numbered(pairs: Sequence[Pair], first: int) -> dict[int, Pair]:
    """Give the pairs task numbers."""
    return dict(enumerate(pairs, first))


def shrunk(labelled: Labelled, longest_side_px: int | None) -> Labelled:
    """Shrink image and truth so that the longer side has at most so many pixels; never enlarge.

    A pixel of the shrunk truth is defect from SHARE_SHOWN on.
    """
    height_px, width_px = labelled.truth.shape
    if longest_side_px is None or max(height_px, width_px) <= longest_side_px:
        return labelled
    scale = longest_side_px / max(height_px, width_px)
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    image = cv2.resize(labelled.image, size, interpolation=cv2.INTER_AREA)
    shares = cv2.resize(labelled.truth.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    truth: Mask = np.asarray(shares >= SHARE_SHOWN, dtype=np.bool_)
    return Labelled(np.asarray(image, dtype=np.uint8), truth, labelled.resized)
