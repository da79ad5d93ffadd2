"""Who may call: basic auth for everything, a secret header as well for the webhook."""

from __future__ import annotations

import base64
import binascii

from fastapi import Request

from backend.errors import NotAuthorised
from backend.web_names import SECRET_HEADER
from backend.wiring import Services


def services_of(request: Request) -> Services:
    """Return the services that the application was built from."""
    services: Services = request.app.state.services
    return services


def require_basic(request: Request) -> None:
    """Demand basic auth; raises NotAuthorised."""
    if not _basic_allows(request):
        raise NotAuthorised(
            "basic auth is missing or wrong; user and password are BASIC_AUTH_USER and "
            "BASIC_AUTH_PASS, or those in the data folder's credentials.json; "
            "`labelclimb connect` enters them in Label Studio"
        )


def require_webhook(request: Request) -> None:
    """Demand the secret header, or basic auth: Label Studio sends START_TRAINING with the latter.

    Raises NotAuthorised.
    """
    secret = request.headers.get(SECRET_HEADER, "")
    if not (services_of(request).credentials.allows_webhook(secret) or _basic_allows(request)):
        raise NotAuthorised(
            f"the webhook needs the header {SECRET_HEADER} or basic auth; "
            "`labelclimb connect` repairs the webhook in Label Studio"
        )


def _basic_allows(request: Request) -> bool:
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return False
    user, _, password = decoded.partition(":")
    allowed = services_of(request).credentials.allows_basic(user, password)
    return scheme.lower() == "basic" and allowed
