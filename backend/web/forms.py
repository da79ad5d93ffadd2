"""Forms of the dashboard: read, bounded, and proven to come from a page of ours."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import parse_qsl

from fastapi import Request

from backend.credentials import Credentials
from backend.errors import InvalidPayload
from backend.web.access import services_of

PROOF = "token"
PROOF_S = 12 * 3600
MOST_BYTES, MOST_FIELDS = 20_000, 100
OWN_SITES = ("same-origin", "none")  # what browsers say of a form on our own page
STALE = "this page is too old, or the form is not ours; load the page again and repeat the change"

Fields = Mapping[str, str]


def token(credentials: Credentials, now: datetime) -> str:
    """Return what a form must carry: browsers send the password with any site's forms to us."""
    moment = str(int(now.timestamp()))
    return f"{moment}.{_signature(credentials, moment)}"


def is_valid(credentials: Credentials, given: str, now: datetime) -> bool:
    """Say whether a token is ours and not older than PROOF_S; compares in constant time."""
    moment, _, signature = given.partition(".")
    is_ours = hmac.compare_digest(signature.encode(), _signature(credentials, moment).encode())
    return is_ours and 0 <= now.timestamp() - int(moment) <= PROOF_S


async def posted(request: Request) -> Fields:
    """Return the fields of a form, stripped; raises InvalidPayload for one that is not ours."""
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise InvalidPayload(f"the form has {len(body)} bytes; at most {MOST_BYTES} are read")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict"
        )
    except ValueError as error:
        raise InvalidPayload("the form cannot be read; it is no urlencoded UTF-8") from error
    fields = {name: value.strip() for name, value in pairs}
    services = services_of(request)
    from_us = request.headers.get("Sec-Fetch-Site", OWN_SITES[0]) in OWN_SITES
    given = fields.pop(PROOF, "")
    if not (from_us and is_valid(services.credentials, given, services.clock())):
        raise InvalidPayload(STALE)
    return fields


def number(fields: Fields, name: str) -> float:
    """Return a field as a number; raises InvalidPayload."""
    try:
        return float(fields.get(name, ""))
    except ValueError:
        raise InvalidPayload(f"{name} is {fields.get(name, '')!r}; give a number") from None


def whole(fields: Fields, name: str) -> int:
    """Return a field as a whole number; raises InvalidPayload."""
    text = fields.get(name, "")
    if not (text.isascii() and text.isdecimal() and len(text) < 16):
        raise InvalidPayload(f"{name} is {text!r}; give a whole number")
    return int(text)


def _signature(credentials: Credentials, moment: str) -> str:
    key = f"{credentials.user}:{credentials.password}".encode()
    return hmac.new(key, f"dashboard form {moment}".encode(), hashlib.sha256).hexdigest()
