"""Images by every way in, from a real Label Studio, with both kinds of token."""

from __future__ import annotations

import os
import shutil
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from backend.errors import ImageError
from backend.labelstudio import events
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.images import store as images
from backend.labelstudio.images.store import ImageStore
from tests.e2e import label_studio_server
from tests.labelstudio import payloads
from tests.labelstudio.pictures import encoded

pytestmark = pytest.mark.e2e

LIMITS = {"max_bytes": 10**6, "max_pixels": 10**6, "max_cache_bytes": 10**6}
GRADIENT = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory):
    """Give a Label Studio of this file's own, which serves what lies below `files`."""
    if problem := label_studio_server.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)
    folder = tmp_path_factory.mktemp("label-studio-with-files")
    data, root = folder / "data", folder / "data" / "files"
    shutil.copytree(label_studio_server.template(label_studio_server.CACHE), data)
    root.mkdir()
    serving = {"LOCAL_FILES_SERVING_ENABLED": "true", "LOCAL_FILES_DOCUMENT_ROOT": str(root)}
    with label_studio_server.started(data, folder / "log", **serving) as server:
        yield server


@pytest.fixture(scope="module")
def personal_token(label_studio):
    with label_studio.client() as http:
        wanted = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        http.post("/api/jwt/settings", json=wanted).raise_for_status()
        for token in http.get("/api/token/").json():  # one per user, shown once
            http.post("/api/token/blacklist/", json={"refresh": token["token"]})
        return http.post("/api/token/", json={}).raise_for_status().json()["token"]


@pytest.fixture(params=["legacy", "personal"])
def client(request, label_studio):
    token = label_studio.token
    if request.param == "personal":
        token = request.getfixturevalue("personal_token")
    with closing(LabelStudio(label_studio.url, token)) as made:
        yield made


@pytest.fixture
def project(client):
    created = client.create_project("labelclimb image test", payloads.CONFIG)
    yield created["id"]
    client.delete_project(created["id"])


@pytest.fixture
def elsewhere():
    """An image server on this machine; it remembers the headers that it was sent."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(dict(self.headers))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(encoded(GRADIENT))

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


def one_task(client, project):
    (row,) = client.inventory(project)
    return events.task(row.payload, project=project, data_key="image")


def test_an_upload_under_a_wrong_name(client, project, tmp_path):
    file = tmp_path / "really a png #1.jpg"
    file.write_bytes(encoded(GRADIENT))
    client.upload_images(project, [file])
    task = one_task(client, project)
    assert task.image.startswith("/data/upload/")
    store = ImageStore(client, tmp_path / "cache", **LIMITS)
    assert (store.load(task.image, task.id) == GRADIENT).all()


def test_a_local_file_that_changes_under_its_name(label_studio, client, project, tmp_path):
    folder = label_studio.data_folder / "files" / f"images-{project}"
    folder.mkdir(parents=True)
    (folder / "a b.png").write_bytes(encoded(GRADIENT))
    uri = f"/data/local-files/?d=images-{project}/a%20b.png"
    store = ImageStore(client, tmp_path, **LIMITS)
    with pytest.raises(ImageError, match="answered 404.*Local Files storage"):
        store.load(uri, 1)
    client.add_local_storage(project, str(folder))
    assert (store.load(uri, 1) == GRADIENT).all()
    (folder / "a b.png").write_bytes(encoded(255 - GRADIENT, compress_level=1))
    assert (store.load(uri, 1) == GRADIENT).all()  # kept for a while
    (entry,) = tmp_path.glob("*.image")
    os.utime(entry, (0, entry.stat().st_mtime - images.CURRENT_S - 1))
    assert (store.load(uri, 1) == 255 - GRADIENT).all()
    os.utime(entry, (0, entry.stat().st_mtime - images.CURRENT_S - 1))
    assert (store.load(uri, 1) == 255 - GRADIENT).all()  # its server says 304


def test_an_image_elsewhere_is_fetched_when_its_host_is_allowed(
    client, project, tmp_path, elsewhere
):
    port, asked = elsewhere
    client.import_tasks(project, [{"data": {"image": f"http://127.0.0.1:{port}/x.png"}}])
    task = one_task(client, project)
    for allowed in ((), ("127.0.0.1",), (f"localhost:{port}",)):
        store = ImageStore(client, tmp_path, allowed_hosts=allowed, **LIMITS)
        with pytest.raises(ImageError, match="ALLOWED_IMAGE_HOSTS"):
            store.load(task.image, task.id)
    assert asked == []
    store = ImageStore(client, tmp_path, allowed_hosts=(f"127.0.0.1:{port}",), **LIMITS)
    assert (store.load(task.image, task.id) == GRADIENT).all()
    assert len(asked) == 1
    assert not {"authorization", "cookie"} & {name.lower() for name in asked[0]}


def test_a_name_of_this_network_needs_the_word_private(client, tmp_path, elsewhere):
    port, asked = elsewhere
    uri = f"http://localhost:{port}/x.png"
    with pytest.raises(ImageError, match="private address"):
        ImageStore(client, tmp_path, allowed_hosts=(f"localhost:{port}",), **LIMITS).load(uri, 1)
    assert asked == []
    allowed = (f"localhost:{port}=private",)
    assert (
        ImageStore(client, tmp_path, allowed_hosts=allowed, **LIMITS).load(uri, 1) == GRADIENT
    ).all()


def test_a_token_that_label_studio_forgot_is_renewed(label_studio, personal_token, tmp_path):
    with closing(LabelStudio(label_studio.url, personal_token)) as client:
        created = client.create_project("labelclimb token test", payloads.CONFIG)
        (tmp_path / "x.png").write_bytes(encoded(GRADIENT))
        client.upload_images(created["id"], [tmp_path / "x.png"])
        task = one_task(client, created["id"])
        client.session._access = ("no.such.token", client.session.clock.now() + 300)
        store = ImageStore(client, tmp_path / "cache", **LIMITS)
        assert (store.load(task.image, task.id) == GRADIENT).all()
        client.delete_project(created["id"])
