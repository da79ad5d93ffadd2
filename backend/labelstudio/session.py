"""One authenticated HTTP session with Label Studio: tokens, retries, errors."""

from __future__ import annotations

import base64
import binascii
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx

from backend.errors import LabelStudioDown, LabelStudioError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
GET_PAUSES_S = (0.2, 1.0)  # before the second and third try
RETRIED = (502, 503)
CONNECTION_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)
ACCESS_TOKEN_S = 300.0  # when the token does not say
EARLY_S = 30.0  # an access token is renewed this long before it ends

LEGACY = "legacy token"
PERSONAL = "personal access token"


@dataclass(frozen=True)
class Clock:
    """Time, injected: `now` in monotonic seconds, `pause` waits."""

    now: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep


class Session:
    """Calls Label Studio with a legacy or a personal access token; safe to share by threads."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        transport: httpx.BaseTransport | None,
        timeout_s: float,
        clock: Clock,
    ) -> None:
        self.url = url.rstrip("/")
        self.kind = _token_kind(api_key)
        self._key = api_key
        self.clock = clock
        self._lock = threading.Lock()
        self._access: tuple[str, float] | None = None  # token, moment to renew it
        # a proxy of the environment cannot reach this machine's own Label Studio
        trust_env = urlsplit(self.url).hostname not in LOOPBACK
        self.http = httpx.Client(
            transport=transport, timeout=timeout_s, trust_env=trust_env, cookies=_no_cookies()
        )

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def call(self, method: str, path: str, **kwargs: Any) -> Any:
        """Return the decoded JSON answer, None when there is no body; raises LabelStudioError."""
        response = self._send(method, path, kwargs)
        if response.status_code >= 300:
            raise self._refused(response, method, path)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise LabelStudioError(
                f"{self.url}{path} answered no JSON ({response.headers.get('content-type')}); "
                "is LABEL_STUDIO_URL the address of Label Studio?",
                response.status_code,
            ) from error

    def _send(self, method: str, path: str, kwargs: Mapping[str, Any]) -> httpx.Response:
        """Send, with one renewal of the access token, and with retries where nothing can double."""
        pauses = [*GET_PAUSES_S] if method == "GET" else []
        renewed = False
        while True:
            response = self._try(method, path, kwargs, can_retry=bool(pauses))
            if response is not None and response.status_code == 401 and not renewed:
                renewed = True
                if self.forget_access():
                    continue
            if response is not None and not (response.status_code in RETRIED and pauses):
                return response
            self.clock.pause(pauses.pop(0))

    def _try(
        self, method: str, path: str, kwargs: Mapping[str, Any], *, can_retry: bool
    ) -> httpx.Response | None:
        headers = {**self.authorization(), **kwargs.get("headers", {})}
        try:
            return self.http.request(method, f"{self.url}{path}", **{**kwargs, "headers": headers})
        except httpx.RequestError as error:
            if can_retry and isinstance(error, CONNECTION_ERRORS):
                return None
            raise self.unreachable(error) from error

    def authorization(self) -> dict[str, str]:
        """Return the header that proves who we are; exchanges a personal token when needed."""
        if self._key is None:
            raise LabelStudioError(
                "LABEL_STUDIO_API_KEY is not set; copy a token from Label Studio's page "
                "Account & Settings"
            )
        if self.kind == LEGACY:
            return {"Authorization": f"Token {self._key}"}
        with self._lock:
            if self._access is None or self.clock.now() >= self._access[1]:
                self._access = self._exchange()
            return {"Authorization": f"Bearer {self._access[0]}"}

    def _exchange(self) -> tuple[str, float]:
        path = "/api/token/refresh/"
        try:
            response = self.http.post(f"{self.url}{path}", json={"refresh": self._key})
        except httpx.RequestError as error:
            raise self.unreachable(error) from error
        if response.status_code >= 400:
            raise self._refused(response, "POST", path)
        token = _json_object(response).get("access")
        if not isinstance(token, str) or not token:
            raise LabelStudioError(f"POST {path} gave no access token", response.status_code)
        return token, self.clock.now() + _lifetime_s(token) - EARLY_S

    def forget_access(self) -> bool:
        """Drop the access token, as it was refused; False when there was none to renew."""
        with self._lock:
            had_one, self._access = self._access is not None, None
        return had_one

    def unreachable(self, error: httpx.RequestError) -> LabelStudioDown:
        """Return the error that says so."""
        return LabelStudioDown(
            f"Label Studio at {shown(self.url)} cannot be reached ({type(error).__name__}); is it "
            "running, and is LABEL_STUDIO_URL right?"
        )

    def _refused(self, response: httpx.Response, method: str, path: str) -> LabelStudioError:
        detail = _detail(response)
        for secret in (self._key, self._access and self._access[0]):
            detail = detail.replace(secret, "(hidden)") if secret else detail
        what = f"Label Studio answered {response.status_code} to {method} {path}: {detail[:500]}"
        if response.status_code == 401:
            what += f" (LABEL_STUDIO_API_KEY is a {self.kind}; {_ADVICE[self.kind]})"
        return LabelStudioError(what, response.status_code)


_ADVICE = {
    LEGACY: "these are off by default, use a personal access token or switch them on for the "
    "organization",
    PERSONAL: "it may have been revoked, make a new one in Account & Settings",
}


def _no_cookies() -> CookieJar:
    """Return a jar that takes nothing in.

    Label Studio answers every call with a login cookie, and cookies go to all ports of a host.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=[]))


def shown(url: str) -> str:
    """Return an address without user, password and query, which can hold secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]


def _token_kind(api_key: str | None) -> str:
    claims = _claims(api_key or "")
    if claims is None:
        return LEGACY
    if claims.get("token_type", "refresh") != "refresh":
        raise LabelStudioError(
            "LABEL_STUDIO_API_KEY is an access token, which ends after 5 minutes; use the "
            "personal access token itself"
        )
    return PERSONAL


def _claims(token: str) -> dict[str, Any] | None:
    """Return the claims of a JWT without checking it, None when it is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(claims, dict) else None


def _lifetime_s(access_token: str) -> float:
    """Return how long a token is good for by its own claims, whatever our clock says."""
    claims = _claims(access_token) or {}
    start, end = claims.get("iat"), claims.get("exp")
    if isinstance(start, int) and isinstance(end, int) and end > start:
        return float(end - start)
    return ACCESS_TOKEN_S


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _detail(response: httpx.Response) -> str:
    """Return what the server said: its `detail` and `validation_errors`, else the text."""
    body = _json_object(response)
    said = [body.get("detail"), body.get("validation_errors")]
    return "; ".join(str(part) for part in said if part) or response.text.strip() or "nothing"
