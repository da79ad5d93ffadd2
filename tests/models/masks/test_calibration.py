"""Choosing how heat becomes a mask, on heat maps that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from models import refine
from models.base import ClassSpec, HeatMap, Image, Mask, Sample
from models.masks import calibration, search
from models.masks.calibration import Settings
from models.masks.confidence import Confidence
from models.metrics import Matches

SIZE = 72
CRACK, RUST = ClassSpec("crack"), ClassSpec("rust")
FEW = (0.1, 0.3, 0.6)  # thresholds: keeps the tests quick


def verified(key: str, image: Image, truth: Mask, name: str) -> Sample:
    return Sample(key, lambda: image, (), {name: lambda: truth})


def line(seed: int, cracked: bool = True, name: str = "crack") -> Sample:
    """Grey noise with a dark line of 2 px, or without."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(150, 12, (SIZE, SIZE, 1)).repeat(3, axis=2).astype(np.float32)
    image = np.clip(cv2.GaussianBlur(noise, (0, 0), 0.8), 0, 255).astype(np.uint8)
    mark = np.zeros((SIZE, SIZE), np.uint8)
    if cracked:
        cv2.line(mark, (4, int(rng.integers(20, 50))), (66, int(rng.integers(20, 50))), 1, 2)
    image[mark > 0] = 50
    return verified(f"task-{seed}", image, mark > 0, name)


def blob(seed: int) -> Sample:
    """Grey noise with a brown disc of 20 to 30 px."""
    rng = np.random.default_rng(seed)
    image = rng.normal(140, 8, (SIZE, SIZE, 3))
    mark = np.zeros((SIZE, SIZE), np.uint8)
    centre = int(rng.integers(25, 45)), int(rng.integers(25, 45))
    cv2.circle(mark, centre, int(rng.integers(10, 15)), 1, -1)
    image[mark > 0] += (20, -40, -70)
    return verified(f"task-{seed}", np.clip(image, 0, 255).astype(np.uint8), mark > 0, "rust")


def lines(present: int, absent: int = 0, name: str = "crack") -> list[Sample]:
    clean = [line(300 + n, cracked=False, name=name) for n in range(absent)]
    return [line(200 + n, name=name) for n in range(present)] + clean


def band(image: Image, iterations: int) -> HeatMap:
    """Heat around what is dark; a climb makes it wider."""
    dark = (image.max(axis=2) < 70).astype(np.uint8)
    side = 9 * iterations
    wide = cv2.dilate(dark, np.ones((side, side), np.uint8))
    return np.asarray(wide * 0.9, dtype=np.float32)


def brown(image: Image) -> Mask:
    blurred = cv2.GaussianBlur(image, (0, 0), 1.5).astype(int)
    return np.asarray(blurred[..., 0] - blurred[..., 2] > 45, dtype=bool)


def shifted(image: Image, iterations: int) -> HeatMap:
    """Heat beside the brown disc, blurred: only the colour tells where it ends."""
    there = np.roll(brown(image), 5, axis=1).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(there, (0, 0), 7) ** 0.5, dtype=np.float32)


def test_masks_overrule_a_rule_that_does_not_fit() -> None:
    spec = ClassSpec("joint")  # no name of thin dark defects
    assert calibration.default_settings(spec).refine == "guided"
    chosen, table = calibration.calibrate(
        lines(6, 2, name="joint"), spec, band, iterations=(1,), thresholds=FEW
    )
    assert (chosen.refine, table["chosen_by"]) == ("fusion", "masks")
    by_guided = [row["f1_2px"] for row in table["tried"] if row["refine"] == "guided"]
    assert table["f1_2px"] > max(by_guided) + 0.05
    assert (table["masks"], table["masks_with_class"]) == (8, 6)


def test_colour_decides_where_the_heat_is_beside_the_defect() -> None:
    samples = [blob(n) for n in range(6)]
    chosen, table = calibration.calibrate(samples, RUST, shifted, iterations=(1,), thresholds=FEW)
    assert chosen.refine in {"guided", "kmeans", "crf"}
    by_threshold = [row["f1"] for row in table["tried"] if row["refine"] == "threshold"]
    assert table["f1"] > max(by_threshold) + 0.05
    assert chosen.width_px == table["width_px"] == pytest.approx(23, abs=6)
    assert {row["refine"] for row in table["tried"]} >= {"guided", "kmeans", "crf", "threshold"}


