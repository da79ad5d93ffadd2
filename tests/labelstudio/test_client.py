import base64
import json

import httpx
import pytest

from backend.errors import LabelStudioError
from backend.labelstudio import client
from backend.labelstudio.client import LabelStudio
from backend.labelstudio.session import Clock

URL = "http://ls.test:8080"
LEGACY = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims):
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256"}, claims)]
    head, body = (base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)
    return f"{head}.{body}.c2lnbmF0dXJl"


PERSONAL = jwt(token_type="refresh", exp=8_000_000_000)


class Server:
    """Answers from a list, then with `then`; remembers what was asked."""

    def __init__(self, *answers, then=None):
        self.answers, self.then, self.asked, self.pauses, self.time = list(answers), then, [], [], 0

    def __call__(self, request):
        request.read()
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else self.then
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def client(self, key=LEGACY, url=URL):
        clock = Clock(now=lambda: self.time, pause=self.pauses.append)
        return LabelStudio(url, key, transport=httpx.MockTransport(self), clock=clock)

    def bodies(self):
        return [json.loads(request.content) for request in self.asked if request.content]


def ok(body=None, status=200):
    return httpx.Response(status, json={} if body is None else body)


def test_a_legacy_token_goes_as_token():
    server = Server(ok({"id": 3}))
    assert server.client().get_project(3) == {"id": 3}
    assert server.asked[0].headers["authorization"] == f"Token {LEGACY}"
    assert str(server.asked[0].url) == f"{URL}/api/projects/3/"


class Exchange(Server):
    """Gives numbered access tokens that last 300 s, and refuses all but the newest."""

    issued = 0

    def __call__(self, request):
        self.asked.append(request)
        if request.url.path == "/api/token/refresh/":
            assert json.loads(request.content) == {"refresh": PERSONAL}
            assert "authorization" not in request.headers
            self.issued += 1
            return ok({"access": jwt(n=self.issued, iat=1000, exp=1300)})
        wanted = f"Bearer {jwt(n=self.issued, iat=1000, exp=1300)}"
        if request.headers["authorization"] != wanted:
            return ok({"detail": "expired"}, 401)
        return ok({"id": 1})


def test_a_personal_token_is_exchanged_kept_and_renewed_before_it_ends():
    server = Exchange()
    labelstudio = server.client(PERSONAL)
    for server.time, exchanges in ((0, 1), (269, 1), (271, 2), (539, 2), (600, 3)):
        labelstudio.get_project(1)
        assert server.issued == exchanges
    assert all(PERSONAL not in str(r.headers) for r in server.asked)


def test_a_personal_token_is_renewed_once_when_refused():
    server = Exchange()
    labelstudio = server.client(PERSONAL)
    labelstudio.get_project(1)
    server.issued += 1  # the server forgot the token that we hold
    assert labelstudio.create_annotation(1, []) == {"id": 1}
    assert [r.url.path for r in server.asked[2:]] == [
        "/api/tasks/1/annotations/",
        "/api/token/refresh/",
        "/api/tasks/1/annotations/",
    ]


def test_a_refusal_that_stays_is_not_repeated_for_ever():
    access = ok({"access": jwt(iat=0, exp=300)})
    server = Server(access, ok({}, 401), access, then=ok({"detail": "no"}, 401))
    with pytest.raises(LabelStudioError, match="is a personal access token") as caught:
        server.client(PERSONAL).get_project(1)
    assert caught.value.status == 401
    assert len(server.asked) == 4


def test_no_key_and_an_access_token_as_key_are_explained():
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY is not set"):
        Server().client(None).get_project(1)
    with pytest.raises(LabelStudioError, match="ends after 5 minutes"):
        Server().client(jwt(token_type="access"))


@pytest.mark.parametrize(
    "fault", [httpx.ConnectError("no"), httpx.ReadError("reset"), ok({}, 502), ok({}, 503)]
)
def test_reading_is_tried_three_times_with_growing_pauses(fault):
    server = Server(fault, fault, ok({"id": 1}))
    assert server.client().get_project(1) == {"id": 1}
    assert server.pauses == sorted(server.pauses) and len(server.pauses) == 2


