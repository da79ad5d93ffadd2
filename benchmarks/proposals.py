"""Speed of a proposal's parts, and that the fast forms compute what the slow ones do.

    python benchmarks/proposals.py [--json FILE] [--quick] [--only advcam equality ...]

advcam: AdvCAM against the published loop (`literal_advcam.py`) on the same weights, in turn.
equality: where their maps are equal, how far they are apart where the methods differ on purpose.
cam: the class activation map in closed form against the `grad-cam` package.
ceiling: what share of the matrix-product speed of this machine the forward pass reaches.
refine: every refinement at 640 x 640 px.
proposal: a whole image from pixels to a mask, as it is served.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import report
import scene
import timing
import torch
from literal_advcam import literal_advcam
from pytorch_grad_cam import GradCAM
from report import Row
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from models import refine, tiling
from models.base import HeatMap, Image, Mask
from models.climbing import climb
from models.learning.training import PROFILES, has_bf16
from models.networks.unet import TruncatedUNet, inference_copy

ADVCAM_FASTER, CAM_FASTER, CEILING_SHARE = 12.0, 2.5, 0.70
EXACT, NEARLY_EXACT = 1e-5, 1e-4
REGULARISER = 3.5  # of `climb`
EQUALITY_PX = 96  # float64 is slow; equality does not depend on the size
REFINE_PX = 640


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns 0."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    rows: list[Row] = []
    for name in options.only:
        part = PARTS[name](options)
        report.show(part)
        rows += part
    if options.json:
        device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        note = f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {device}"
        report.write(options.json, "proposals", rows, note=note)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), default=list(PARTS))
    parser.add_argument("--network", choices=sorted(scene.NETWORKS), default="paper")
    parser.add_argument("--crop", type=int, default=320, help="side of the crop in pixels")
    parser.add_argument("--iterations", type=int, default=27, help="of AdvCAM, as papers count")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of slow comparisons")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true", help="tiny network, few iterations")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    if options.quick:
        options.network, options.crop, options.iterations, options.repeats = "tiny", 64, 3, 1
    return options


def cracked_crop(side_px: int) -> Tensor:
    """Return a crop with cracks in its middle: (1, 3, H, W) float32 in [0, 1]."""
    middle = slice(side_px // 4, side_px * 3 // 4)
    image = scene.paint(side_px, side_px, [(middle, middle)], seed=3).image
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0) / 255


def served(network: TruncatedUNet, options: argparse.Namespace) -> TruncatedUNet:
    """Return the network as it is served on the device."""
    return inference_copy(network, device=options.device, bf16=has_bf16(options.device))


def advcam(options: argparse.Namespace) -> list[Row]:
    """Time both loops on one crop, in turn."""
    network = scene.build(options.network).to(options.device)
    image = cracked_crop(options.crop).to(options.device)
    copies = {
        "bf16": served(network, options),
        "fp32": inference_copy(network, device=options.device),
    }
    count = options.iterations
    maps: dict[str, Tensor] = {}

    def ours(name: str) -> Callable[[], None]:
        return lambda: maps.update({name: climb(copies[name], image, iterations=count)[0]})

    def published() -> None:
        maps["published"] = literal_advcam(network, image, iterations=count)

    ours("bf16")(), ours("fp32")()  # warm up; the published loop is too slow for that
    acts = {"published": published, "bf16": ours("bf16"), "fp32": ours("fp32")}
    taken = timing.in_turn(acts, options.repeats, warm_up=False)
    what = f"advcam {options.crop} px, {count} iterations"
    return [
        *(timing.seconds_row(f"{what}, {name}", values) for name, values in taken.items()),
        *timing.ratio_rows(
            f"{what}, published/ours bf16",
            taken["published"],
            taken["bf16"],
            at_least=None if options.quick else ADVCAM_FASTER,
        ),
        *timing.ratio_rows(f"{what}, published/ours fp32", taken["published"], taken["fp32"]),
        *distance_rows(f"{what}, published and ours", maps["published"], maps["fp32"]),
        *distance_rows(f"{what}, ours in bf16 and in fp32", maps["bf16"], maps["fp32"]),
    ]


def equality(options: argparse.Namespace) -> list[Row]:
    """Compare the maps of both loops where they must be equal.

    The published loop does the same as ours with one view, with the clamp at what pixels can be,
    and with lambda = 3.5 K+ / (H W), K+ = positive weights of the head. Rounding grows with every
    climb, so the long run is in float64.
    """
    network = scene.build(options.network)
    image = cracked_crop(EQUALITY_PX)
    positive_weights = int((network.head.weight > 0).sum())
    strength = REGULARISER * positive_weights / EQUALITY_PX**2
    rows = [equal_row("clean map, two views, float32", *two_views(network, image), EXACT)]
    for count in (1, 2):
        published, ours = (
            literal_advcam(network, image, iterations=count),
            climb(network, image, iterations=count),
        )
        rows += distance_rows(f"{count} iteration(s) as published and as ours", published, ours[0])
    for count, precise, most in ((1, False, EXACT), (2, False, NEARLY_EXACT), (27, True, EXACT)):
        dtype = torch.float64 if precise else torch.float32
        net, x = network.to(dtype), image.to(dtype)
        climbs = options.iterations if count > 2 else count
        published = literal_advcam(
            net, x, iterations=climbs, regulariser=strength, mirror=False, own_bounds=False
        )
        ours = climb(net, x, iterations=climbs, regulariser=REGULARISER)[0]
        name = f"{climbs} iterations, one view, {str(dtype).removeprefix('torch.')}"
        rows.append(equal_row(name, published, ours, most))
    return rows


def two_views(network: TruncatedUNet, image: Tensor) -> tuple[Tensor, Tensor]:
    """Return the published clean map and ours of both views, weighted by their positive shares."""
    first, mirrored = (climb(network, x, iterations=1)[0] for x in (image, image.flip(-1)))
    shares = [(view > 0).sum() for view in (first, mirrored)]
    ours = shares[0] * first + shares[1] * mirrored.flip(-1)
    return literal_advcam(network, image, iterations=1), ours


def cam(options: argparse.Namespace) -> list[Row]:
    """Compare the closed form with the `grad-cam` package on the same network."""
    network = scene.build(options.network).to(options.device)
    image = cracked_crop(options.crop).to(options.device)
    copies = {
        "fp32": inference_copy(network, device=options.device),
        "bf16": served(network, options),
    }
    with GradCAM(model=network, target_layers=[network.decoder[-1]]) as package:

        def theirs() -> Tensor:
            found = package(input_tensor=image, targets=[lambda logit: logit])
            return torch.from_numpy(found[0])

        acts = {"grad-cam": theirs}
        acts |= {name: partial(clean_map, copy, image) for name, copy in copies.items()}
        taken = timing.in_turn(acts, 3 * options.repeats)
        row = equal_row("cam, fp32 and grad-cam", theirs(), acts["fp32"]().cpu(), EXACT)
    slow, what = taken["grad-cam"], f"cam {options.crop} px"
    return [
        *(timing.seconds_row(f"{what}, {name}", values) for name, values in taken.items()),
        *timing.ratio_rows(
            f"{what}, grad-cam/ours fp32",
            slow,
            taken["fp32"],
            at_least=None if options.quick else CAM_FASTER,
        ),
        *timing.ratio_rows(f"{what}, grad-cam/ours bf16", slow, taken["bf16"]),
        row,
    ]


def clean_map(network: TruncatedUNet, image: Tensor) -> Tensor:
    """Return the activation map of an image, (H, W)."""
    return climb(network, image, iterations=1)[0]


def ceiling(options: argparse.Namespace) -> list[Row]:
    """Compare the forward pass with a matrix product in the same precision."""
    on_gpu = options.device == "cuda"
    names = ("tiny",) if options.quick else ("paper", "cpu")
    sides = (options.crop,) if options.quick else (2048,) if on_gpu else (320, 640)
    matrix = 256 if options.quick else 8192 if on_gpu else 2048
    rows = []
    for name in names:
        network = served(scene.build(name), options)
        left = torch.randn(matrix, matrix, device=options.device, dtype=network.head.weight.dtype)
        for side in sides:
            image = cracked_crop(side).to(options.device)
            rows += ceiling_rows(f"{name} {side} px", network, image, left, 5 * options.repeats)
    first, *others = rows
    return [report.judged(first, at_least=None if options.quick else CEILING_SHARE), *others]


def ceiling_rows(
    name: str, network: TruncatedUNet, image: Tensor, matrix: Tensor, repeats: int
) -> list[Row]:
    """Return the share of the ceiling, the ceiling, and the speed of the forward pass."""
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            network(image)
        acts = {"forward": lambda: network(image), "product": lambda: matrix @ matrix}
        taken = timing.in_turn(acts, repeats)
    product_flop = 2 * len(matrix) ** 3
    speed = counter.get_total_flops() / float(np.median(taken["forward"])) / 1e9
    most = product_flop / float(np.median(taken["product"])) / 1e9
    kind = str(matrix.dtype).removeprefix("torch.")
    return [
        report.row(f"forward {name}, share of the {kind} ceiling", speed / most, "of 1"),
        report.row(f"forward {name}, speed", speed, "GFLOP/s"),
        report.row(f"matrix product of {len(matrix)}, {kind}, speed", most, "GFLOP/s"),
    ]


def refinements(options: argparse.Namespace) -> list[Row]:
    """Time every refinement on a square image with cracks in its middle."""
    side = 128 if options.quick else REFINE_PX
    middle = slice(side // 4, side * 3 // 4)
    surface = scene.paint(side, side, [(middle, middle)], seed=3)
    heat = scene.heat_of(surface)
    acts = {
        f"refine {name} {side} x {side} px": partial(refined, name, surface.image, heat)
        for name in refine.names()
    }
    taken = timing.in_turn(acts, options.repeats)
    return [timing.seconds_row(name, values) for name, values in taken.items()]


def proposal(options: argparse.Namespace) -> list[Row]:
    """Time whole images with the network of the cpu profile: scores, heat map and mask."""
    network = served(scene.build("tiny" if options.quick else "cpu"), options)
    surface = scene.paint(640, 640, [(slice(160, 480), slice(160, 480))], seed=3).image
    acts = {}
    for width, height in ((480, 320), (640, 640)):
        image = cv2.resize(surface, (width, height), interpolation=cv2.INTER_AREA)
        for method, iterations in (("fusion", 1), ("guided", 2)):
            name = f"proposal {width} x {height} px, {method}, {iterations} iteration(s)"
            acts[name] = partial(propose, network, image, method, iterations)
    taken = timing.in_turn(acts, options.repeats)
    return [timing.seconds_row(name, values) for name, values in taken.items()]


def propose(network: TruncatedUNet, image: Image, method: str, iterations: int) -> Mask:
    """Go from pixels to a mask as the pipeline does, with the sizes of the cpu profile."""
    profile = PROFILES["cpu"]
    found = tiling.analyse(
        network,
        image,
        tile_px=profile.tile_px,
        window_px=profile.crop_px,
        iterations=iterations,
    )
    return refined(method, image, found.heat)


def refined(name: str, image: Image, heat: HeatMap) -> Mask:
    """Refine with the defaults of the method."""
    method = refine.get(name)
    return method.refine(
        image,
        heat,
        threshold=method.default_threshold,
        min_area_px=method.default_min_area_px,
    )


def equal_row(name: str, left: Tensor, right: Tensor, most: float) -> Row:
    """Return the largest difference of two maps, each divided by its maximum."""
    return report.judged(
        report.row(f"largest difference, {name}", distance(left, right), "of 1"), at_most=most
    )


def distance_rows(name: str, left: Tensor, right: Tensor) -> list[Row]:
    """Return how far two maps are apart that need not be equal."""
    pair = torch.stack([left.flatten().double(), right.flatten().double()])
    return [
        report.row(f"{name}: largest difference", distance(left, right), "of 1"),
        report.row(f"{name}: correlation", float(torch.corrcoef(pair)[0, 1]), "of 1"),
    ]


def distance(left: Tensor, right: Tensor) -> float:
    """Return the largest difference of two maps, each divided by its maximum."""
    return float((left / left.max() - right / right.max()).abs().max())


PARTS = {
    "advcam": advcam,
    "equality": equality,
    "cam": cam,
    "ceiling": ceiling,
    "refine": refinements,
    "proposal": proposal,
}

if __name__ == "__main__":
    sys.exit(main())