def test_thin_classes_are_judged_with_tolerance_and_compact_ones_without() -> None:
    thin = calibration.calibrate(lines(4), CRACK, band, iterations=(1,), thresholds=FEW)[1]
    compact = calibration.calibrate(
        [blob(n) for n in range(4)], RUST, shifted, iterations=(1,), thresholds=FEW
    )[1]
    assert ("f1_2px" in thin, "f1" in thin) == (True, False)
    assert ("f1_2px" in compact, "f1" in compact) == (False, True)


@pytest.mark.parametrize("masks", [0, calibration.LEAST_MASKS - 1])
def test_few_masks_decide_nothing(masks: int) -> None:
    chosen, table = calibration.calibrate(lines(masks, absent=2), CRACK, band)
    assert chosen == calibration.default_settings(CRACK)
    assert f"{masks} verified masks show 'crack'; 4 are needed" in table["why"]


def test_masks_without_the_class_decide_nothing() -> None:
    chosen, table = calibration.calibrate(lines(6), RUST, band)
    assert (chosen, table["chosen_by"]) == (calibration.default_settings(RUST), "rule")


def test_what_the_spec_fixes_stays() -> None:
    spec = ClassSpec("crack", "threshold", 1, threshold=0.7, min_area_px=3, closing_px=9)
    chosen, table = calibration.calibrate(lines(4), spec, band)
    assert replace(chosen, width_px=None) == Settings("threshold", 1, 0.7, 3, 9)
    assert {row["threshold"] for row in table["tried"]} == {0.7}


@pytest.mark.parametrize(("helps", "iterations"), [(False, 1), (True, 2)])
@pytest.mark.parametrize("spec", [CRACK, ClassSpec("crack", "threshold")])  # rules with 1 and 2
def test_a_climb_is_kept_only_where_it_helps(spec: ClassSpec, helps: bool, iterations: int) -> None:
    def heat_of(image: Image, iterations: int) -> HeatMap:
        heat = band(image, 1)
        if helps and iterations == 1:
            heat[:, SIZE // 2 :] = 0
        return heat

    chosen, _ = calibration.calibrate(lines(5), spec, heat_of, thresholds=FEW)
    assert chosen.iterations == iterations


def test_a_pipeline_that_cannot_climb_is_never_asked_to() -> None:
    asked: list[int] = []

    def heat_of(image: Image, iterations: int) -> HeatMap:
        asked.append(iterations)
        return band(image, iterations)

    spec = replace(CRACK, refine="threshold")  # its rule climbs
    for samples in ([], lines(4)):
        chosen, _ = calibration.calibrate(samples, spec, heat_of, iterations=(1,), thresholds=FEW)
        assert chosen.iterations == 1
    assert asked == [1] * 4


def test_the_rule_of_a_pipeline_stands_until_the_masks_beat_it() -> None:
    rule = Settings("kmeans", 1, 0.5, 40)
    kept, _ = calibration.calibrate([], CRACK, band, rule=rule)
    assert kept == rule
    other = calibration.calibrate([], replace(CRACK, refine="crf"), band, rule=rule)[0]
    assert other.refine == "crf"
    fixed = calibration.calibrate([], replace(CRACK, threshold=0.2), band, rule=rule)[0]
    assert fixed == replace(rule, threshold=0.2)

    def exact(image: Image, _: int) -> HeatMap:
        return np.asarray(image.max(axis=2) < 70, dtype=np.float32)

    standing = Settings("threshold", 1, 0.5, 20, closing_px=1)
    chosen, table = calibration.calibrate(lines(5), CRACK, exact, thresholds=FEW, rule=standing)
    assert (replace(chosen, width_px=None), table["chosen_by"]) == (standing, "rule")


def test_few_masks_need_a_larger_gain_than_many() -> None:
    def searched(present: int, gains: list[float]) -> Settings:
        cases = calibration.select(lines(present), "crack", ())
        walk = search.Search(cases, 2.0, lambda image, n: (band(image, n), 1.0), (1,), lambda: 0.0)
        rule, other = Settings("threshold", 1, 0.5, 0), Settings("threshold", 1, 0.6, 0)
        walk.tried[rule] = [Matches(1000, 700, 1000, 700)] * present
        found = [round(700 + 1000 * gain) for gain in gains]
        walk.tried[other] = [Matches(1000, n, 1000, n) for n in found]
        return other if walk._preferred(other, rule) == other else rule

    rule, other = Settings("threshold", 1, 0.5, 0), Settings("threshold", 1, 0.6, 0)
    assert searched(4, [0.015] * 4) == rule
    assert searched(4, [0.025] * 4) == other
    assert searched(4, [0.2, -0.03, -0.03, -0.03]) == rule  # within its standard error
    assert searched(16, [0.008] * 16) == other
    assert searched(16, [0.002] * 16) == rule
    assert searched(16, [0.2, *[-0.005] * 15]) == other


def test_heat_is_computed_once_per_image_and_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MOST_PRESENT", 6)
    assert search.COSTLY_IMAGES > calibration.MOST_PRESENT
    asked: list[tuple[int, int]] = []

    def counting(image: Image, iterations: int) -> HeatMap:
        asked.append((id(image), iterations))
        return band(image, iterations)

    calibration.calibrate(lines(9), CRACK, counting, thresholds=FEW)
    assert len(asked) == len(set(asked)) == 2 * calibration.MOST_PRESENT


def test_climbs_are_judged_on_the_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "COSTLY_PX", 4 * SIZE**2)
    asked: list[int] = []

    def heat_of(image: Image, iterations: int) -> HeatMap:
        asked.append(iterations)
        return band(image, 1)

    table = calibration.calibrate(lines(7), CRACK, heat_of, thresholds=FEW)[1]
    assert (asked.count(1), asked.count(2)) == (7, 4)
    assert {row["masks"] for row in table["tried"] if row["iterations"] == 2} == {4}


