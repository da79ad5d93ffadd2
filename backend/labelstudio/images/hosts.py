"""Which hosts beside Label Studio may be asked for images, and at which of their addresses."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import httpx

from backend.errors import LabelStudioError

Resolve = Callable[[str], Sequence[str]]  # host name -> its IP addresses
Origin = tuple[str, str, int | None]  # scheme, host, port

HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
DEFAULT_PORTS = {"http": 80, "https": 443}
PRIVATE = "=private"  # at the end of an allowed host: it may be on this network
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # an IPv4 address in its last 32 bits


@dataclass(frozen=True)
class AllowedHost:
    """One entry of ALLOWED_IMAGE_HOSTS: "host", "host:port", either with "=private".

    port: None for the scheme's own. private: any address will do, as the entry says so, or names
    the address itself.
    """

    host: str
    port: int | None
    private: bool

    @classmethod
    def parse(cls, entry: str) -> AllowedHost:
        """Read an entry; raises ValueError."""
        name = entry.removesuffix(PRIVATE)
        try:
            parsed = httpx.URL(f"http://{name}")
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ValueError(f"{entry!r} is no host ({error})") from error
        host = parsed.raw_host.decode()
        is_whole = parsed.raw_path == b"/" and not parsed.userinfo and not parsed.fragment
        if not HOST.fullmatch(host) or not is_whole:
            raise ValueError(f"{entry!r} is no host; write host, host:port or host=private")
        port = int(name.rpartition(":")[2]) if name.endswith(f":{parsed.port or 80}") else None
        return cls(host, port, entry.endswith(PRIVATE) or is_address(host))

    def fits(self, scheme: str, host: str, port: int | None) -> bool:
        """Say whether an address is at this host and port."""
        return self.host == host and (self.port or DEFAULT_PORTS.get(scheme)) == port


def origin(url: str) -> Origin:
    """Read an address as the client does that will be asked: two readings could differ.

    Raises LabelStudioError.
    """
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, UnicodeError) as error:
        raise LabelStudioError(f"{url[:100]!r} is no address ({type(error).__name__})") from error
    host = parsed.raw_host.decode()
    return parsed.scheme, host, parsed.port or DEFAULT_PORTS.get(parsed.scheme)


def same_origin(one: str, other: str) -> bool:
    """Return whether two addresses have the same scheme, host and port; raises LabelStudioError."""
    return origin(one) == origin(other)


def pinned(target: str, allowed: Iterable[str], resolve: Resolve) -> str | None:
    """Return the IP address to connect to for `target`, None to leave that to the client.

    Raises LabelStudioError when the host is not allowed, or has an address on a private network
    that nobody allowed. A name is resolved once, so it cannot answer differently afterwards.
    """
    scheme, host, port = origin(target)
    entries = [AllowedHost.parse(entry) for entry in allowed]
    entry = next((e for e in entries if e.fits(scheme, host, port)), None)
    if scheme not in DEFAULT_PORTS or entry is None:
        raise LabelStudioError(
            f"host {host!r} (port {port}) is not allowed; add it to ALLOWED_IMAGE_HOSTS if images "
            "may come from there"
        )
    return None if entry.private else _public_address(host, resolve)


def _public_address(host: str, resolve: Resolve) -> str:
    try:
        found = resolve(host)
    except (OSError, UnicodeError) as error:
        raise LabelStudioError(f"host {host!r} cannot be resolved ({error})") from error
    private = [address for address in found if not is_public(address)]
    if private or not found:
        raise LabelStudioError(
            f"host {host!r} has the private address {', '.join(private) or '(none)'}; if images "
            f"may come from this network, write {host}{PRIVATE} in ALLOWED_IMAGE_HOSTS"
        )
    return sorted(found, key=lambda address: ":" in address)[0]  # IPv6 may lead nowhere


def addresses(host: str) -> list[str]:
    """Return the IP addresses of a host as this machine resolves it."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


def is_address(host: str) -> bool:
    """Say whether a host is an IP address in its usual form."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Say whether an IP address is of the open internet, also one that carries another inside."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False  # with a zone, as link-local ones have
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast
