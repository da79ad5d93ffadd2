"""benchmarks/ranking.py compares equal things."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_ours_and_the_literal_loops_choose_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ranking = importlib.import_module("ranking")
    rows = ranking.comparisons(ranking.pool(400, 8, 4), 30, 1)
    assert rows[0]["name"].endswith("share equal to the literal loop") and rows[0]["value"] == 1.0
    assert {"k-center greedy", "k-means++ seeding", "entropy"} <= {
        row["name"].partition(":")[0].partition(",")[0] for row in rows
    }


def test_targets_hold_at_full_size_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    ranking = importlib.import_module("ranking")
    for memory in ("reset_peak", "peak_bytes"):  # measuring it looks at all that is in this process
        monkeypatch.setattr(ranking, memory, lambda: 0)
    monkeypatch.setattr(ranking, "gc", SimpleNamespace(collect=lambda: 0))
    pool = ranking.pool(60, 4, 2)
    for is_full, targets in ((False, set()), (True, {10.0, 0.5})):
        rows = ranking.every_strategy(pool, 1, is_full_size=is_full)
        assert {row["target"] for row in rows} - {None} == targets
        assert len(rows) == 3 * len(ranking.base.names())
