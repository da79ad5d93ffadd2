"""From a correction to refreshed proposals: refit a pixel head, save, load, propose again.

    python benchmarks/corrections.py --encoder-weights FILE --json FILE

A number of clicked images, some with verified masks and some of those held out, and a version
fitted on them, as a server has it: saved and loaded. Then one more image gets a corrected mask, and
the next tasks are proposed for anew. Images are photographs of LABELCLIMB_DATA, resized and
cropped; those of tasks and corrections are decoded before, as a server's cache would hold them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import clicks
import cv2
import numpy as np
import report
import torch
from quality import WEIGHTS

import models.base
from models.base import ClassSpec, Fitted, Image, Mask, Sample
from models.learning.training import PROFILES

TARGET_S = 15.0  # from a correction to refreshed proposals, on two cores
Result = TypeVar("Result")


class Cropped(clicks.Picture):
    """A picture, resized to cover `SIZE` and cropped to it."""

    SIZE = (640, 480)  # width, height

    def load(self) -> Image:
        """Decode the image."""
        return np.ascontiguousarray(self._cropped(super().load(), cv2.INTER_AREA))

    def truth(self) -> Mask:
        """Decode the mask."""
        grey = self._cropped(super().truth().astype(np.uint8), cv2.INTER_NEAREST)
        return np.ascontiguousarray(grey > 0)

    def _cropped(self, values: Any, method: int) -> Any:
        width, height = self.SIZE
        scale = max(width / values.shape[1], height / values.shape[0])
        size = [
            max(least, round(side * scale))
            for side, least in zip(values.shape[1::-1], self.SIZE, strict=True)
        ]
        return cv2.resize(values, size, interpolation=method)[:height, :width]


@dataclass
class Spent:
    """Wall and processor seconds of each part, in the order in which they came."""

    wall: dict[str, float]
    core: dict[str, float]

    def timed(self, name: str, work: Callable[[], Result]) -> Result:
        """Do the work and add its seconds."""
        wall, core = time.perf_counter(), time.process_time()
        result = work()
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        self.core[name] = self.core.get(name, 0.0) + time.process_time() - core
        return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    loop = Loop(options)
    spent = Spent({}, {})
    with tempfile.TemporaryDirectory() as scratch:
        version = loop.served(loop.samples, None, Path(scratch), spent)
        rows = part_rows("fresh", spent)
        for name, samples in loop.corrections().items():
            rows += loop.corrected(name, samples, version, Path(scratch))
    report.show(rows)
    if options.json:
        note = f"{options.threads} thread(s), load average {os.getloadavg()[0]:.1f}"
        report.write(options.json, "corrections", rows, note=note)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--set", default="rust_train", help="folder in LABELCLIMB_DATA")
    parser.add_argument("--pipeline", default="pixel_head")
    parser.add_argument("--images", type=int, default=50, help="images with clicks")
    parser.add_argument("--verified", type=int, default=20, help="of them with a mask as well")
    parser.add_argument("--held-out", type=int, default=8, help="of those with a mask")
    parser.add_argument("--tasks", type=int, default=10, help="to be proposed for anew")
    parser.add_argument("--clicks", type=int, default=5, help="of each sign and image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--encoder-weights", default=str(WEIGHTS))
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    return parser.parse_args(arguments)


class Loop:
    """The samples of a project, and what is done with them after each correction."""

    def __init__(self, options: argparse.Namespace) -> None:
        name = clicks.CLASS_OF_SET.get(options.set, "crack")
        self.spec = ClassSpec(name)
        self.profile = replace(PROFILES["cpu"], encoder_weights=options.encoder_weights)
        self.options = options
        self._pipeline = models.base.get(options.pipeline)
        self._rng = np.random.default_rng(options.seed)
        pictures = [Cropped(p.image, p.mask) for p in clicks.shuffled(options.set)]
        showing = [p for p in pictures[: 4 * options.images] if p.truth().any()]
        own, self._rest = showing[: options.images], showing[options.images :]
        self.samples = [
            replace(self.clicked(p, verified=n < options.verified), held_out=n < options.held_out)
            for n, p in enumerate(own)
        ]
        self.tasks = [p.load() for p in self._rest[: options.tasks]]

    def clicked(self, picture: clicks.Picture, *, verified: bool) -> Sample:
        """Click a picture; its image and mask are decoded at once and kept."""
        image, truth = picture.load(), picture.truth()
        sample = clicks.sample_of(
            picture,
            self.spec.name,
            self.options.clicks,
            self.profile.crop_px,
            self._rng,
            verified=verified,
        )
        masks = {self.spec.name: lambda: truth} if verified else {}
        return replace(sample, load=lambda: image, masks=masks)

    def corrections(self) -> dict[str, list[Sample]]:
        """Return a new image with a mask to learn, and held-out ones that judge settings anew."""
        learnt, *unseen = (self.clicked(p, verified=True) for p in self._rest[-3:])
        return {
            "correction": [learnt],
            "correction and new settings": [replace(one, held_out=True) for one in unseen],
        }

    def served(
        self, samples: Sequence[Sample], version: Fitted | None, scratch: Path, spent: Spent
    ) -> Fitted:
        """Fit, save, load: as one process trains and another one proposes."""
        folder = Path(tempfile.mkdtemp(dir=scratch))
        fitted = spent.timed("refit" if version else "fit", lambda: self._fit(samples, version))
        spent.timed("save", lambda: fitted.save(folder))
        return spent.timed("load", lambda: self._pipeline.load(folder, device="cpu"))

    def corrected(
        self, name: str, samples: Sequence[Sample], version: Fitted, scratch: Path
    ) -> list[report.Row]:
        """Time what follows a correction."""
        spent = Spent({}, {})
        new = self.served([*self.samples, *samples], version, scratch, spent)
        for image in self.tasks:
            spent.timed("propose", lambda image=image: new.propose(image, specs=[self.spec]))
        total = report.row(f"{name}: until refreshed", sum(spent.wall.values()), "s")
        cores = report.row(f"{name}: until refreshed", sum(spent.core.values()), "core-s")
        return [*part_rows(name, spent), report.judged(total, at_most=TARGET_S), cores]

    def _fit(self, samples: Sequence[Sample], version: Fitted | None) -> Fitted:
        return self._pipeline.fit(
            samples,
            specs=[self.spec],
            profile=self.profile,
            seed=self.options.seed,
            device="cpu",
            report=clicks.show,
            warm_start=version,
        )


def part_rows(name: str, spent: Spent) -> list[report.Row]:
    """Return the seconds of each part."""
    return [
        report.row(f"{name}: {part}", seconds, unit)
        for values, unit in ((spent.wall, "s"), (spent.core, "core-s"))
        for part, seconds in values.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
