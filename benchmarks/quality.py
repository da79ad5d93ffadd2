"""What clicks are worth: `labelclimb evaluate` over data sets, seeds and methods.

    python benchmarks/quality.py --json benchmarks/results/quality-MACHINE.json
    python benchmarks/quality.py --pipelines advcam --refine threshold --iterations 1 2

Each run is a process of its own, so that time and memory are its own. Targets hold for the default
method (`--refine auto`, iterations chosen) of the `cpu` profile with the shared encoder weights;
the paper's own route is reported as it is. Sets are those of LABELCLIMB_DATA, split by a hash of
the file names.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("LABELCLIMB_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights" / "resnet18_to_layer3.safetensors"
SPLITS = {
    "cfd": "70/8/40",
    "deepcrack_train": "200/20/80",
    "rust_train": "200/20/80",
    "spalling_train": "260/40/100",
}
CLASSES = {"rust_train": "rust", "spalling_train": "spalling"}
UNITS = {
    "f1": "pooled F1",
    "f1_2px": "pooled F1",
    "f1_per_image": "mean F1",
    "f1_2px_per_image": "mean F1",
    "precision": "share",
    "recall": "share",
    "ods": "mean F1",
    "ois": "mean F1",
    "ap": "AP",
    "auprc": "area",
    "region_f1": "F1",
    "instance_recall": "share",
    "time_saving_estimate": "share, estimate",
    "train_seconds": "s",
    "train_cpu_seconds": "core-s",
    "seconds_per_image": "s/image",
    "peak_memory_mib": "MiB",
}
LONGEST_TRAINING_S = 300.0
TARGETS = {
    "cfd": {"f1_2px": 0.92, "f1": 0.66},
    "deepcrack_train": {"f1_2px": 0.84},
    "rust_train": {"f1": 0.63, "f1_per_image": 0.50},
    "spalling_train": {"f1": 0.66, "f1_per_image": 0.52},
}


@dataclass(frozen=True)
class Method:
    """How heat maps are made and refined; 0 iterations: chosen by the training."""

    pipeline: str
    refine: str
    iterations: int

    @property
    def name(self) -> str:
        """Return a name that tells what was fixed."""
        fixed = [self.refine] if self.refine != "auto" else []
        fixed += [f"{self.iterations}it"] if self.iterations else []
        return "/".join([self.pipeline, *fixed])

    @property
    def is_free(self) -> bool:
        """Say whether the training chose everything: then the targets hold."""
        return self.refine == "auto" and not self.iterations


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the matrix; returns 1 when a run failed."""
    options = parse(arguments)
    rows: list[report.Row] = []
    failed = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.runs or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for set_name, method in itertools.product(options.sets, methods(options)):
            found = [evaluated(options, folder, set_name, method, s) for s in options.seeds]
            results = [one for one in found if one is not None]
            failed += len(found) - len(results)
            new = rows_of(set_name, method, results, targeted=is_targeted(options, method))
            for row in new:
                met = {None: "", True: "met", False: "short"}[row["met"]]
                print(f"{row['name']:<52} {row['value']:>9.3f} {row['unit']:<40} {met}", flush=True)
            rows += new
    if options.json:
        report.write(options.json, "quality", rows, note=f"{options.threads} thread(s)")
    return int(failed > 0)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--sets", nargs="+", default=list(SPLITS), choices=list(SPLITS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--pipelines", nargs="+", default=["auto"])
    parser.add_argument("--refine", nargs="+", default=["auto"])
    parser.add_argument("--iterations", nargs="+", type=int, default=[0], help="0 = chosen")
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--encoder-weights", default=str(WEIGHTS))
    parser.add_argument("--clicks", type=int, default=5, help="of each sign and image")
    parser.add_argument("--corrected", help="also with so many true masks, as 15,30,60")
    parser.add_argument("--runs", type=Path, help="keep each run here; those here are not repeated")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    return parser.parse_args(arguments)


def methods(options: argparse.Namespace) -> Iterator[Method]:
    """Return all combinations of pipeline, refinement and iterations."""
    for chosen in itertools.product(options.pipelines, options.refine, options.iterations):
        yield Method(*chosen)


def is_targeted(options: argparse.Namespace, method: Method) -> bool:
    """Say whether the targets were set for this way of running."""
    return method.is_free and options.profile == "cpu" and options.encoder_weights == str(WEIGHTS)


def evaluated(
    options: argparse.Namespace, folder: Path, set_name: str, method: Method, seed: int
) -> dict[str, Any] | None:
    """Run one evaluation in its own process and return its JSON; None when it failed."""
    name = "-".join([set_name, method.name.replace("/", "-"), str(seed)])
    file = folder / f"{name}.json"
    if not file.exists():
        print(f"... {name}", file=sys.stderr, flush=True)
        done = subprocess.run(command(options, set_name, method, seed, file), cwd=ROOT, check=False)
        if done.returncode:
            print(f"{name} failed with status {done.returncode}", file=sys.stderr)
            return None
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return result


def command(
    options: argparse.Namespace, set_name: str, method: Method, seed: int, file: Path
) -> list[str]:
    """Return the call of `labelclimb evaluate`."""
    folder = DATA / set_name
    given = {
        "images": folder / "images",
        "masks": folder / "masks",
        "class": CLASSES.get(set_name, "crack"),
        "split": SPLITS[set_name],
        "pipeline": method.pipeline,
        "refine": method.refine,
        "iterations": method.iterations or None,
        "clicks-per-image": options.clicks,
        "corrected": options.corrected,
        "seed": seed,
        "profile": options.profile,
        "device": options.device,
        "threads": options.threads,
        "encoder-weights": options.encoder_weights,
        "json": file.resolve(),
    }
    pairs = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
    return [sys.executable, "-m", "backend.cli", "evaluate", *itertools.chain(*pairs)]


def rows_of(
    set_name: str, method: Method, results: Sequence[dict[str, Any]], *, targeted: bool
) -> list[report.Row]:
    """Return the mean of each figure over the seeds, and of F1 by corrected masks."""
    label = f"{set_name} {method.name}"
    rows = []
    for figure, unit in UNITS.items():
        values = [one[figure] for one in results if one[figure] is not None]
        if values:
            row = averaged(f"{label} {figure}", values, unit)
            if targeted:
                judge(row, set_name, figure)
            rows.append(row)
    for n in range(min((len(one["corrected"]) for one in results), default=0)):
        masks = results[0]["corrected"][n]["corrected_masks"]
        for figure in ("f1", "f1_2px"):
            values = [one["corrected"][n][figure] for one in results]
            rows.append(averaged(f"{label} {masks} masks {figure}", values, UNITS[figure]))
    return rows


def averaged(name: str, values: Sequence[float], unit: str) -> report.Row:
    """Return the mean with its spread in the unit."""
    spread = f"{unit} ({min(values):.3f} to {max(values):.3f}, {len(values)} seeds)"
    return report.row(name, sum(values) / len(values), spread)


def judge(row: report.Row, set_name: str, figure: str) -> None:
    """Fill in the target of a row, if it has one, and whether it is met."""
    if figure in TARGETS[set_name]:
        row["target"] = TARGETS[set_name][figure]
        row["met"] = bool(row["value"] >= row["target"])
    elif figure == "train_seconds":
        row["target"] = LONGEST_TRAINING_S
        row["met"] = bool(row["value"] <= row["target"])


if __name__ == "__main__":
    sys.exit(main())
