import os
import threading

import httpx
import numpy as np
import pytest

from backend.errors import ImageError, LabelStudioError
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.images import ImageStore
from backend.labelstudio.session import MAX_REDIRECTS, Clock
from tests.labelstudio.pictures import PHOTO, PNG

URL = "http://ls.test:8080"
KEY = "0123456789abcdef0123456789abcdef01234567"
UPLOAD = "/data/upload/1/ab-x.png"


class Web:
    """Answers by address, counts and remembers requests."""

    def __init__(self, pages):
        self.pages, self.asked, self.time = pages, [], 0.0

    def __call__(self, request):
        self.asked.append(request)
        page = self.pages.get(str(request.url), httpx.Response(404))
        page = page(request) if callable(page) else page
        if isinstance(page, Exception):
            raise page
        return httpx.Response(200, content=page) if isinstance(page, bytes) else page

    def store(self, folder, url=URL, **limits):
        clock = Clock(now=lambda: self.time, pause=lambda _: None)
        client = LabelStudio(url, KEY, transport=httpx.MockTransport(self), clock=clock)
        wanted = {"max_bytes": 10**6, "max_pixels": 10**6, "max_cache_bytes": 10**6, **limits}
        return ImageStore(client, folder, **wanted)


def test_an_upload_is_fetched_with_the_token_once(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    store = web.store(tmp_path / "cache")
    for _ in range(2):
        image = store.load(UPLOAD, 1)
        assert image.dtype == np.uint8 and (image == PHOTO).all()
    assert [r.headers["authorization"] for r in web.asked] == [f"Token {KEY}"]
    other = web.store(tmp_path / "cache", url="http://other.test")
    with pytest.raises(ImageError, match="404"):  # the same path elsewhere is another image
        other.load(UPLOAD, 1)


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("/data/local-files/?d=images/c001.jpg", "/data/local-files/?d=images/c001.jpg"),
        (f"{URL}/data/upload/1/x.png", "/data/upload/1/x.png"),
        ("s3://bucket/a b.png", "/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYSBiLnBuZw=="),
        ("gs://bucket/x.png", "/tasks/7/presign/?fileuri=Z3M6Ly9idWNrZXQveC5wbmc="),
    ],
)
def test_what_label_studio_knows_is_asked_of_label_studio(uri, asked, tmp_path):
    web = Web({})
    web.pages = {URL + asked: PNG}
    assert web.store(tmp_path).load(uri, 7).shape == (4, 6, 3)


def test_a_server_below_a_path_has_it_in_its_uris(tmp_path):
    base = "http://h.test/label-studio"
    web = Web({f"{base}{UPLOAD}": PNG})
    store = web.store(tmp_path, url=base)
    assert store.load(f"/label-studio{UPLOAD}", 1).shape == (4, 6, 3)
    assert store.load(UPLOAD, 1).shape == (4, 6, 3)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "data:image/png;base64,AAAA",
        "file:///etc/passwd",
        "ftp://h/x.png",
        "images/x.png",
        "/etc/passwd",
        "/api/tasks/5",
        "/data/../api/tasks/5",
        "/data/%2e%2e/api/tasks/5",
        "/data/%252e%252e/api/tasks/5",
        "/data/..\\api/tasks/5",
        f"{URL}/api/tasks/5",
        f"{URL}/data/../api/tasks/5",
        "http://[bad/x.png",
        "http://evil.test/x.png",
        "http://ls.test:6379/x.png",
        "https://ls.test:8080/x.png",
        "http://ls.test:8080@evil.test/x.png",
        "http://127.0.0.1/x.png",
        "HTTP://evil.test/x.png",
    ],
)
def test_everything_else_is_refused_without_asking_anybody(uri, tmp_path):
    web = Web({})
    with pytest.raises(ImageError) as caught:
        web.store(tmp_path, allowed_hosts=("good.test",)).load(uri, 7)
    assert web.asked == []
    assert "task 7" in str(caught.value)
    assert KEY not in str(caught.value)


def test_an_address_that_could_be_read_in_two_ways_stays_at_label_studio(tmp_path):
    web = Web({f"{URL}/data/x.png": PNG})
    web.store(tmp_path).load("http://evil.test\\@ls.test:8080/data/x.png", 7)
    assert [str(request.url) for request in web.asked] == [f"{URL}/data/x.png"]


@pytest.mark.parametrize("allowed", ["good.test", "good.test:80"])
def test_an_allowed_host_gets_no_token(allowed, tmp_path):
    web = Web({"http://good.test/x.png": PNG})
    store = web.store(tmp_path, allowed_hosts=(allowed,))
    assert store.load("http://good.test/x.png", 1).shape == (4, 6, 3)
    assert "authorization" not in web.asked[0].headers


def redirect(target):
    return httpx.Response(303, headers={"location": target})


def test_a_presigned_address_is_followed_to_an_allowed_host_without_the_token(tmp_path):
    presign = f"{URL}/tasks/1/presign/?fileuri=czM6Ly9iL3gucG5n"
    web = Web(
        {presign: redirect("https://s3.test/b/x.png?sig=1"), "https://s3.test/b/x.png?sig=1": PNG}
    )
    assert web.store(tmp_path, allowed_hosts=("s3.test",)).load("s3://b/x.png", 1).shape == (
        4,
        6,
        3,
    )
    assert ["authorization" in r.headers for r in web.asked] == [True, False]
    with pytest.raises(ImageError, match="'s3.test'.*ALLOWED_IMAGE_HOSTS") as caught:
        web.store(tmp_path / "b").load("s3://b/x.png", 1)
    assert "sig=1" not in str(caught.value)


