"""The evaluation from folders to figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console

import models.base
from backend.errors import LabelclimbError, SettingsError
from backend.evaluation import folders, machine, reading, screen, trial
from backend.evaluation.folders import Pair
from backend.evaluation.options import Options
from backend.evaluation.reading import Clicked, Clicking, Reading
from backend.evaluation.screen import Bars
from backend.evaluation.splits import Split, split
from backend.evaluation.trial import Tested, Trained
from models.base import ClassSpec, NotEnoughLabels, Pipeline, Sample

MOSTLY_DEFECT = 0.6  # of all pixels: masks are then more likely inverted
SPLIT_BY = "order of the sha256 of the file stems: train, validation, test from the front"

Result = dict[str, Any]
Trial = tuple[int, Trained, Tested]  # with so many corrected masks


def run(options: Options, console: Console) -> Result:
    """Evaluate, show the figures, write JSON and pictures where asked for; returns the JSON.

    Raises SettingsError for folders that cannot be used, LabelclimbError when a training fails.
    """
    _make_folders(options)
    limit_threads(options.threads)
    pipeline = models.base.get(options.pipeline)
    parts = _split(options)
    class_name = options.class_name or folders.class_of(options.images, options.masks)
    with screen.bars(console) as bars:
        result = _Evaluation(options, pipeline, parts, class_name, bars).result()
    screen.show(console, result)
    if options.json_file is not None:
        text = json.dumps(result, indent=1, allow_nan=False) + "\n"
        options.json_file.write_text(text, encoding="utf-8")
        console.print(f"written: {options.json_file}", markup=False)
    return result


class _Evaluation:
    """One evaluation, its folders already split."""

    def __init__(
        self, options: Options, pipeline: Pipeline, parts: Split, class_name: str, bars: Bars
    ) -> None:
        chosen = None if options.refine == "auto" else options.refine
        self.options, self.pipeline, self.parts, self.bars = options, pipeline, parts, bars
        self.spec = ClassSpec(class_name, chosen, options.iterations, options.threshold)

    def result(self) -> Result:
        """Read and click, train and test: once from clicks alone, and with corrected masks."""
        read = self._read()
        if not any(not one.held_out for one in read.clicked):
            raise SettingsError("no image to train on can be read; see the files' formats")
        baseline_mib = machine.peak_memory_mib()
        trials = self._trials(read)
        _, trained, tested = trials[0]
        rows = [self._row(*one) for one in trials]
        result: Result = _finite(
            {
                **rows[0],
                "baseline_memory_mib": baseline_mib,
                "classes": [self.spec.name],
                **self._about(read, tested),
                "corrected": [row for row in rows if row["corrected_masks"]],
                "training": dict(trained.fitted.metrics),
                "per_image": [asdict(score) for score in tested.scores],
                "warnings": self._warnings(read, tested),
            }
        )
        return result

    def _read(self) -> Reading:
        options = self.options
        patch_px = options.profile.crop_px
        clicking = Clicking(self.spec.name, options.clicks_per_image, patch_px, options.seed)
        return reading.read(
            lambda: self._watched(self.parts.train, "clicking images"),
            lambda: self.parts.validation,
            clicking,
        )

    def _watched(self, pairs: Sequence[Pair], what: str) -> Iterator[Pair]:
        return self.bars.over(pairs, what)

    def _trials(self, read: Reading) -> list[Trial]:
        """Train from clicks alone, then with each number of corrected masks that there are.

        A pipeline that needs masks to start at all starts with the fewest asked for.
        """
        most = sum(not one.held_out for one in read.clicked)
        trials: list[Trial] = []
        numbers = sorted({0, *(min(number, most) for number in self.options.corrected)})
        for masks in numbers:
            try:
                trials.append(self._trial(read, masks, None if trials else self.options.pictures))
            except NotEnoughLabels as error:
                if masks == numbers[-1]:
                    raise LabelclimbError(f"the training failed: {error}") from error
        return trials

    def _trial(self, read: Reading, masks: int, pictures: Path | None) -> Trial:
        """Train with the true masks of so many clicked images, and test."""
        what = f" with {masks} corrected masks" if masks else ""
        with self.bars.training(f"training{what}") as report:
            samples = self._samples(read, masks)
            trained = trial.train(self.pipeline, samples, self.spec, self.options, report)
        pairs = self._watched(self.parts.test, f"proposing{what}")
        return masks, trained, trial.measure(trained.fitted, pairs, self.spec, pictures)

    def _samples(self, read: Reading, masks: int) -> list[Sample]:
        learnt = [one for one in read.clicked if not one.held_out]
        held_out = [one for one in read.clicked if one.held_out]
        return [
            *(self._sample(one, verified=n < masks) for n, one in enumerate(learnt)),
            *(self._sample(one, verified=True) for one in held_out),
        ]

    def _sample(self, one: Clicked, *, verified: bool) -> Sample:
        return one.sample(self.spec.name, verified=verified)

    def _row(self, masks: int, trained: Trained, tested: Tested) -> Result:
        settings = trial.settings_of(trained.fitted, self.spec.name)
        return {**_figures(trained, tested), "corrected_masks": masks, "settings": settings}

    def _about(self, read: Reading, tested: Tested) -> Result:
        options, held_out = self.options, sum(one.held_out for one in read.clicked)
        weights = options.profile.encoder_weights
        return {
            "images": {
                "train": len(read.clicked) - held_out,
                "validation": held_out,
                "test": len(tested.scores),
            },
            "split_by": SPLIT_BY if options.test_images is None else f"{SPLIT_BY}; own test folder",
            "clicks": {
                "per_image": options.clicks_per_image,
                "positive": read.clicks(positive=True),
                "negative": read.clicks(positive=False),
                "negative_patch_px": read.patch_px,
            },
            "pipeline": options.pipeline,
            "refine": self.spec.refine or "auto",
            "iterations": options.iterations,
            "threshold": options.threshold,
            "profile": options.profile.name,
            "encoder_weights": Path(weights).name if weights else "none",
            "seed": options.seed,
            "device": options.device,
            "resized_masks": read.resized + tested.resized,
            "left_out": [*read.left_out, *tested.left_out],
            "hardware": machine.hardware(options.device),
            "versions": machine.versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }

    def _warnings(self, read: Reading, tested: Tested) -> list[str]:
        found = []
        if resized := read.resized + tested.resized:
            found.append(f"{resized} masks had another size than their image and were stretched")
        if left_out := [*read.left_out, *tested.left_out]:
            found.append(f"{len(left_out)} images were left out: {'; '.join(left_out[:3])}")
        if read.patch_px < self.options.profile.crop_px:
            found.append(
                f"no patch of {self.options.profile.crop_px} px is free of the class; negative "
                f"clicks come from clean patches of {read.patch_px} px"
            )
        if tested.true_share > MOSTLY_DEFECT:
            found.append(
                f"the masks cover {tested.true_share:.0%} of all pixels; are they inverted? "
                "White must be the defect"
            )
        if self.options.class_name is None and self.spec.name == folders.UNKNOWN_CLASS:
            found.append(
                "the folders' names do not tell the class; --class crack (or rust, ...) lets the "
                "pipeline start from what suits it"
            )
        return found


def _figures(trained: Trained, tested: Tested) -> Result:
    return {
        **tested.figures,
        "train_seconds": trained.seconds,
        "train_cpu_seconds": trained.cpu_seconds,
        "seconds_per_image": float(np.mean(tested.seconds)),
        "seconds_per_image_median": float(np.median(tested.seconds)),
        "peak_memory_mib": tested.peak_memory_mib,
    }


def _split(options: Options) -> Split:
    pairs = _pairs(options.images, options.masks, options)
    if options.test_images is None or options.test_masks is None:
        return split(pairs, None, options.wanted)
    test_pairs = _pairs(options.test_images, options.test_masks, options)
    return split(pairs, test_pairs, options.wanted)


def _pairs(images: Path, masks: Path, options: Options) -> list[Pair]:
    return folders.read_folder(images, masks, max_pixels=options.max_pixels)[: options.limit]


def _make_folders(options: Options) -> None:
    """Make the folders of the output before hours are spent on what goes into them."""
    wanted = [options.pictures, options.json_file.parent if options.json_file else None]
    for folder in wanted:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise SettingsError(f"{folder} cannot be made a folder: {error}") from error


def limit_threads(threads: int | None) -> None:
    """Limit the processor threads of this process; None = as they are."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not know by None, at any depth."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
