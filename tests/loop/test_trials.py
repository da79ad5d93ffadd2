from __future__ import annotations

from datetime import timedelta

from backend.loop.ordering import trials
from backend.records import StrategyChoice, Version
from strategies.base import Trial
from tests.loop.making import NOON, interaction


def version(number: int, hour: int, costs: tuple[float, float] | None) -> Version:
    figures = (
        {"champion": {"cost_s": costs[0]}, "challenger": {"cost_s": costs[1]}} if costs else {}
    )
    return Version(
        7, number, "retired", "auto", f"s{number}", NOON + timedelta(hours=hour),
        gate={"reason": "", "figures": figures},
    )  # fmt: skip


def choice(hour: float, acting: str) -> StrategyChoice:
    return StrategyChoice(7, NOON + timedelta(hours=hour), "autopilot", acting)


def work(hour: float, seconds: float) -> object:
    return interaction(created_at=NOON + timedelta(hours=hour), edit_seconds=seconds)


def test_a_version_is_the_trial_of_what_ordered_most_of_its_work() -> None:
    versions = [version(1, 1, None), version(2, 2, (30.0, 24.0)), version(3, 3, (24.0, 25.0))]
    choices = [choice(0, "entropy"), choice(1.6, "coreset")]
    past = [work(0.5, 999.0), work(1.2, 100.0), work(1.5, 80.0), work(1.8, 120.0), work(2.5, 60.0)]
    found = trials.of_project(versions[::-1], past, choices)  # type: ignore[arg-type]
    assert found == (Trial("entropy", 6.0, 5.0), Trial("coreset", -1.0, 1.0))


def test_work_that_nobody_ordered_and_versions_without_work_are_no_trials() -> None:
    versions = [version(1, 1, (9.0, 8.0)), version(2, 2, (8.0, 7.0))]
    assert trials.of_project(versions, [work(0.5, 60.0)], [choice(0.7, "entropy")]) == ()  # type: ignore[list-item]


def test_the_rate_of_the_last_trials_in_words() -> None:
    known = [Trial("a", 99.0, 1.0), *[Trial("a", 1.0, 20.0)] * 3]
    assert trials.in_words(known, 90) == (
        "at the rate of the last 3 trained versions this would save 4.5 s of correction "
        "per proposal"
    )
    assert "would cost 4.5 s" in trials.in_words([Trial("a", -1.0, 20.0)], 90)
    assert trials.in_words([], 90) == ""


def test_seconds_that_are_unknown_are_no_work() -> None:
    unknown = interaction(created_at=NOON, edit_seconds=None)
    assert trials.of_project([version(2, 1, (2.0, 1.0))], [unknown], [choice(-1, "a")]) == ()
