"""The secrets that protect our own HTTP door, made once per data folder when nobody set them."""

from __future__ import annotations

import contextlib
import hmac
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
