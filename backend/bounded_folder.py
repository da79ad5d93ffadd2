"""Files of a cache that several processes share: written whole, the longest unused removed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole(file: Path) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name when the block ends, and not at all if it raises."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as new:
        draft = Path(new.name)
        try:
            yield new
            new.flush()
            with suppress(FileNotFoundError):  # evicted already by others: the folder is full
                draft.replace(file)
        finally:
            draft.unlink(missing_ok=True)


def evict(folder: Path, max_bytes: int, used_ns: Callable[[os.stat_result], int]) -> None:
    """Remove the files unused for longest, by `used_ns`, until the rest is within `max_bytes`.

    Other processes do the same at the same time: a file that is gone was their pick.
    """
    found = []
    for file in folder.iterdir():
        with suppress(FileNotFoundError):
            status = file.stat()
            found.append((used_ns(status), status.st_size, file))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= max_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size
