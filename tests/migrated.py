"""Empty databases whose tables are there: migrated once in each process, then copied."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from backend.store import Store


def new_store(folder: Path) -> Path:
    """Put an empty store where DATA_DIR=folder has it; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "labelclimb.db"
    file.write_bytes(_migrated())
    return file


@cache
def _migrated() -> bytes:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "labelclimb.db"
        Store.open(f"sqlite:///{file}").close()
        assert [path.name for path in file.parent.iterdir()] == [file.name], "all is in one file"
        return file.read_bytes()
