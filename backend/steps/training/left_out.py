"""Train on without the images that cannot be had any more: what is left may well be enough."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from backend.errors import ImageError
from models.base import Fitted, Image, NotEnoughLabels, Sample

SHOWN = 3  # reasons in a sentence

log = structlog.get_logger(__name__)

Attempt = Callable[[Sequence[Sample]], Fitted]
Gone = dict[str, str]  # the key of a sample -> why its image cannot be had


def fitted(
    attempt: Attempt, samples: Sequence[Sample], note: Callable[[str], None]
) -> tuple[Fitted, tuple[Sample, ...], Gone]:
    """Train; when an image fails, begin again without it and without all others that are gone.

    Returns also what was trained on, and what was not; each time `note` is told. Raises ImageError
    when too little is left to train on.
    """
    gone: Gone = {}
    used = tuple(replace(sample, load=_noting(sample, gone)) for sample in samples)
    while True:
        try:
            return attempt(used), used, gone
        except ImageError:
            left = _readable(used, gone)
            if len(left) == len(used):  # what failed is none of these images
                raise
            used = left
        except NotEnoughLabels as error:
            if not gone:
                raise
            raise ImageError(
                f"{_sentence(gone)}, and the rest is not enough ({error}); mend these images, or "
                "annotate others, then ask for the training again"
            ) from error
        note(f"{_sentence(gone)}: the training goes on without, on {len(used)} others")


def _noting(sample: Sample, gone: Gone) -> Callable[[], Image]:
    def load() -> Image:
        try:
            return sample.load()
        except ImageError as error:
            log.warning("left out of the training", task=sample.key, reason=str(error))
            gone[sample.key] = str(error)
            raise

    return load


def _readable(samples: Sequence[Sample], gone: Gone) -> tuple[Sample, ...]:
    """Look at all images, so that the training begins again once, and not for each of them."""
    for sample in samples:
        if sample.key not in gone:
            with contextlib.suppress(ImageError):  # noted
                sample.load()
    return tuple(sample for sample in samples if sample.key not in gone)


def _sentence(gone: Gone) -> str:
    first = [f"task {key}: {reason}" for key, reason in sorted(gone.items())]
    more = f" and {len(first) - SHOWN} more" if len(first) > SHOWN else ""
    return f"images could not be read any more ({'; '.join(first[:SHOWN])}{more})"
