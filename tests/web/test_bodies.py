"""Bodies that lie about their length, never end, or hold what no database keeps."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from backend.web.bodies import MAX_DEPTH, MOST, BodyGate, RefusedBody, check_json


class Asked:
    """One request to a gate, and what came of it; `reached` is the body that the app behind got."""

    def __init__(
        self, pieces: AsyncIterator[bytes], headers: dict[str, str], **limits: Any
    ) -> None:
        self.pieces, self.reached, self.read, self.sent = pieces, None, 0, []
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": "/x", "headers": raw}
        asyncio.run(BodyGate(self.app, **limits)(scope, self.receive, self.send))

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        self.reached = body
        assert (await receive())["type"] == "http.disconnect"

    async def receive(self) -> Message:
        async for piece in self.pieces:
            self.read += len(piece)
            return {"type": "http.request", "body": piece, "more_body": True}
        if self.reached is not None:
            return {"type": "http.disconnect"}
        self.reached = b""
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return self.sent[0]["status"]

    @property
    def error(self) -> str:
        return json.loads(self.sent[1]["body"])["error"]


async def pieces(*texts: bytes) -> AsyncIterator[bytes]:
    for text in texts:
        yield text


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"[" * 1000


async def silent() -> AsyncIterator[bytes]:
    yield b'{"a":'
    await asyncio.Event().wait()


CHUNKED = {"Transfer-Encoding": "chunked"}


def test_a_body_in_pieces_arrives_whole() -> None:
    asked = Asked(pieces(b'{"a"', b":1", b"}"), CHUNKED)
    assert asked.reached == b'{"a":1}' and asked.sent == []


@pytest.mark.parametrize("headers", [CHUNKED, {"Content-Length": "5"}, {"Content-Length": "x"}])
def test_an_endless_body_gets_an_answer_at_the_limit(headers: dict[str, str]) -> None:
    asked = Asked(endless(), headers, max_bytes=50_000)
    assert asked.status == 413 and "exceeds 50000 bytes" in asked.error
    assert asked.read <= 51_000 and asked.reached is None
    assert (b"connection", b"close") in asked.sent[0]["headers"]


def test_a_declared_length_is_believed_without_reading() -> None:
    asked = Asked(endless(), {"Content-Length": str(1 << 60)})
    assert asked.status == 413 and asked.read == 0


def test_a_body_that_stops_coming_is_given_up() -> None:
    began = time.monotonic()
    asked = Asked(silent(), CHUNKED, read_s=0.05)
    assert asked.status == 408 and "within 0.05 s" in asked.error
    assert time.monotonic() - began < 5


def test_compressed_bodies_are_refused_unread() -> None:
    asked = Asked(endless(), {**CHUNKED, "Content-Encoding": "gzip"})
    assert asked.status == 415 and "Content-Encoding" in asked.error and asked.read == 0


def test_forms_are_no_json() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "3"}
    assert Asked(pieces(b"a=b"), form).reached == b"a=b"


def nested(levels: int, open_: str = "[", close: str = "]") -> bytes:
    return (open_ * levels + "1" + close * levels).encode()


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (nested(MAX_DEPTH + 1), f"deeper than {MAX_DEPTH}"),
        (nested(100_000), f"deeper than {MAX_DEPTH}"),
        (nested(100_000, '{"a":', "}"), f"deeper than {MAX_DEPTH}"),
        (b"[" * 100_000, f"deeper than {MAX_DEPTH}"),
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe\x00", "no JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"a":9223372036854775808}', "beyond 64 bits"),
        (b'[[{"a":-9223372036854775808}]]', "beyond 64 bits"),
        (b"[NaN]", "infinite"),
        (b"[-Infinity]", "infinite"),
        (b"[1e999]", "infinite"),
        (b'["a\\u0000b"]', "NUL"),
        (b'{"a\\u0000":1}', "NUL"),
        (b'["\\ud800"]', "surrogate"),
        (b'["\\udc00\\ud800"]', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'["\xed\xa0\x80"]', "surrogate"),
    ],
)
def test_what_nobody_could_keep_is_named(body: bytes, says: str) -> None:
    with pytest.raises(RefusedBody, match=says) as caught:
        check_json(body)
    assert caught.value.status == 400


def test_many_small_lists_are_refused_before_they_take_twenty_times_their_size() -> None:
    body = b"[" + b"[]," * 1_000_000 + b"[]]"
    tracemalloc.start()
    with pytest.raises(RefusedBody, match="lists and objects") as caught:
        check_json(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.status == 413 and peak < 1_000_000


@pytest.mark.parametrize(
    "body",
    [
        nested(MAX_DEPTH),
        b'{"a":9223372036854775807}',
        '{"a":"riß 🧱"}'.encode(),
        b'{"a":"\\ud83e\\uddf1"}',
        b"[true,false,null,1.5,-0.0,1e308]",
        b'"text"',
    ],
)
def test_what_everybody_can_keep_passes(body: bytes) -> None:
    check_json(body)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MOST, MOST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("ab"), inner),
    max_leaves=20,
)


@given(JSON, st.booleans())
@settings(max_examples=100, derandomize=True, database=None, deadline=None)
def test_plain_json_always_passes(value: Any, ascii_only: bool) -> None:
    check_json(json.dumps(value, ensure_ascii=ascii_only).encode())


@given(st.binary(max_size=200))
@settings(max_examples=300, derandomize=True, database=None, deadline=None)
def test_rubbish_is_refused_or_passes(body: bytes) -> None:
    try:
        check_json(body)
    except RefusedBody as error:
        assert error.status in (400, 413)


def masks(megabytes: int) -> bytes:
    values = ",".join(map(str, range(256)))
    return b'[{"rle":[' + b",".join([values.encode()] * (1098 * megabytes)) + b"]}]"


def test_large_masks_take_bounded_time() -> None:
    body = masks(10)
    assert len(body) > 10_000_000
    began = time.process_time()
    check_json(body)
    assert time.process_time() - began < 5  # about 0.3 s on an idle core


def test_a_large_body_passes_the_gate_whole_or_is_refused() -> None:
    body = masks(2)
    assert Asked(pieces(body), CHUNKED).reached == body
    assert Asked(pieces(body[:-1]), CHUNKED).status == 400


def test_masks_take_a_few_times_their_size_of_memory() -> None:
    body = masks(1)
    tracemalloc.start()
    check_json(body)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * len(body)
