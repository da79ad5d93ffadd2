"""Clicks on heat maps of a real version: which part each rule gives, against the true one.

    python benchmarks/prompts.py --json benchmarks/results/prompts-MACHINE.json

Per set a `pixel_head` is trained from 5 + 5 clicks on each of 40 images and the masks of 8. On 40
others a person is played: a click on a true part, a few pixels off; then where the answer is most
wrong, wanted or denied; a box around the part. F1 is that of the part that was meant, other true
parts aside; with 2 px tolerance for cracks. Heat maps are kept in --heat and made once. The rules'
constants were chosen on images 40 to 80 of each set, in the order of the hash of their names; here
80 to 120.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import clicks
import cv2
import numpy as np
import report
from prompt_rivals import RIVALS, grow

import models.base
from backend.evaluation.clicks import clicks as clicked
from models.base import ClassSpec, HeatMap, Image, Mask, Sample
from models.learning.training import PROFILES
from models.masks.settings import Settings
from models.metrics import f_measure
from models.prompting import parts, score_map
from models.prompting.answer import answer
from models.prompting.prompts import Prompt
from models.prompting.score_map import Levels, Picture, ScoreMap

SETS = ("cfd", "deepcrack_train", "rust_train", "spalling_train")
WEIGHTS = clicks.DATA / "weights" / "resnet18_to_layer3.safetensors"
TRAINED, VERIFIED, FIRST, SEEN = 40, 8, 80, 40
CLICKS = 5  # of each sign, on an image that is trained on
LEAST_PART_PX = 60
OFF_PX = 1.5  # standard deviation of where a person clicks
SLACK_PX = 8  # that a box is too large by, at most, on each side
LONGEST_S = 0.3
OURS = "ours"
KEPT = Path(tempfile.gettempdir()) / "labelclimb-prompts"


@dataclass(frozen=True)
class Case:
    """A true part of an image, and what a version saw there; click: row, column."""

    score: ScoreMap
    raw: Levels
    picture: Picture
    part: Mask
    others: Mask
    click: tuple[int, int]

    def f1(self, found: Mask) -> float:
        """Return how well the part was found, other true parts aside."""
        tolerance_px = 2 if self.score.gap_px else 0
        return f_measure(found & ~self.others, self.part, tolerance_px)

    def answer(self, prompts: Sequence[Prompt]) -> Mask:
        """Return what ours finds."""
        return answer(self.score, self.picture, prompts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns 0."""
    options = parse(arguments)
    rows: list[report.Row] = []
    for set_name in options.sets:
        cases = list(cases_of(set_name, options))
        rows += compared(set_name, cases) + followed(set_name, cases, options.clicks)
        rows += boxed(set_name, cases)
    for row in rows:
        met = {None: "", True: "met", False: "short"}[row["met"]]
        print(f"{row['name']:<66} {row['value']:>8.3f} {row['unit']} {met}", flush=True)
    if options.json:
        report.write(options.json, "prompts", rows, note="1 thread(s), other processes busy")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--heat", type=Path, default=KEPT, help="folder of the heat maps")
    parser.add_argument("--images", type=int, default=SEEN, help="of each set, to click on")
    parser.add_argument("--parts", type=int, default=2, help="clicked per image, at most")
    parser.add_argument("--clicks", type=int, default=4, help="of one person, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    return parser.parse_args(arguments)


def cases_of(set_name: str, options: argparse.Namespace) -> Iterator[Case]:
    """Draw true parts, larger ones more often, and a click on each."""
    rng = np.random.default_rng(options.seed)
    for image, heat, truth, settings in heat_maps(set_name, options):
        score = score_map.of(image, heat, settings)
        raw = np.round(255 * heat).astype(np.uint8)
        picture = score_map.colours(score_map.smoothed(image))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(truth.astype(np.uint8))
        areas = stats[1:, cv2.CC_STAT_AREA]
        large = np.flatnonzero(areas >= LEAST_PART_PX)
        if not large.size:
            continue
        chances = np.sqrt(areas[large]) / np.sqrt(areas[large]).sum()
        number = min(options.parts, large.size)
        for n in rng.choice(large, size=number, replace=False, p=chances):
            part = labels == n + 1
            place = place_in(part, rng)
            yield Case(score, raw, picture, part, truth & ~part, place)


def place_in(part: Mask, rng: np.random.Generator) -> tuple[int, int]:
    """Return where a person clicks who means a part: amid it, a little off."""
    depth = cv2.distanceTransform(np.pad(part.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    amid = np.argwhere(depth >= depth.max() / 2)
    place = amid[rng.integers(len(amid))] + rng.normal(0, OFF_PX, 2).round()
    row, column = np.clip(place, 0, np.array(part.shape) - 1).astype(int)
    return int(row), int(column)


def compared(set_name: str, cases: Sequence[Case]) -> list[report.Row]:
    """Return the mean F1 of each rule after one click, with ours and the seconds that it takes."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    seconds = []
    for case in cases:
        for label, levels in (("heat", case.raw), ("refined", case.score.levels)):
            seed = parts.seed(replace(case.score, levels=levels), case.click)
            growth = None if seed is None else grow(levels, seed)
            for name, rule in RIVALS.items():
                index = 0 if growth is None else rule(growth, case.score.cut)
                value = 0.0 if growth is None else case.f1(growth.whole(index))
                found[f"{name}, {label}"].append(value)
            if label == "refined":
                every = [0.0] if growth is None else [case.f1(p) for p in growth.all()]
                found["best threshold there is, refined"].append(max(every))
        began = time.perf_counter()
        chosen = case.answer([at(case.click)])
        seconds.append(time.perf_counter() - began)
        found[OURS].append(case.f1(chosen))
    rows = [averaged(f"{set_name} one click: {name}", values) for name, values in found.items()]
    gains = np.array(found[OURS]) - np.array(found["version's threshold, refined"])
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    gain = report.row(
        f"{set_name} one click: ours above version's threshold, refined",
        float(gains.mean()),
        f"F1, standard error {error:.3f} ({len(gains)} pairs)",
    )
    took = report.row(f"{set_name} one click: seconds", statistics.median(seconds), "s, median")
    return [*rows, gain, report.judged(took, at_most=LONGEST_S)]


def followed(set_name: str, cases: Sequence[Case], most: int) -> list[report.Row]:
    """Return the mean F1 after each click of a person who points at the worst error."""
    reached: list[list[float]] = [[] for _ in range(most)]
    for case in cases:
        prompts = [at(case.click)]
        for number in range(most):
            chosen = case.answer(prompts)
            reached[number].append(case.f1(chosen))
            if (worst := correction(case, chosen)) is not None:
                prompts.append(worst)
    return [
        averaged(f"{set_name} {number} click(s): {OURS}", values)
        for number, values in enumerate(reached, start=1)
    ]


def boxed(set_name: str, cases: Sequence[Case]) -> list[report.Row]:
    """Return the mean F1 of a box around the part, and of the version's mask in the same box."""
    rng = np.random.default_rng(0)
    found: defaultdict[str, list[float]] = defaultdict(list)
    for case in cases:
        height_px, width_px = case.part.shape
        rows, columns = parts.bounds(case.part)
        top, left, bottom, right = rng.integers(0, SLACK_PX, 4)
        area = np.zeros_like(case.part)
        upper, lower = max(0, rows.start - top), min(height_px, rows.stop + bottom)
        first, last = max(0, columns.start - left), min(width_px, columns.stop + right)
        area[upper:lower, first:last] = True
        corners = ((first, upper), (last, upper), (last, lower), (first, lower))
        found[OURS].append(case.f1(case.answer([Prompt(corners, positive=True)])))
        found["version's mask"].append(case.f1((case.score.levels >= case.score.cut) & area))
    return [averaged(f"{set_name} box: {name}", values) for name, values in found.items()]


def correction(case: Case, chosen: Mask) -> Prompt | None:
    """Return a click amid the largest error, wanted or denied; None where there is none."""
    worst: tuple[int, Prompt] | None = None
    for wrong, positive in (
        (case.part & ~chosen, True),
        (chosen & ~case.part & ~case.others, False),
    ):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(wrong.astype(np.uint8))
        if len(stats) < 2:
            continue
        largest = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        area = int(stats[largest, cv2.CC_STAT_AREA])
        piece = np.pad((labels == largest).astype(np.uint8), 1)
        depth = cv2.distanceTransform(piece, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if worst is None or area > worst[0]:
            worst = area, at((int(row), int(column)), positive=positive)
    return None if worst is None else worst[1]


def at(place: tuple[int, int], *, positive: bool = True) -> Prompt:
    """Return a click in the middle of a pixel."""
    return Prompt(((place[1] + 0.5, place[0] + 0.5),), positive)


def averaged(name: str, values: Sequence[float]) -> report.Row:
    """Return the mean with its quartiles in the unit."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    unit = f"mean F1 ({low:.2f} / {middle:.2f} / {high:.2f} quartiles, {len(values)} parts)"
    return report.row(name, float(np.mean(values)), unit)


def heat_maps(
    set_name: str, options: argparse.Namespace
) -> Iterator[tuple[Image, HeatMap, Mask, Settings]]:
    """Yield images with heat map, truth and the version's settings; made once, then read."""
    folder = options.heat / set_name
    folder.mkdir(parents=True, exist_ok=True)
    pictures = clicks.shuffled(set_name)[FIRST : FIRST + options.images]
    missing = [p for p in pictures if not (folder / f"{p.image.stem}.npz").exists()]
    if missing:
        make(set_name, folder, missing)
    settings = Settings(**json.loads((folder / "settings.json").read_text()))
    for picture in pictures:
        with np.load(folder / f"{picture.image.stem}.npz") as held:
            heat = held["heat"].astype(np.float32)
        yield picture.load(), heat, picture.truth(), settings


def make(set_name: str, folder: Path, pictures: Sequence[clicks.Picture]) -> None:
    """Train a version, if there is none yet, and write the heat maps of some pictures."""
    name, version = clicks.CLASS_OF_SET.get(set_name, "crack"), folder / "version"
    pipeline = models.base.get("pixel_head")
    if not version.exists():
        profile = replace(PROFILES["cpu"], encoder_weights=str(WEIGHTS))
        rng = np.random.default_rng(0)
        samples = [
            Sample(
                p.image.stem,
                p.load,
                clicked(p.truth(), name, CLICKS, profile.crop_px, rng),
                {name: p.truth} if n < VERIFIED else {},
            )
            for n, p in enumerate(clicks.shuffled(set_name)[:TRAINED])
        ]
        fitted = pipeline.fit(
            samples, specs=[ClassSpec(name)], profile=profile, seed=0, device="cpu",
            report=lambda _: None,
        )  # fmt: skip
        version.mkdir()
        fitted.save(version)
    fitted = pipeline.load(version, device="cpu")
    chosen = Settings(**fitted.metrics["classes"][name]["settings"])
    (folder / "settings.json").write_text(json.dumps(asdict(chosen)))
    for picture in pictures:
        (found,) = fitted.propose(picture.load(), specs=[ClassSpec(name)], heat=True).proposals
        np.savez_compressed(folder / f"{picture.image.stem}.npz", heat=np.float16(found.heat))


if __name__ == "__main__":
    sys.exit(main())
