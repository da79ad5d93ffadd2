from __future__ import annotations

from datetime import timedelta

from backend.loop.truth import believed, chosen
from backend.records import VerifiedMask
from tests.loop.making import NOON, weak_label

AT = {31: NOON, 32: NOON + timedelta(minutes=1), 33: NOON + timedelta(minutes=2)}


def mask(annotation: int, task: int = 5, class_name: str = "crack") -> VerifiedMask:
    return VerifiedMask(7, task, annotation, class_name, 4, 6, bytes([annotation]))


def truth(masks: list[VerifiedMask], trust: dict[int, float]) -> list[int]:
    return [one.annotation for one in chosen(masks, trust, AT)]


def test_the_newest_of_equal_trust_counts() -> None:
    masks = [mask(31), mask(32)]
    assert truth(masks, {31: 1.0, 32: 1.0}) == [32]
    swapped = {31: AT[32], 32: AT[31]}
    assert chosen(masks, {31: 1.0, 32: 1.0}, swapped) == [mask(31)]


def test_the_most_trusted_counts_before_the_newest() -> None:
    assert truth([mask(31), mask(32)], {31: 1.0, 32: 0.9}) == [31]


def test_masks_of_little_trust_are_no_truth_even_alone() -> None:
    assert truth([mask(31)], {31: 0.5}) == []
    assert truth([mask(31), mask(32)], {31: 1.0, 32: 0.25}) == [31]
    assert truth([mask(31)], {}) == []


def test_each_class_of_each_task_is_chosen_by_itself() -> None:
    masks = [mask(31), mask(31, class_name="rust"), mask(32), mask(33, task=6)]
    found = chosen(masks, {31: 1.0, 32: 1.0, 33: 1.0}, AT)
    assert found == [masks[1], masks[2], masks[3]]


def test_at_the_same_moment_the_larger_id_counts() -> None:
    at = dict.fromkeys(AT, NOON)
    assert chosen([mask(32), mask(31)], {31: 1.0, 32: 1.0}, at) == [mask(32)]


def test_labels_of_all_annotators_join_with_the_trust_in_each() -> None:
    one, other = weak_label(), weak_label(annotation=32, positive=False)
    found = believed([one, other], {31: 1.0, 32: 0.25})
    assert [(label.annotation, label.trust) for label in found] == [(31, 1.0), (32, 0.25)]


def test_nobody_learns_from_what_nobody_believes() -> None:
    assert believed([weak_label()], {31: 0.0}) == []
    assert believed([weak_label()], {}) == []
