"""Labelled pixels by sample: computed where something is new, kept with a version for the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save_file

from models import tiling
from models.base import Image, Sample
from models.learning.dense_crops import check_image
from models.networks.hypercolumn import ALIGNMENT_PX, Hypercolumn, at
from models.pixels.pixel_labels import Pixels, Places

Memory = Mapping[str, Pixels]  # by key of the sample


class Wanted(NamedTuple):
    """Places by index of the sample, and the labelled pixels that are known already."""

    places: Mapping[int, Places]
    known: Memory


def gather(
    samples: Sequence[Sample],
    wanted: Sequence[Wanted],
    trunk: Hypercolumn,
    *,
    tile_px: int,
    report: Callable[[int], None],
) -> list[dict[str, Pixels]]:
    """Compute the labelled pixels of all that is wanted; unchanged samples are not decoded.

    Each image is decoded once at most, and of a large one only the tiles around its places are
    looked at. report: samples done; may raise.
    """
    found: list[dict[str, Pixels]] = [{} for _ in wanted]
    for index, sample in enumerate(samples):
        missing: list[tuple[Places, dict[str, Pixels]]] = []
        for (places, known), memory in zip(wanted, found, strict=True):
            if index in places:
                pixels = known.get(sample.key)
                if pixels is not None and pixels.digest == places[index].digest:
                    memory[sample.key] = pixels
                else:
                    missing.append((places[index], memory))
        if missing:
            seen = look(trunk, _decoded(sample), [p for p, _ in missing], tile_px=tile_px)
            for pixels, (_, memory) in zip(seen, missing, strict=True):
                memory[sample.key] = pixels
        report(index + 1)
    return found


def look(
    trunk: Hypercolumn, image: Image, wanted: Sequence[Places], *, tile_px: int
) -> list[Pixels]:
    """Compute the hypercolumns at places; those beyond the image's edge are moved onto it."""
    height_px, width_px, _ = image.shape
    points = [np.minimum(places.points, (height_px - 1, width_px - 1)) for places in wanted]
    columns = [np.empty((len(p), sum(trunk.channels)), np.float16) for p in points]
    for tile in tiling.tiles(
        height_px, width_px, tile_px=tile_px, halo_px=trunk.halo_px, alignment_px=ALIGNMENT_PX
    ):
        inside = [_within(own, *tile.core) for own in points]
        if not any(here.any() for here in inside):
            continue
        levels = trunk.levels(np.ascontiguousarray(image[tile.outer]))
        corner = np.array((tile.rows.outer_start, tile.columns.outer_start), np.int64)
        for own, here, values in zip(points, inside, columns, strict=True):
            values[here] = at(levels, own[here] - corner)
    return [
        Pixels(values, places.labels, places.weights, places.digest)
        for values, places in zip(columns, wanted, strict=True)
    ]


def write(path: Path, memories: Sequence[Memory]) -> None:
    """Write some memories to a safetensors file."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    for number, memory in enumerate(memories):
        for key, pixels in memory.items():
            name = f"{number}/{pixels.digest}/{key}"
            arrays[f"columns/{name}"] = pixels.columns
            arrays[f"labels/{name}"] = pixels.labels
            arrays[f"weights/{name}"] = pixels.weights
    save_file(arrays, path)


def read(path: Path, count: int) -> list[Memory]:
    """Read what `write` wrote of so many memories; values stay in the file until asked for.

    Without the file, which an old version is allowed to lose, they are empty.
    """
    if not path.exists():
        return [{} for _ in range(count)]
    file: Any = safe_open(path, framework="np")
    stored: list[str] = list(file.keys())
    names: list[dict[str, str]] = [{} for _ in range(count)]
    for entry in stored:
        kind, _, name = entry.partition("/")
        if kind == "columns":
            number, _, key = name.split("/", 2)
            names[int(number)][key] = name
    return [_Stored(file, own) for own in names]


class _Stored(Memory):
    """A memory in a file: a version that only proposes never reads it."""

    def __init__(self, file: Any, names: Mapping[str, str]) -> None:
        self._file, self._names = file, names

    def __getitem__(self, key: str) -> Pixels:
        name = self._names[key]
        columns, labels, weights = (
            self._file.get_tensor(f"{kind}/{name}") for kind in ("columns", "labels", "weights")
        )
        return Pixels(columns, labels, weights, name.split("/", 2)[1])

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _within(points: npt.NDArray[np.int64], rows: slice, columns: slice) -> npt.NDArray[np.bool_]:
    low, high = (rows.start, columns.start), (rows.stop, columns.stop)
    return np.asarray(((points >= low) & (points < high)).all(axis=1))


def _decoded(sample: Sample) -> Image:
    image = sample.load()
    try:
        check_image(image)
    except ValueError as error:
        raise ValueError(f"sample {sample.key}: {error}") from error
    return image
