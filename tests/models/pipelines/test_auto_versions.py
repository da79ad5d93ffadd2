"""Versions of the composite: saved, loaded, trained on and combined, and nothing is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from models.base import (
    Fitted,
    Sample,
    WeakPoint,
)
from models.pipelines import auto
from models.pipelines.auto import Auto, AutoFitted, Part, combine
from models.pipelines.segmenter import Segmenter
from tests.models.pipelines.played_pipelines import (
    CRACK,
    MASKED,
    RUST,
    PlayedFitted,
    PlayedSegmenter,
    fit,
    parts,
    serving,
)
from tests.models.pipelines.test_segmenter_pipeline import PROFILE as SMALL
from tests.models.pipelines.test_segmenter_pipeline import picture

pytestmark = pytest.mark.training


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    pipelines = parts(advcam=3, other_name=0)
    before = fit(pipelines, CRACK, replace(RUST, pipeline="other_name"))
    double = AutoFitted([*before.parts, Part("advcam", PlayedFitted("advcam", ("x",)), ("x",))], {})
    for n, fitted in enumerate((before, double)):
        folder = tmp_path / str(n)
        folder.mkdir()
        fitted.save(folder)
        found = Auto(pipelines=pipelines).load(folder, device="cpu")
        assert serving(found) == serving(fitted)
        assert found.metrics == json.loads(json.dumps(fitted.metrics))
        assert [p.fitted.off_px for p in found.parts] == [p.fitted.off_px for p in fitted.parts]  # type: ignore[attr-defined]
    assert sorted(p.name for p in (tmp_path / "1").iterdir()) == [
        "advcam",
        "advcam-2",
        "auto.json",
        "other_name",
    ]


def test_a_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / auto.SETTINGS_FILE).write_text('{"pipeline": "auto", "format": 9}')
    with pytest.raises(ValueError, match="holds 'auto' format 9, not 'auto' format 1"):
        auto.PIPELINE.load(tmp_path, device="cpu")


def test_each_part_is_trained_on_from_its_own_kind() -> None:
    old = AutoFitted(
        [
            Part("advcam", PlayedFitted("advcam", ("a", "b")), ("a",)),
            Part("advcam", PlayedFitted("advcam", ("b", "c")), ("b", "c")),
            Part("segmenter", PlayedFitted("segmenter", ("rust",)), ()),
        ],
        {},
    )
    pipelines = parts(advcam=0, other_name=0)
    segmenter = PlayedSegmenter()
    named = replace(CRACK, pipeline="other_name")
    fit(pipelines, RUST, named, samples=MASKED, warm_start=old, segmenter=segmenter)
    warm = {p.name: p.fits[0]["warm"] for p in (*pipelines.values(), segmenter.played)}  # type: ignore[attr-defined]
    assert warm == {
        "advcam": old.parts[1].fitted,
        "other_name": None,
        "segmenter": old.parts[2].fitted,
    }
    other = PlayedFitted("advcam", ("rust",))
    fit(pipelines, RUST, warm_start=other)
    assert pipelines["advcam"].fits[1]["warm"] is other  # type: ignore[attr-defined]


def version(off_px: int, **serves: str) -> AutoFitted:
    """Make a version: pipeline = class."""
    made = [Part(p, PlayedFitted(p, ("crack", "rust"), off_px), (c,)) for p, c in serves.items()]
    figures = {name: {"off_px": off_px} for name in serves.values()}
    return AutoFitted(made, {"seed": off_px, "classes": figures})


def test_a_combination_serves_each_class_as_its_better_version_does(tmp_path: Path) -> None:
    champion = version(1, advcam="rust", segmenter="crack")
    challenger = version(2, advcam="crack", other_name="rust")
    both = combine(champion, challenger, ["rust"])
    found = both.propose(np.zeros((40, 40, 3), np.uint8), specs=[CRACK, RUST])
    moved = {p.class_name: int(np.argmax(p.mask.any(axis=0))) - 10 for p in found.proposals}
    assert moved == {"rust": 1, "crack": 2}
    assert both.metrics["classes"] == {"crack": {"off_px": 2}, "rust": {"off_px": 1, "kept": True}}
    assert [(p.pipeline, p.serves) for p in both.parts] == [
        ("advcam", ("crack",)),
        ("other_name", ()),
        ("advcam", ("rust",)),
    ]
    both.save(tmp_path)
    loaded = Auto(pipelines=parts(advcam=0, other_name=0)).load(tmp_path, device="cpu")
    assert serving(loaded) == {"crack": "advcam", "rust": "advcam"}
    with pytest.raises(ValueError, match="the champion does not serve dent"):
        combine(champion, challenger, ["dent"])


def labelled(seed: int) -> Sample:
    """A surface with a rust spot: four clicks on it, four beside it, and its verified mask."""
    image, mask = picture(seed)
    rng = np.random.default_rng(seed)
    corner = np.argwhere(~cv2.dilate(mask.astype(np.uint8), np.ones((25, 25))).astype(bool))
    points = [
        WeakPoint("rust", float(x), float(y), positive)
        for places, positive in ((np.argwhere(mask), True), (corner, False))
        for y, x in rng.permutation(places)[:4]
    ]
    return Sample(f"task-{seed:03}", lambda: image, tuple(points), {"rust": lambda: mask})


def test_real_pipelines_train_save_load_and_train_on(tmp_path: Path) -> None:
    """The default parts, tiny: an advcam and, from six masks on, a segmenter from its network."""
    profile = replace(SMALL, max_steps=8, warm_steps=4, dense_steps=8, dense_warm_steps=4)
    samples = [labelled(seed) for seed in range(8)]
    quick = replace(RUST, refine="threshold", iterations=1, min_area_px=9, closing_px=1)
    method = Auto(segmenter=Segmenter(least_masks=6))

    def trained(warm_start: Fitted | None) -> AutoFitted:
        return method.fit(
            samples,
            specs=[quick],
            profile=profile,
            seed=0,
            device="cpu",
            report=lambda _: None,
            warm_start=warm_start,
        )

    fitted = trained(None)
    assert {part.pipeline for part in fitted.parts} == {"advcam", "segmenter"}
    own = fitted.part("segmenter")
    assert own is not None and own.metrics["classes"]["rust"]["warm_start"] == "classifier"
    fitted.save(tmp_path)
    loaded = method.load(tmp_path, device="cpu")
    image = samples[0].load()
    one, other = (f.propose(image, specs=[quick], heat=True) for f in (fitted, loaded))
    assert np.array_equal(one.proposals[0].heat, other.proposals[0].heat)  # type: ignore[arg-type]
    assert np.array_equal(one.evidence.tile_probs, other.evidence.tile_probs)
    again = trained(loaded)
    own = again.part("segmenter")
    assert own is not None and own.metrics["classes"]["rust"]["warm_start"] == "segmenter"
