"""The supervisor with real processes: what starts together ends together, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from backend.errors import ChildFailed
from backend.processes import watchdog
from backend.processes.supervisor import Child, Supervisor, answers, free_port

pytestmark = pytest.mark.integration

# The start of Python includes its site packages, and a busy machine is slow.
PATIENCE_S = 20.0
SLEEPER = "import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
# A process of its own session, as RQ's work horses are: no signal to a group reaches it.
PARENT_OF_STRAY = (
    "import subprocess, sys, signal; "
    f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True); "
    "print('up', flush=True); signal.pause()"
)


@pytest.fixture
def tag() -> Iterator[str]:
    """Give a value for TEST_TAG, by which a test finds its processes; kills leftovers."""
    name = uuid.uuid4().hex
    yield name
    for pid in tagged(name):
        os.kill(pid, signal.SIGKILL)


def python(name: str, code: str, tag: str = "", **options: object) -> Child:
    env = {"TEST_TAG": tag, "PATH": os.environ["PATH"]}
    return Child(name, [sys.executable, "-c", code], env, **options)  # type: ignore[arg-type]


def tagged(tag: str) -> list[int]:
    wanted = f"TEST_TAG={tag}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


def eventually(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S} s: {what}"
        threading.Event().wait(0.05)


def says(log: Path, text: str) -> Callable[[], bool]:
    return lambda: log.exists() and text in log.read_text()


def test_children_run_with_exactly_their_environment_until_the_block_ends(
    tmp_path: Path, tag: str
) -> None:
    shows = "import os; print(sorted(os.environ), flush=True); import signal; signal.pause()"
    log = tmp_path / "one.log"
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("one", shows, tag, ready=says(log, "]")), python("two", SLEEPER))
        assert len(tagged(tag)) == 1
    assert tagged(tag) == []
    names = set(eval(log.read_text()))
    assert names - {"LC_CTYPE"} == {"PATH", "TEST_TAG", watchdog.MARK}


def test_death_of_one_stops_all_and_says_which_why_and_its_last_lines(
    tmp_path: Path, tag: str
) -> None:
    dies = "import sys; print('old news'); print('disk full'); sys.exit(3)"
    with (
        pytest.raises(ChildFailed, match=r"(?s)worker ended with 3.*disk full"),
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(python("redis", SLEEPER, tag))
        supervisor.start(python("worker", dies, tag))
        supervisor.wait()
    assert tagged(tag) == []


def test_a_service_that_ends_without_error_has_died_too(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildFailed, match="worker ended with 0"),
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(python("worker", "pass"))
        supervisor.wait()


def test_death_interrupts_other_work_and_is_named_as_the_cause(tmp_path: Path, tag: str) -> None:
    with (
        pytest.raises(ChildFailed, match="api was killed by SIGKILL"),
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(python("api", SLEEPER, tag), python("redis", SLEEPER, tag))
        api = min(tagged(tag))
        os.kill(api, signal.SIGKILL)
        threading.Event().wait(PATIENCE_S)  # some long work of the main thread
        pytest.fail("nobody told the main thread")
    assert tagged(tag) == []


def test_an_error_that_follows_from_a_death_names_the_death(tmp_path: Path) -> None:
    with (
        pytest.raises(ChildFailed, match="api was killed") as caught,
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(python("api", "import os, signal; os.kill(os.getpid(), 9)"))
        try:
            threading.Event().wait(PATIENCE_S)
        except ChildFailed:
            raise ConnectionError("refused") from None
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_not_ready_in_time_names_child_seconds_and_log(tmp_path: Path, tag: str) -> None:
    slow = python(
        "label-studio",
        "print('migrating', flush=True); import signal; signal.pause()",
        tag,
        ready=lambda: False,
        deadline_s=1.0,
    )
    with (
        pytest.raises(ChildFailed, match=r"(?s)label-studio was not ready within 1 s.*migrating"),
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(slow)
    assert tagged(tag) == []


def test_death_before_readiness_does_not_wait_for_the_deadline(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(ChildFailed, match="ended with 1"), Supervisor(tmp_path) as supervisor:
        supervisor.start(
            python("api", "raise SystemExit(1)", ready=lambda: False, deadline_s=600.0)
        )
    assert time.monotonic() - began < PATIENCE_S


def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path, tag: str) -> None:
    log = tmp_path / "stubborn.log"
    child = python("stubborn", f"{STUBBORN}; signal.pause()", tag, ready=says(log, "up"))
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        supervisor.start(child)
    assert tagged(tag) == []


def test_grandchildren_in_their_own_session_end_too(tmp_path: Path, tag: str) -> None:
    ready = says(tmp_path / "worker.log", "up")
    with Supervisor(tmp_path, grace_s=0.5) as supervisor:
        supervisor.start(python("worker", PARENT_OF_STRAY, tag, ready=ready))
        assert len(tagged(tag)) == 2
    assert tagged(tag) == []


def test_children_stop_in_reverse_order(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys; from pathlib import Path; path = Path({path!r}); "
        "signal.signal(signal.SIGTERM, "
        "lambda *_: (path.open('a').write({name!r} + ' '), sys.exit())); "
        "print('up', flush=True); signal.pause()"
    )
    with Supervisor(tmp_path) as supervisor:
        for name in ("redis", "api", "worker"):
            program = code.format(path=str(order), name=name)
            supervisor.start(python(name, program, ready=says(tmp_path / f"{name}.log", "up")))
    assert order.read_text().split() == ["worker", "api", "redis"]


def test_wait_ends_when_asked_and_restores_the_signal_handlers(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    answers_in_turn = iter([False, False, True])
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("api", SLEEPER))
        supervisor.wait(until=lambda: next(answers_in_turn))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_stop_signal_ends_an_open_wait(tmp_path: Path) -> None:
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(python("api", SLEEPER))
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        supervisor.wait()


def test_a_stop_signal_is_raised_where_a_fact_is_awaited(tmp_path: Path, tag: str) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        Supervisor(tmp_path) as supervisor,
    ):
        supervisor.start(python("api", SLEEPER, tag))
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        supervisor.wait(until=lambda: False)
    assert tagged(tag) == []


def test_a_second_start_keeps_the_former_log_apart(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    for word in ("first", "second"):
        code = f"print({word!r}, flush=True); import signal; signal.pause()"
        with Supervisor(tmp_path) as supervisor:
            supervisor.start(python("api", code, ready=says(log, word)))
    assert log.read_text() == "second\n"
    assert (tmp_path / "api.log.1").read_text() == "first\n"


PROGRAM = """
    import os, sys
    from pathlib import Path
    from backend.processes.supervisor import Child, Supervisor

    folder, log = Path(sys.argv[1]), Path(sys.argv[1]) / "worker.log"
    argv = [sys.executable, "-c", (folder / "code").read_text()]
    ready = lambda: log.exists() and "up" in log.read_text()
    try:
        with Supervisor(folder, grace_s=1.0) as supervisor:
            supervisor.start(Child("worker", argv, dict(os.environ), ready))
            print("ready", flush=True)
            supervisor.wait()
    except KeyboardInterrupt:
        pass  # before wait() had begun
    print("stopped", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path, tag: str) -> Iterator[subprocess.Popen[str]]:
    """Give a running supervisor in a process of its own, with a child and a stray grandchild."""
    (tmp_path / "code").write_text(PARENT_OF_STRAY)
    argv = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    env = {**os.environ, "TEST_TAG": tag, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(tagged(tag)) == 3
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signals_stop_everything_in_order(
    program: subprocess.Popen[str], tag: str, number: signal.Signals
) -> None:
    program.send_signal(number)
    assert program.communicate(timeout=PATIENCE_S)[0] == "stopped\n"
    assert program.returncode == 0
    assert tagged(tag) == []


def test_impatient_ctrl_c_leaves_nothing_behind(program: subprocess.Popen[str], tag: str) -> None:
    for _ in range(3):
        program.send_signal(signal.SIGINT)
        threading.Event().wait(0.05)
    program.communicate(timeout=PATIENCE_S)
    assert tagged(tag) == []


def test_no_orphan_survives_a_killed_supervisor(program: subprocess.Popen[str], tag: str) -> None:
    program.kill()
    program.wait()
    eventually(lambda: not tagged(tag), "all children gone")


def test_the_mark_finds_only_its_own(tag: str) -> None:
    mark = uuid.uuid4().hex
    code = "print('up', flush=True); import signal; signal.pause()"
    marks: tuple[dict[str, str], ...] = ({watchdog.MARK: mark}, {watchdog.MARK: mark[:-1]}, {})
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"TEST_TAG": tag, **extra},
            stdout=subprocess.PIPE,
        )
        for extra in marks
    ]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
    assert watchdog.marked(mark) == [started[0].pid]
    assert watchdog.sweep(mark, grace_s=5.0) == []
    assert started[0].wait(PATIENCE_S) == -signal.SIGTERM
    assert [process.poll() for process in started[1:]] == [None, None]
    for process in started[1:]:
        process.kill()
        process.wait()


def test_free_port_prefers_and_avoids() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) != port
    assert free_port(port) == port


def test_free_port_sees_servers_on_all_addresses() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        assert free_port(taken.getsockname()[1]) != taken.getsockname()[1]


def test_answers_follows_a_real_server(tmp_path: Path) -> None:
    port = free_port(0)
    url = f"http://127.0.0.1:{port}/"
    assert not answers(url)()
    argv = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    server = Child("http", argv, dict(os.environ), answers(url), PATIENCE_S)
    with Supervisor(tmp_path) as supervisor:
        supervisor.start(server)
        assert httpx.get(url, trust_env=False).status_code == 200
        assert not answers(f"{url}no-such-file")()
    assert not answers(url)()