@pytest.mark.parametrize(
    ("fault", "status"), [(httpx.ConnectError("no"), None), (ok({}, 503), 503)]
)
def test_after_three_tries_the_error_says_so(fault, status):
    server = Server(then=fault)
    with pytest.raises(LabelStudioError) as caught:
        server.client().get_project(1)
    assert (caught.value.status, len(server.asked)) == (status, 3)


@pytest.mark.parametrize(
    "fault", [httpx.ConnectError("no"), httpx.ReadTimeout("slow"), ok({}, 503)]
)
def test_writing_is_never_repeated(fault):
    server = Server(then=fault)
    with pytest.raises(LabelStudioError):
        server.client().create_annotation(1, [])
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (ok({"detail": "No such thing"}, 404), "404 to GET /api/projects/1/: No such thing"),
        (ok({"detail": "Bad", "validation_errors": {"a": ["b"]}}, 400), r"Bad; \{'a': \['b'\]\}"),
        (httpx.Response(500, text="<h1>boom</h1>"), "500 .*boom"),
        (httpx.Response(200, text="<html>"), "answered no JSON"),
        (ok([1]), "expected an object"),
        (httpx.Response(302, headers={"location": "/user/login"}), "302"),
    ],
)
def test_errors_carry_status_and_the_servers_words(answer, says):
    with pytest.raises(LabelStudioError, match=says):
        Server(then=answer).client().get_project(1)


@pytest.mark.parametrize("key", [LEGACY, PERSONAL])
def test_no_error_holds_a_secret(key):
    def echo(request):
        return httpx.Response(500, text=str(dict(request.headers)) + request.content.decode())

    access = jwt(iat=0, exp=300)
    first = [ok({"access": access})] if key == PERSONAL else []
    with pytest.raises(LabelStudioError) as caught:
        Server(*first, then=echo).client(key).create_annotation(1, [{"note": key}])
    assert "(hidden)" in str(caught.value)
    assert key not in str(caught.value) and access not in str(caught.value)


def test_a_refused_exchange_does_not_tell_the_token():
    def echo(request):
        return httpx.Response(401, text=request.content.decode())

    with pytest.raises(LabelStudioError, match="may have been revoked") as caught:
        Server(then=echo).client(PERSONAL).get_project(1)
    assert PERSONAL not in str(caught.value)


def test_inventory_reads_all_pages_from_the_list_only():
    rows = [
        {"id": n, "annotations_ids": ids, "updated_at": "2026-11-21T00:42:51.500000Z", "data": {}}
        for n, ids in ((1, ""), (2, "5"), (3, "7, 9"))
    ]
    server = Server(ok({"tasks": rows[:2], "total": 3}), then=ok({"tasks": rows[2:], "total": 3}))
    found = server.client().inventory(4)
    assert [(row.id, row.annotation_ids) for row in found] == [(1, ()), (2, (5,)), (3, (7, 9))]
    assert found[0].updated_at.isoformat() == "2026-11-21T00:42:51.500000+00:00"
    assert [request.url.path for request in server.asked] == ["/api/tasks"] * 2
    assert [request.url.params["page"] for request in server.asked] == ["1", "2"]
    assert server.asked[0].url.params["resolve_uri"] == "false"


def count(request):
    return ok({"created": len(json.loads(request.content))}, 201)


def test_predictions_go_in_batches_of_bounded_count_and_bytes(monkeypatch):
    monkeypatch.setattr(client, "PREDICTIONS_PER_CALL", 3)
    monkeypatch.setattr(client, "BYTES_PER_CALL", 100)
    server = Server(then=count)
    sizes = [1, 1, 1, 1, 90, 1, 200, 1]
    rows = [{"task": n, "r": "x" * size} for n, size in enumerate(sizes)]
    assert server.client().import_predictions(1, rows) == {}
    assert [row for body in server.bodies() for row in body] == rows
    assert [len(body) for body in server.bodies()] == [3, 1, 1, 1, 1, 1]
    assert Server().client().import_predictions(1, []) == {}


