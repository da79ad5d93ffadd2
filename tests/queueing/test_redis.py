"""Redis itself: locks, what lies in it, the embedded server, addresses."""

from __future__ import annotations

import os
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from backend.errors import QueueError
from backend.queueing.embedded_redis import embedded_server, running_server
from backend.queueing.locks import redacted
from backend.queueing.queues import Queues
from tests.queueing.making import JOBS, Server, put

pytestmark = pytest.mark.integration


def test_without_redis_everything_says_so_soon_and_without_the_password(tmp_path: Path) -> None:
    queues = Queues("redis://me:hunter2@127.0.0.1:1/0?client_name=hunter2")
    calls: list[Callable[[], object]] = [
        queues.ping,
        queues.depths,
        queues.failures,
        lambda: queues.wait("one", 5),
        lambda: queues.cancel("one"),
        lambda: queues.is_alive("one"),
        lambda: put(queues, "note", kwargs={}),
        lambda: queues.run_worker(["events"], burst=True, fork=False),
    ]
    began = time.monotonic()
    for call in calls:
        with pytest.raises(QueueError, match=r"Redis at redis://127.0.0.1:1/0 cannot") as raised:
            call()
        assert "hunter2" not in str(raised.value)
    with pytest.raises(QueueError), queues.lock("x", wait_s=1):
        raise AssertionError("entered")
    assert time.monotonic() - began < 5


def test_what_lies_in_redis_is_json(queues: Queues, server: Server) -> None:
    put(queues, "note", kwargs={"path": "p", "text": "t"}, on_failure=f"{JOBS}.mark_failed")
    with Redis.from_url(server.url) as redis:
        data = zlib.decompress(redis.hget("rq:job:one", "data"))  # type: ignore[arg-type]
    assert data == b'["tests.queue_jobs.note", null, [], {"path": "p", "text": "t"}]'


def test_a_lock_lets_one_in_at_a_time(queues: Queues) -> None:
    inside: list[str] = []

    def enter(name: str) -> None:
        with queues.lock("publish-7", wait_s=20):
            inside.append(f"{name} in")
            threading.Event().wait(0.1)
            inside.append(f"{name} out")

    threads = [threading.Thread(target=enter, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [entry.split()[0] for entry in inside]
    assert order[0::2] == order[1::2]
    assert sorted(order[0::2]) == ["a", "b", "c"]


def test_a_lock_that_another_keeps_is_not_waited_for_for_ever(queues: Queues) -> None:
    with queues.lock("x", wait_s=1):
        with (
            pytest.raises(QueueError, match="held by another"),
            queues.lock("x", wait_s=0.2),
        ):
            raise AssertionError("entered")
        with queues.lock("y", wait_s=0.2):
            pass


def test_the_embedded_server_keeps_to_itself_and_to_nobody_s_disk(
    server: Server, tmp_path: Path
) -> None:
    socket = Path(server.url.removeprefix("unix://"))
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    assert embedded_server(tmp_path) == (server.command, server.url)
    assert embedded_server(tmp_path / "other")[1] != server.url
    Path(embedded_server(tmp_path / "other")[1].removeprefix("unix://")).parent.rmdir()
    assert running_server(tmp_path) == server.url
    server.stop()
    assert list(socket.parent.iterdir()) == []
    assert running_server(tmp_path) is None
    server.start()


def test_a_long_data_folder_still_gives_a_short_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    socket = Path(embedded_server(long)[1].removeprefix("unix://"))
    socket.parent.rmdir()
    assert len(os.fsencode(socket)) <= 107


def test_a_socket_folder_that_others_can_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = Path(embedded_server(tmp_path)[1].removeprefix("unix://")).parent
    folder.chmod(0o755)
    with pytest.raises(QueueError, match="not a private folder"):
        embedded_server(tmp_path)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(QueueError, match="not a private folder"):
        embedded_server(tmp_path)


def test_an_address_that_cannot_be_one_is_refused_at_once() -> None:
    with pytest.raises(QueueError, match="redis://host:port is not an address"):
        Queues("redis://:hunter2@host:port")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:secret@host:6380/2", "redis://host:6380/2"),
        ("rediss://me:se%40cret@host", "rediss://host"),
        ("unix:///tmp/r.sock?password=secret", "unix:///tmp/r.sock"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
