"""Workers give way, and hurry while a person waits; in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

SCRIPT = """
import os, pathlib, sys
from backend.processes import priority

priority.AUTOGROUP = pathlib.Path(sys.argv[1])
def show():
    print(os.nice(0), priority.AUTOGROUP.read_text(), flush=True)
priority.give_way([sys.argv[2]])
show()
with priority.hurried(sys.argv[2]):
    show()
show()
"""
REFUSED_ONCE = """
from backend.processes import priority

class Kernel:
    calls = []
    def write_text(self, text):
        self.calls.append(text)
        if len(self.calls) == 1:
            raise BlockingIOError(11, "ten times a second")

priority.AUTOGROUP = Kernel()
priority.give_way(["publish"])
print(*Kernel.calls)
"""


def run(script: str, *arguments: str, own_session: bool = True) -> list[str]:
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, start_new_session=own_session
    )
    return done.stdout.splitlines()


def test_a_worker_gives_way_but_not_while_a_person_waits(tmp_path: Path) -> None:
    ours = os.nice(0)
    lines = run(SCRIPT, str(tmp_path / "autogroup"), "publish")
    usual, hurried, after = [[int(word) for word in line.split()] for line in lines]
    assert usual == after == [ours + 10, ours + 10]
    assert hurried[1] == ours, "the group, which anybody may hurry"
    assert hurried[0] in (ours, ours + 10), "the process, if the administrator runs it"


def test_a_group_that_was_changed_just_now_is_changed_a_little_later() -> None:
    expected = str(os.nice(0) + 10)
    assert run(REFUSED_ONCE) == [f"{expected} {expected}"]


def test_the_session_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("7")
    lines = run(SCRIPT, str(group), "train", own_session=False)
    assert [line.split()[1] for line in lines] == ["7", "7", "7"]
