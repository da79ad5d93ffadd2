"""From a few clicks to masks: train a profile on clicked images, propose on held-out ones.

    python benchmarks/clicks.py --set deepcrack_train --encoder-weights FILE [--json FILE]

Clicks are drawn from the true masks: positives inside the defect, negatives in the middle of
patches of the crop size that hold none of it. The masks themselves are not given to the training,
unless --verified N gives those of the first N images. Images are parted by a hash of their names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import report
import torch

import models.base
from models.base import ClassSpec, Fitted, Image, Mask, Progress, Sample, WeakPoint
from models.learning.training import PROFILES
from models.metrics import f_measure

DATA = Path(os.environ.get("LABELCLIMB_DATA", Path(__file__).parents[2] / "shared" / "data"))
CLASS_OF_SET = {"rust_train": "rust", "spalling_train": "spalling"}
TARGETS = {"f1_2px": 0.60, "train_s": 75.0, "propose_s": 0.35}  # with pretrained weights, cracks


@dataclass(frozen=True)
class Picture:
    """One image file with its mask file."""

    image: Path
    mask: Path

    def load(self) -> Image:
        """Decode the image."""
        bgr = cv2.imread(str(self.image), cv2.IMREAD_COLOR)
        return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)

    def truth(self) -> Mask:
        """Decode the mask."""
        grey = np.asarray(cv2.imread(str(self.mask), cv2.IMREAD_GRAYSCALE))
        return np.asarray(grey > 127, dtype=bool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    pictures = shuffled(options.set)
    clicked = pictures[: options.images]
    held_out = pictures[options.images : options.images + options.held_out]
    profile = profile_of(options)
    rng = np.random.default_rng(options.seed)
    class_name = CLASS_OF_SET.get(options.set, "crack")
    samples = [
        sample_of(
            p, class_name, options.clicks, profile.crop_px, rng, verified=n < options.verified
        )
        for n, p in enumerate(clicked)
    ]
    spec = ClassSpec(class_name)
    fit = fitter(options, profile, spec)
    rows: list[dict[str, Any]] = []
    fitted, seconds, cpu_seconds = timed(lambda: fit(samples, None))
    rows += rows_of("fresh", fitted, seconds, cpu_seconds, spec, held_out)
    if options.warm:
        more = pictures[-options.images :]
        samples += [
            sample_of(p, class_name, options.clicks, profile.crop_px, rng, verified=False)
            for p in more
        ]
        fitted, seconds, cpu_seconds = timed(lambda: fit(samples, fitted))
        rows += rows_of("warm", fitted, seconds, cpu_seconds, spec, held_out)
    targeted = (
        options.set == "deepcrack_train" and profile.name == "cpu" and options.encoder_weights
    )
    for row in rows:
        judge(row, targets=TARGETS if targeted else {})
        print(f"{row['name']:<28} {row['value']:>10.3f} {row['unit']:<8} {row['met'] or ''}")
    print(json.dumps(fitted.metrics["classes"][class_name].get("settings")))
    if options.json:
        threads = f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
        report.write(Path(options.json), "clicks", rows, note=threads)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--set", default="deepcrack_train", help="folder in LABELCLIMB_DATA")
    parser.add_argument("--images", type=int, default=24, help="images with clicks")
    parser.add_argument("--clicks", type=int, default=5, help="of each sign and image")
    parser.add_argument("--held-out", type=int, default=40, help="images to propose for")
    parser.add_argument("--verified", type=int, default=0, help="images whose masks are given too")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu")
    parser.add_argument("--set-profile", nargs="*", default=[], metavar="FIELD=JSON")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--encoder-weights", help="safetensors file; random weights without")
    parser.add_argument(
        "--warm", action="store_true", help="then train on with as many images more"
    )
    parser.add_argument("--json", help="write the rows to this file")
    return parser.parse_args(arguments)


def shuffled(set_name: str) -> list[Picture]:
    """Return the pictures of a set in the order of a hash of their names."""
    folder = DATA / set_name
    if not folder.is_dir():
        raise SystemExit(f"{folder} does not exist; set LABELCLIMB_DATA to the folder of the data")
    images = sorted((folder / "images").iterdir(), key=lambda path: digest(path.stem))
    return [Picture(path, folder / "masks" / f"{path.stem}.png") for path in images]


def digest(name: str) -> str:
    """Hash a name, the same on every machine."""
    return hashlib.sha256(name.encode()).hexdigest()


def profile_of(options: argparse.Namespace) -> models.base.Profile:
    """Return the profile with what the command line changes."""
    changes = dict(pair.split("=", 1) for pair in options.set_profile)
    values = {name: json.loads(text) for name, text in changes.items()}
    if "decoder_widths" in values:
        values["decoder_widths"] = tuple(values["decoder_widths"])
    profile = replace(PROFILES[options.profile], encoder_weights=options.encoder_weights)
    return replace(profile, **values)


def sample_of(
    picture: Picture,
    class_name: str,
    clicks: int,
    patch_px: int,
    rng: np.random.Generator,
    *,
    verified: bool,
) -> Sample:
    """Click an image: positives inside the defect, negatives where a patch is clean."""
    truth = picture.truth()
    around = cv2.dilate(truth.astype(np.uint8), np.ones((patch_px + 1, patch_px + 1), np.uint8))
    points = [
        WeakPoint(class_name, float(x), float(y), positive)
        for places, positive in ((np.argwhere(truth), True), (np.argwhere(around == 0), False))
        for y, x in rng.permutation(places)[:clicks]
    ]
    masks = {class_name: picture.truth} if verified else {}
    return Sample(picture.image.stem, picture.load, tuple(points), masks)


def fitter(
    options: argparse.Namespace, profile: models.base.Profile, spec: ClassSpec
) -> Callable[[Sequence[Sample], Fitted | None], Fitted]:
    """Return a function that trains on samples, from a version or afresh."""

    def fit(samples: Sequence[Sample], warm_start: Fitted | None) -> Fitted:
        return models.base.get("advcam").fit(
            samples,
            specs=[spec],
            profile=profile,
            seed=options.seed,
            device=options.device,
            report=show,
            warm_start=warm_start,
        )

    return fit


def show(progress: Progress) -> None:
    """Show the progress on one line, when somebody looks."""
    if sys.stderr.isatty():
        loss = f"loss {progress.loss:.3f}" if progress.loss is not None else ""
        text = f"\r{progress.stage} {progress.step}/{progress.steps} {loss}   "
        print(text, end="", file=sys.stderr, flush=True)


def timed(work: Callable[[], Fitted]) -> tuple[Fitted, float, float]:
    """Return a result with its wall seconds and the processor seconds of all threads."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def rows_of(
    name: str,
    fitted: Fitted,
    seconds: float,
    cpu_seconds: float,
    spec: ClassSpec,
    pictures: Sequence[Picture],
) -> list[dict[str, Any]]:
    """Propose for the pictures and put the figures into rows."""
    strict, tolerant, spent = [], [], []
    for picture in pictures:
        image, truth = picture.load(), picture.truth()
        began = time.perf_counter()
        mask = fitted.propose(image, specs=[spec]).proposals[0].mask
        spent.append(time.perf_counter() - began)
        strict.append(f_measure(mask, truth))
        tolerant.append(f_measure(mask, truth, 2))
    f1 = fitted.metrics["classes"][spec.name]["f_measure"]
    values = [
        ("f1_2px", float(np.mean(tolerant)), "mean F1"),
        ("f1_strict", float(np.mean(strict)), "mean F1"),
        ("held_out_clicks_f1", float("nan") if f1 is None else f1, "F1"),
        ("train_s", seconds, "s"),
        ("train_cpu_s", cpu_seconds, "core-s"),
        ("propose_s", float(np.median(spent)), "s/image"),
    ]
    return [
        report.row(f"{name} {what}", value, unit)
        for what, value, unit in values
        if not math.isnan(value)
    ]


def judge(row: dict[str, Any], targets: dict[str, float]) -> None:
    """Fill in the target of a row and whether it is met."""
    what = row["name"].split(" ", 1)[1]
    if what in targets:
        row["target"] = targets[what]
        better = (
            row["value"] >= row["target"] if what == "f1_2px" else row["value"] <= row["target"]
        )
        row["met"] = bool(better)


if __name__ == "__main__":
    sys.exit(main())
