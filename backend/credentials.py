"""The secrets that protect our own HTTP door, made once per data folder when nobody set them."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import json
import os
import secrets
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.errors import SettingsError
from backend.settings import Settings

FILE_NAME = "credentials.json"


@dataclass(frozen=True, repr=False)
class Credentials:
    """What callers must present: basic auth everywhere, or the secret header on the webhook."""

    user: str
    password: str
    webhook_secret: str

    def allows_basic(self, user: str, password: str) -> bool:
        """Compare in constant time, both parts always."""
        same_user = hmac.compare_digest(user.encode(), self.user.encode())
        same_password = hmac.compare_digest(password.encode(), self.password.encode())
        return same_user and same_password

    def allows_webhook(self, secret: str) -> bool:
        """Compare the webhook's secret header in constant time."""
        return hmac.compare_digest(secret.encode(), self.webhook_secret.encode())


def load(settings: Settings) -> Credentials:
    """Return the credentials of the settings; what is unset there comes from the data folder."""
    kept = _kept(settings.data_dir / FILE_NAME)
    password = settings.basic_auth_pass
    secret = settings.webhook_secret
    return Credentials(
        user=settings.basic_auth_user or kept.user,
        password=password.get_secret_value() if password else kept.password,
        webhook_secret=secret.get_secret_value() if secret else kept.webhook_secret,
    )


def require_for_network(settings: Settings) -> None:
    """Refuse to listen beyond this machine with credentials unset; raises SettingsError."""
    unset = _unset(settings)
    if unset and not _is_loopback(settings.host):
        raise SettingsError(
            f"HOST={settings.host!r} can be reached from the network, but "
            f"{', '.join(unset)} is unset; set it, or HOST=127.0.0.1"
        )


def _unset(settings: Settings) -> tuple[str, ...]:
    """Return the names of the credentials that nobody chose."""
    chosen = {
        "BASIC_AUTH_USER": settings.basic_auth_user,
        "BASIC_AUTH_PASS": settings.basic_auth_pass,
        "WEBHOOK_SECRET": settings.webhook_secret,
    }
    return tuple(name for name, value in chosen.items() if not value)


def _is_loopback(host: str) -> bool:
    """Say whether an address to listen on can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _kept(path: Path) -> Credentials:
    """Read the generated credentials, making them on first use (mode 0600, never overwritten).

    They appear under their name complete or not at all: another process may read at any moment.
    """
    if not path.exists():
        fresh = Credentials("labelclimb", secrets.token_urlsafe(24), secrets.token_urlsafe(24))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:
            json.dump(asdict(fresh), draft)
            draft.flush()
            with contextlib.suppress(FileExistsError):
                os.link(draft.name, path)
    return _read(path)


def _read(path: Path) -> Credentials:
    try:
        return Credentials(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise SettingsError(
            f"{path} does not hold credentials ({error}); delete it to have new ones made, "
            "then run `labelclimb connect` again"
        ) from error
