"""The HTTP application, built from its services; nothing is decided at import."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import HTTP_STATUS, LabelclimbError
from backend.web import manage, metrics, protocol
from backend.web.access import Access
from backend.wiring import Services

MAX_BODY_BYTES = 256 * 1024 * 1024  # Label Studio's own limit for a request body

log = structlog.get_logger(__name__)


def create_app(services: Services) -> FastAPI:
    """Build the application; every route but `/` and `/health` demands credentials."""
    app = FastAPI(title="labelclimb", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.services = services
    app.include_router(protocol.router)
    app.include_router(manage.router)
    app.include_router(metrics.router)
    app.add_exception_handler(LabelclimbError, _explain)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.middleware("http")(_log_request)
    app.add_middleware(BodyLimit, limit_bytes=MAX_BODY_BYTES)
    app.add_middleware(Access, credentials=services.credentials)
    return app


async def _explain(_request: Request, error: Exception) -> JSONResponse:
    """Answer one of our errors with its status and its own words."""
    status = next(HTTP_STATUS[kind] for kind in type(error).__mro__ if kind in HTTP_STATUS)
    return JSONResponse({"error": str(error)}, status_code=status)


async def _malformed(_request: Request, error: Exception) -> JSONResponse:
    """Say where a body is wrong without repeating it (it may hold secrets and megabytes)."""
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return JSONResponse({"error": "malformed request: " + "; ".join(faults)}, status_code=400)


async def _log_request(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    """Give each request an id that its log line and its answer carry."""
    request_id = uuid.uuid4().hex[:12]
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request=request_id)
    started = time.monotonic()
    response = await call_next(request)
    response.headers["X-Request-Id"] = request_id
    log.info(
        "answered",
        method=request.method,
        path=request.url.path,
        status=response.status_code,
        milliseconds=round(1000 * (time.monotonic() - started), 1),
    )
    return response


class BodyLimit:
    """Refuse bodies above a limit, also those that do not say their length beforehand."""

    def __init__(self, app: ASGIApp, limit_bytes: int) -> None:
        self.app = app
        self.limit_bytes = limit_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting what it sends."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self.limit_bytes:
            await self._refuse(scope, receive, send)
            return
        await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit_bytes:
                return {"type": "http.disconnect"}
            return message

        return counted

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"the body exceeds {self.limit_bytes} bytes; send fewer tasks at once"
        await JSONResponse({"error": text}, status_code=413)(scope, receive, send)
