"""The watch of a new version: no more false alarms than it says, and real falls are seen soon."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.loop import watch
from backend.loop.watch import Answer, answers, look
from tests.loop.making import NOON, interaction

RUNS = 1000


def drawn(rng: np.random.Generator, rate: float, count: int) -> list[Answer]:
    return [Answer(float(taken), 1.0) for taken in rng.random(count) < rate]


def stamped(rng: np.random.Generator, rate: float, count: int) -> list[Answer]:
    """Half of what is taken was stamped in a second, and is believed by half."""
    fast = rng.random(count) < 0.5
    found = drawn(rng, rate, count)
    return [
        Answer(a.taken, 0.5 if a.taken and f else 1.0) for a, f in zip(found, fast, strict=True)
    ]


@pytest.mark.parametrize("make", [drawn, stamped])
@pytest.mark.parametrize(("rate", "before"), [(0.8, 12), (0.8, 60), (0.5, 30), (0.95, 40)])
def test_what_is_taken_as_before_raises_few_alarms(
    make: Callable[[np.random.Generator, float, int], list[Answer]], rate: float, before: int
) -> None:
    rng = np.random.default_rng([before, round(100 * rate)])
    found = [look(make(rng, rate, before), make(rng, rate, 300)) for _ in range(RUNS // 3)]
    assert np.mean([one.state == "fallen" for one in found]) <= watch.LEVEL


def test_the_test_itself_keeps_its_half_of_the_level() -> None:
    """With the true rate as the limit, looked at after each of 500 annotations."""
    rng = np.random.default_rng(1)
    limit = 0.7
    alarms = 0
    for _ in range(RUNS):
        stakes = watch._stakes(limit, drawn(rng, limit, watch.MOST))
        alarms += bool((stakes >= watch.NEEDED).any())
    share = alarms / RUNS
    spread = 3 * np.sqrt(watch.LEVEL / 2 / RUNS)
    assert 0.002 < share <= watch.LEVEL / 2 + spread, "it would never ring, or too often"


@pytest.mark.parametrize(("rate", "within"), [(0.1, 15), (0.4, 40), (0.6, 300)])
def test_a_fall_is_seen_the_sooner_the_deeper_it_is(rate: float, within: int) -> None:
    rng = np.random.default_rng(2)
    found = [look(drawn(rng, 0.85, 60), drawn(rng, rate, within)) for _ in range(300)]
    assert np.mean([one.state == "fallen" for one in found]) > 0.8


def test_the_stake_is_walds_ratio() -> None:
    """One bet alone multiplies by the ratio of the two hypotheses' probabilities."""
    answered = [Answer(taken, 1.0) for taken in (1.0, 0.0, 0.0, 1.0, 0.0)]
    rate = 0.6
    ratios = []
    for fall in watch.FALLS:
        low = fall * rate
        ratios.append((low / rate) ** 2 * ((1 - low) / (1 - rate)) ** 3)
    assert watch._stakes(rate, answered)[-1] == pytest.approx(np.mean(ratios))


def test_trust_makes_the_bets_smaller() -> None:
    answered = [Answer(0.0, 0.5), Answer(1.0, 0.25)]
    rate = 0.6
    bets = [(1 - fall) / (1 - rate) for fall in watch.FALLS]
    wanted = np.mean([(1 + 0.5 * bet * 0.6) * (1 - 0.25 * bet * 0.4) for bet in bets])
    assert watch._stakes(rate, answered)[-1] == pytest.approx(wanted)


def test_the_lower_limit_is_wilsons() -> None:
    """Wilson's interval of 40 of 50 at 95 % begins at 0.6696 (Newcombe 1998, method 3)."""
    found = [Answer(float(n < 40), 1.0) for n in range(50)]
    assert watch._lower_limit(found) == pytest.approx(0.6696, abs=1e-4)
    halves = [Answer(a.taken, 0.5) for a in found]
    assert watch._lower_limit(halves) == pytest.approx(0.6696, abs=1e-4), "equal trust is none lost"
    assert watch._lower_limit([]) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_nothing_that_is_not_believed_counts(raw: list[tuple[float, float]]) -> None:
    before = [Answer(1.0, 1.0)] * 20
    after = [Answer(taken, weight) for taken, weight in raw]
    unbelieved = [Answer(0.0, 0.0)] * 30
    found = look(before, after)
    assert look(before, [*unbelieved, *after]) == found
    assert found.stake >= 1.0 and np.isfinite(found.stake)


def test_few_former_answers_are_nothing_to_compare_with() -> None:
    found = look([Answer(1.0, 0.5)] * 19, [Answer(0.0, 1.0)] * 50)
    assert found.state == "waiting"
    assert found.sentence == "9.5 of 10 annotations of the former version to compare with"
    assert look([Answer(1.0, 0.5)] * 20, [Answer(0.0, 1.0)] * 50).state == "fallen"


def test_the_words_have_the_numbers_and_the_figures_are_json() -> None:
    before = [Answer(1.0, 1.0)] * 16 + [Answer(0.0, 1.0)] * 4
    assert look(before, []).sentence == (
        "no annotation yet, to be compared with the former version's 80%"
    )
    fallen = look(before, [Answer(0.0, 1.0)] * 30)
    assert fallen.sentence == (
        f"0% of its proposals taken in {fallen.annotations} annotations, "
        "against the former version's 80%: fallen"
    )
    assert fallen.annotations == watch.LEAST_AFTER
    assert look(before, [Answer(0.0, 1.0)] * (watch.LEAST_AFTER - 1)).state == "watching"
    assert json.loads(json.dumps(fallen.as_json())) == fallen.as_json()
    held = look(before, [Answer(1.0, 1.0)] * (watch.MOST + 5))
    assert (held.state, held.annotations) == ("held", watch.MOST)


def test_an_annotation_is_one_answer_by_its_trust() -> None:
    told = [
        interaction(annotation=1, outcome="accepted", iou=1.0, trust=0.5),
        interaction(annotation=1, class_name="rust", outcome="missed", iou=0.0, trust=0.5),
        interaction(annotation=2, outcome="modified", iou=0.74, created_at=NOON),
        interaction(annotation=3, outcome="modified", iou=0.75),
        interaction(annotation=4, outcome="rejected", iou=0.0, version=2),
        interaction(annotation=5, outcome="accepted", trust=0.25),
        interaction(annotation=6, outcome="rejected", created_at=NOON - timedelta(hours=1)),
    ]
    found = answers(told, 3, without={5})
    assert found == [Answer(0.0, 1.0), Answer(0.5, 0.5), Answer(0.0, 1.0), Answer(1.0, 1.0)]
    assert answers(told, 2) == [Answer(0.0, 1.0)]
