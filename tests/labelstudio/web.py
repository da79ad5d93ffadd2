"""A web in memory: Label Studio and other hosts, answering by address."""

import base64
import json

import httpx

from backend.labelstudio.client import LabelStudio
from backend.labelstudio.images.store import ImageStore
from backend.labelstudio.session import Clock

URL = "http://ls.test:8080"
KEY = "0123456789abcdef0123456789abcdef01234567"
UPLOAD = "/data/upload/1/ab-x.png"
PUBLIC = "93.184.216.34"


class Web:
    """Answers by address, and remembers requests.

    pages: address -> bytes, a response, an exception to raise or a function of the request.
    names: host -> its IP addresses; all others are at one public address.
    """

    def __init__(self, pages, names=None):
        self.pages, self.names = pages, {} if names is None else names
        self.asked, self.time, self.issued = [], 0.0, 0

    def resolve(self, host):
        found = self.names.get(host, [PUBLIC])
        if isinstance(found, Exception):
            raise found
        return found

    def __call__(self, request):
        self.asked.append(as_it_was(request))
        if request.url.path == "/api/token/refresh/":
            self.issued += 1
            return httpx.Response(200, json={"access": self.access(self.issued)})
        page = self.pages.get(address(request), httpx.Response(404))
        page = page(request) if callable(page) else page
        if isinstance(page, Exception):
            raise page
        return httpx.Response(200, content=page) if isinstance(page, bytes) else page

    def store(self, folder, url=URL, key=KEY, **limits):
        clock = Clock(now=lambda: self.time, pause=lambda _: None)
        client = LabelStudio(url, key, transport=httpx.MockTransport(self), clock=clock)
        wanted = {"max_bytes": 10**6, "max_pixels": 10**6, "max_cache_bytes": 10**6, **limits}
        return ImageStore(client, folder, resolve=self.resolve, **wanted)

    @staticmethod
    def personal():
        return _jwt({"token_type": "refresh"})

    @staticmethod
    def access(number):
        return _jwt({"token_type": "access", "n": number, "iat": 0, "exp": 300})


def _jwt(claims):
    parts = (json.dumps(part).encode() for part in ({"alg": "HS256"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts), "c2ln"])


def as_it_was(request):
    """Return a copy: a request that is sent again gets other headers."""
    return httpx.Request(
        request.method, request.url, headers=request.headers, extensions=request.extensions
    )


def address(request):
    """Return what was asked for by name; foreign hosts are asked at an address that was checked."""
    return f"{request.url.scheme}://{request.headers['host']}{request.url.raw_path.decode()}"


def redirect(target):
    return httpx.Response(303, headers={"location": target})