def test_no_host_can_send_our_token_back_to_label_studio(tmp_path):
    web = Web({"http://good.test/x.png": redirect(f"{URL}/api/tasks/5")})
    with pytest.raises(ImageError):
        web.store(tmp_path, allowed_hosts=("good.test",)).load("http://good.test/x.png", 1)
    assert all("authorization" not in r.headers for r in web.asked)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("http://evil.test/x.png", "'evil.test'"),
        ("file:///etc/passwd", "neither http"),
        (UPLOAD, "redirects more than"),
        ("", "redirects more than"),
        ("http://[bad", "not allowed"),
    ],
)
def test_redirects_to_elsewhere_and_circles_end(target, says, tmp_path):
    web = Web({URL + UPLOAD: redirect(target)})
    with pytest.raises(ImageError, match=says):
        web.store(tmp_path).load(UPLOAD, 1)
    assert len(web.asked) <= MAX_REDIRECTS + 1


def drip(web, chunks, seconds):
    def body():
        for chunk in chunks:
            web.time += seconds
            yield chunk

    return lambda _: httpx.Response(200, content=body())


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (httpx.Response(404), "answered 404.*Local Files"),
        (httpx.Response(500), "answered 500"),
        (httpx.Response(206, content=PNG[:20]), "answered 206"),
        (httpx.Response(200, headers={"content-length": "9999999"}, content=b""), "9999999 bytes"),
        (b"", "0 bytes are none of"),
        (b"<html>log in</html>", "none of JPEG"),
        (PNG[: len(PNG) // 2], "cannot decode"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of"),
    ],
)
def test_faults_end_in_an_image_error_and_nothing_is_cached(page, says, tmp_path):
    uri = "/data/local-files/?d=x.png"
    web = Web({URL + uri: page})
    with pytest.raises(ImageError, match=says) as caught:
        web.store(tmp_path / "cache").load(uri, 1)
    assert KEY not in str(caught.value)
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (httpx.Response(401), "answered 401"),
        (httpx.ConnectError("refused"), "ConnectError"),
        (httpx.ReadTimeout("slow"), "ReadTimeout"),
        (httpx.RemoteProtocolError("cut off"), "RemoteProtocolError"),
    ],
)
def test_what_says_nothing_of_the_image_is_not_blamed_on_it(page, says, tmp_path):
    uri = "/data/local-files/?d=x.png"
    web = Web({URL + uri: page})
    with pytest.raises(LabelStudioError, match=says) as caught:
        web.store(tmp_path / "cache").load(uri, 1)
    assert KEY not in str(caught.value)


def test_an_endless_body_is_cut_at_the_limit(tmp_path):
    sent = []

    def endless():
        while True:
            sent.append(1)
            yield b"x" * 1000

    web = Web({URL + UPLOAD: lambda _: httpx.Response(200, content=endless())})
    with pytest.raises(ImageError, match="more than 50000 bytes"):
        web.store(tmp_path, max_bytes=50_000).load(UPLOAD, 1)
    assert len(sent) < 200


def test_a_compressed_body_is_measured_after_decompression(tmp_path):
    import gzip

    bomb = gzip.compress(bytes(10**6))
    page = httpx.Response(200, headers={"content-encoding": "gzip"}, content=bomb)
    web = Web({URL + UPLOAD: page})
    with pytest.raises(ImageError, match="more than 50000 bytes"):
        web.store(tmp_path, max_bytes=50_000).load(UPLOAD, 1)


def test_a_dripping_body_ends_at_the_deadline(tmp_path):
    web = Web({})
    web.pages = {URL + UPLOAD: drip(web, [b"x" * 70_000] * 9, seconds=100)}
    with pytest.raises(ImageError, match="took more than"):
        web.store(tmp_path).load(UPLOAD, 1)
    assert web.time < 500


def test_the_cache_forgets_what_was_not_used_for_longest(tmp_path):
    web = Web({f"{URL}/data/upload/1/{n}.png": PNG for n in range(4)})
    store = web.store(tmp_path, max_cache_bytes=3 * len(PNG))
    for n in range(3):
        store.load(f"/data/upload/1/{n}.png", 1)
        for file in tmp_path.iterdir():  # each older by a second than the next
            status = file.stat()
            os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns - 10**9))
    store.load("/data/upload/1/0.png", 1)
    store.load("/data/upload/1/3.png", 1)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * len(PNG)
    before = len(web.asked)
    for n in (0, 2, 3):
        store.load(f"/data/upload/1/{n}.png", 1)
    assert len(web.asked) == before
    store.load("/data/upload/1/1.png", 1)
    assert len(web.asked) == before + 1


def test_a_cache_of_no_size_keeps_nothing(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    store = web.store(tmp_path / "cache", max_cache_bytes=0)
    store.load(UPLOAD, 1)
    assert not (tmp_path / "cache").exists()


def test_a_damaged_cache_file_is_fetched_anew(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    store = web.store(tmp_path)
    store.load(UPLOAD, 1)
    (file,) = tmp_path.iterdir()
    file.write_bytes(PNG[:30])
    with pytest.raises(ImageError):
        store.load(UPLOAD, 1)
    assert (store.load(UPLOAD, 1) == PHOTO).all()


def test_many_threads_share_a_cache(tmp_path):
    web = Web({f"{URL}/data/upload/1/{n}.png": PNG for n in range(8)})
    store = web.store(tmp_path, max_cache_bytes=3 * len(PNG))
    errors = []

    def work():
        try:
            for n in range(8):
                assert (store.load(f"/data/upload/1/{n}.png", 1) == PHOTO).all()
        except (ImageError, AssertionError) as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_an_unwritable_cache_says_so(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ImageError, match="cache cannot be"):
        Web({URL + UPLOAD: PNG}).store(blocked / "cache").load(UPLOAD, 1)