def test_slow_refinements_are_judged_on_the_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "COSTLY_PX", 4 * SIZE**2)
    samples = [blob(n) for n in range(6)]
    table = calibration.calibrate(samples, RUST, shifted, iterations=(1,), thresholds=FEW)[1]
    slow = [row for row in table["tried"] if row["refine"] == "crf"]
    assert [row["masks"] for row in slow] == [4] * len(slow)
    assert 1 <= len(slow) <= 3
    assert max(row["masks"] for row in table["tried"]) == 6


@pytest.mark.parametrize("method", ["fusion", "threshold"])
def test_what_was_tried_is_what_apply_gives(method: str) -> None:
    spec = replace(CRACK, refine=method, threshold=0.3, iterations=1)
    samples = lines(5, 1)
    samples[0] = blob(7)
    samples[0] = replace(samples[0], masks={"crack": samples[0].masks["rust"]})
    _, table = calibration.calibrate(samples, spec, band, iterations=(1,))
    keys = ("refine", "iterations", "threshold", "min_area_px", "closing_px", "width_px")
    cases = calibration.select(samples, "crack", ())
    for row in table["tried"]:
        settings = Settings(**{key: row[key] for key in keys})
        found = [
            search.matches(calibration.apply(c.image, band(c.image, 1), settings), c.truth, 2)
            for c in cases
        ]
        wanted = np.mean([one.f_measure for one in found])  # thin: not pooled
        assert row["f1_2px"] == pytest.approx(wanted)
    assert table["f1_2px"] == max(row["f1_2px"] for row in table["tried"])


def test_regions_get_a_confidence_from_the_masks() -> None:
    samples = [blob(n) for n in range(10)]

    def seen(image: Image, iterations: int) -> tuple[HeatMap, float]:
        heat = brown(image).astype(np.float32) * 0.9
        heat[:8, :8], heat[-8:, -8:], heat[:8, -8:] = 0.5, 0.5, 0.5  # false alarms
        return heat, 0.8

    spec = replace(RUST, refine="threshold", threshold=0.3, min_area_px=10, iterations=1)
    choice = calibration.choose(samples, spec, seen, clock=lambda: 0.0)
    assert choice.table["regions"]["calibrated"]
    assert choice.table["regions"]["ece"] < 0.1
    features = np.array([[0.9, 0.9, np.log(500), 0.8], [0.5, 0.5, np.log(64), 0.8]])
    good, bad = choice.confidence.of(features)
    assert good > 0.85 > 0.1 > bad
    few = calibration.choose(samples[:2], spec, seen)
    assert few.confidence == Confidence()


