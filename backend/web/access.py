"""Who may call: basic auth for everything, a secret header as well for the webhook."""

from __future__ import annotations

import base64
import binascii

from fastapi import Request
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.credentials import Credentials
from backend.errors import HTTP_STATUS, NotAuthorised
from backend.web_names import SECRET_HEADER
from backend.wiring import Services

OPEN = ("/", "/health")
WEBHOOK = "/webhook"
REFUSED = (
    "basic auth is missing or wrong; user and password are BASIC_AUTH_USER and BASIC_AUTH_PASS, or "
    "those in the data folder's credentials.json; `labelclimb connect` enters them in Label Studio"
)
WEBHOOK_REFUSED = (
    f"the webhook needs the header {SECRET_HEADER} or basic auth; "
    "`labelclimb connect` repairs the webhook in Label Studio"
)


def services_of(request: Request) -> Services:
    """Return the services that the application was built from."""
    services: Services = request.app.state.services
    return services


class Access:
    """Checks credentials from the headers alone: a stranger's body is never read.

    Basic auth opens everything, the secret header the webhook; Label Studio sends START_TRAINING
    there with basic auth and without the header.
    """

    def __init__(self, app: ASGIApp, credentials: Credentials) -> None:
        self.app = app
        self.credentials = credentials

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass an allowed request on; answer 401 otherwise. There are no web sockets here."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        if scope["type"] != "http" or self._allows(scope["path"], Headers(scope=scope)):
            await self.app(scope, receive, send)
            return
        text = WEBHOOK_REFUSED if scope["path"] == WEBHOOK else REFUSED
        # a stranger's body is not read, so what follows on the connection is not either
        challenge = {"WWW-Authenticate": "Basic", "Connection": "close"}
        answer = JSONResponse({"error": text}, HTTP_STATUS[NotAuthorised], headers=challenge)
        await answer(scope, receive, send)

    def _allows(self, path: str, headers: Headers) -> bool:
        if path in OPEN:
            return True
        secret = headers.get(SECRET_HEADER, "")
        by_secret = path == WEBHOOK and self.credentials.allows_webhook(secret)
        return by_secret or self._allows_basic(headers.get("Authorization", ""))

    def _allows_basic(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            return False
        user, _, password = decoded.partition(":")
        return scheme.lower() == "basic" and self.credentials.allows_basic(user, password)
