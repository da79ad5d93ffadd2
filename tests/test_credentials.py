"""Credentials are made once, kept private, and compared in full."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend import credentials
from backend.credentials import Credentials
from backend.errors import SettingsError
from backend.settings import Settings


def test_generated_ones_are_private_and_stay_the_same(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    first = credentials.load(settings)
    assert first == credentials.load(settings)
    mode = (tmp_path / "new" / credentials.FILE_NAME).stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert len(first.password) >= 24
    assert first.password != first.webhook_secret


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: credentials.load(settings), range(16)))
    assert len({(c.user, c.password, c.webhook_secret) for c in made}) == 1


def test_settings_win_over_generated_ones(tmp_path: Path) -> None:
    settings = Settings.from_env(
        {"DATA_DIR": str(tmp_path), "BASIC_AUTH_USER": "ann", "BASIC_AUTH_PASS": "pw"}
    )
    chosen = credentials.load(settings)
    assert chosen.allows_basic("ann", "pw")
    assert not chosen.allows_basic("ann", "pw ")
    assert not chosen.allows_basic("", "")


def test_a_damaged_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / credentials.FILE_NAME).write_text("{")
    with pytest.raises(SettingsError, match="delete it"):
        credentials.load(Settings(data_dir=tmp_path))


def test_secrets_do_not_show() -> None:
    assert "hidden-word" not in repr(Credentials("user", "hidden-word", "hidden-word"))