def test_the_table_is_json_and_notes_the_time_of_each_refinement() -> None:
    ticks = iter(range(10**6))
    choice = calibration.choose(
        lines(4),
        CRACK,
        lambda image, n: (band(image, n), 0.9),
        thresholds=FEW,
        clock=lambda: float(next(ticks)),
    )
    json.dumps(choice.table, allow_nan=False)
    assert set(choice.table["seconds"]) == {row["refine"] for row in choice.table["tried"]}
    assert all(seconds > 0 for seconds in choice.table["seconds"].values())


def test_settings_saved_before_there_were_sizes_still_load() -> None:
    old = {"refine": "fusion", "iterations": 1, "threshold": 0.2, "min_area_px": 20}
    assert asdict(Settings(**old)) == {**old, "closing_px": None, "width_px": None}


def test_large_images_are_cut_around_the_defect() -> None:
    truth = np.zeros((1500, 3000), bool)
    truth[1400:1410, 2900:2950] = True
    image = np.zeros((1500, 3000, 3), np.uint8)
    case = calibration.select([verified("1", image, truth, "crack")], "crack", ())[0]
    assert case.image.shape == (calibration.SIDE_PX, calibration.SIDE_PX, 3)
    assert case.truth.sum() == truth.sum()


def test_unseen_samples_are_looked_at_first_and_order_is_free() -> None:
    many = lines(12)
    unseen = [sample.key for sample in many[-4:]]
    chosen = calibration.select(many, "crack", unseen)
    wanted = {sample.load().tobytes() for sample in many[-4:]}
    assert {case.image.tobytes() for case in chosen[:4]} == wanted
    again = calibration.select(many[::-1], "crack", unseen)
    assert [c.image.tobytes() for c in again] == [c.image.tobytes() for c in chosen]


def test_images_and_pixels_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = lines(9, 5)
    monkeypatch.setattr(calibration, "MOST_PRESENT", 6)
    monkeypatch.setattr(calibration, "MOST_ABSENT", 2)
    shown = [bool(case.truth.any()) for case in calibration.select(samples, "crack", ())]
    assert shown.count(True) == 6
    assert shown.count(False) <= 2
    monkeypatch.setattr(calibration, "MOST_PX", 3 * SIZE**2)
    assert len(calibration.select(samples, "crack", ())) == 3


@pytest.mark.parametrize(
    ("name", "method", "iterations"),
    [("Crack", "fusion", 1), ("Hairline fissure", "fusion", 1), ("rust", "guided", 1)],
)
def test_the_rule_goes_by_names_of_thin_dark_defects(
    name: str, method: str, iterations: int
) -> None:
    rule = calibration.default_settings(ClassSpec(name))
    assert (rule.refine, rule.iterations) == (method, iterations)


def test_the_papers_refinement_keeps_the_papers_climb() -> None:
    rule = calibration.default_settings(ClassSpec("rust", refine="threshold"))
    assert (rule.iterations, rule.threshold) == (2, 0.1)


def test_a_spec_overrules_and_another_refinement_keeps_the_width() -> None:
    chosen = Settings("fusion", 1, 0.27, 11, 5, 6.0)
    assert calibration.resolve(chosen, CRACK) == chosen
    closed = calibration.resolve(chosen, replace(CRACK, closing_px=1, threshold=0.4))
    assert closed == replace(chosen, closing_px=1, threshold=0.4)
    other = calibration.resolve(chosen, replace(CRACK, refine="guided"))
    rule = calibration.default_settings(replace(CRACK, refine="guided"))
    assert other == replace(rule, width_px=6.0)
    likely = calibration.resolve(chosen, replace(CRACK, refine="guided"), threshold=0.5)
    assert likely.threshold == 0.5


def test_apply_hands_every_setting_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    recorder: Callable[..., Mask] = lambda image, heat, **sizes: given.update(sizes) or heat > 0  # noqa: E731
    monkeypatch.setattr(refine.get("guided"), "refine", recorder)
    image, heat = np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5), np.float32)
    calibration.apply(image, heat, Settings("guided", 1, 0.3, 9, 7, 12.0))
    assert given == {"threshold": 0.3, "min_area_px": 9, "closing_px": 7, "width_px": 12.0}
