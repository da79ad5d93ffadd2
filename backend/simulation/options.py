"""What is to be simulated, checked before anything is read or trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import models.base
import strategies.base
from backend.errors import SettingsError
from backend.evaluation.splits import Wanted
from models import refine
from models.base import Profile
from strategies.base import Options as StrategyOptions

CONTROL = "random_order"  # what every strategy is compared with
SEPARATOR = ":"


@dataclass(frozen=True)
class Contender:
    """A strategy with its options; label: as people wrote it, "edit_time:order=easy_first"."""

    label: str
    strategy: str
    options: StrategyOptions = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """One simulation on a labelled folder.

    budget_s: human seconds, those of the first tasks included. rounds: trainings after the first.
    first: tasks that are drawn by hand before there is a model. longest_side_px: larger images are
    shrunk to it, None = none is. refine: None = chosen by the trainings. cache_mib: for features
    of images. limit: at most so many images.
    """

    images: Path
    masks: Path
    contenders: tuple[Contender, ...]
    profile: Profile
    budget_s: float
    class_name: str | None = None
    pipeline: str = "pixel_head"
    refine: str | None = None
    seeds: int = 5
    rounds: int = 6
    first: int = 4
    longest_side_px: int | None = 320
    wanted: Wanted = field(default_factory=Wanted)
    limit: int | None = None
    device: str = "cpu"
    threads: int | None = None
    max_pixels: int = 100_000_000
    cache_mib: int = 2048
    json_file: Path | None = None
    png_file: Path | None = None

    def __post_init__(self) -> None:
        if self.pipeline not in models.base.names():
            known = ", ".join(models.base.names())
            raise SettingsError(f"unknown pipeline {self.pipeline!r}; known: {known}")
        if self.refine is not None and self.refine not in refine.names():
            known = ", ".join(refine.names())
            raise SettingsError(f"unknown refine {self.refine!r}; known: {known}, auto")
        for name in ("budget_s", "seeds", "rounds", "first"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; give more than 0")
        require_files(self.json_file, self.png_file)


def contenders(text: str) -> tuple[Contender, ...]:
    """Read "entropy,edit_time:order=easy_first"; random_order comes first whether named or not.

    Raises SettingsError for an unknown strategy or a wrong option.
    """
    named = [part.strip() for part in text.split(",") if part.strip()]
    found = {one.label: one for one in map(_contender, [CONTROL, *named])}
    return tuple(found.values())


def require_files(*files: Path | None) -> None:
    """Make the folders of files that are to be written; raises SettingsError where that fails."""
    for file in files:
        if file is None:
            continue
        if file.is_dir():
            raise SettingsError(f"{file} is a folder; name a file in it")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SettingsError(f"{file.parent} cannot be made a folder: {error}") from error


def _contender(label: str) -> Contender:
    name, *given = label.split(SEPARATOR)
    try:
        chosen = dict(_option(text) for text in given)
        strategies.base.complete(strategies.base.get(name), chosen)
    except ValueError as error:
        raise SettingsError(f"--strategies {label}: {error}") from error
    return Contender(label, name, chosen)


def _option(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"option {text!r} is not NAME=VALUE, as order=easy_first")
    try:
        return name, float(value)
    except ValueError:
        return name, value
