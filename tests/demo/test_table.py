"""What the demo says of its rounds: the same figures for people and for programs."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from backend.demo import table
from backend.demo.rounds import Quality, Round, quality_of

FIRST = quality_of({1: (0.2, 0.4), 2: (0.4, 0.6), 3: (0.6, 0.8)})
SECOND = quality_of({2: (0.5, 0.7), 3: (0.7, 0.9)})
FINAL = quality_of({3: (0.8, 1.0)})
ROUND = Round(
    version="v1",
    outcomes={"accepted": 3, "missed": 1},
    quality=FIRST,
    edit_seconds=40.0,
    scratch_seconds=100.0,
    tasks=2,
    trained="v2",
    gate="better",
    promoted=True,
    published="v2",
    order_changed=True,
)
LATER = replace(ROUND, version="v2", quality=SECOND, trained="v3", published="v3")


def test_a_mean_is_taken_over_tasks() -> None:
    assert (FIRST.strict, FIRST.tolerant) == pytest.approx((0.4, 0.6))


def test_json_holds_what_the_rounds_were() -> None:
    written = json.loads(json.dumps(table.as_json([ROUND, LATER], FINAL, 7)))
    first, second = written["rounds"]
    assert first["version"] == "v1"
    assert first["outcomes"] == {"accepted": 3, "modified": 0, "rejected": 0, "missed": 1}
    assert (first["f1_strict"], first["f1_2px"]) == (0.4, 0.6)
    assert second["f1_2px"] == pytest.approx(0.8)
    assert "simulated" in written["seconds_are"]


def test_versions_are_also_compared_on_the_tasks_that_all_of_them_had() -> None:
    written = table.as_json([ROUND, LATER], FINAL, 7)
    same = [row["f1_2px_same_tasks"] for row in (*written["rounds"], written["final"])]
    assert same == [0.8, 0.9, 1.0]
    assert "0.800 -> 0.900 -> 1.000" in table.closing([ROUND, LATER], FINAL)
    assert "60% less, simulated" in table.closing([ROUND, LATER], FINAL)


def test_people_read_the_same_figures() -> None:
    read = table.line(ROUND)
    assert read.split()[:6] == ["v1", "3/0/0/1", "0.400", "0.600", "40", "100"]
    assert "v2 promoted" in read
    assert len(read.rstrip()) <= len(table.COLUMNS)


def test_nothing_measured_is_null_not_nan() -> None:
    nothing = Quality(float("nan"), float("nan"))
    written = json.dumps(table.as_json([ROUND], nothing, 7), allow_nan=False)
    assert json.loads(written)["final"]["f1_2px"] is None


@pytest.mark.parametrize(
    ("change", "went_round"),
    [
        ({}, True),
        ({"trained": ""}, False),
        ({"gate": ""}, False),
        ({"published": "v1"}, False),
        ({"order_changed": False}, False),
        ({"order_changed": False, "promoted": False, "published": "v1.2"}, True),
    ],
)
def test_a_round_counts_only_when_every_step_happened(
    change: dict[str, object], went_round: bool
) -> None:
    assert replace(ROUND, **change).went_round is went_round  # type: ignore[arg-type]
