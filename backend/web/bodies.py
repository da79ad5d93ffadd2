"""Request bodies, read once and checked before any route sees them: bounded, timely, plain JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Collection
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 64_000_000  # Label Studio's largest measured call: 1.77 MB for 1,000 tasks
READ_S = 60.0
AT_ONCE_BYTES = 1_000_000
MAX_DEPTH = 64  # Label Studio's own payloads nest 10 levels
MAX_CONTAINERS = 1_000_000  # lists and objects; an empty one in 3 bytes takes 60 bytes of memory
MOST = 2**63 - 1  # what both databases keep
FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class RefusedBody(Exception):
    """A body that no route gets to see; `status` is its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class BodyGate:
    """Reads bodies for the application; answers 4xx itself for those that are out of bounds."""

    def __init__(
        self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, read_s: float = READ_S
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.read_s = read_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its whole body."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        if not {"content-length", "transfer-encoding"} & set(headers):
            await self.app(scope, receive, send)
            return
        try:
            body = await self._body(headers, receive)
        except RefusedBody as error:
            answer = JSONResponse({"error": str(error)}, error.status, {"Connection": "close"})
            await answer(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        if headers.get("content-encoding", "identity") != "identity":
            raise RefusedBody(415, "the body is compressed; send it without Content-Encoding")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self.max_bytes:
            raise self._too_long()
        try:
            body = await asyncio.wait_for(self._read(receive), self.read_s)
        except asyncio.TimeoutError:  # another class before Python 3.11
            text = f"the body was not sent within {self.read_s:g} s"
            raise RefusedBody(408, text) from None
        if body and not headers.get("content-type", "").startswith(FORMS):
            await _in_turn(check_json, body)
        return body

    async def _read(self, receive: Receive) -> bytes:
        """Read all of it, counting: a length need not be declared, or not be true."""
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.max_bytes:
                raise self._too_long()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_long(self) -> RefusedBody:
        return RefusedBody(
            413, f"the body exceeds {self.max_bytes} bytes; send fewer tasks at once"
        )


async def _in_turn(check: Callable[[bytes], None], body: bytes) -> None:
    """Check a large body in a thread, so that /health is answered meanwhile."""
    if len(body) > AT_ONCE_BYTES:
        await asyncio.to_thread(check, body)
    else:
        check(body)


def check_json(body: bytes) -> None:
    """Raise RefusedBody for what is no JSON, or is none that every database and browser can keep.

    Refused as in RFC 7493 (I-JSON): NaN and infinite numbers, numbers beyond 64 bits, halves of
    surrogate pairs; also NUL, which PostgreSQL does not store, and deep nesting.
    """
    if body.count(b"[") + body.count(b"{") > MAX_CONTAINERS:
        raise RefusedBody(413, f"the body has more than {MAX_CONTAINERS} lists and objects")
    try:
        value = json.loads(body)
    except RecursionError:
        raise RefusedBody(400, f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        reason = getattr(error, "msg", type(error).__name__)
        place = getattr(error, "pos", 0)
        text = f"malformed request: the body is no JSON ({reason}, at {place})"
        raise RefusedBody(400, text) from None
    _check_values(value)


def _check_values(value: Any) -> None:
    """Look at every value; long lists of numbers, as masks are, cost no copy."""
    waiting: list[tuple[Collection[Any], int]] = [([value], 0)]
    while waiting:
        values, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise RefusedBody(400, f"the body is nested deeper than {MAX_DEPTH} levels")
        kinds = set(map(type, values))
        if fault := _fault(values, kinds):
            raise RefusedBody(400, f"malformed request: the body holds {fault}")
        for inner in values if kinds & {list, dict} else ():
            if isinstance(inner, dict):
                waiting += (inner.keys(), depth + 1), (inner.values(), depth + 1)
            elif isinstance(inner, list):
                waiting.append((inner, depth + 1))


def _fault(values: Collection[Any], kinds: set[type]) -> str | None:
    """Return what is wrong with the texts and numbers among the values of one list."""
    whole = values if kinds == {int} else [v for v in values if type(v) is int]
    if whole and not -MOST <= min(whole) <= max(whole) <= MOST:
        return "a number beyond 64 bits"
    if float in kinds and not all(math.isfinite(v) for v in values if type(v) is float):
        return "NaN or an infinite number"
    texts = [v for v in values if type(v) is str] if str in kinds else []
    if any("\0" in text for text in texts):
        return "a NUL character"
    if any(not text.isascii() and _is_torn(text) for text in texts):
        return "half of a surrogate pair"
    return None


def _is_torn(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body in one piece, then whatever really comes."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
