"""One network per class, or one trunk with a head per class, at equal training time.

    python benchmarks/classes.py --encoder-weights FILE [--json FILE]

Rust, spalling and cracks, each from clicks on its own images, learnt together in both ways with the
same number of optimiser steps and so about the same time; the order of the two ways alternates with
the seed. Validation masks choose how heat becomes a mask; nothing else sees the test images before.
The parts are those of a hash of the file names.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import report
import torch

import models.base
from backend.evaluation.clicks import clicks
from backend.evaluation.folders import Pair, read_folder
from backend.evaluation.scoring import Tally
from models.base import ClassSpec, Fitted, Profile, Sample
from models.learning.training import PROFILES

DATA = Path(os.environ.get("LABELCLIMB_DATA", Path(__file__).parents[2] / "shared" / "data"))
SETS = {"rust": "rust_train", "spalling": "spalling_train", "crack": "deepcrack_train"}
SPECS = tuple(ClassSpec(name) for name in SETS)
MOST_PIXELS = 10**8
WAYS = {"separate": False, "shared": True}  # name -> Profile.shared_trunk


@dataclass(frozen=True)
class Data:
    """Samples of all classes to learn from, and the pictures of each class to test on."""

    samples: list[Sample]
    tests: dict[str, list[Pair]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    profile = replace(PROFILES[options.profile], encoder_weights=options.encoder_weights)
    if options.steps is not None:
        profile = replace(profile, max_steps=options.steps)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for seed in range(options.seeds):
        data = prepare(options, profile.crop_px, seed)
        for way in sorted(WAYS, reverse=bool(seed % 2)):
            figures = measure(replace(profile, shared_trunk=WAYS[way]), data, seed)
            runs[way].append(figures)
            print(f"seed {seed}, {way}: {figures['train_s']:.0f} s", flush=True)
    rows = rows_of(runs)
    for row in rows:
        print(f"{row['name']:<34} {row['value']:>9.3f} {row['unit']}")
    if options.json:
        note = f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
        report.write(Path(options.json), "classes", rows, note=note)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--images", type=int, default=40, help="clicked images of each class")
    parser.add_argument("--validation", type=int, default=8, help="of each class, with masks")
    parser.add_argument("--test", type=int, default=30, help="of each class")
    parser.add_argument("--clicks", type=int, default=5, help="of each sign and image")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="cpu")
    parser.add_argument("--steps", type=int, help="per class; the profile's without")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--encoder-weights", help="safetensors file; random weights without")
    parser.add_argument("--json", help="write the rows to this file")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace, crop_px: int, seed: int) -> Data:
    """Click the images of each class; validation images come with masks and are not learnt."""
    samples: list[Sample] = []
    tests: dict[str, list[Pair]] = {}
    for number, (name, folder) in enumerate(SETS.items()):
        pairs = read_folder(
            DATA / folder / "images", DATA / folder / "masks", max_pixels=MOST_PIXELS
        )
        tests[name] = pairs[: options.test]
        seen = pairs[options.test :][: options.images + options.validation]
        if len(seen) < options.images + options.validation:
            raise SystemExit(f"{folder} holds {len(pairs)} images; ask for fewer")
        rng = np.random.default_rng([seed, number])
        for n, pair in enumerate(seen):
            held_out = n < options.validation
            samples.append(sample_of(pair, name, options.clicks, crop_px, rng, held_out=held_out))
    return Data(samples, tests)


def sample_of(
    pair: Pair,
    class_name: str,
    count: int,
    crop_px: int,
    rng: np.random.Generator,
    *,
    held_out: bool,
) -> Sample:
    """Click an image; nothing is said of the other classes."""
    points = clicks(pair.read().truth, class_name, count, crop_px, rng)
    masks = {class_name: lambda: pair.read().truth} if held_out else {}
    return Sample(f"{class_name}/{pair.name}", pair.load, points, masks, held_out=held_out)


def measure(profile: Profile, data: Data, seed: int) -> dict[str, float]:
    """Train for all classes and propose on the test images of each."""
    began, cpu = time.perf_counter(), time.process_time()
    fitted = models.base.get("advcam").fit(
        data.samples,
        specs=SPECS,
        profile=profile,
        seed=seed,
        device="cpu",
        report=lambda _: None,
    )
    figures = {
        "train_s": time.perf_counter() - began,
        "train_cpu_s": time.process_time() - cpu,
    }
    for spec in SPECS:
        figures |= {f"{spec.name} {k}": v for k, v in scores(fitted, spec, data.tests).items()}
    figures["propose_s"] = propose_s(fitted, data.tests)
    return figures


def scores(fitted: Fitted, spec: ClassSpec, tests: dict[str, list[Pair]]) -> dict[str, float]:
    """Score the proposals of a class on its test images."""
    tally = Tally()
    for pair in tests[spec.name]:
        image, truth, _ = pair.read()
        proposal = fitted.propose(image, specs=[spec], heat=True).proposals[0]
        assert proposal.heat is not None
        tally.add(pair.name, proposal.mask, proposal.heat, truth)
    found = tally.figures()
    wanted = ("f1", "f1_2px", "f1_per_image", "auprc")
    return {name: value for name in wanted if (value := found[name]) is not None}


def propose_s(fitted: Fitted, tests: dict[str, list[Pair]]) -> float:
    """Return the median seconds to propose for all classes of an image, without a climb."""
    specs = [replace(spec, iterations=1) for spec in SPECS]
    spent = []
    for pair in (pair for pairs in tests.values() for pair in pairs[:5]):
        image = pair.load()
        began = time.perf_counter()
        fitted.propose(image, specs=specs)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def rows_of(runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Return the mean over the seeds of each figure of each way."""
    units = {"train_s": "s", "train_cpu_s": "core-s", "propose_s": "s/image, all classes"}
    return [
        report.row(
            f"{way} {name}",
            float(np.mean([figures[name] for figures in found])),
            units.get(name, "F1" if "f1" in name else "area"),
        )
        for way, found in runs.items()
        for name in found[0]
    ]


if __name__ == "__main__":
    sys.exit(main())
