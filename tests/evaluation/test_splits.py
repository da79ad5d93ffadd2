"""Sizes and shares."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import SettingsError
from backend.evaluation.folders import Pair
from backend.evaluation.splits import Part, Wanted, parse_part, parse_split, split


def pairs(count: int, prefix: str = "") -> list[Pair]:
    return [Pair(f"{prefix}{n}", Path(f"{n}.png"), Path(f"{n}.png"), 1) for n in range(count)]


def sizes(count: int, wanted: Wanted, test: int | None = None) -> tuple[int, int, int]:
    given = pairs(count)
    test_given = None if test is None else pairs(test, "test")
    made = split(given, test_given, wanted)
    judged = [p for p in made.test if p.name.startswith("test")]
    used = [p.name for part in (made.train, made.validation, made.test) for p in part]
    assert len(set(used)) == len(used)
    assert len(judged) == (len(made.test) if test is not None else 0)
    return len(made.train), len(made.validation), len(made.test)


@pytest.mark.parametrize(
    ("text", "part"), [("8", 8), ("0", 0), ("0.1", 0.1), ("10%", 0.1), ("100%", 1.0), ("1", 1)]
)
def test_numbers_and_shares(text: str, part: Part) -> None:
    assert parse_part(text) == pytest.approx(part)
    assert isinstance(parse_part(text), type(part))


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "120%", "nan"])
def test_what_is_no_part_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="no part of the images"):
        parse_part(text)


def test_a_split_has_three_parts() -> None:
    assert parse_split("70/8/40") == Wanted(70, 8, 40)
    with pytest.raises(SettingsError, match="70/8/40"):
        parse_split("70/30")


def test_sizes() -> None:
    assert sizes(118, Wanted(70, 8, 40)) == (70, 8, 40)
    assert sizes(100, Wanted()) == (60, 7, 33)
    assert sizes(100, Wanted(validation=0)) == (67, 0, 33)
    assert sizes(100, Wanted(test=0.5)) == (43, 7, 50)
    assert sizes(100, Wanted(10, 5, 20)) == (10, 5, 20)
    assert sizes(2, Wanted()) == (1, 0, 1)


def test_with_a_test_folder_the_rest_is_learnt_from() -> None:
    assert sizes(50, Wanted(), test=20) == (45, 5, 20)
    assert sizes(50, Wanted(20, 4, 8), test=20) == (20, 4, 8)
    assert sizes(1, Wanted(), test=1) == (1, 0, 1)


def test_parts_do_not_move_when_another_is_cut() -> None:
    given = pairs(30)
    whole, shorter = (split(given, None, Wanted(10, 5, n)) for n in (15, 7))
    assert (whole.train, whole.validation) == (shorter.train, shorter.validation)
    assert whole.test[:7] == shorter.test


@pytest.mark.parametrize(
    ("count", "wanted"), [(1, Wanted()), (100, Wanted(70, 8, 40)), (10, Wanted(0, 5, 5))]
)
def test_too_few_images_are_said_in_numbers(count: int, wanted: Wanted) -> None:
    with pytest.raises(SettingsError, match=f"{count} images cannot be split"):
        split(pairs(count), None, wanted)


def test_a_test_on_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="no image is left to test on"):
        split(pairs(5), pairs(5), Wanted(test=0))
