"""What goes to Label Studio in one request: bounded in number and bytes, also in our memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One prediction, ready to be sent."""

    task: int
    version: str
    body: bytes


def row(prediction: Mapping[str, Any]) -> Row:
    """Serialise a prediction; raises ValueError for a number that JSON does not have."""
    body = json.dumps(prediction, separators=(",", ":"), allow_nan=False).encode()
    return Row(int(prediction["task"]), str(prediction.get("model_version", "")), body)


def cut(
    items: Iterable[T], size: Callable[[T], int], *, most: int, most_bytes: int
) -> Iterator[list[T]]:
    """Cut into runs of at most `most` items and `most_bytes` bytes, at least one item each."""
    batch: list[T] = []
    total = 0
    for item in items:
        total += size(item)
        if batch and (len(batch) == most or total > most_bytes):
            yield batch
            batch, total = [], size(item)
        batch.append(item)
    if batch:
        yield batch
