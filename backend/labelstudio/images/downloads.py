"""Capped downloads: from Label Studio with our token, from allowed hosts without."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import httpx

from backend.errors import LabelStudioDown, LabelStudioError
from backend.labelstudio.images import hosts
from backend.labelstudio.session import Session, shown

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
TRANSFER_S = 180.0  # longest download, however slowly bytes drip
UNCHANGED = 304
REFUSED = 401
OVERLOADED = (429, 502, 503, 504)  # says nothing of the file


@dataclass(frozen=True)
class Download:
    """A file's bytes, and the tag by which its server knows this state of it."""

    data: bytes
    etag: str | None = None


@dataclass(frozen=True)
class Limits:
    """What a download may cost and whom it may ask.

    allowed_hosts: as in ALLOWED_IMAGE_HOSTS, see `hosts.AllowedHost`.
    """

    max_bytes: int
    allowed_hosts: Collection[str] = ()
    resolve: hosts.Resolve = hosts.addresses


def download(
    session: Session, location: str, limits: Limits, *, etag: str | None = None
) -> Download | None:
    """Return what is at a path of Label Studio or at an absolute address.

    None when `etag` still names its state. Only Label Studio's own origin and allowed hosts are
    asked, also after redirects. The token goes to Label Studio alone, and not when another host
    sent us there. Raises LabelStudioError.
    """
    target = session.url + location if location.startswith("/") else location
    trusted = True
    condition = {"If-None-Match": etag} if etag else {}
    for _ in range(MAX_REDIRECTS + 1):
        at_home = hosts.same_origin(target, session.url)
        trusted = trusted and at_home
        request = _request(session, target, limits, at_home=at_home)
        request.headers.update(condition)
        found = _send(session, request, limits, trusted=trusted, at_home=at_home)
        if not isinstance(found, str):
            return found
        target = _join(target, found)
    raise LabelStudioError(f"{shown(target)} redirects more than {MAX_REDIRECTS} times")


def _request(session: Session, target: str, limits: Limits, *, at_home: bool) -> httpx.Request:
    """Return the request, bound to an address that was checked when a foreign host is asked."""
    url = httpx.URL(target)
    if url.scheme not in hosts.DEFAULT_PORTS:
        raise LabelStudioError(f"{shown(target)} is neither http nor https")
    if url.userinfo and not at_home:
        raise LabelStudioError(f"{shown(target)} holds a user or password; leave them out")
    plain = {"Accept-Encoding": "identity"}  # images are compressed already, bombs are not
    address = None if at_home else hosts.pinned(target, limits.allowed_hosts, limits.resolve)
    if address is None:
        return session.http.build_request("GET", url, headers=plain)
    named = {**plain, "Host": url.netloc.decode()}
    certificate = {"sni_hostname": url.raw_host.decode()}
    return session.http.build_request(
        "GET", url.copy_with(host=address), headers=named, extensions=certificate
    )


def _send(
    session: Session, request: httpx.Request, limits: Limits, *, trusted: bool, at_home: bool
) -> Download | str | None:
    """Return the file, the address that it redirects to, or None when it is unchanged."""
    try:
        found = _once(session, request, limits, session.authorization() if trusted else {})
        if found == REFUSED and trusted and session.forget_access():
            found = _once(session, request, limits, session.authorization())
    except httpx.RequestError as error:
        if at_home:
            raise session.unreachable(error) from error
        raise LabelStudioError(
            f"{_named(request)} cannot be fetched: {type(error).__name__}"
        ) from error
    if not isinstance(found, int):
        return found
    kind = LabelStudioDown if at_home and found in OVERLOADED else LabelStudioError
    raise kind(f"{_named(request)} answered {found}", found)


def _once(
    session: Session, request: httpx.Request, limits: Limits, authorization: Mapping[str, str]
) -> Download | str | int | None:
    """Return the file, the address of a redirect, a status that is an error, None if unchanged."""
    request.headers.update(authorization)
    deadline = session.clock.now() + TRANSFER_S
    response = session.http.send(request, stream=True)
    try:
        if response.status_code in REDIRECTS:
            return str(response.headers.get("location", ""))
        if response.status_code == UNCHANGED and "If-None-Match" in request.headers:
            return None
        if response.status_code != 200:
            return response.status_code
        body = _read(session, response, limits.max_bytes, deadline)
        return Download(body, response.headers.get("etag"))
    finally:
        response.close()


def _read(session: Session, response: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    """Read at most `max_bytes`; each piece as it comes, so that a dripping one meets the clock."""
    declared = response.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise LabelStudioError(f"the file has {declared} bytes; at most {max_bytes} are read")
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > max_bytes:
            raise LabelStudioError(f"the file has more than {max_bytes} bytes, the limit")
        if session.clock.now() > deadline:
            raise LabelStudioError(f"the download took more than {TRANSFER_S:.0f} s")
    return bytes(body)


def _named(request: httpx.Request) -> str:
    """Return a request's address with its host's name, not the address that it is bound to."""
    return shown(f"{request.url.scheme}://{request.headers['Host']}{request.url.path}")


def _join(address: str, location: str) -> str:
    try:
        return str(httpx.URL(address).join(location))
    except (httpx.InvalidURL, UnicodeError) as error:
        kind = type(error).__name__
        raise LabelStudioError(f"{shown(address)} redirects to no address ({kind})") from error
