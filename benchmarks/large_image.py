"""A 5000 x 5000 px photograph of one class from JPEG to region, a tenth of its tiles defective.

    python benchmarks/large_image.py [--json FILE]
    python benchmarks/large_image.py --device cuda [--json FILE]      pipelined over 20 images

The photograph is painted (`scene.py`): cracks in the middle of a tenth of the tiles, so far from
their edges that no window of another tile sees one; the network's head is fitted so that it scores
them above zero. That as many tiles are climbed as were painted is checked. Each network runs in a
process of its own; memory is the peak of resident memory above what the process held with the
network and the JPEG loaded.

Needs `models` with torch, timm, OpenCV and scikit-image, and nothing else of ours; regions are
Label Studio's brush RLE where `backend` can be imported, too, and compressed bits where not.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import resource
import statistics
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import report
import scene
import torch
from report import Row
from safetensors.torch import load_file, save_file

from models import refine, tiling
from models.base import Image, Mask
from models.learning.training import has_bf16
from models.networks.unet import TruncatedUNet, inference_copy

WINDOW_PX = 64  # the crop of the cpu profile
DEFECTIVE_SHARE = 0.1  # of the tiles
JPEG_QUALITY = 92
STAGES = ("decode", "network and climb", "refine", "encode")
FULL_PX = 5000  # targets hold for this size
TARGET_S = {"cpu": 90.0, "cuda": 0.5}
TARGET_MIB = 2048.0
MIB = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark, each network in a fresh process; returns 0."""
    options = parse(arguments)
    rows: list[Row] = []
    for name in options.networks:
        context = multiprocessing.get_context("spawn")
        with TemporaryDirectory() as folder, ProcessPoolExecutor(1, mp_context=context) as process:
            case = prepare(name, options, Path(folder))
            part = process.submit(measure, name, case, options).result()
        report.show(part)
        rows += part
    if options.json:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        note = f"torch {torch.__version__}, {options.threads} thread(s), {device}"
        report.write(options.json, "large_image", rows, note=note)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; a GPU gets larger tiles and more images."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=sorted(scene.NETWORKS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--side", type=int, default=FULL_PX, help="of the image, in pixels")
    parser.add_argument("--tile", type=int, help="largest side of a tile, in pixels")
    parser.add_argument("--iterations", type=int, default=2, help="1 = no climb")
    parser.add_argument("--refine", choices=refine.names(), default="fusion")
    parser.add_argument("--images", type=int, help="end to end, after one to warm up on a GPU")
    parser.add_argument("--in-flight", type=int, help="images at work at the same time")
    parser.add_argument("--turns", type=int, default=2, help="of those, how many use the network")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    options.networks = options.networks or (["paper"] if on_gpu else ["cpu", "paper"])
    options.tile = options.tile or (2048 if on_gpu else 512)
    options.images = options.images or (20 if on_gpu else 1)
    options.in_flight = options.in_flight or (6 if on_gpu else 1)
    return options


@dataclass(frozen=True)
class Case:
    """Files of a network's weights and of photographs with as many defective tiles each."""

    weights: Path
    photographs: tuple[Path, ...]
    tiles: int
    defective: int

    def jpegs(self) -> list[bytes]:
        """Read the photographs."""
        return [path.read_bytes() for path in self.photographs]


@dataclass
class Work:
    """From a JPEG to a region; the seconds of each stage are kept."""

    network: TruncatedUNet
    options: argparse.Namespace
    case: Case
    encode: Callable[[Mask], object]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {s: [] for s in STAGES})

    def __post_init__(self) -> None:
        self._turns = threading.Semaphore(self.options.turns)

    def __call__(self, jpeg: bytes) -> float:
        """Return the share of the image that its region covers."""
        with self._timed("decode"):
            image = decode(jpeg)
        with self._turns, self._timed("network and climb"):
            found = self.analyse(image, self.options.iterations)
        if self.options.iterations > 1:
            climbed, wanted = found.tiles_climbed, self.case.defective
            assert climbed == wanted, f"{climbed} tiles were climbed, {wanted} are defective"
        with self._timed("refine"):
            method = refine.get(self.options.refine)
            mask = method.refine(
                image,
                found.heat,
                threshold=method.default_threshold,
                min_area_px=method.default_min_area_px,
            )
        with self._timed("encode"):
            self.encode(mask)
        return float(mask.mean())

    def analyse(self, image: Image, iterations: int) -> tiling.Analysis:
        """Run the network over all tiles."""
        return tiling.analyse(
            self.network,
            image,
            tile_px=self.options.tile,
            window_px=WINDOW_PX,
            iterations=iterations,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage].append(time.perf_counter() - began)


