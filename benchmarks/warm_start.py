"""A training on many more labels: from the former version against a fresh start.

A first version learns one click of each sign on some images; then others come in with verified
masks and a few clicks, as the first corrections of a project do. Trained on all of them, fresh and
from what was learnt before, with the steps of the profile: the self-trained student, the segmenter
(from that student), and the classifier without pretrained weights. 2-px F1 over all other images.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import report

import models.base
from backend.evaluation import folders, reading
from backend.evaluation.folders import Pair
from backend.evaluation.scoring import TOLERANCE_PX
from models import metrics
from models.base import ClassSpec, Fitted, Pipeline, Profile, Sample
from models.learning.training import PROFILES
from models.metrics import Matches
from models.pipelines.segmenter import Segmenter

IMAGES = 100
CLICKED, CORRECTED = 17, 20
CLICKS, CLICKS_BESIDE_MASKS = 1, 3  # of each sign
PATCH_PX = 64
MAX_PIXELS = 100_000_000


@dataclass(frozen=True)
class Data:
    """What is learnt first, what comes later, and the rest to test on."""

    spec: ClassSpec
    first: list[Sample]
    later: list[Sample]
    rest: list[Pair]
    seed: int


def drawn(folder: Path, class_name: str, seed: int) -> Data:
    """Draw the images of one seed, and click them."""
    pairs = folders.read_folder(folder / "images", folder / "masks", max_pixels=MAX_PIXELS)
    order = np.random.default_rng(seed).permutation(len(pairs))[:IMAGES]
    chosen = [pairs[n] for n in order]
    first, later = chosen[:CLICKED], chosen[CLICKED : CLICKED + CORRECTED]
    return Data(
        ClassSpec(class_name),
        _samples(first, class_name, CLICKS, seed, verified=False),
        _samples(later, class_name, CLICKS_BESIDE_MASKS, seed, verified=True),
        chosen[CLICKED + CORRECTED :],
        seed,
    )


def _samples(
    pairs: Sequence[Pair], class_name: str, clicks: int, seed: int, *, verified: bool
) -> list[Sample]:
    clicking = reading.Clicking(class_name, clicks, PATCH_PX, seed)
    found = reading.read(lambda: pairs, lambda: (), clicking).clicked
    return [one.sample(class_name, verified=verified) for one in found]


class Trials:
    """Trainings on one draw of images, each tested at once."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.rows: dict[str, tuple[float, float]] = {}

    def fit(
        self,
        name: str,
        pipeline: Pipeline,
        samples: Sequence[Sample],
        profile: Profile,
        warm: Fitted | None = None,
    ) -> Fitted:
        """Train and test; `rows` gets (2-px F1, seconds)."""
        began = time.perf_counter()
        fitted = pipeline.fit(
            samples,
            specs=[self.data.spec],
            profile=profile,
            seed=self.data.seed,
            device="cpu",
            report=lambda _: None,
            warm_start=warm,
        )
        seconds = time.perf_counter() - began
        self.rows[name] = self._f_measure(fitted), seconds
        print(self.data.seed, name, *self.rows[name], flush=True)
        return fitted

    def _f_measure(self, fitted: Fitted) -> float:
        found = Matches()
        for pair in self.data.rest:
            labelled = pair.read()
            (own,) = fitted.propose(labelled.image, specs=[self.data.spec]).proposals
            found += metrics.matches(own.mask, labelled.truth, TOLERANCE_PX)
        return found.f_measure


def run(data: Data, weights: str) -> dict[str, tuple[float, float]]:
    """Train everything on one draw of images."""
    trials, both = Trials(data), [*data.first, *data.later]
    own = PROFILES["cpu"]
    profile = replace(own, encoder_weights=weights)
    student = models.base.get("self_training")
    before = trials.fit("student, from clicks alone", student, data.first, profile)
    trials.fit("student, fresh", student, both, profile)
    warm = trials.fit("student, warm", student, both, profile, before)
    trials.fit("segmenter, fresh", Segmenter(), both, profile)
    trials.fit("segmenter, from the warm student", Segmenter(starts=(warm,)), both, profile)
    classifier = models.base.get("advcam")
    before = trials.fit("classifier, from clicks alone", classifier, data.first, own)
    trials.fit("classifier, fresh", classifier, both, own)
    warm = trials.fit("classifier, warm", classifier, both, own, before)
    later = Segmenter(starts=(warm,))
    few = replace(own, dense_steps=own.dense_warm_steps)
    trials.fit("segmenter, from the classifier", later, both, own)
    trials.fit("segmenter, from the classifier, as few steps as warm", later, both, few)
    return trials.rows


def main() -> None:
    """Print the table; with --json FILE, write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--set", default="cfd", help="a folder of LABELCLIMB_DATA")
    parser.add_argument("--class-name", default="crack")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    data = os.environ.get("LABELCLIMB_DATA")
    weights = os.environ.get("ENCODER_WEIGHTS")
    if not data or not weights:
        raise SystemExit("set LABELCLIMB_DATA and ENCODER_WEIGHTS; see benchmarks/README.md")
    folder = Path(data) / options.set
    found = [run(drawn(folder, options.class_name, seed), weights) for seed in options.seeds]
    rows = []
    for name in found[0]:
        f_measures, seconds = zip(*(one[name] for one in found), strict=True)
        rows.append(report.row(f"{name}: 2-px F1", float(np.mean(f_measures)), ""))
        rows.append(report.row(f"{name}: training", float(np.mean(seconds)), "s"))
    report.show(rows)
    if options.json:
        report.write(options.json, "warm_start", rows, note=f"mean of seeds {options.seeds}")


if __name__ == "__main__":
    main()
