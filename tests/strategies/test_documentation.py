"""docs/strategies.md has a row for every strategy, with its options."""

from __future__ import annotations

from pathlib import Path

import pytest

from strategies import base

PAGE = Path(__file__).resolve().parents[2] / "docs" / "strategies.md"


def rows() -> dict[str, list[str]]:
    """Return the cells of the table of all strategies by name."""
    section = PAGE.read_text().partition("## All of them")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split("|") for line in section.splitlines() if "| `" in line[:3]]
    return {cells[0].strip(" `"): [cell.strip() for cell in cells] for cells in lines}


def test_every_strategy_has_its_row() -> None:
    assert set(rows()) == set(base.names())


@pytest.mark.parametrize("name", [name for name in base.names() if name != "hybrid"])
def test_the_row_names_the_options(name: str) -> None:
    shown = rows()[name][3]
    assert shown == ", ".join(f"`{o.name}`" for o in base.options_of(base.get(name)))


def test_the_row_says_whether_the_others_matter() -> None:
    for name, cells in rows().items():
        depends = getattr(base.get(name), "depends_on_pool", False)
        assert (cells[4] == "no") is not depends, name
