"""Files appear whole or not at all, and the longest unused ones go first."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend import bounded_folder


def test_what_breaks_off_leaves_the_former_file_and_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "new" / "kept"
    with bounded_folder.whole(file) as new:
        new.write(b"first")
    with pytest.raises(OSError, match="disk full"), bounded_folder.whole(file) as new:
        new.write(b"half of the seco")
        raise OSError("disk full")
    assert [(f.name, f.read_bytes()) for f in file.parent.iterdir()] == [("kept", b"first")]


def test_the_longest_unused_files_go_first(tmp_path: Path) -> None:
    used = {"a": 3, "b": 1, "c": 2}
    inodes = {}
    for name, at in used.items():
        (tmp_path / name).write_bytes(bytes(10))
        inodes[(tmp_path / name).stat().st_ino] = at
    bounded_folder.evict(tmp_path, 30, lambda status: inodes[status.st_ino])
    assert len(list(tmp_path.iterdir())) == 3
    bounded_folder.evict(tmp_path, 15, lambda status: inodes[status.st_ino])
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
