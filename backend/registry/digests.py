"""The digest of each file of a version, and what to say when a file does not match.

A file without a digest was let go on purpose (`Registry.slim`): it may be there or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from backend.errors import CorruptVersion

DIGESTS = "digests.json"
Digests = Mapping[str, str | None]  # by path below the version's folder


def of_folder(folder: Path) -> dict[str, str | None]:
    """Return the SHA-256 of each file but the digests' own."""
    return {str(path.relative_to(folder)): of_file(path) for path in _files(folder)}


def of_file(path: Path) -> str:
    """Return a file's SHA-256, reading it block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write(folder: Path, digests: Digests) -> None:
    """Write the digests into a version's folder."""
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1))


def read(folder: Path) -> dict[str, str | None]:
    """Read them; raises CorruptVersion when they are missing or damaged."""
    path = folder / DIGESTS
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        raise corrupt(path, "is missing") from None
    except ValueError as error:
        raise corrupt(path, f"was changed ({error})") from None


def parse(text: str) -> dict[str, str | None]:
    """Return the digests in a JSON object; raises ValueError."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("it holds no digests")
    return found


def verify(folder: Path, expected: Digests) -> None:
    """Compare all files with their digests; raises CorruptVersion naming the first wrong one."""
    present = {str(path.relative_to(folder)) for path in _files(folder)}
    for name in sorted(expected.keys() | present):
        if name not in expected:
            raise corrupt(folder / name, "was added")
        if expected[name] is not None:
            verify_file(folder / name, expected[name])


def verify_file(path: Path, expected: str | None, shown: object = None) -> None:
    """Compare a file with its digest; raises CorruptVersion, calling it `shown`."""
    if not path.exists():
        raise corrupt(shown or path, "is missing")
    found = "a link" if path.is_symlink() else of_file(path)
    if found != expected:
        raise corrupt(shown or path, f"was changed: SHA-256 {expected} was written, found {found}")


def slimmed(digests: Digests, names: Iterable[str]) -> tuple[dict[str, str | None], list[str]]:
    """Return the digests without those of files called `names`, and the paths of these files.

    Not those that were let go before: a crash between digests and files leaves some in their place.
    """
    unwanted = set(names)
    gone = [path for path, digest in digests.items() if digest and Path(path).name in unwanted]
    return {**digests, **dict.fromkeys(gone)}, gone


def corrupt(path: object, what: str) -> CorruptVersion:
    """Return the error for a damaged file."""
    return CorruptVersion(
        f"{path} {what} since the version was written; restore it from a backup, "
        "or activate another version"
    )


def _files(folder: Path) -> list[Path]:
    """Return a version's own files; a dot before the name is a system's (.nfs, .DS_Store)."""
    found = (p for p in folder.rglob("*") if not p.is_dir() and p != folder / DIGESTS)
    return sorted(path for path in found if not path.name.startswith("."))
