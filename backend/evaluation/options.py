"""What is to be evaluated, and how; checked before anything is read or trained."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import models.base
from backend.errors import SettingsError
from backend.evaluation.splits import Wanted, parse_part, parse_split
from models import refine
from models.base import Profile

NO_WEIGHTS = "none"


@dataclass(frozen=True)
class Options:
    """One evaluation; None leaves a choice to the pipeline, the folders' names or the default.

    corrected: after the training on clicks, train again with the true masks of so many images.
    limit: at most so many images of each folder. max_pixels: larger images are refused.
    """

    images: Path
    masks: Path
    profile: Profile
    test_images: Path | None = None
    test_masks: Path | None = None
    class_name: str | None = None
    pipeline: str = "auto"
    refine: str | None = None
    iterations: int | None = None
    threshold: float | None = None
    clicks_per_image: int = 5
    seed: int = 0
    device: str = "cpu"
    wanted: Wanted = field(default_factory=Wanted)
    corrected: tuple[int, ...] = ()
    limit: int | None = None
    threads: int | None = None
    max_pixels: int = 100_000_000
    json_file: Path | None = None
    pictures: Path | None = None

    def __post_init__(self) -> None:
        _known("pipeline", self.pipeline, models.base.names())
        if self.refine is not None:
            _known("refine", self.refine, (*refine.names(), "auto"))
        if (self.test_images is None) != (self.test_masks is None):
            raise SettingsError("--test-images and --test-masks belong together; give both")
        if self.test_images and self.test_images.resolve() == self.images.resolve():
            raise SettingsError(
                f"--test-images is --images ({self.images}): a test on what was learnt says "
                "nothing; leave it out, and the images are split"
            )
        if self.json_file is not None and self.json_file.is_dir():
            raise SettingsError(f"--json {self.json_file} is a folder; name a file in it")


def wanted_parts(
    split: str | None, train: str | None, validation: str | None, test: str | None
) -> Wanted:
    """Read the sizes of the parts: `--split`, overruled by the single ones."""
    base = parse_split(split) if split else Wanted()
    return Wanted(
        base.train if train is None else parse_part(train),
        base.validation if validation is None else parse_part(validation),
        base.test if test is None else parse_part(test),
    )


def numbers(text: str | None) -> tuple[int, ...]:
    """Read "15,30" as numbers, sorted; raises SettingsError."""
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if wrong := [part for part in parts if not part.isdigit()]:
        raise SettingsError(f"{wrong[0]!r} is no number of masks; write numbers as 15,30")
    return tuple(sorted({int(part) for part in parts}))


def weights(given: str | None, default: str | None) -> str | None:
    """Choose encoder weights: a file, "hub", None for "none"; raises SettingsError for no file."""
    if given is None:
        return default
    if given == NO_WEIGHTS:
        return None
    if given != "hub" and not Path(given).is_file():
        raise SettingsError(
            f"--encoder-weights {given}: no such file; give a safetensors file, hub or {NO_WEIGHTS}"
        )
    return given


def profile_named(name: str, encoder_weights: str | None) -> Profile:
    """Return a profile with these encoder weights; raises SettingsError naming the known ones."""
    from models.learning.training import PROFILES

    _known("profile", name, tuple(PROFILES))
    return replace(PROFILES[name], encoder_weights=encoder_weights)


def _known(what: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise SettingsError(f"unknown {what} {name!r}; known: {', '.join(known)}")
