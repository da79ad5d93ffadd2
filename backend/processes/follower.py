"""One more process of a training, started by `steps.together`: `python -m ... FOLDER RANK`."""

from __future__ import annotations

import sys
from pathlib import Path

from backend import jobs
from backend.steps.training import together

if __name__ == "__main__":
    together.follow(jobs.services(), Path(sys.argv[1]), int(sys.argv[2]))
