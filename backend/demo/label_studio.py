"""The command that starts Label Studio Community for the demo: headless, local, silent."""

from __future__ import annotations

import os
from pathlib import Path

from backend.errors import SettingsError

# The process gets these of the caller's environment and nothing else: Label Studio reads any of
# its hundreds of settings from there, under three names each.
INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def command(
    venv: Path, data_dir: Path, port: int, email: str, password: str, token: str
) -> tuple[list[str], dict[str, str]]:
    """Return argv and the whole environment of a Label Studio on 127.0.0.1.

    It makes the user and the (legacy) token on its first start with this data folder, which takes
    about a minute, later starts 5 to 10 s; `GET /health` answers 200 when it is up. When the port
    is taken, Label Studio silently takes another: choose with `supervisor.free_port` just before.
    """
    executable = venv.absolute() / "bin" / "label-studio"
    if not executable.is_file():
        raise SettingsError(f"no Label Studio at {executable}; `make demo` installs it there")
    argv = [
        *(str(executable), "start", "--no-browser", "--log-level", "INFO"),
        *("--internal-host", "127.0.0.1", "--port", str(port)),
    ]
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    data = data_dir.absolute()
    return argv, {**inherited, **_storage(data), **_user(email, password, token), **_SWITCHES}


def _storage(data_dir: Path) -> dict[str, str]:
    return {
        "LABEL_STUDIO_BASE_DATA_DIR": str(data_dir),
        "HOME": str(data_dir),
        "DJANGO_DB": "sqlite",
    }


def _user(email: str, password: str, token: str) -> dict[str, str]:
    return {
        "LABEL_STUDIO_USERNAME": email,
        "LABEL_STUDIO_PASSWORD": password,
        "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    }


_SWITCHES = {
    # Only both together let it reach an ML backend and a webhook on this machine.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    # Empty addresses: the defaults are real ones that it would report to.
    "COLLECT_ANALYTICS": "false",
    "LATEST_VERSION_CHECK": "false",
    "SENTRY_DSN": "",
    "FRONTEND_SENTRY_DSN": "",
}
