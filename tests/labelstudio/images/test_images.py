import gzip

import httpx
import numpy as np
import pytest

from backend.errors import ImageError, LabelStudioDown, LabelStudioError
from backend.labelstudio.images.downloads import MAX_REDIRECTS, TRANSFER_S
from tests.labelstudio.pictures import PHOTO, PNG
from tests.labelstudio.web import KEY, UPLOAD, URL, Web, address, redirect


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
        ("/data/local-files/?d=a%20b/100%2525.png", "/data/local-files/?d=a%20b/100%2525.png"),
        ("/data/upload/1/..a..b.png", "/data/upload/1/..a..b.png"),
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
        "/data/%25252e%25252e/api/tasks/5",
        "/data/..\\api/tasks/5",
        "/data/./x.png",
        "/data/upload/x.png%00.jpg",
        "/data/upload/\ud800.png",
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=..%2f..%2fetc%2fpasswd",
        "/data/local-files/?d=images/%252e%252e/%252e%252e/etc/passwd",
        "/data/local-files/?d=images\\..\\..\\etc\\passwd",
        "/data/local-files/?d=images%5c..%5cx.png",
        "/data/local-files/?d=a.png&d=../x.png",
        "/data/local-files/?d=%25252525252525252525252e",
        f"{URL}/api/tasks/5",
        f"{URL}/data/../api/tasks/5",
        "http://[bad/x.png",
        "http://evil.test/x.png",
        "http://ls.test:6379/x.png",
        "https://ls.test:8080/x.png",
        "http://ls.test:8080@evil.test/x.png",
        "http://127.0.0.1/x.png",
        "HTTP://evil.test/x.png",
        "http://good.test:6379/x.png",
        "http://good.test.evil.test/x.png",
        "http://good.test./x.png",
        "http://user:pass@good.test/x.png",
        "http://localhost:9090/predict",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/x.png",
        "http://[::ffff:127.0.0.1]/x.png",
        "http://2130706433/x.png",
        "http://0x7f.1/x.png",
        "http://127.1/x.png",
        "http://0/x.png",
        "http://good.test:99999999/x.png",
        "http://" + "a" * 70_000,
        "http://good.test/\ud800",
        "http:///x.png",
        "http:x.png",
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
    assert [address(request) for request in web.asked] == [f"{URL}/data/x.png"]


@pytest.mark.parametrize("allowed", ["good.test", "good.test:80"])
def test_an_allowed_host_gets_no_token(allowed, tmp_path):
    web = Web({"http://good.test/x.png": PNG})
    store = web.store(tmp_path, allowed_hosts=(allowed,))
    assert store.load("http://good.test/x.png", 1).shape == (4, 6, 3)
    assert "authorization" not in web.asked[0].headers


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
        (httpx.Response(403), "answered 403.*LOCAL_FILES_SERVING_ENABLED=true"),
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
    bomb = gzip.compress(bytes(10**6))
    page = httpx.Response(200, headers={"content-encoding": "gzip"}, content=bomb)
    web = Web({URL + UPLOAD: page})
    with pytest.raises(ImageError, match="more than 50000 bytes"):
        web.store(tmp_path, max_bytes=50_000).load(UPLOAD, 1)


def test_the_token_is_renewed_once_when_a_download_is_refused(tmp_path):
    web = Web({})
    answers = [401, 200, 401, 401]
    web.pages = {URL + UPLOAD: lambda _: httpx.Response(answers.pop(0), content=PNG)}
    store = web.store(tmp_path, key=web.personal())
    assert (store.load(UPLOAD, 1) == PHOTO).all()
    assert [r.headers["authorization"] for r in web.asked if r.method == "GET"] == [
        f"Bearer {web.access(1)}",
        f"Bearer {web.access(2)}",
    ]
    with pytest.raises(LabelStudioError, match="answered 401"):
        web.store(tmp_path / "b", key=web.personal()).load(UPLOAD, 1)
    assert answers == []


def test_a_legacy_token_that_is_refused_is_not_tried_again(tmp_path):
    web = Web({URL + UPLOAD: httpx.Response(401)})
    with pytest.raises(LabelStudioError, match="answered 401"):
        web.store(tmp_path).load(UPLOAD, 1)
    assert len(web.asked) == 1


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_an_overloaded_label_studio_says_nothing_of_the_image(status, tmp_path):
    web = Web({URL + UPLOAD: httpx.Response(status)})
    with pytest.raises(LabelStudioDown, match=f"answered {status}"):
        web.store(tmp_path).load(UPLOAD, 1)


def test_no_cookie_is_kept_as_it_would_go_to_other_ports_of_the_host(tmp_path):
    cookie = {"set-cookie": "sessionid=secret; Path=/"}
    web = Web({URL + UPLOAD: httpx.Response(200, headers=cookie, content=PNG)})
    web.pages["http://ls.test:9000/x.png"] = PNG
    store = web.store(tmp_path, allowed_hosts=("ls.test:9000=private",))
    store.load(UPLOAD, 1)
    store.load("http://ls.test:9000/x.png", 1)
    assert ["cookie" in request.headers for request in web.asked] == [False, False]


def test_images_are_asked_for_as_they_are(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    web.store(tmp_path).load(UPLOAD, 1)
    assert web.asked[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("piece", [1, 70_000])
def test_a_dripping_body_ends_at_the_deadline_however_small_its_drops(piece, tmp_path):
    web = Web({})

    def body():
        while True:
            web.time += 50
            yield b"x" * piece

    web.pages = {URL + UPLOAD: lambda _: httpx.Response(200, content=body())}
    with pytest.raises(ImageError, match="took more than"):
        web.store(tmp_path, max_bytes=10**9).load(UPLOAD, 1)
    assert web.time <= TRANSFER_S + 50


def test_a_body_that_ends_early_is_no_image_and_is_not_kept(tmp_path):
    def body():
        yield PNG[:40]
        raise httpx.RemoteProtocolError("peer closed connection without sending complete body")

    web = Web({URL + UPLOAD: lambda _: httpx.Response(200, content=body())})
    with pytest.raises(LabelStudioDown, match="RemoteProtocolError"):
        web.store(tmp_path / "cache").load(UPLOAD, 1)
    assert not (tmp_path / "cache").exists()
