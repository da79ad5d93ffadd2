"""Kept score maps: what comes back, what is dropped, what damage does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from backend import heat_maps
from backend.heat_maps import HeatMaps
from models.base import ClassSpec
from models.prompting import score_map
from models.prompting.score_map import ScoreMap, Seen

ROOM = 10_000_000


def seen(seed: int = 0, side: int = 40) -> Seen:
    rng = np.random.default_rng(seed)
    image = np.full((side, side + 3, 3), rng.integers(0, 255, 3), dtype=np.uint8)
    levels = rng.integers(0, 255, image.shape[:2]).astype(np.uint8)
    maps = {"crack": ScoreMap(levels, 39, 3, 17), "rust <b>": ScoreMap(255 - levels, 128, 5, 0)}
    return Seen(score_map.colours(image), maps)


def maps(folder: Path, max_bytes: int = ROOM, resident_bytes: int = 0) -> HeatMaps:
    return HeatMaps(folder, max_bytes=max_bytes, resident_bytes=resident_bytes)


def test_what_was_kept_comes_back_in_another_process_too(tmp_path: Path) -> None:
    given = seen()
    maps(tmp_path).keep("k", given)
    found = maps(tmp_path).get("k")
    assert found is not None
    assert list(found.maps) == ["crack", "rust <b>"]
    for name, one in given.maps.items():
        held = found.maps[name]
        assert (held.cut, held.closing_px, held.gap_px) == (one.cut, one.closing_px, one.gap_px)
        assert np.array_equal(held.levels, one.levels)
    assert np.abs(found.picture.astype(int) - given.picture).max() <= 4


@pytest.mark.parametrize("keep_bytes", [0, 1, 60, 300, -1])
def test_a_damaged_file_is_a_miss_and_goes(tmp_path: Path, keep_bytes: int) -> None:
    maps(tmp_path).keep("k", seen())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    spoilt = whole[:middle] + b"\0" * 40 + whole[middle + 40 :] if keep_bytes < 0 else b""
    file.write_bytes(spoilt or whole[:keep_bytes])
    assert maps(tmp_path).get("k") is None
    assert not list(tmp_path.iterdir())


def test_arrays_of_different_sizes_are_no_score_maps(tmp_path: Path) -> None:
    one, other = seen(side=40), seen(side=50)
    mixed = Seen(one.picture, {"crack": other.maps["crack"]})
    maps(tmp_path).keep("k", mixed)
    assert maps(tmp_path).get("k") is None


def test_the_folder_keeps_to_its_room_and_drops_what_was_unused_longest(tmp_path: Path) -> None:
    maps(tmp_path).keep("0", seen())
    size = next(tmp_path.iterdir()).stat().st_size
    kept = maps(tmp_path, max_bytes=4 * size + size // 2)
    for n in range(1, 8):
        for age, file in enumerate(sorted(tmp_path.iterdir(), key=lambda f: f.stat().st_mtime_ns)):
            os.utime(file, (age, age))
        assert kept.get("0") is not None
        kept.keep(str(n), seen(n))
    names = {file.stem for file in tmp_path.iterdir()}
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 4.5 * size
    assert "0" in names
    assert "7" in names
    assert "1" not in names


def test_memory_keeps_to_its_room(tmp_path: Path) -> None:
    one = seen().nbytes
    kept = maps(tmp_path, resident_bytes=2 * one)
    for name in "abc":
        kept.keep(name, seen())
        kept.get(name)
    for file in tmp_path.iterdir():
        file.unlink()
    assert kept.get("a") is None
    assert kept.get("b") is not None
    assert kept.get("c") is not None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    kept = maps(tmp_path / "file")
    kept.keep("k", seen())
    assert kept.get("k") is None


def test_writers_and_readers_at_once_see_whole_files(tmp_path: Path) -> None:
    kept = maps(tmp_path)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(5):
            kept.keep("k", seen(seed))
            found = kept.get("k")
            levels = None if found is None else found.maps["crack"].levels
            if not any(np.array_equal(levels, seen(n).maps["crack"].levels) for n in range(3)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_another_version_image_or_setting_has_another_key() -> None:
    specs = (ClassSpec("crack"),)
    keys = {
        heat_maps.key(1, 2, "/a.jpg", specs),
        heat_maps.key(2, 1, "/a.jpg", specs),
        heat_maps.key(1, 3, "/a.jpg", specs),
        heat_maps.key(1, 2, "/b.jpg", specs),
        heat_maps.key(1, 2, "/a.jpg", (ClassSpec("crack", iterations=9),)),
        heat_maps.key(1, 2, "/\ud800.jpg", specs),
    }
    assert len(keys) == 6
