"""`benchmarks/curves.py` calls the command and reports its figures with their intervals."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from typer.testing import CliRunner

from backend.cli import app as cli
from backend.cli import simulate as cli_simulate
from backend.settings import Settings
from backend.simulation import results, run
from backend.simulation.options import CONTROL
from backend.simulation.results import Run
from strategies.simulate import Round

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("curves")


def test_the_command_that_it_calls_is_understood(
    curves: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(run, "run", lambda options, console, cost: asked.append(options))
    settings = Settings.from_env({"DATA_DIR": str(tmp_path)})
    monkeypatch.setattr(cli_simulate, "read_settings", lambda: settings)
    weights = tmp_path / "w.safetensors"
    weights.touch()
    given = ["--encoder-weights", str(weights), "--pictures", str(tmp_path)]
    called = curves.command(curves.parse(given), "rust_train", tmp_path / "out.json")
    done = CliRunner().invoke(cli.app, called[3:])
    assert done.exception is None, done.output
    (options,) = asked
    assert [one.label for one in options.contenders] == curves.STRATEGIES.split(",")
    assert (options.seeds, options.class_name, options.refine) == (3, "rust", "guided")
    assert options.png_file == tmp_path / "curves-rust_train.png"


def test_rows_hold_the_means_with_their_intervals(curves: ModuleType) -> None:
    """The control goes from 0.2 to 0.6 in 100 s, the other in 50 s, on three seeds alike."""
    runs = [
        Run(label, seed, (Round((1,), 0.0, 0.2), Round((2,), end_s, 0.6)))
        for label, end_s in ((CONTROL, 100.0), ("entropy", 50.0))
        for seed in range(3)
    ]
    result = {"strategies": results.compared(runs, 100.0), "seeds": 3}
    rows = {row["name"]: row for row in curves.rows_of("deepcrack_train", result)}
    area = rows["deepcrack_train entropy: mean 2-px F1 over the time"]
    assert area["value"] == pytest.approx(0.5)
    halfway = rows["deepcrack_train entropy: 2-px F1 after 0.7 human min"]
    assert halfway["value"] == pytest.approx(0.2 + 0.4 * 0.8)  # 40 s of the 50 s
    gain = rows["deepcrack_train entropy: mean 2-px F1 above random order"]
    assert gain["value"] == pytest.approx(0.1)
    saved = rows["deepcrack_train entropy: human time saved against random order"]
    assert saved["value"] == pytest.approx(50 / 60)
    assert saved["unit"] == "min (95 %: +0.833 to +0.833, 3 seeds)"
    (entropy,) = [one for one in result["strategies"] if one["strategy"] == "entropy"]
    assert entropy["verdict"] == "better than random_order" and entropy["reached"] == 3
    assert (
        "saves 0.8 min (0.8 min to 0.8 min) on the way to what random order has after 1.7 min"
        in (entropy["in_words"])
    )


def test_a_saving_is_a_bound_where_a_seed_never_gets_there(curves: ModuleType) -> None:
    """On seed 1 the other ends at 0.5: it counts as if it had 0.6 at the end, 100 s."""
    runs = [
        Run(label, seed, (Round((1,), 0.0, 0.2), Round((2,), end_s, last)))
        for seed, last in ((0, 0.6), (1, 0.5))
        for label, end_s, last in ((CONTROL, 80.0, 0.6), ("entropy", 40.0, last))
    ]
    result = {"strategies": results.compared(runs, 100.0), "seeds": 2}
    (entropy,) = [one for one in result["strategies"] if one["strategy"] == "entropy"]
    assert entropy["saved_s"] == {"mean": pytest.approx((40 - 20) / 2), "low": None, "high": None}
    assert "saves at most 0.2 min on the way to what random order has" in entropy["in_words"]
    assert "on 1 of 2 seeds it does not get there" in entropy["in_words"]
    (row,) = [r for r in curves.rows_of("x", result) if "human time saved" in r["name"]]
    assert row["name"].endswith("random order, at most") and row["unit"] == "min"


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ((0.1, 0.11, 0.12), "better than random_order"),
        ((-0.1, -0.11, -0.12), "worse than random_order"),
        ((0.1, 0.2, -0.05), "no difference shown"),
    ],
)
def test_only_an_interval_on_one_side_is_a_difference(gains: tuple[float, ...], said: str) -> None:
    """Level curves: the gain of a seed is its value above the control's, 0.5."""
    runs = [
        Run(label, seed, (Round((1,), 0.0, value), Round((2,), 10.0, value)))
        for seed, gain in enumerate(gains)
        for label, value in ((CONTROL, 0.5), ("entropy", 0.5 + gain))
    ]
    (entropy,) = [e for e in results.compared(runs, 10.0) if e["strategy"] == "entropy"]
    assert entropy["verdict"] == said
