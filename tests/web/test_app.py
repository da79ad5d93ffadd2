"""What every answer has, whoever asks and whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from backend.web.app import SECURITY_HEADERS, Envelope, create_app
from backend.wiring import Services
from tests.web.conftest import AUTH

STRANGER = ("ann", "wrong")


@pytest.mark.parametrize("auth", [AUTH, STRANGER, None])
@pytest.mark.parametrize("path", ["/health", "/versions", "/nowhere", "/metrics"])
def test_every_answer_has_an_id_and_the_headers_for_browsers(
    client: TestClient, path: str, auth: tuple[str, str] | None
) -> None:
    headers = client.get(path, auth=auth).headers
    assert {name: headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert len(headers["x-request-id"]) == 12


def test_documentation_of_the_api_is_off(client: TestClient) -> None:
    for path in ("/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"):
        assert client.get(path, auth=AUTH).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("DELETE", "/predict", 405), ("TRACE", "/health", 405)],
)
def test_refusals_have_the_form_of_our_errors(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path, auth=AUTH)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


@pytest.fixture
def broken(services: Services) -> Iterator[TestClient]:
    app = create_app(services)

    def fail() -> None:
        raise RuntimeError("password=hunter2")

    app.add_api_route("/broken", fail)
    with TestClient(app) as test_client:
        yield test_client


def test_what_nobody_expected_is_logged_and_not_told(broken: TestClient) -> None:
    with capture_logs() as lines:
        answer = broken.get("/broken", auth=AUTH)
    assert answer.status_code == 500
    assert "hunter2" not in answer.text and "RuntimeError" not in answer.text
    assert answer.headers["x-request-id"] in answer.json()["error"]
    assert [(line["event"], line.get("exc_info")) for line in lines] == [
        ("failed", True),
        ("answered", None),
    ]


class Asked:
    """A request to some ASGI application, with what it sent."""

    def __init__(self, app: Any, scope: dict[str, Any]) -> None:
        self.sent: list[Message] = []
        self.read = 0
        asyncio.run(app(scope, self.receive, self.send))

    async def receive(self) -> Message:
        self.read += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    async def send(self, message: Message) -> None:
        self.sent.append(message)


def test_a_page_may_have_a_content_policy_of_its_own() -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(headers={"Content-Security-Policy": "own"})(scope, receive, send)

    asked = Asked(Envelope(page), {"type": "http", "method": "GET", "path": "/", "headers": []})
    headers = dict(asked.sent[0]["headers"])
    assert headers[b"content-security-policy"] == b"own"
    assert headers[b"x-content-type-options"] == b"nosniff"


def test_an_answer_that_breaks_off_is_not_glued_to_another() -> None:
    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("broke off")

    with pytest.raises(RuntimeError, match="broke off"):
        Asked(Envelope(half), {"type": "http", "method": "GET", "path": "/", "headers": []})


def test_a_strangers_body_is_never_read(services: Services) -> None:
    headers = [(b"content-length", b"1000000"), (b"authorization", b"Basic xyz")]
    scope = {"type": "http", "method": "POST", "path": "/webhook", "headers": headers}
    asked = Asked(create_app(services), scope)
    assert asked.sent[0]["status"] == 401 and asked.read == 0
    assert (b"connection", b"close") in asked.sent[0]["headers"]


def test_a_web_socket_is_closed(services: Services) -> None:
    asked = Asked(create_app(services), {"type": "websocket", "path": "/", "headers": []})
    assert [message["type"] for message in asked.sent] == ["websocket.close"]
