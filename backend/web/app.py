"""The HTTP application, built from its services; nothing is decided at import."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import HTTP_STATUS, LabelclimbError
from backend.web import dashboard, jobs, manage, metrics, protocol
from backend.web.access import Access
from backend.web.bodies import BodyGate
from backend.wiring import Services

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Headers = Mapping[str, str] | None

log = structlog.get_logger(__name__)


def create_app(services: Services) -> FastAPI:
    """Build the application; every route but `/` and `/health` demands credentials."""
    app = FastAPI(title="labelclimb", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    app.include_router(protocol.router)
    app.include_router(manage.router)
    app.include_router(jobs.router)
    app.include_router(dashboard.router)
    app.include_router(metrics.router)
    app.add_exception_handler(LabelclimbError, _explain)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(BodyGate)
    app.add_middleware(Access, credentials=services.credentials)
    app.add_middleware(Envelope)
    return app


async def _explain(request: Request, error: Exception) -> Response:
    """Answer one of our errors with its status and its own words."""
    status = next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)
    return _told(request, str(error), status)


def _told(request: Request, text: str, status: int, headers: Headers = None) -> Response:
    """Answer programs in JSON, and people with a page."""
    if request.url.path.startswith(dashboard.PREFIX):
        return dashboard.error_page(text, status)
    return JSONResponse({"error": text}, status, headers)


async def _malformed(request: Request, error: Exception) -> Response:
    """Say where a body is wrong without repeating it (it may hold secrets and megabytes)."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return _told(request, "malformed request: " + "; ".join(faults), 400)


async def _refuse(request: Request, error: Exception) -> Response:
    """Answer an unknown path or method in the form of our own errors."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this type
    return _told(request, error.detail, error.status_code, error.headers)


class Envelope:
    """What every answer has: an id that its log line carries too, and headers for browsers.

    A route may set a header of its own, as a page its content policy. An exception that nobody
    expected is logged with the id, and answered without a word of it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and log its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id, started, status = uuid.uuid4().hex[:12], time.monotonic(), 0
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request=request_id)

        async def sealed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in (*SECURITY_HEADERS.items(), ("X-Request-Id", request_id)):
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, sealed)
        except Exception:
            log.exception("failed", method=scope["method"], path=scope["path"])
            if status:
                raise  # half of an answer is sent: only the connection's end can tell
            text = f"labelclimb failed; its log says why, at request={request_id}"
            await JSONResponse({"error": text}, 500)(scope, receive, sealed)
        log.info(
            "answered",
            method=scope["method"],
            path=scope["path"],
            status=status,
            milliseconds=round(1000 * (time.monotonic() - started), 1),
        )
