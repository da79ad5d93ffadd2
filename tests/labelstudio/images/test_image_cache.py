import os
import threading

import httpx
import pytest

from backend.errors import ImageError
from backend.labelstudio.images import cache as image_cache
from backend.labelstudio.images import store as images
from backend.labelstudio.images.cache import ImageCache
from backend.labelstudio.images.downloads import Download
from tests.labelstudio.pictures import PHOTO, PNG, encoded
from tests.labelstudio.web import UPLOAD, URL, Web

LOCAL = "/data/local-files/?d=images/a.png"
STORED = len(image_cache._packed(Download(PNG)))


def age(folder, seconds):
    """Make the last use and the last check of all files so much longer ago."""
    for file in folder.iterdir():
        status = file.stat()
        os.utime(file, (status.st_atime - seconds, status.st_mtime - seconds))


def test_the_longest_unused_go_first(tmp_path):
    web = Web({f"{URL}/data/upload/1/{n}.png": PNG for n in range(4)})
    store = web.store(tmp_path, max_cache_bytes=3 * STORED)
    for n in range(3):
        store.load(f"/data/upload/1/{n}.png", 1)
        age(tmp_path, 1)
    store.load("/data/upload/1/0.png", 1)
    store.load("/data/upload/1/3.png", 1)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * STORED
    before = len(web.asked)
    for n in (0, 2, 3):
        store.load(f"/data/upload/1/{n}.png", 1)
    assert len(web.asked) == before
    store.load("/data/upload/1/1.png", 1)
    assert len(web.asked) == before + 1


def test_a_cache_of_no_size_keeps_nothing(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    web.store(tmp_path / "cache", max_cache_bytes=0).load(UPLOAD, 1)
    assert not (tmp_path / "cache").exists()


BITMAP = encoded(PHOTO, "BMP")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],
        lambda data: b"",
        lambda data: data[:30],
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],  # still a bitmap
        lambda data: BITMAP,  # of a version without digests
        lambda data: b"[]\n" + BITMAP,
        lambda data: b"\xff\xfe\n" + BITMAP,
    ],
)
def test_a_damaged_file_is_fetched_anew_at_once(damage, tmp_path):
    web = Web({URL + UPLOAD: BITMAP})
    store = web.store(tmp_path)
    store.load(UPLOAD, 1)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert (store.load(UPLOAD, 1) == PHOTO).all()
    assert len(web.asked) == 2
    assert file.read_bytes() == whole


def test_what_cannot_be_decoded_is_never_kept(tmp_path):
    web = Web({URL + UPLOAD: PNG[:50]})
    store = web.store(tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ImageError, match="cannot decode"):
            store.load(UPLOAD, 1)
    web.pages[URL + UPLOAD] = PNG
    assert (store.load(UPLOAD, 1) == PHOTO).all()


def test_a_write_that_is_cut_off_leaves_nothing(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    cache = ImageCache(tmp_path, 10**6)
    monkeypatch.setattr("pathlib.Path.replace", full)
    cache.put("a", Download(PNG))
    assert list(tmp_path.iterdir()) == []
    assert cache.get("a") is None


def test_a_cache_that_cannot_be_used_costs_no_image(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    web = Web({URL + UPLOAD: PNG})
    store = web.store(blocked / "cache")
    for _ in range(2):
        assert (store.load(UPLOAD, 1) == PHOTO).all()
    assert len(web.asked) == 2


class Tagged:
    """A page with an ETag, as local-files has; its content may change."""

    def __init__(self, content, tag):
        self.content, self.tag = content, tag

    def __call__(self, request):
        if request.headers.get("if-none-match") == self.tag:
            return httpx.Response(304)
        return httpx.Response(200, headers={"etag": self.tag}, content=self.content)


def test_a_file_that_changed_under_its_name_is_noticed(tmp_path):
    page = Tagged(PNG, '"1"')
    web = Web({URL + LOCAL: page})
    store = web.store(tmp_path)
    store.load(LOCAL, 1)
    store.load(LOCAL, 1)
    assert len(web.asked) == 1  # not at each use
    age(tmp_path, images.CURRENT_S + 1)
    assert (store.load(LOCAL, 1) == PHOTO).all()
    assert len(web.asked) == 2
    store.load(LOCAL, 1)
    assert len(web.asked) == 2  # 304 counts as a check
    page.content, page.tag = encoded(255 - PHOTO), '"2"'
    age(tmp_path, images.CURRENT_S + 1)
    assert (store.load(LOCAL, 1) == 255 - PHOTO).all()
    assert (store.load(LOCAL, 1) == 255 - PHOTO).all()
    assert len(web.asked) == 3


def test_an_upload_has_no_tag_and_never_changes(tmp_path):
    web = Web({URL + UPLOAD: PNG})
    store = web.store(tmp_path)
    store.load(UPLOAD, 1)
    age(tmp_path, 10**7)
    store.load(UPLOAD, 1)
    assert len(web.asked) == 1


def test_while_label_studio_is_down_the_kept_file_serves(tmp_path):
    web = Web({URL + LOCAL: Tagged(PNG, '"1"')})
    store = web.store(tmp_path)
    store.load(LOCAL, 1)
    age(tmp_path, images.CURRENT_S + 1)
    web.pages[URL + LOCAL] = httpx.ConnectError("refused")
    assert (store.load(LOCAL, 1) == PHOTO).all()
    web.pages[URL + LOCAL] = httpx.Response(404)
    with pytest.raises(ImageError, match="404"):
        store.load(LOCAL, 1)


def test_unchanged_without_having_asked_is_an_error(tmp_path):
    web = Web({URL + LOCAL: httpx.Response(304)})
    with pytest.raises(ImageError, match="answered 304"):
        web.store(tmp_path).load(LOCAL, 1)


def test_many_threads_share_a_cache(tmp_path):
    web = Web({f"{URL}/data/upload/1/{n}.png": PNG for n in range(8)})
    store = web.store(tmp_path, max_cache_bytes=3 * STORED)
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
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 3 * STORED
