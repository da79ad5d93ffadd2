"""Which images are clicked, which choose settings, and which are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.errors import SettingsError
from backend.evaluation.folders import Pair

Part = int | float  # a number of images, or a share of them in [0, 1]

VALIDATION, TEST = 0.07, 0.33  # of the images, unless told otherwise
VALIDATION_BESIDE_TEST = 0.10  # of the images when the test has a folder of its own


@dataclass(frozen=True)
class Wanted:
    """Sizes asked for; None: what remains (train), or the default."""

    train: Part | None = None
    validation: Part | None = None
    test: Part | None = None


@dataclass(frozen=True)
class Split:
    """Three parts without a common image."""

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]
    test: tuple[Pair, ...]


def parse_part(text: str) -> Part:
    """Read "8" as 8 images, "0.1" and "10%" as a share; raises SettingsError."""
    cleaned = text.strip()
    try:
        if cleaned.isdigit():
            return int(cleaned)
        share = float(cleaned[:-1]) / 100 if cleaned.endswith("%") else float(cleaned)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingsError(
            f"{text!r} is no part of the images; write a number as 8, or a share as 0.1 or 10%"
        )
    return share


def parse_split(text: str) -> Wanted:
    """Read "70/8/40" (train, validation, test); raises SettingsError."""
    parts = text.split("/")
    if len(parts) != 3:
        raise SettingsError(f"{text!r} is no split; write train/validation/test, as 70/8/40")
    return Wanted(*(parse_part(part) for part in parts))


def split(pairs: Sequence[Pair], test_pairs: Sequence[Pair] | None, wanted: Wanted) -> Split:
    """Part `pairs`, which come in a fixed order, from its front: train, validation, test.

    test_pairs: the test is taken from these instead, all of them unless `wanted` says less.
    Raises SettingsError when there are too few images.
    """
    count = len(pairs)
    if test_pairs is None:
        test = max(1, _size(wanted.test, TEST, count))
        train, validation = _learning(wanted, VALIDATION, count, test)
        return Split(
            tuple(pairs[:train]),
            tuple(pairs[train : train + validation]),
            tuple(pairs[train + validation : train + validation + test]),
        )
    train, validation = _learning(wanted, VALIDATION_BESIDE_TEST, count, 0)
    judged = test_pairs[: _size(wanted.test, 1.0, len(test_pairs))]
    if not judged:
        raise SettingsError("no image is left to test on; ask for at least 1")
    return Split(tuple(pairs[:train]), tuple(pairs[train : train + validation]), tuple(judged))


def _learning(wanted: Wanted, validation_share: float, count: int, test: int) -> tuple[int, int]:
    validation = _size(wanted.validation, validation_share, count)
    rest = count - validation - test
    train = max(rest, 0) if wanted.train is None else _size(wanted.train, 1.0, count)
    if train < 1 or train > rest:
        raise SettingsError(
            f"{count} images cannot be split into {train} to train on, {validation} to choose "
            f"settings by and {test} to test on; ask for fewer (--split 60%/7%/33%), with at "
            "least 1 to train on"
        )
    return train, validation


def _size(part: Part | None, default: float, count: int) -> int:
    chosen = default if part is None else part
    return chosen if isinstance(chosen, int) else round(chosen * count)
