"""Parts that die at a chosen moment, as processes: `python -m tests.integration.dying PLACE`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from backend.processes import running
from backend.settings import Settings
from backend.steps.listening import intake


def die_after_commit() -> None:
    """Serve the API; the first event is committed, and its sender never hears of it."""
    keep = intake.keep_texts

    def keep_and_die(*arguments: Any, **options: Any) -> Any:
        keep(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("still alive")

    intake.keep_texts = keep_and_die
    running.serve(Settings.from_env(os.environ))


PLACES = {"api-after-commit": die_after_commit}

if __name__ == "__main__":
    PLACES[sys.argv[1]]()