def measure(name: str, case: Case, options: argparse.Namespace) -> list[Row]:
    """Measure one network in this process, which has done nothing else."""
    torch.set_num_threads(options.threads)
    bf16 = has_bf16(options.device)
    network = TruncatedUNet(*scene.NETWORKS[name])
    network.load_state_dict(load_file(case.weights))
    network = inference_copy(network, device=options.device, bf16=bf16)
    encoding, encode = region_encoder()
    work = Work(network, options, case, encode)
    if options.device == "cuda":
        torch.backends.cudnn.benchmark = True  # a few shapes of tiles, many times
        for jpeg in case.jpegs():
            work(jpeg)
        work.seconds = {stage: [] for stage in STAGES}
    baseline = reset_peak()
    began, began_cpu = time.perf_counter(), time.process_time()
    shares = run(work)
    seconds = (time.perf_counter() - began) / options.images
    cpu_seconds = (time.process_time() - began_cpu) / options.images
    peak = peak_bytes()
    what = f"{name} {options.side} px, {'bf16' if bf16 else 'fp32'}, tiles of {options.tile} px"
    is_target = options.side >= FULL_PX and (options.device == "cuda" or name == "cpu")
    return [
        report.judged(
            report.row(f"{what}: seconds per image, end to end", seconds, "s"),
            at_most=TARGET_S[options.device] if is_target else None,
        ),
        report.judged(
            report.row(f"{what}: peak memory above baseline", (peak - baseline) / MIB, "MiB"),
            at_most=TARGET_MIB if is_target and options.device == "cpu" else None,
        ),
        *gpu_rows(what, options),
        report.row(f"{what}: processor seconds of all threads per image", cpu_seconds, "core-s"),
        report.row(f"{what}: baseline memory", baseline / MIB, "MiB"),
        report.row(f"{what}: tiles", case.tiles, ""),
        report.row(f"{what}: tiles climbed", case.defective, ""),
        report.row(f"{what}: covered by the region", 100 * statistics.mean(shares), "%"),
        *stage_rows(what, work, encoding),
    ]


def run(work: Work) -> list[float]:
    """Do all images, so many at a time; more than one overlap decoding, network and the rest."""
    files = work.case.jpegs()
    jpegs = [files[n % len(files)] for n in range(work.options.images)]
    if work.options.in_flight == 1:
        return [work(jpeg) for jpeg in jpegs]
    with ThreadPoolExecutor(work.options.in_flight) as pool:
        return list(pool.map(work, jpegs))


def prepare(name: str, options: argparse.Namespace, folder: Path) -> Case:
    """Make a network and up to four photographs whose cracks lie inside of a tenth of the tiles."""
    network = scene.build(name, window_px=WINDOW_PX)
    weights, side = folder / "weights.safetensors", options.side
    save_file(network.state_dict(), weights)
    grid = tiling.tiles(side, side, tile_px=options.tile, halo_px=network.halo_px)
    defective = math.ceil(DEFECTIVE_SHARE * len(grid))
    photographs = [folder / f"{seed}.jpg" for seed in range(min(options.images, 4))]
    for seed, path in enumerate(photographs):
        chosen = np.random.default_rng(seed).choice(len(grid), defective, replace=False)
        middles = [middle(grid[n], network.halo_px + WINDOW_PX) for n in chosen]
        image = scene.paint(side, side, middles, seed=seed).image
        cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Case(weights, tuple(photographs), len(grid), defective)


def middle(tile: tiling.Tile, margin_px: int) -> scene.Rectangle:
    """Return the part of a tile that no window of another tile's features sees."""
    rows, columns = (
        slice(part.start + margin_px, part.stop - margin_px) for part in (tile.rows, tile.columns)
    )
    if rows.stop - rows.start < WINDOW_PX or columns.stop - columns.start < WINDOW_PX:
        raise SystemExit(
            f"a tile has no middle {margin_px} px from its edges; give a larger --tile"
        )
    return rows, columns


def decode(jpeg: bytes) -> Image:
    """(H, W, 3) uint8 RGB."""
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded), dtype=np.uint8)


def region_encoder() -> tuple[str, Callable[[Mask], object]]:
    """Return what makes a region of a mask, and its name."""
    try:
        from backend.labelstudio import rle
    except ImportError:
        return "compressed bits", lambda mask: zlib.compress(np.packbits(mask).tobytes(), 1)
    return "brush RLE", rle.encode


def stage_rows(what: str, work: Work, encoding: str) -> list[Row]:
    """Return the median seconds of each stage; alone in the process, the climb by itself, too."""
    names = {"encode": f"encode ({encoding})"}
    medians = {stage: statistics.median(taken) for stage, taken in work.seconds.items()}
    if work.options.in_flight == 1 and work.options.iterations > 1:
        image = decode(work.case.jpegs()[0])
        began = time.perf_counter()
        work.analyse(image, 1)
        medians["network alone"] = time.perf_counter() - began
        medians["climb, the rest"] = medians["network and climb"] - medians["network alone"]
    return [report.row(f"{what}: {names.get(s, s)}", taken, "s") for s, taken in medians.items()]


def gpu_rows(what: str, options: argparse.Namespace) -> list[Row]:
    """Return the peak of the GPU's memory, if there is one."""
    if options.device != "cuda":
        return []
    return [report.row(f"{what}: peak GPU memory", torch.cuda.max_memory_allocated() / MIB, "MiB")]


def reset_peak() -> int:
    """Forget the peak of resident memory where the kernel allows it; returns bytes held now."""
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    """Return the peak of resident memory since `reset_peak`."""
    return status_bytes("VmHWM")


def status_bytes(key: str) -> int:
    """Read a size from /proc; where there is none, the peak of the whole process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


if __name__ == "__main__":
    sys.exit(main())
