"""One training by several processes against the same training by one: speed, and equal weights.

    python benchmarks/parallel.py --device cuda --processes 4 --profile gpu [--json FILE]
    python benchmarks/parallel.py --device cpu --processes 2 --quick

Both sides learn from the same made-up crops in batches of the same size, which several processes
share among them; on GPUs each has its own. Seconds per step are measured from the tenth step on.
The weights differ by rounding, which Adam and bfloat16 enlarge from step to step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import report
import timing
import torch
from safetensors.torch import load_file, save_file

from models.base import Profile
from models.learning import parallel, training
from models.learning.crops import Surroundings
from models.learning.sampling import CropSource
from models.learning.training import PROFILES, Standing
from models.networks.unet import TruncatedUNet

POINTS = 64  # of each sign
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
QUICK = {"encoder": "resnet18", "decoder_widths": (8, 8), "crop_px": 32, "batch": 8, "bf16": False}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    options = parse(arguments)
    if options.member is not None:
        member(options)
        return 0
    sizes = {"one": 1, "several": options.processes}
    taken: dict[str, list[float]] = {name: [] for name in sizes}
    for _ in range(options.rounds):
        weights = {}
        for name, world in sizes.items():
            with tempfile.TemporaryDirectory() as folder:
                taken[name].append(run(world, Path(folder), arguments))
                weights[name] = load_file(Path(folder) / "weights.safetensors")
    apart = max(
        float((value.double() - weights["several"][name].double()).abs().max())
        for name, value in weights["one"].items()
        if not name.endswith(STATISTICS)
    )
    rows = [
        timing.seconds_row("a step of one process", taken["one"]),
        timing.seconds_row(f"a step of {options.processes} processes", taken["several"]),
        *timing.ratio_rows(f"speed of {options.processes} over one", *taken.values()),
        report.row("largest distance of two weights", apart, ""),
    ]
    report.show(rows)
    if options.json:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        report.write(options.json, "parallel", rows, note=device)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, default=2, help="as many GPUs are needed")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="cpu")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3, help="of both sides in turn")
    parser.add_argument("--quick", action="store_true", help="a tiny network on tiny crops")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--member", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--world", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.steps < 2 * training.REPORT_EVERY:
        parser.error(f"--steps {options.steps}: at least {2 * training.REPORT_EVERY}")
    if options.device == "cuda" and options.processes > torch.cuda.device_count():
        parser.error(f"--processes {options.processes}: {torch.cuda.device_count()} GPUs are here")
    return options


def run(world: int, folder: Path, arguments: Sequence[str] | None) -> float:
    """Train by so many processes; returns the seconds of a step."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = [sys.executable, __file__, *given, "--world", str(world), "--folder", str(folder)]
    members = [subprocess.Popen([*command, "--member", str(rank)]) for rank in range(world)]
    try:
        for one in members:
            if one.wait():
                raise SystemExit(f"a process ended with {one.returncode}; its error is above")
    finally:
        for one in members:
            one.kill()
    seconds: float = json.loads((folder / "seconds.json").read_text())
    return seconds


def member(options: argparse.Namespace) -> None:
    """Be one of the processes; the first one writes what it measured, and the weights."""
    rank, world = options.member, options.world
    device = f"cuda:{rank}" if options.device == "cuda" else "cpu"
    torch.set_num_threads(1)
    profile = replace(PROFILES[options.profile], patience=0)
    if options.quick:
        profile = replace(profile, **QUICK)
    seen: list[Standing] = []
    address = f"file://{options.folder.resolve()}/meeting"
    with parallel.joined(rank, world, address, device):
        network = trained(profile, options.steps, device, seen)
    if rank == 0:
        first, last = seen[0], seen[-1]
        per_step = (last.seconds_spent - first.seconds_spent) / (last.step - first.step)
        (options.folder / "seconds.json").write_text(json.dumps(per_step))
        weights = {name: v.cpu().contiguous() for name, v in network.state_dict().items()}
        save_file(weights, options.folder / "weights.safetensors")


def trained(profile: Profile, steps: int, device: str, seen: list[Standing]) -> TruncatedUNet:
    """Train the profile's network on made-up crops."""
    torch.manual_seed(0)
    network = TruncatedUNet(profile.encoder, profile.decoder_widths)
    source = CropSource(crops(True, profile.crop_px), crops(False, profile.crop_px), 5)
    training.train(
        network,
        [source],
        [],
        profile=profile,
        steps=steps,
        seed=0,
        device=device,
        report=seen.append,
    )
    return network


def crops(spot: bool, crop_px: int) -> Surroundings:
    """Noise around points, with a dark spot in the middle or without."""
    side = 2 * crop_px
    rng = np.random.default_rng(spot)
    pixels = rng.integers(120, 200, (POINTS, side, side, 3), dtype=np.uint8)
    if spot:
        pixels[:, crop_px - 2 : crop_px + 3, crop_px - 2 : crop_px + 3] = 20
    points, sizes = np.full((POINTS, 2), crop_px), np.full((POINTS, 2), side)
    return Surroundings(pixels, points, sizes, np.ones(POINTS), crop_px)


if __name__ == "__main__":
    sys.exit(main())
