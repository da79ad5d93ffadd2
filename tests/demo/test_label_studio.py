"""The command that starts Label Studio: what it must contain and what must not leak in."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.demo.label_studio import command
from backend.errors import SettingsError


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    executable = tmp_path / "venv" / "bin" / "label-studio"
    executable.parent.mkdir(parents=True)
    executable.touch()
    return tmp_path / "venv"


def made(venv: Path, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    return command(venv, tmp_path / "data", 8123, "me@example.com", "pass-word", "0" * 40)


def test_it_is_headless_local_and_on_the_port(venv: Path, tmp_path: Path) -> None:
    argv, _ = made(venv, tmp_path)
    assert argv[:2] == [str(venv / "bin" / "label-studio"), "start"]
    assert "--no-browser" in argv
    assert argv[argv.index("--port") + 1] == "8123"
    assert argv[argv.index("--internal-host") + 1] == "127.0.0.1"


def test_secrets_are_not_on_the_command_line(venv: Path, tmp_path: Path) -> None:
    argv, env = made(venv, tmp_path)
    assert not {"pass-word", "0" * 40} & set(argv)
    assert env["LABEL_STUDIO_PASSWORD"] == "pass-word"
    assert env["LABEL_STUDIO_USER_TOKEN"] == "0" * 40


def test_backends_on_this_machine_are_reachable_and_nobody_is_called(
    venv: Path, tmp_path: Path
) -> None:
    _, env = made(venv, tmp_path)
    off = ("ML_BLOCK_LOCAL_IP", "SSRF_PROTECTION_ENABLED", "COLLECT_ANALYTICS")
    assert [env[name] for name in (*off, "LATEST_VERSION_CHECK")] == ["false"] * 4
    assert env["SENTRY_DSN"] == env["FRONTEND_SENTRY_DSN"] == ""
    assert env["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"


def test_our_own_settings_do_not_reach_it(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "LABEL_STUDIO_API_KEY", "PORT", "REDIS_HOST", "HEARTEX_DEBUG"):
        monkeypatch.setenv(name, "ours")
    _, env = made(venv, tmp_path)
    assert "ours" not in env.values()
    assert env["HOME"] == env["LABEL_STUDIO_BASE_DATA_DIR"] == str(tmp_path / "data")


def test_paths_are_absolute_because_label_studio_changes_its_folder(
    venv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv, env = command(Path("venv"), Path("data"), 8123, "a@b.c", "p", "t" * 40)
    assert Path(argv[0]).is_absolute()
    assert Path(env["LABEL_STUDIO_BASE_DATA_DIR"]).is_absolute()


def test_a_missing_installation_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="make demo"):
        made(tmp_path / "none", tmp_path)
