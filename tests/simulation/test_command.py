"""`labelclimb simulate` as people call it, with the real pipeline on tiny images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from backend.cli import app as cli
from backend.cli import simulate as cli_simulate
from backend.errors import SettingsError
from backend.simulation import history
from models.pipelines import pixel_head
from tests.evaluation.making import folder
from tests.models.conftest import encoder_weights  # noqa: F401 - a fixture
from tests.simulation.test_since import MONDAY, services, worked  # noqa: F401 - a fixture

DOCUMENT = Path(__file__).parents[2] / "docs" / "strategies.md"


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_simulate, "console", Console(width=200))


@pytest.mark.training
def test_a_folder_is_replayed_with_the_real_pipeline(
    encoder_weights: str,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = partial(pixel_head.PixelHeads, steps=12, warm_steps=4)
    monkeypatch.setattr(pixel_head, "PixelHeads", short)
    images, masks = folder(tmp_path, 12)
    file, picture = tmp_path / "curves.json", tmp_path / "curves.png"
    given = {
        "images": images, "masks": masks, "class": "crack", "strategies": "value_per_second",
        "seeds": 2, "budget-seconds": 150, "rounds": 2, "first": 2, "split": "7/2/3",
        "longest-side": 48, "refine": "threshold", "encoder-weights": encoder_weights,
        "json": file, "png": picture,
    }  # fmt: skip
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    done = CliRunner().invoke(cli.app, ["simulate", *arguments])
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    names = [one["strategy"] for one in result["strategies"]]
    assert sorted(names) == ["random_order", "value_per_second"]
    assert result["images"] == {"pool": 7, "validation": 2, "test": 3}
    for one in result["strategies"]:
        for own in one["runs"]:
            assert len(own["values"]) >= 2 and all(0 <= value <= 1 for value in own["values"])
            assert own["seconds"][-1] <= 150
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "value_per_second: " in done.output and "nobody was timed" in done.output


def test_a_projects_past_is_replayed(
    services: history.Services,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worked(services)
    monkeypatch.setattr(cli_simulate, "open_services", lambda: services)
    file, picture = tmp_path / "past.json", tmp_path / "past.png"
    given = ["--project", "1", "--since", "2026-11-16", "--strategies", "entropy,coreset"]
    written = ["--json", str(file), "--png", str(picture)]
    done = CliRunner().invoke(cli.app, ["simulate", *given, *written])
    assert done.exit_code == 0, done.output
    assert "project 1 since 2026-11-16 00:00 UTC" in done.output
    assert {one["strategy"] for one in json.loads(file.read_text())["strategies"]} == {
        "as it was", "coreset", "entropy", "random_order",
    }  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--strategies", "entropy"], "nothing to replay"),
        (["--strategies", "entropy", "--since", "2026-11-16"], "give --project"),
        (["--strategies", "astrology"], "unknown strategy 'astrology'"),
    ],
)
def test_calls_that_mean_nothing_are_refused(given: list[str], message: str) -> None:
    done = CliRunner().invoke(cli.app, ["simulate", *given])
    assert isinstance(done.exception, SettingsError) and message in str(done.exception)


def test_the_document_shows_both_calls() -> None:
    text = DOCUMENT.read_text().partition("## Simulation")[2].partition("\n## ")[0]
    for part in ("--images", "--masks", "--budget-seconds", "--seeds", "--since", "--project"):
        assert part in text, part