def test_one_batch_of_predictions_is_in_memory_at_a_time(monkeypatch):
    monkeypatch.setattr(client, "PREDICTIONS_PER_CALL", 2)
    server = Server(then=count)

    def rows():
        for n in range(6):
            assert len(server.asked) == max(0, n - 1) // 2, "the batch before was sent first"
            yield {"task": n}

    assert server.client().import_predictions(1, rows()) == {}
    assert len(server.asked) == 3


def row(task):
    return {"task": task, "model_version": "v1"}


def test_silently_dropped_predictions_are_named():
    versions = {1: "v1", 2: "v0", 3: "v0,v1"}
    held = [{"id": n, "predictions_model_versions": names} for n, names in versions.items()]
    server = Server(ok({"created": 2}, 201), ok({"tasks": held, "total": 3}))
    refused = server.client().import_predictions(9, [row(1), row(2), row(3)])
    assert refused == {2: "Label Studio dropped its prediction without a word"}


def test_a_count_that_cannot_be_explained_raises():
    server = Server(ok({"created": 1}, 201), ok({"tasks": [], "total": 0}))
    with pytest.raises(
        LabelStudioError, match="stored 1 of 2 predictions for project 9, but lacks"
    ):
        server.client().import_predictions(9, [row(1), row(2)])


def test_the_one_that_spoils_a_whole_batch_is_found():
    def answer(request):
        tasks = [row["task"] for row in json.loads(request.content)]
        return ok({"detail": "task 5 not found"}, 400) if 5 in tasks else count(request)

    server = Server(then=answer)
    refused = server.client().import_predictions(1, map(row, range(8)))
    assert list(refused) == [5]
    assert "task 5 not found" in refused[5]
    sent = [body for body in server.bodies() if 5 not in [row["task"] for row in body]]
    assert sorted(row["task"] for body in sent for row in body) == [0, 1, 2, 3, 4, 6, 7]


def test_a_refusal_of_everything_is_not_asked_about_for_ever(monkeypatch):
    monkeypatch.setattr(client, "MOST_REFUSED", 3)
    server = Server(then=ok({"detail": "no"}, 400))
    with pytest.raises(LabelStudioError, match="no"):
        server.client().import_predictions(1, map(row, range(100)))
    assert len(server.asked) < 20


def test_a_large_version_has_more_time_to_be_deleted():
    server = Server(then=ok({"deleted_predictions": 10_000}))
    assert server.client().delete_model_version(1, "v1", count=10_000) == 10_000
    assert server.asked[0].extensions["timeout"]["read"] == 260


def test_a_score_that_is_no_number_is_not_sent():
    server = Server(then=count)
    with pytest.raises(ValueError, match="JSON"):
        server.client().import_predictions(9, [{"task": 1, "score": float("nan")}])
    assert server.asked == []


def test_uploads_use_one_field_per_file(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        file.write_bytes(file.name.encode())
    server = Server(then=ok({"task_ids": [4, 5]}, 201))
    assert server.client().upload_images(2, files) == [4, 5]
    body = server.asked[0].content
    assert body.index(b'name="file0"; filename="a.png"') < body.index(b'name="file1"')
    assert server.asked[0].url.params["return_task_ids"] == "true"


def test_no_next_task_is_none_but_no_such_project_is_an_error():
    server = Server(ok({"detail": "done"}, 404), ok({"id": 1}))
    assert server.client().next_task(1) is None
    with pytest.raises(LabelStudioError, match="No Project"):
        Server(then=ok({"detail": "No Project"}, 404)).client().next_task(1)


def test_a_server_below_a_path():
    server = Server(ok({"id": 1}))
    server.client(url="http://h.test/label-studio/").get_project(1)
    assert server.asked[0].url.path == "/label-studio/api/projects/1/"


def test_webhooks_get_their_secret():
    server = Server(then=ok({"id": 1}, 201))
    server.client().create_webhook(1, "http://b/webhook", headers={"X-Secret": "s"})
    (body,) = server.bodies()
    assert body["headers"] == {"X-Secret": "s"}
    assert body["send_payload"] and body["send_for_all_actions"] and body["is_active"]
