"""Learning curves over human seconds: which strategy beats random order, by how much human time.

    python benchmarks/curves.py --json benchmarks/results/curves-MACHINE.json --pictures docs

`labelclimb simulate` on two sets of LABELCLIMB_DATA with the `cpu` profile, a process per set. The
seconds are those of a stated cost model: nobody was timed. Images are shrunk, so that a run takes
minutes: figures compare strategies with each other, not with those of `quality.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LABELCLIMB_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights" / "resnet18_to_layer3.safetensors"
POINTS = 6  # of a curve that are reported
STRATEGIES = "random_order,entropy,edit_time,coreset,hybrid,value_per_second"


@dataclass(frozen=True)
class Case:
    """A set: class, refinement, parts to annotate, to choose settings by and to test, seconds."""

    class_name: str
    refine: str
    split: str
    budget_s: float


CASES = {
    "deepcrack_train": Case("crack", "fusion", "70/10/36", 420),
    "rust_train": Case("rust", "guided", "70/10/36", 1800),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sets; returns 1 when one failed."""
    options = parse(arguments)
    rows: list[report.Row] = []
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for set_name in options.sets:
            result = simulated(options, folder, set_name)
            if result is None:
                failed += 1
                continue
            new = rows_of(set_name, result)
            report.show(new)
            rows += new
    if options.json:
        report.write(options.json, "curves", rows, note=f"{options.threads} thread(s)")
    return int(failed > 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--strategies", default=STRATEGIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--first", type=int, default=2, help="tasks drawn by hand")
    parser.add_argument("--longest-side", type=int, default=256)
    parser.add_argument("--split", help="instead of each set's own, as 12/2/6")
    parser.add_argument("--budget-seconds", type=float, help="instead of each set's own")
    parser.add_argument("--pipeline", default="pixel_head")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encoder-weights", default=str(WEIGHTS))
    parser.add_argument("--runs", type=Path, help="keep each run here; those here are not repeated")
    parser.add_argument("--pictures", type=Path, help="folder for a PNG per set")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    return parser.parse_args(arguments)


def simulated(options: argparse.Namespace, folder: Path, set_name: str) -> dict[str, Any] | None:
    """Run one set in its own process and return its JSON; None when it failed."""
    file = folder / f"curves-{set_name}.json"
    if not file.exists():
        done = subprocess.run(command(options, set_name, file), cwd=ROOT, check=False)
        if done.returncode:
            print(f"{set_name} failed with status {done.returncode}", file=sys.stderr)
            return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def command(options: argparse.Namespace, set_name: str, file: Path) -> list[str]:
    """Return the call of `labelclimb simulate`."""
    case = CASES[set_name]
    picture = options.pictures / f"curves-{set_name}.png" if options.pictures else None
    given = {
        "images": DATA / set_name / "images",
        "masks": DATA / set_name / "masks",
        "class": case.class_name,
        "refine": case.refine,
        "strategies": options.strategies,
        "seeds": options.seeds,
        "rounds": options.rounds,
        "first": options.first,
        "budget-seconds": options.budget_seconds or case.budget_s,
        "split": options.split or case.split,
        "longest-side": options.longest_side,
        "pipeline": options.pipeline,
        "profile": options.profile,
        "threads": options.threads,
        "encoder-weights": options.encoder_weights,
        "json": file.resolve(),
        "png": picture.resolve() if picture else None,
    }
    pairs = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return [sys.executable, "-m", "backend.cli", "simulate", *itertools.chain(*pairs)]


def rows_of(set_name: str, result: dict[str, Any]) -> list[report.Row]:
    """Return curve and figures of each strategy, best first, with their intervals in the unit."""
    rows = []
    for one in result["strategies"]:
        name, seeds = f"{set_name} {one['strategy']}", result["seeds"]
        rows += curve_rows(name, one["curve"], seeds)
        rows.append(row(f"{name}: mean 2-px F1 over the time", one["mean_value"], "F1", seeds))
        if "gain" not in one:
            continue
        rows.append(row(f"{name}: mean 2-px F1 above random order", one["gain"], "F1", seeds))
        minutes = {part: v and v / 60 for part, v in one["saved_s"].items()}
        what = "human time saved against random order"
        what += ", at most" if one["reached"] < seeds else ""
        rows.append(row(f"{name}: {what}", minutes, "min", seeds))
        what = "seeds that reach random order's last value"
        rows.append(report.row(f"{name}: {what}", one["reached"], f"of {seeds}"))
    return rows


def curve_rows(name: str, curve: dict[str, Any], seeds: int) -> list[report.Row]:
    """Return the mean curve at POINTS moments from the first version to the end of the budget."""
    last = len(curve["seconds"]) - 1
    rows = []
    for place in (round(last * n / (POINTS - 1)) for n in range(POINTS)):
        found = {part: curve[part][place] for part in ("mean", "low", "high")}
        minutes = curve["seconds"][place] / 60
        rows.append(row(f"{name}: 2-px F1 after {minutes:.1f} human min", found, "F1", seeds))
    return rows


def row(name: str, found: dict[str, Any], unit: str, seeds: int) -> report.Row:
    """Return a mean; its interval, where several seeds give one, stands in the unit."""
    if found["low"] is not None:
        unit += f" (95 %: {found['low']:+.3f} to {found['high']:+.3f}, {seeds} seeds)"
    return report.row(name, found["mean"], unit)


if __name__ == "__main__":
    sys.exit(main())
